import { type BdevChannel, BdevIo, BdevOp, BdevStatus } from '../../src/bdev/bdev.ts';
import { createNullBdev } from '../../src/bdev/null-bdev.ts';
import { openChannel } from '../../src/bdev/open-channel.ts';
import { QosChannel, QosLimiter, type QosLimits } from '../../src/bdev/qos.ts';
import { Memory } from '../../src/memory/memory.ts';
import type { EventLoop } from '../../src/sys/event-loop.ts';
import { FakeLoop } from '../support/fake-loop.ts';
import { assert, suite } from '../support/suite.ts';
import { Owner, scatter } from './disk-model.ts';

const test = suite('rate limits');
const NONE: QosLimits = { rwIos: 0, rwBytes: 0, readBytes: 0, writeBytes: 0 };
const memory = new Memory(new ArrayBuffer(64 * 1024));

function rig(channels: number) {
  const loop = new FakeLoop();
  const disk = createNullBdev({ name: 'Null0', numBlocks: 1024 });
  const limiter = new QosLimiter();
  const share = { ...disk.share(), qos: limiter.shared };
  return {
    loop,
    disk,
    limiter,
    channels: [...Array(channels)].map(() => openChannel(share, loop as unknown as EventLoop)),
  };
}

function request(op: number, blocks = 8): BdevIo {
  const io = new BdevIo(new Owner(), scatter(memory, blocks * 512, [], 0, 0));
  io.op = op as BdevOp;
  io.blocks = blocks;
  return io;
}

const ended = (ios: BdevIo[]): number => ios.filter((io) => (io.owner as Owner).done.has(io)).length;

/** Lets time pass until all have ended. @returns milliseconds of the loop's own clock */
function drain(loop: FakeLoop, ios: BdevIo[]): number {
  const start = loop.now;
  assert.ok(
    loop.until(() => ended(ios) === ios.length, 20_000),
    'requests do not end',
  );
  return (loop.now - start) / 1e6;
}

test('without limits everything goes at once', () => {
  const { channels, limiter } = rig(1);
  limiter.set(NONE);
  const ios = [...Array(500)].map(() => request(BdevOp.READ));
  for (const io of ios) channels[0].submit(io);
  assert.is(ended(ios), 500);
  assert.is(limiter.throttled, 0);
});

test('requests a second, over two channels together', () => {
  const { channels, limiter, loop, disk } = rig(2);
  limiter.set({ ...NONE, rwIos: 1000 });
  const ios = [...Array(300)].map((_, i) => request(i % 3 === 0 ? BdevOp.WRITE : BdevOp.READ));
  ios.forEach((io, i) => {
    channels[i & 1].submit(io);
  });
  const atOnce = ended(ios);
  assert.ok(atOnce >= 20 && atOnce <= 22, `${atOnce} went at once: what 20 ms give`);
  const ms = drain(loop, ios);
  // One a millisecond, less the burst.
  assert.ok(Math.abs(ms - (300 - atOnce)) <= 2, `${ms} ms`);
  assert.is(limiter.throttled, 300 - atOnce);
  assert.is(disk.stats.snapshot().read.count + disk.stats.snapshot().write.count, 300);
});

test('bytes a second of one direction leave the other alone', () => {
  const { channels, limiter, loop } = rig(1);
  limiter.set({ ...NONE, writeBytes: 1_000_000 });
  const writes = [...Array(50)].map(() => request(BdevOp.WRITE)); // 200 KiB
  const reads = [...Array(50)].map(() => request(BdevOp.READ));
  for (const io of [...writes, ...reads]) channels[0].submit(io);
  assert.is(ended(reads), 50);
  // A write of 4096 bytes goes while there are tokens: 20 ms of them are 20000.
  assert.is(ended(writes), 5);
  const ms = drain(loop, writes);
  assert.ok(ms >= 175 && ms <= 190, `${ms} ms for 45 writes at 1000 bytes a millisecond`);
});

test('a request larger than the bucket goes, and is paid for', () => {
  const { channels, limiter, loop } = rig(1);
  limiter.set({ ...NONE, rwBytes: 100_000 });
  const ios = [request(BdevOp.READ, 40), request(BdevOp.READ, 8)];
  for (const io of ios) channels[0].submit(io);
  assert.is(ended(ios), 1);
  const ms = drain(loop, ios);
  assert.ok(ms >= 175 && ms <= 190, `${ms} ms: 20480 bytes less the burst of 2000, at 100 a millisecond`);
});

test('what moves no data is not limited', () => {
  const { channels, limiter } = rig(1);
  limiter.set({ ...NONE, rwIos: 1 });
  const first = [request(BdevOp.READ), request(BdevOp.READ)];
  const others = [BdevOp.FLUSH, BdevOp.UNMAP, BdevOp.WRITE_ZEROES].map((op) => request(op));
  for (const io of [...first, ...others]) channels[0].submit(io);
  assert.is(ended(first), 1);
  assert.is(ended(others), 3);
  assert.is(channels[0].inFlight, 1);
  channels[0].reset();
  assert.is(first[1].status, BdevStatus.ABORTED);
  assert.is(channels[0].inFlight, 0);
});

test('lifting the limit lets go what waits; removal ends it', () => {
  const { channels, limiter, loop } = rig(2);
  limiter.set({ ...NONE, rwIos: 1 });
  const ios = [...Array(20)].map(() => request(BdevOp.WRITE));
  for (const io of ios) channels[0].submit(io);
  const other = [request(BdevOp.WRITE), request(BdevOp.READ)];
  for (const io of other) channels[1].submit(io);
  channels[1].remove?.();
  assert.ok(other.every((io) => io.status === BdevStatus.REMOVED));
  limiter.set(NONE);
  assert.ok(drain(loop, ios) <= 1);
});

test('refuses rates that are none', () => {
  const limiter = new QosLimiter();
  for (const bad of [-1, 1.5, Number.NaN, 2 ** 50]) {
    assert.throws(() => limiter.set({ ...NONE, rwIos: bad }), /rwIos.*expected an integer/);
  }
});

test('whether bytes are bounced is told as it is now', () => {
  const limiter = new QosLimiter();
  const inner = { info: {}, zeroCopy: true } as { zeroCopy: boolean };
  const channel = new QosChannel(
    inner as unknown as BdevChannel,
    limiter.shared,
    new FakeLoop() as unknown as EventLoop,
  );
  assert.ok(channel.zeroCopy);
  inner.zeroCopy = false;
  assert.not(channel.zeroCopy);
});

test.run();
