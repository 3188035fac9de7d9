/** NVMe disk channels against a controller in plain memory: data, limits, errors, time limits, resets, removal. */
import { BdevOp } from '../../src/bdev/bdev.ts';
import { IoStats } from '../../src/bdev/io-stats.ts';
import { openNvmeChannel } from '../../src/bdev/nvme-channel.ts';
import { NvmOpcode } from '../../src/nvme/commands.ts';
import { NvmeStatus } from '../../src/nvme/status.ts';
import { SINGLE_PAGES } from '../support/fake-dma.ts';
import { assert, suite } from '../support/suite.ts';
import { bytesOf, fillList, type Placement, pattern } from './disk-rig.ts';
import { NvmeRig } from './nvme-rig.ts';

const test = suite('nvme channel');
const { READ, WRITE, FLUSH, UNMAP, WRITE_ZEROES, COMPARE } = BdevOp;

/** Write, look at the disk, read into another buffer of the same shape. @returns commands the device did */
function roundTrip(
  rig: NvmeRig,
  placement: Placement,
  lengths: number[],
  { offset = 0, gap = 0, sgOffset = 0, lba = 3 } = {},
): { commands: number; zeroCopy: boolean } {
  const channel = rig.open();
  const { blockSize } = channel.info;
  const bytes = lengths.reduce((a, b) => a + b, 0) - sgOffset;
  const blocks = bytes / blockSize;
  const room = offset + lengths.length * gap + bytes + sgOffset;
  const [from, to] = [rig.guest(room, placement), rig.guest(room, placement)];
  const out = rig.list(from, lengths, offset, gap);
  const into = rig.list(to, lengths, offset, gap);
  const data = pattern(bytes, bytes + offset);
  fillList(out, sgOffset, data);
  to.u8.fill(0xee);
  assert.equal(rig.run(channel, rig.io(WRITE, lba, blocks, out, sgOffset)), ['OK']);
  const disk = rig.fake.disks[0] as Uint8Array;
  assert.is(Buffer.compare(disk.subarray(lba * blockSize, lba * blockSize + bytes), data), 0, 'the disk has the data');
  assert.equal(rig.run(channel, rig.io(READ, lba, blocks, into, sgOffset)), ['OK']);
  assert.is(Buffer.compare(bytesOf(into, sgOffset, bytes), data), 0, 'and gives it back');
  // Nothing but the segments was written.
  const touched = new Uint8Array(to.length);
  let at = offset;
  let skip = sgOffset;
  for (const length of lengths) {
    touched.fill(1, at + Math.min(skip, length), at + length);
    skip = Math.max(0, skip - length);
    at += length + gap;
  }
  assert.ok(
    to.u8.every((b, i) => touched[i] === 1 || b === 0xee),
    'no byte beside the segments was written',
  );
  const commands = (rig.fake.done.get(NvmOpcode.WRITE) ?? 0) + (rig.fake.done.get(NvmOpcode.READ) ?? 0);
  return { commands, zeroCopy: channel.zeroCopy };
}

test('one page, and sizes up to 1 MiB, in place', () => {
  for (const bytes of [512, 4096, 8192, 12288, 65536, 524288, 1048576]) {
    const rig = new NvmeRig({ namespaces: [{ blockSize: 512, blocks: 4096 }] });
    const { commands, zeroCopy } = roundTrip(rig, 'linear', [bytes]);
    assert.is(commands, 2 * Math.ceil(bytes / 524288), `${bytes} bytes: as many commands as MDTS asks for`);
    assert.ok(zeroCopy);
    rig.stop();
  }
});

test('pages that lie anywhere, and segments from page to page', () => {
  const rig = new NvmeRig({ namespaces: [{ blockSize: 4096, blocks: 512 }] });
  assert.ok(roundTrip(rig, 'pages', [4096 * 9]).zeroCopy);
  assert.ok(roundTrip(rig, 'pages', [4096, 8192, 4096], { gap: 4096 }).zeroCopy);
  assert.ok(roundTrip(rig, 'pages', [2048, 4096, 2048], { offset: 2048 }).zeroCopy, 'begins and ends within a page');
  rig.stop();
});

