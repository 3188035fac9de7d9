/** The virtio-scsi initiator against an adapter in plain memory: scan, data, errors, time limits, events, resets, removal. */
import { BdevOp } from '../../src/bdev/bdev.ts';
import { IoStats } from '../../src/bdev/io-stats.ts';
import { openVirtioScsiChannel } from '../../src/bdev/virtio-scsi-channel.ts';
import { featureMask, VirtioFeature } from '../../src/virtio/features.ts';
import { VirtioScsiResponse } from '../../src/virtio/scsi-device.ts';
import { SINGLE_PAGES } from '../support/fake-dma.ts';
import { assert, suite } from '../support/suite.ts';
import { bytesOf, fillList, type Placement, pattern, type TestIo } from './disk-rig.ts';
import type { Fault } from './fake-virtio-scsi.ts';
import { VirtioRig } from './virtio-scsi-rig.ts';

const test = suite('virtio-scsi initiator');
const { READ, WRITE, FLUSH, UNMAP, WRITE_ZEROES, COMPARE } = BdevOp;
const UNCACHED = { numBlocks: 8192, writeCache: true };
const NO_INDIRECT = featureMask(VirtioFeature.VERSION_1);

test('finds targets and units, with their sizes and abilities', async () => {
  const rig = await VirtioRig.with((fake) => {
    fake.addDisk(0, 0, { numBlocks: 131072, writeCache: true });
    fake.addDisk(3, 0, { blockSize: 4096, physicalBlockSize: 4096, numBlocks: 100, readOnly: true });
    fake.addDisk(3, 5, { numBlocks: 7, physicalBlockSize: 4096 });
  });
  assert.equal(
    rig.bdevs.map(({ info: i }) => [
      i.name,
      i.product,
      i.blockSize,
      i.physicalBlockSize,
      i.numBlocks,
      i.writeCache,
      i.readOnly,
    ]),
    [
      ['Vt0', 'Virtio SCSI Disk', 512, 512, 131072, true, false],
      ['Vt3', 'Virtio SCSI Disk', 4096, 4096, 100, false, true],
      ['Vt3l5', 'Virtio SCSI Disk', 512, 4096, 7, false, false],
    ],
  );
  const [first] = rig.bdevs;
  assert.ok(first?.info.unmap && first.info.unmapZeroes && first.info.nonRotational);
  assert.ok(first?.unit.maxUnmapBlocks !== 0 && first?.unit.maxSameBlocks !== 0);
  assert.ok(first?.unit.fua, 'the target obeys FUA');
  const described = first?.describe() as { scsi: Record<string, unknown> };
  assert.equal(
    [described.scsi['vendor'], described.scsi['product'], described.scsi['target']],
    ['INTEL', 'Malloc disk', 0],
  );
  assert.equal(first?.config().method, 'bdev_virtio_attach_controller');
  await rig.stop();
});

test('an adapter with nothing behind it, and one with a unit that is no disk to us', async () => {
  for (const [prepare, expected] of [
    [() => {}, /no target has a disk/],
    [
      (rig: VirtioRig) => {
        rig.fake.addDisk(1, 0);
        const answer = rig.fake.fault;
        rig.fake.fault = (cdb, target) => {
          // READ CAPACITY of a unit with odd blocks: answered by refusing both forms.
          return cdb[0] === 0x9e || cdb[0] === 0x25 ? { status: 2, sense: [5, 0x20, 0] } : answer(cdb, target);
        };
      },
      /READ CAPACITY failed \(sense 5\/2000h\)/,
    ],
  ] as const) {
    const rig = new VirtioRig();
    prepare(rig);
    let message = '';
    await rig.attach().catch((error: Error) => {
      message = error.message;
    });
    assert.match(message, expected);
    await rig.stop();
  }
});

