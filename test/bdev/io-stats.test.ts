import { Worker } from 'node:worker_threads';
import { BdevIo, BdevOp, BdevStatus } from '../../src/bdev/bdev.ts';
import {
  claimStats,
  FIRST_BUCKET_LOG2,
  IoStats,
  LATENCY_BUCKETS,
  latencyBucket,
  MAX_ROWS,
} from '../../src/bdev/io-stats.ts';
import { assert, suite } from '../support/suite.ts';
import { Owner } from './disk-model.ts';

const test = suite('disk statistics');

function io(op: number, status: number = BdevStatus.OK): BdevIo {
  const io = new BdevIo(new Owner());
  io.op = op as BdevOp;
  io.status = status as BdevStatus;
  return io;
}

test('sums over channels, also closed ones', () => {
  const stats = new IoStats();
  const a = claimStats(stats.shared);
  const b = claimStats(stats.shared);
  a.count(io(BdevOp.READ), 4096);
  b.count(io(BdevOp.READ), 512);
  b.count(io(BdevOp.WRITE, BdevStatus.NO_SPACE), 512);
  a.latency(BdevOp.READ, 1000);
  b.latency(BdevOp.READ, 3000);
  a.bounced(4096);
  b.queued();
  b.close();
  const c = claimStats(stats.shared);
  c.count(io(BdevOp.UNMAP), 100);
  const sum = stats.snapshot();
  assert.equal([sum.read.count, sum.read.bytes, sum.read.errors], [2, 4608, 0]);
  assert.equal([sum.write.count, sum.write.bytes, sum.write.errors], [1, 0, 1]);
  assert.equal(
    [sum.read.samples, sum.read.latencySum, sum.read.latencyMin, sum.read.latencyMax],
    [2, 4000, 1000, 3000],
  );
  assert.is(
    sum.read.buckets.reduce((x, y) => x + y),
    2,
  );
  assert.equal([sum.bouncedOps, sum.bouncedBytes, sum.queued], [1, 4096, 1]);
  assert.equal(sum.errorsByStatus, { NO_SPACE: 1 });
  assert.is(sum.unmap.count, 1);
});

test('a reset starts from zero', () => {
  const stats = new IoStats();
  const a = claimStats(stats.shared);
  a.count(io(BdevOp.READ), 4096);
  a.latency(BdevOp.READ, 900);
  stats.reset();
  let sum = stats.snapshot();
  assert.equal([sum.read.count, sum.read.bytes, sum.read.latencyMin, sum.read.latencyMax], [0, 0, 0, 0]);
  a.latency(BdevOp.READ, 5000);
  a.latency(BdevOp.READ, 7000);
  sum = stats.snapshot();
  assert.equal(
    [sum.read.samples, sum.read.latencySum, sum.read.latencyMin, sum.read.latencyMax],
    [2, 12000, 5000, 7000],
  );
});

test('each latency has one bucket', () => {
  const first = 2 ** (FIRST_BUCKET_LOG2 + 1);
  const rows: [number, number][] = [
    [0, 0],
    [1, 0],
    [first - 1, 0],
    [first, 1],
    [2 * first - 1, 1],
    [2 * first, 2],
    [2 ** 32 - 1, LATENCY_BUCKETS - 2],
    [2 ** 32, LATENCY_BUCKETS - 1],
    [1e13, LATENCY_BUCKETS - 1],
  ];
  for (const [ns, bucket] of rows) assert.is(latencyBucket(ns), bucket, String(ns));
});

test('more channels than rows count nowhere and harm nobody', () => {
  const stats = new IoStats();
  for (let i = 0; i < MAX_ROWS + 3; i++) claimStats(stats.shared).count(io(BdevOp.READ), 1);
  assert.is(stats.snapshot().read.count, MAX_ROWS);
});

test('another thread counts too', async () => {
  const stats = new IoStats();
  const mine = claimStats(stats.shared);
  mine.count(io(BdevOp.READ), 1);
  // The thread writes as a channel of row 1 would: the layout is the contract.
  const worker = new Worker(
    `const { workerData } = require('node:worker_threads');
     const header = new Int32Array(workerData, 0, ${MAX_ROWS});
     if (Atomics.compareExchange(header, 1, 0, 2) === 0) new Float64Array(workerData, ${MAX_ROWS} * 4 + 256 * 8)[0] += 5;`,
    { eval: true, workerData: stats.shared },
  );
  await new Promise((resolve) => worker.on('exit', resolve));
  assert.is(stats.snapshot().read.count, 6);
});

test.run();