test('own memory of single pages: shorter rings, and every request as before', () => {
  const rig = new NvmeRig(
    { namespaces: [{ blockSize: 512, blocks: 8192 }], vectors: 9, queues: 8 },
    { ioQueues: 8, entries: 1024 },
    SINGLE_PAGES,
  );
  assert.equal(
    rig.controller.share().queues.map((q) => q.entries),
    new Array(8).fill(64),
  );
  for (const placement of ['linear', 'pages', 'unreachable'] as const) {
    roundTrip(rig, placement, [1048576]);
    roundTrip(rig, placement, [4096 * 9]);
    roundTrip(rig, placement, [1000, 24, 3072], { gap: 100, offset: 7 });
  }
  const channel = rig.open();
  const sg = rig.list(rig.guest(8192, 'pages'), [8192]);
  const ios = Array.from({ length: 200 }, (_, i) => rig.io(WRITE, 16 * i, 16, sg));
  assert.ok(rig.run(channel, ...ios, rig.io(UNMAP, 0, 100), rig.io(WRITE_ZEROES, 0, 8)).every((r) => r === 'OK'));
  rig.stop();
});

test('segments that PRPs cannot name go by SGL where there is one', () => {
  for (const [sgls, zeroCopy] of [
    [0, true], // a bounce copies, but the memory was within reach
    [1, true],
    [2, true],
  ] as const) {
    const rig = new NvmeRig({ namespaces: [{ blockSize: 512, blocks: 4096 }], sgls });
    const channel = rig.open();
    const memory = rig.guest(65536, 'linear');
    const sg = rig.list(memory, [512, 1024, 2560], 512, 512);
    const stats = new IoStats();
    const counting = openNvmeChannel({ ...rig.share(), stats: stats.shared }, rig.loop);
    assert.equal(rig.run(counting, rig.io(WRITE, 0, 8, sg)), ['OK']);
    assert.is(stats.snapshot().bouncedOps, sgls === 0 ? 1 : 0);
    assert.is(channel.zeroCopy, zeroCopy);
    counting.close();
    rig.stop();
  }
});

test('odd addresses: byte-granular SGL names them, dword-granular bounces', () => {
  for (const [sgls, bounced] of [
    [1, 0],
    [2, 1],
  ] as const) {
    const rig = new NvmeRig({ sgls });
    const stats = new IoStats();
    const channel = openNvmeChannel({ ...rig.share(), stats: stats.shared }, rig.loop);
    const memory = rig.guest(8192, 'linear');
    assert.equal(rig.run(channel, rig.io(WRITE, 0, 2, rig.list(memory, [1024], 1))), ['OK']);
    assert.is(stats.snapshot().bouncedOps, bounced);
    channel.close();
    rig.stop();
  }
});

test('every shape by bounce: unreachable memory, odd offsets, crumbs', () => {
  const rig = new NvmeRig({ namespaces: [{ blockSize: 512, blocks: 4096 }] });
  assert.not(roundTrip(rig, 'unreachable', [1048576]).zeroCopy);
  roundTrip(rig, 'unreachable', [512, 512, 512, 512], { gap: 3, offset: 1 });
  roundTrip(rig, 'linear', [1000, 24, 3072], { gap: 100, offset: 7 });
  roundTrip(rig, 'pages', [100, 412, 512], { gap: 1, sgOffset: 512 });
  rig.stop();
});

test('a request that begins in the middle of its list', () => {
  const rig = new NvmeRig({ namespaces: [{ blockSize: 512, blocks: 4096 }] });
  roundTrip(rig, 'linear', [4096, 4096, 4096], { sgOffset: 4096 + 512 });
  rig.stop();
});

test('data at an address beyond 4 GiB, and at a block beyond 2^32', () => {
  const rig = new NvmeRig({ namespaces: [{ blockSize: 512, blocks: 4096, claimedBlocks: 2n ** 40n }] });
  const channel = rig.open();
  const seen: number[][] = [];
  rig.fake.fault = (c) => {
    if (c.sqid !== 0) seen.push([c.dw[10] as number, c.dw[11] as number, c.dw[7] as number]);
    return c.sqid === 0 ? undefined : 0;
  };
  const memory = rig.guest(4096, 'linear');
  memory.ioAddress = 2 ** 40 + 4096;
  rig.run(channel, rig.io(READ, 2 ** 33 + 5, 1, rig.list(memory, [512])));
  assert.equal(seen, [[5, 2, 256]]);
  rig.stop();
});