test('adapters that cannot be driven are refused by name', async () => {
  const refuses = async (rig: VirtioRig) => {
    let message = '';
    await rig.attach().catch((error: Error) => {
      message = error.message;
    });
    assert.match(message, '0000:00:05.0');
    await rig.stop();
    return message;
  };
  assert.match(await refuses(new VirtioRig({ queues: 0 })), 'it has 2 queues');
  assert.match(await refuses(new VirtioRig({ queueSize: 1 })), 'room for 1 descriptors');
  const failing = new VirtioRig();
  failing.fake.failingResets = 9;
  assert.match(await refuses(failing), 'reset did not end');
});

async function roundTrip(
  rig: VirtioRig,
  placement: Placement,
  lengths: number[],
  { offset = 0, gap = 0, lba = 3 } = {},
) {
  const channel = rig.open();
  const { blockSize } = channel.info;
  const bytes = lengths.reduce((a, b) => a + b, 0);
  const room = offset + lengths.length * gap + bytes;
  const [from, to] = [rig.guest(room, placement), rig.guest(room, placement)];
  const out = rig.list(from, lengths, offset, gap);
  const into = rig.list(to, lengths, offset, gap);
  const data = pattern(bytes, bytes + offset);
  fillList(out, 0, data);
  assert.equal(await rig.run(channel, rig.io(WRITE, lba, bytes / blockSize, out)), ['OK']);
  const disk = (rig.fake.channels.get('0/0') as { disk: Uint8Array }).disk;
  assert.is(Buffer.compare(disk.subarray(lba * blockSize, lba * blockSize + bytes), data), 0, 'the disk has the data');
  assert.equal(await rig.run(channel, rig.io(READ, lba, bytes / blockSize, into)), ['OK']);
  assert.is(Buffer.compare(bytesOf(into, 0, bytes), data), 0, 'and gives it back');
  return channel.zeroCopy;
}

for (const [name, options] of [
  ['indirect descriptors', {}],
  ['direct descriptors, no event index', { features: NO_INDIRECT }],
  ['small rings', { queueSize: 8, segMax: 3 }],
] as const) {
  test(`data of every size and shape: ${name}`, async () => {
    const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, { numBlocks: 8192 }), options);
    for (const bytes of [512, 4096, 65536, 1048576, 2097152]) assert.ok(await roundTrip(rig, 'linear', [bytes]));
    assert.ok(await roundTrip(rig, 'pages', [4096, 8192, 4096], { gap: 4096 }));
    assert.ok(await roundTrip(rig, 'linear', [1000, 24, 3072], { gap: 100, offset: 7 }), 'any address will do');
    assert.not(await roundTrip(rig, 'unreachable', [1048576]));
    await rig.stop();
  });
}

for (const [name, options] of [
  ['indirect descriptors', {}],
  ['tables of 100 descriptors', { segMax: 98 }],
  ['direct descriptors', { features: NO_INDIRECT }],
] as const) {
  test(`own memory of single pages: ${name}`, async () => {
    const rig = await VirtioRig.with(
      (fake) => fake.addDisk(0, 0, { numBlocks: 8192, writeCache: true }),
      { queueSize: 256, ...options },
      { vqSize: 256 },
      SINGLE_PAGES,
    );
    for (const placement of ['linear', 'pages', 'unreachable'] as const) {
      for (const bytes of [512, 65536, 1048576]) await roundTrip(rig, placement, [bytes]);
      await roundTrip(rig, placement, [4096, 8192, 4096], { gap: 4096 });
    }
    const channel = rig.open();
    assert.is(
      channel.queue.pair.depth,
      name === 'direct descriptors' ? 4 : 256,
      'no ring is shorter than the device’s',
    );
    const sg = rig.list(rig.guest(16384, 'pages'), [16384]);
    const ios = Array.from({ length: 600 }, (_, i) => rig.io(WRITE, i, 32, sg));
    ios.push(rig.io(FLUSH, 0, 0), rig.io(UNMAP, 0, 100), rig.io(WRITE_ZEROES, 0, 8));
    assert.ok((await rig.run(channel, ...ios)).every((r) => r === 'OK'));
    await rig.stop();
  });
}

test('flush, unmap, write zeroes, compare', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, UNCACHED));
  const channel = rig.open();
  const disk = (rig.fake.channels.get('0/0') as { disk: Uint8Array }).disk;
  disk.fill(0xaa);
  rig.fake.done.length = 0;
  const ios = [rig.io(FLUSH, 0, 0), rig.io(WRITE_ZEROES, 8, 200), rig.io(UNMAP, 1000, 3000)];
  assert.equal(await rig.run(channel, ...ios), ['OK', 'OK', 'OK']);
  assert.equal(rig.fake.done, [0x35, 0x93, 0x42]);
  const zero = (from: number, to: number) => disk.subarray(from * 512, to * 512).every((b) => b === 0);
  assert.ok(zero(8, 208) && zero(1000, 4000));
  assert.equal([disk[8 * 512 - 1], disk[208 * 512], disk[4000 * 512]], [0xaa, 0xaa, 0xaa]);
  const memory = rig.guest(65536, 'linear');
  memory.u8.fill(0xaa);
  const sg = rig.list(memory, [65536]);
  const different = rig.io(COMPARE, 900, 128, sg);
  assert.equal(await rig.run(channel, rig.io(COMPARE, 800, 128, sg), different), ['OK', 'MISCOMPARE']);
  assert.is(different.miscompareOffset, 100 * 512);
  await rig.stop();
});

test('a disk without UNMAP and WRITE SAME: zeroes are written, unmap is refused', async () => {
  const rig = await VirtioRig.with((fake) => {
    fake.addDisk(0, 0, { numBlocks: 4096, unmap: false, unmapZeroes: false });
    // No VPD b0: no word about WRITE SAME.
    fake.fault = (cdb) =>
      cdb[0] === 0x12 && cdb[1] === 1 && cdb[2] === 0xb0 ? { status: 2, sense: [5, 0x24, 0] } : undefined;
  });
  const channel = rig.open();
  (rig.fake.channels.get('0/0') as { disk: Uint8Array }).disk.fill(0xaa);
  assert.equal(await rig.run(channel, rig.io(WRITE_ZEROES, 0, 1000), rig.io(UNMAP, 0, 8)), ['OK', 'NOT_SUPPORTED']);
  assert.ok((rig.fake.channels.get('0/0') as { disk: Uint8Array }).disk.subarray(0, 512000).every((b) => b === 0));
  await rig.stop();
});

test('FUA: the bit where the disk obeys it, else a flush before the request ends', async () => {
  for (const obeys of [true, false]) {
    const rig = await VirtioRig.with((fake) => {
      fake.addDisk(0, 0, UNCACHED);
      // Mode parameter header: DPOFUA off.
      if (!obeys) fake.fault = (cdb) => (cdb[0] === 0x1a ? { status: 2, sense: [5, 0x20, 0] } : undefined);
    });
    if (!obeys) {
      // Without mode pages nothing is known of a cache either: say that there is one.
      (rig.bdevs[0]?.unit as { writeCache: boolean }).writeCache = true;
    }
    const channel = rig.open();
    const log: string[] = [];
    (rig.fake.channels.get('0/0') as { log: string[] | null }).log = log;
    const io = rig.io(WRITE, 0, 8, rig.list(rig.guest(4096, 'linear'), [4096]));
    io.fua = true;
    assert.equal(await rig.run(channel, io), ['OK']);
    assert.equal(log.join(', '), obeys ? 'WRITE 0+8 fua' : 'WRITE 0+8, FLUSH 0+0');
    await rig.stop();
  }
});