test('flush, write zeroes, unmap', () => {
  const rig = new NvmeRig({ namespaces: [{ blockSize: 512, blocks: 4096 }], mdts: 3 });
  const channel = rig.open();
  const disk = rig.fake.disks[0] as Uint8Array;
  disk.fill(0xaa);
  assert.equal(rig.run(channel, rig.io(FLUSH, 0, 0), rig.io(WRITE_ZEROES, 8, 200), rig.io(UNMAP, 1000, 3000)), [
    'OK',
    'OK',
    'OK',
  ]);
  assert.is(rig.fake.done.get(NvmOpcode.FLUSH), 1);
  assert.is(rig.fake.done.get(NvmOpcode.WRITE_ZEROES), 4, 'cut at MDTS (64 blocks)');
  assert.is(rig.fake.done.get(NvmOpcode.DATASET_MANAGEMENT), 1);
  const zero = (from: number, to: number) => disk.subarray(from * 512, to * 512).every((b) => b === 0);
  assert.ok(zero(8, 208) && zero(1000, 4000));
  assert.is(disk[8 * 512 - 1], 0xaa);
  assert.is(disk[208 * 512], 0xaa);
  rig.stop();
});

test('unmap that is sure to read as zeroes goes by write zeroes with deallocate', () => {
  const rig = new NvmeRig();
  const channel = rig.open(1, { unmapByZeroes: true });
  const words: number[] = [];
  rig.fake.fault = (c) => {
    if (c.opcode === NvmOpcode.WRITE_ZEROES && c.sqid === 1) words.push(c.dw[12] as number);
    return undefined;
  };
  assert.equal(rig.run(channel, rig.io(UNMAP, 0, 100)), ['OK']);
  assert.equal(words, [99 | (1 << 25)]);
  rig.stop();
});

test('a device without these commands: zeroes are written, unmap is refused, flush does nothing', () => {
  const rig = new NvmeRig({ oncs: 0, vwc: 0, namespaces: [{ blockSize: 512, blocks: 4096 }] });
  const channel = rig.open();
  (rig.fake.disks[0] as Uint8Array).fill(0xaa);
  const ios = [rig.io(WRITE_ZEROES, 0, 1000), rig.io(UNMAP, 0, 1), rig.io(FLUSH, 0, 0)];
  assert.equal(rig.run(channel, ...ios), ['OK', 'NOT_SUPPORTED', 'OK']);
  assert.ok((rig.fake.disks[0] as Uint8Array).subarray(0, 512000).every((b) => b === 0));
  assert.is(rig.fake.disks[0]?.[512000], 0xaa);
  assert.is(rig.fake.done.get(NvmOpcode.FLUSH), undefined);
  rig.stop();
});

test('FUA is passed on with writes', () => {
  const rig = new NvmeRig();
  const channel = rig.open();
  const words: number[] = [];
  rig.fake.fault = (c) => {
    if (c.sqid === 1) words.push((c.dw[12] as number) >>> 30);
    return undefined;
  };
  const sg = rig.list(rig.guest(4096, 'linear'), [4096]);
  const write = rig.io(WRITE, 0, 8, sg);
  write.fua = true;
  rig.run(channel, write, rig.io(WRITE, 0, 8, sg));
  assert.equal(words, [1, 0]);
  rig.stop();
});

for (const oncs of [0x0d, 0x0c]) {
  test(`compare, ${oncs & 1 ? 'by the device' : 'by reading'}: equal, and the place of a difference`, () => {
    const rig = new NvmeRig({ oncs, namespaces: [{ blockSize: 512, blocks: 8192 }] });
    const channel = rig.open();
    const data = pattern(512 * 4096, 1);
    (rig.fake.disks[0] as Uint8Array).set(data);
    for (const placement of ['linear', 'unreachable'] as const) {
      const memory = rig.guest(data.length, placement);
      memory.u8.set(data);
      const sg = rig.list(memory, [4096, 1048576 - 4096, 1048576]);
      assert.equal(rig.run(channel, rig.io(COMPARE, 0, 4096, sg)), ['OK']);
      memory.u8[1_234_567] ^= 1;
      const io = rig.io(COMPARE, 0, 4096, sg);
      assert.equal(rig.run(channel, io), ['MISCOMPARE']);
      assert.is(io.miscompareOffset, 1_234_567);
    }
    rig.stop();
  });
}