test('what the unit answers is what the request gets', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, UNCACHED));
  const channel = rig.open();
  const sg = rig.list(rig.guest(4096, 'linear'), [4096]);
  const cases: [Fault, string][] = [
    [{ status: 2, sense: [3, 0x11, 0] }, 'READ_ERROR'],
    [{ status: 2, sense: [3, 0x0c, 0] }, 'WRITE_ERROR'],
    [{ status: 2, sense: [4, 0x44, 0] }, 'IO_ERROR'],
    [{ status: 2, sense: [5, 0x21, 0] }, 'OUT_OF_RANGE'],
    [{ status: 2, sense: [5, 0x20, 0] }, 'NOT_SUPPORTED'],
    [{ status: 2, sense: [5, 0x25, 0] }, 'REMOVED'],
    [{ status: 2, sense: [7, 0x27, 0] }, 'WRITE_PROTECTED'],
    [{ status: 2, sense: [7, 0x27, 7] }, 'NO_SPACE'],
    [{ status: 2, sense: [2, 4, 0] }, 'NOT_READY'],
    [{ status: 2, sense: [11, 0, 0] }, 'ABORTED'],
    [{ status: 2 }, 'IO_ERROR'], // no sense, and nothing was moved
    [{ status: 0x18 }, 'RESERVATION_CONFLICT'],
    [{ status: 0x04 }, 'IO_ERROR'],
    [{ response: VirtioScsiResponse.BAD_TARGET }, 'REMOVED'],
    [{ response: VirtioScsiResponse.FAILURE }, 'IO_ERROR'],
    [{ response: 0xff }, 'IO_ERROR'],
  ];
  for (const [fault, expected] of cases) {
    rig.fake.fault = (cdb) => (cdb[0] === 0x88 ? fault : undefined);
    assert.equal(await rig.run(channel, rig.io(READ, 0, 8, sg)), [expected], JSON.stringify(fault));
  }
  await rig.stop();
});

test('transient answers are tried again: unit attentions, BUSY, TASK SET FULL', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, UNCACHED));
  const channel = rig.open();
  const sg = rig.list(rig.guest(4096, 'linear'), [4096]);
  for (const fault of [
    { status: 2, sense: [6, 0x29, 0] as [number, number, number] },
    { status: 8 },
    { status: 0x28 },
    { response: VirtioScsiResponse.BUSY },
    { response: VirtioScsiResponse.RESET },
  ]) {
    let times = 3;
    rig.fake.fault = (cdb) => (cdb[0] === 0x88 && times-- > 0 ? fault : undefined);
    assert.equal(await rig.run(channel, rig.io(READ, 0, 8, sg)), ['OK'], JSON.stringify(fault));
    rig.fake.fault = (cdb) => (cdb[0] === 0x88 ? fault : undefined);
    const [end] = await rig.run(channel, rig.io(READ, 0, 8, sg));
    assert.is.not(end, 'OK', 'not for ever');
  }
  await rig.stop();
});

test('a short transfer is an error', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, UNCACHED));
  const channel = rig.open();
  rig.fake.fault = (cdb) => {
    if (cdb[0] === 0x88) cdb[13] = 4; // four of eight blocks
    return undefined;
  };
  assert.equal(await rig.run(channel, rig.io(READ, 0, 8, rig.list(rig.guest(4096, 'linear'), [4096]))), ['IO_ERROR']);
  await rig.stop();
});

test('more requests than slots, in any order, on queues of several reactors', async () => {
  const rig = await VirtioRig.with(
    (fake) => fake.addDisk(0, 0, { numBlocks: 4096 }),
    { queueSize: 8, queues: 2 },
    { vqCount: 2 },
  );
  const channels = [rig.open(0, 0), rig.open(0, 1)];
  rig.fake.auto = false;
  const memory = rig.guest(4096 * 64, 'linear');
  const ios = Array.from({ length: 60 }, (_, i) => {
    const sg = rig.list(memory, [4096], 4096 * i);
    fillList(sg, 0, pattern(4096, i));
    return rig.io(WRITE, 8 * i, 8, sg);
  });
  for (const [i, io] of ios.entries()) (channels[i % 2] as (typeof channels)[0]).submit(io);
  let seed = 7;
  await rig.until(() => {
    seed = (seed * 5 + 3) % 16;
    rig.fake.finish(seed % Math.max(1, rig.fake.pending.length));
    return ios.every((io) => io.ends > 0);
  }, 10_000);
  assert.ok(ios.every((io) => io.result === 'OK'));
  const { disk } = rig.fake.channels.get('0/0') as { disk: Uint8Array };
  for (let i = 0; i < 60; i++) assert.is(Buffer.compare(disk.subarray(4096 * i, 4096 * i + 4096), pattern(4096, i)), 0);
  assert.throws(() => rig.open(0, 2), /all 2 I\/O queues are in use.*vq_count/);
  await rig.stop();
});