test('what the device says is what the request gets', () => {
  const rig = new NvmeRig();
  const channel = rig.open();
  const sg = rig.list(rig.guest(4096, 'linear'), [4096]);
  const cases: [number, string][] = [
    [NvmeStatus.UNRECOVERED_READ_ERROR, 'READ_ERROR'],
    [NvmeStatus.WRITE_FAULT, 'WRITE_ERROR'],
    [NvmeStatus.INTERNAL_ERROR, 'IO_ERROR'],
    [NvmeStatus.DATA_TRANSFER_ERROR, 'IO_ERROR'],
    [NvmeStatus.INVALID_OPCODE, 'NOT_SUPPORTED'],
    [NvmeStatus.CAPACITY_EXCEEDED, 'NO_SPACE'],
    [NvmeStatus.RESERVATION_CONFLICT, 'RESERVATION_CONFLICT'],
    [NvmeStatus.NAMESPACE_NOT_READY, 'NOT_READY'],
    [NvmeStatus.NAMESPACE_WRITE_PROTECTED, 'WRITE_PROTECTED'],
    [NvmeStatus.INVALID_NAMESPACE_OR_FORMAT, 'REMOVED'],
    [0x7ff, 'IO_ERROR'],
  ];
  for (const [status, expected] of cases) {
    rig.fake.fault = (c) => (c.sqid === 1 ? status : undefined);
    assert.equal(rig.run(channel, rig.io(READ, 0, 8, sg)), [expected]);
  }
  rig.stop();
});

test('requests that cannot be: beyond the end, too few buffers, a read-only disk', () => {
  const rig = new NvmeRig({ namespaces: [{ blockSize: 512, blocks: 100, readOnly: true }] });
  const channel = rig.open();
  const sg = rig.list(rig.guest(4096, 'linear'), [4096]);
  const ios = [
    rig.io(READ, 93, 8, sg),
    rig.io(READ, 2 ** 52, 8, sg),
    rig.io(READ, 0, 9, sg),
    rig.io(WRITE, 0, 8, sg),
    rig.io(UNMAP, 0, 8),
    rig.io(READ, 92, 8, sg),
    rig.io(READ, 0, 0),
  ];
  assert.equal(rig.run(channel, ...ios), [
    'OUT_OF_RANGE',
    'OUT_OF_RANGE',
    'IO_ERROR',
    'WRITE_PROTECTED',
    'WRITE_PROTECTED',
    'OK',
    'OK',
  ]);
  rig.stop();
});

test('more requests than slots and bounce buffers wait, and complete in any order', () => {
  const rig = new NvmeRig({ namespaces: [{ blockSize: 512, blocks: 4096 }] }, { entries: 4, bounceBuffers: 2 });
  const channel = rig.open();
  rig.fake.auto = false;
  const memory = rig.guest(4096 * 64, 'unreachable');
  const ios = Array.from({ length: 40 }, (_, i) => {
    const sg = rig.list(memory, [4096], 4096 * i);
    fillList(sg, 0, pattern(4096, i));
    return rig.io(WRITE, 8 * i, 8, sg);
  });
  for (const io of ios) channel.submit(io);
  assert.is(channel.inFlight, 40);
  let seed = 7;
  rig.loop.until(
    () => ios.every((io) => io.ends > 0),
    10_000,
    () => {
      rig.fake.step();
      assert.ok(rig.fake.pending.length <= 2);
      seed = (seed * 5 + 3) % 16;
      rig.fake.finish(seed % Math.max(1, rig.fake.pending.length));
    },
  );
  assert.ok(ios.every((io) => io.result === 'OK'));
  for (let i = 0; i < 40; i++) {
    const disk = (rig.fake.disks[0] as Uint8Array).subarray(4096 * i, 4096 * (i + 1));
    assert.is(Buffer.compare(disk, pattern(4096, i)), 0);
  }
  rig.stop();
});