test('a command that the device forgets: abort by its tag, then a reset; the request is not lost', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, UNCACHED), {}, { timeoutMs: 1000 });
  const channel = rig.open();
  rig.fake.auto = false;
  const slow = rig.io(FLUSH, 0, 0);
  channel.submit(slow);
  await rig.time(1300);
  assert.is(rig.fake.aborted.length, 1, 'aborted');
  rig.fake.auto = true;
  await rig.settle([slow]);
  assert.is(slow.result, 'OK', 'the abort gave it back, and it was sent again');
  let drops = 1;
  rig.fake.fault = () => (drops-- > 0 ? 'forget' : undefined);
  const before = rig.fake.resets;
  const lost = rig.io(FLUSH, 0, 0);
  assert.equal(await rig.run(channel, lost), ['OK']);
  assert.is(rig.fake.resets, before + 1);
  await rig.stop();
});

test('reset of the channel: what is out is aborted', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, UNCACHED));
  const channel = rig.open();
  rig.fake.auto = false;
  const ios = Array.from({ length: 5 }, () => rig.io(FLUSH, 0, 0));
  for (const io of ios) channel.submit(io);
  await rig.time(2);
  channel.reset();
  await rig.settle(ios);
  assert.ok(ios.every((io) => io.result === 'ABORTED'));
  await rig.stop();
});

test('the adapter asks for a reset under load: no request is lost', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, UNCACHED));
  const channel = rig.open();
  rig.fake.auto = false;
  const ios = Array.from({ length: 20 }, () => rig.io(FLUSH, 0, 0));
  for (const io of ios) channel.submit(io);
  await rig.time(2);
  rig.fake.state = 'needs reset';
  rig.fake.auto = true;
  rig.fake.failingResets = 1;
  const before = rig.fake.resets;
  rig.fake.hung = true;
  await rig.until(() => rig.fake.resets > before, 5000);
  rig.fake.hung = false;
  await rig.settle(ios);
  assert.ok(ios.every((io) => io.result === 'OK'));
  await rig.stop();
});

test('an adapter that does not come back from a reset: everything ends', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, UNCACHED));
  const channel = rig.open();
  rig.fake.auto = false;
  const ios = Array.from({ length: 3 }, () => rig.io(FLUSH, 0, 0));
  for (const io of ios) channel.submit(io);
  await rig.time(2);
  rig.fake.failingResets = 99;
  rig.disks.reset('V');
  await rig.settle(ios);
  assert.ok(ios.every((io) => io.result === 'IO_ERROR'));
  assert.equal(rig.told, ['removed Vt0 8192']);
  await rig.stop();
});

test('pulled out, and asked for back: every request ends with REMOVED', async () => {
  for (const how of ['pull', 'requestRemoval'] as const) {
    const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, UNCACHED), { vectors: 8 });
    const channel = rig.open();
    rig.fake.auto = false;
    const ios = Array.from({ length: 30 }, () => rig.io(FLUSH, 0, 0));
    for (const io of ios) channel.submit(io);
    await rig.time(2);
    rig.fake[how]();
    await rig.settle(ios);
    assert.ok(ios.every((io) => io.result === 'REMOVED'));
    const late = rig.io(FLUSH, 0, 0);
    channel.submit(late);
    assert.is(late.result, 'REMOVED');
    assert.is(rig.told.length, 1);
    await rig.stop();
  }
});

test('targets come and go: events, and events missed', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, { numBlocks: 100 }));
  rig.fake.addDisk(2, 0, { numBlocks: 55, uuid: '11111111-2222-4333-8444-555555555555' });
  rig.fake.event(1, 2, 0, 1); // TRANSPORT_RESET, RESCAN
  await rig.until(() => rig.told.length === 1);
  assert.equal(rig.told, ['added Vt2 55']);
  rig.fake.targets.delete(2);
  rig.fake.event(1, 2, 0, 2); // REMOVED
  await rig.until(() => rig.told.length === 2);
  assert.is(rig.told[1], 'removed Vt2 55');
  rig.fake.addDisk(5, 0, { numBlocks: 9, uuid: '21111111-2222-4333-8444-555555555555' });
  rig.fake.event(0x8000_0000, 0, 0, 0); // events missed
  await rig.until(() => rig.told.length === 3);
  assert.is(rig.told[2], 'added Vt5 9');
  await rig.stop();
});

test('a disk grows: by event, and by unit attention under load', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, { numBlocks: 100 }), { queues: 1 });
  const channel = rig.open(); // has the only queue: a scan must wait, the channel looks by itself
  const backend = rig.fake.channels.get('0/0') as { info: { numBlocks: number } };
  backend.info.numBlocks = 200;
  rig.fake.event(3, 0, 0, 0x092a); // PARAM_CHANGE, capacity data has changed
  await rig.until(() => rig.told.length === 1, 20_000);
  assert.equal(rig.told, ['resized Vt0 200']);
  channel.resized((rig.bdevs[0] as (typeof rig.bdevs)[0]).share());
  assert.is(channel.info.numBlocks, 200);
  backend.info.numBlocks = 300;
  let told = false;
  rig.fake.fault = (cdb) => {
    if (cdb[0] !== 0x35 || told) return undefined;
    told = true;
    return { status: 2, sense: [6, 0x2a, 9] };
  };
  (rig.bdevs[0]?.unit as { writeCache: boolean }).writeCache = true;
  const sg = rig.list(rig.guest(4096, 'linear'), [4096]);
  rig.fake.fault = (cdb) => {
    if (cdb[0] !== 0x88 || told) return undefined;
    told = true;
    return { status: 2, sense: [6, 0x2a, 9] };
  };
  told = false;
  assert.equal(await rig.run(channel, rig.io(READ, 0, 8, sg)), ['OK']);
  await rig.until(() => rig.told.length === 2, 20_000);
  assert.is(rig.told[1], 'resized Vt0 300');
  await rig.stop();
});

test('rings that lie break the queue, and a reset mends it', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, UNCACHED));
  const channel = rig.open();
  rig.fake.auto = false;
  const ios = Array.from({ length: 4 }, () => rig.io(FLUSH, 0, 0));
  for (const io of ios) channel.submit(io);
  await rig.time(2);
  // used.idx runs ahead: behind 4 bytes of flags and index.
  const ring = rig.fake.queues.get(2)?.ring as unknown as { used16: Uint16Array; usedIdx: number };
  ring.used16[ring.usedIdx] += 77;
  channel.poll();
  assert.match(channel.queue.pair.broken ?? '', /used.idx/);
  rig.fake.auto = true;
  await rig.settle(ios);
  assert.ok(ios.every((io) => io.result === 'OK'));
  await rig.stop();
});

test('a queue given back goes on where it was; also the scan borrows one', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, UNCACHED), { queues: 1, queueSize: 16 });
  for (let owner = 0; owner < 4; owner++) {
    const channel = rig.open(0, owner);
    const ios: TestIo[] = Array.from({ length: 20 }, () => rig.io(FLUSH, 0, 0));
    assert.ok((await rig.run(channel, ...ios)).every((r) => r === 'OK'));
    channel.close();
    rig.channels.length = 0;
  }
  await rig.stop();
});

test('bounces are counted', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, UNCACHED));
  const stats = new IoStats();
  const share = (rig.bdevs[0] as (typeof rig.bdevs)[0]).share();
  const channel = openVirtioScsiChannel({ ...share, stats: stats.shared }, rig.loop);
  rig.channels.push(channel);
  await rig.run(channel, rig.io(WRITE, 0, 16, rig.list(rig.guest(8192, 'unreachable'), [8192])));
  await rig.run(channel, rig.io(WRITE, 0, 16, rig.list(rig.guest(8192, 'linear'), [8192])));
  const { bouncedOps, bouncedBytes } = stats.snapshot();
  assert.equal([bouncedOps, bouncedBytes], [1, 8192]);
  await rig.stop();
});

test.run();