test('a command that the device forgets is aborted and sent again', () => {
  const rig = new NvmeRig({}, { timeoutMs: 1000 });
  const channel = rig.open();
  rig.fake.auto = false;
  const io = rig.io(FLUSH, 0, 0);
  channel.submit(io);
  rig.time(900);
  assert.is(rig.controller.stats.aborts, 0);
  rig.time(400);
  assert.is(rig.controller.stats.aborts, 1);
  rig.fake.auto = true;
  rig.settle([io]);
  assert.is(io.result, 'OK');
  assert.is(rig.controller.stats.resets, 0);
  assert.is(channel.queue.pair.retries, 1);
  rig.stop();
});

test('when aborts do not help, the controller is reset and everything is sent again', () => {
  const rig = new NvmeRig({}, { timeoutMs: 1000 });
  const channel = rig.open();
  let drops = 3;
  rig.fake.fault = (c) => (c.sqid === 1 && drops-- > 0 ? -1 : undefined);
  const ios = Array.from({ length: 5 }, () => rig.io(FLUSH, 0, 0));
  assert.equal(rig.run(channel, ...ios), ['OK', 'OK', 'OK', 'OK', 'OK']);
  assert.is(rig.controller.stats.resets, 1);
  assert.is(rig.fake.resets, 1);
  rig.stop();
});

test('a command that never works ends as aborted, after a bounded number of resets', () => {
  const rig = new NvmeRig({}, { timeoutMs: 200 });
  const channel = rig.open();
  rig.fake.fault = (c) => (c.sqid === 1 && c.opcode === NvmOpcode.FLUSH ? -1 : undefined);
  assert.equal(rig.run(channel, rig.io(FLUSH, 0, 0)), ['ABORTED']);
  assert.is(rig.controller.stats.resets, 4);
  assert.is(rig.controller.state, 'ready');
  rig.stop();
});

test('reset of the channel: what is out is aborted, what waits ends at once', () => {
  const rig = new NvmeRig({}, { entries: 4 });
  const channel = rig.open();
  rig.fake.auto = false;
  const ios = Array.from({ length: 6 }, () => rig.io(FLUSH, 0, 0));
  for (const io of ios) channel.submit(io);
  rig.time(3);
  channel.reset();
  assert.equal(
    ios.map((io) => io.result),
    ['pending', 'pending', 'pending', 'ABORTED', 'ABORTED', 'ABORTED'],
  );
  rig.settle(ios);
  assert.ok(ios.every((io) => io.result === 'ABORTED'));
  assert.is(rig.controller.stats.resets, 0);
  rig.stop();
});

test('a controller that completes a command nobody sent is reset, and no request is lost', () => {
  const rig = new NvmeRig();
  const channel = rig.open();
  rig.fake.auto = false;
  const ios = Array.from({ length: 4 }, () => rig.io(FLUSH, 0, 0));
  for (const io of ios) channel.submit(io);
  rig.time(2);
  rig.fake.forge(1, 99, 0);
  rig.time(1);
  assert.match(channel.queue.pair.broken ?? '', 'completed command 99');
  rig.fake.auto = true;
  rig.settle(ios);
  assert.ok(ios.every((io) => io.result === 'OK'));
  assert.is(rig.controller.stats.resets, 1);
  rig.stop();
});

test('a completion of another queue in our queue is not believed', () => {
  const rig = new NvmeRig();
  const channel = rig.open();
  rig.fake.auto = false;
  const io = rig.io(FLUSH, 0, 0);
  channel.submit(io);
  rig.time(2);
  rig.fake.forge(2, rig.fake.pending[0]?.cid ?? 0, 0, 1);
  channel.poll();
  assert.is(io.result, 'pending');
  assert.match(channel.queue.pair.broken ?? '', 'submission queue 2');
  rig.fake.auto = true;
  rig.settle([io]);
  assert.is(io.result, 'OK');
  rig.stop();
});

test('pulled out under load: every request ends, and new ones end at once', () => {
  const rig = new NvmeRig({}, { entries: 8 });
  const channel = rig.open();
  rig.fake.auto = false;
  const ios = Array.from({ length: 20 }, () => rig.io(FLUSH, 0, 0));
  for (const io of ios) channel.submit(io);
  rig.time(2);
  rig.fake.pull();
  rig.settle(ios);
  assert.ok(ios.every((io) => io.result === 'REMOVED'));
  assert.is(rig.lost.length, 1);
  const late = rig.io(FLUSH, 0, 0);
  channel.submit(late);
  assert.is(late.result, 'REMOVED');
  rig.stop();
});

test('namespaces share their reactor’s queue; reactors have one each; then there are none left', () => {
  const rig = new NvmeRig(
    {
      namespaces: [
        { blockSize: 512, blocks: 64 },
        { blockSize: 512, blocks: 64 },
      ],
    },
    { ioQueues: 2 },
  );
  const [a, b, c] = [rig.open(1), rig.open(2), rig.open(1, {}, 1)] as const;
  assert.is(a.queue, b.queue);
  assert.is.not(a.queue, c.queue);
  assert.throws(() => rig.open(1, {}, 2), /all 2 I\/O queues are in use/);
  assert.equal(
    [a, b, c].map((channel) => rig.run(channel, rig.io(FLUSH, 0, 0))[0]),
    ['OK', 'OK', 'OK'],
  );
  rig.stop();
});

test('a queue given back goes on where it was for its next owner', () => {
  const rig = new NvmeRig({}, { ioQueues: 1, entries: 5 });
  for (let owner = 0; owner < 5; owner++) {
    const channel = rig.open(1, {}, owner);
    const ios = Array.from({ length: owner + 2 }, () => rig.io(FLUSH, 0, 0));
    assert.ok(rig.run(channel, ...ios).every((r) => r === 'OK'));
    channel.close();
    rig.channels.length = 0;
  }
  rig.controller.reset('a test');
  rig.time(50);
  const channel = rig.open(1, {}, 9);
  assert.equal(rig.run(channel, rig.io(FLUSH, 0, 0)), ['OK'], 'after a reset it begins anew');
  rig.stop();
});

test('a reset right after a reset, which the reactor has not seen the end of', () => {
  const rig = new NvmeRig();
  const channel = rig.open();
  rig.controller.reset('first');
  channel.poll(); // lets go
  rig.loop.removePoller(channel.queue);
  rig.loop.until(
    () => rig.controller.state === 'ready',
    100,
    () => rig.fake.step(),
  );
  rig.controller.reset('second');
  rig.loop.addPoller(channel.queue);
  const io = rig.io(FLUSH, 0, 0);
  assert.equal(rig.run(channel, io), ['OK']);
  assert.equal(rig.lost, []);
  assert.is(rig.fake.resets, 2);
  rig.stop();
});

test('a channel opened while the controller is reset waits for it', () => {
  const rig = new NvmeRig({}, { ioQueues: 2 });
  const first = rig.open();
  rig.controller.reset('a test');
  const second = rig.open(1, {}, 1);
  assert.equal(rig.run(second, rig.io(FLUSH, 0, 0)), ['OK']);
  assert.equal(rig.run(first, rig.io(FLUSH, 0, 0)), ['OK']);
  rig.stop();
});

test('a reactor that does not let go of its queue: the controller is given up', () => {
  const rig = new NvmeRig();
  const channel = rig.open();
  rig.loop.removePoller(channel.queue);
  const io = rig.io(FLUSH, 0, 0);
  rig.controller.reset('a test');
  rig.loop.until(
    () => rig.lost.length > 0,
    20_000,
    () => rig.fake.step(),
  );
  // Its timer is the net: it follows within an eighth of the time limit.
  assert.is(rig.lost.length, 0);
  rig.loop.addPoller(channel.queue);
  assert.equal(rig.run(channel, io), ['OK']);
  rig.stop();
});

test('sleeping: not while a command is out without interrupts, and not when a completion waits', () => {
  const rig = new NvmeRig();
  const channel = rig.open();
  rig.fake.auto = false;
  assert.not(channel.queue.arm(), 'idle: may sleep');
  channel.submit(rig.io(FLUSH, 0, 0));
  assert.ok(channel.queue.arm(), 'polling mode: stay awake');
  rig.time(2);
  rig.fake.finish(0);
  rig.time(2);
  assert.is(channel.inFlight, 0);
  rig.stop();

  const irq = new NvmeRig({ vectors: 8 });
  const other = irq.open();
  irq.fake.auto = false;
  const io = irq.io(FLUSH, 0, 0);
  other.submit(io);
  assert.not(other.queue.arm(), 'an interrupt will come; the doorbell was rung');
  irq.fake.step();
  irq.fake.finish(0);
  assert.ok(other.queue.arm(), 'a completion is there already');
  irq.settle([io]);
  irq.stop();
});

test.run();
