/**
 * The load generator: a process of its own that drives any vhost-user-scsi or vhost-user-blk back end and prints one JSON
 * object. `node --import tsx bench/load/main.ts --socket PATH [options]`; see OPTIONS for them.
 */
import { parseArgs } from 'node:util';
import { pinThread } from '../../src/sys/affinity.ts';
import { featureMask, VirtioFeature } from '../../src/virtio/features.ts';
import { FrontEnd } from './front-end.ts';
import { blk, scsi } from './protocol.ts';
import { QueueLoad, type QueueShape, queueBytes } from './queue-load.ts';

const OPTIONS = {
  socket: { type: 'string' },
  device: { type: 'string', default: 'scsi' },
  target: { type: 'string', default: '0' },
  op: { type: 'string', default: 'read' },
  bytes: { type: 'string', default: '4096' },
  depth: { type: 'string', default: '32' },
  queues: { type: 'string', default: '1' },
  indirect: { type: 'boolean', default: false },
  /** Span of the disk that is used, MiB. */
  span: { type: 'string', default: '64' },
  /** Seconds a sample. */
  seconds: { type: 'string', default: '0.5' },
  samples: { type: 'string', default: '3' },
  /** Seconds before the first sample: compilers, caches. */
  warmup: { type: 'string', default: '1' },
  cpu: { type: 'string' },
  /** Record the time of each request (depth 1): costs a clock reading a request. */
  latency: { type: 'boolean', default: false },
  /** Microseconds to wait between requests (with --latency): lets the back end go to sleep. */
  think: { type: 'string', default: '0' },
} as const;

const { values } = parseArgs({ options: OPTIONS });
if (values.socket === undefined) throw new Error('--socket PATH is missing');
if (values.cpu !== undefined) pinThread(Number(values.cpu));

const BLOCK = 512;
const bytes = Number(values.bytes);
const queues = Number(values.queues);
const protocol = values.device === 'blk' ? blk : scsi(Number(values.target));
const wanted: number[] = [VirtioFeature.VERSION_1, VirtioFeature.EVENT_IDX];
if (values.indirect) wanted.push(VirtioFeature.INDIRECT_DESC);

const shape: QueueShape = {
  depth: Number(values.depth),
  bytes,
  write: values.op === 'write',
  indirect: values.indirect,
  eventIdx: true,
  blocks: (Number(values.span) * 2 ** 20) / BLOCK,
  blockSize: BLOCK,
  seed: 1,
};
/** Rings of the queues that carry no requests (scsi: control and event) lie here, one page each part. */
const IDLE_QUEUE_BYTES = 3 * 4096;
const memoryBytes = protocol.firstQueue * IDLE_QUEUE_BYTES + queues * queueBytes(shape);
const frontEnd = new FrontEnd(values.socket, featureMask(...wanted), memoryBytes);
shape.eventIdx = (frontEnd.features & featureMask(VirtioFeature.EVENT_IDX)) !== 0n;
if (values.indirect && (frontEnd.features & featureMask(VirtioFeature.INDIRECT_DESC)) === 0n) {
  console.log(JSON.stringify({ unsupported: 'indirect descriptors' }));
  process.exit(0);
}

for (let i = 0; i < protocol.firstQueue; i++) {
  const at = i * IDLE_QUEUE_BYTES;
  frontEnd.startQueue(i, 8, { desc: at, avail: at + 4096, used: at + 8192 });
}
const loads: QueueLoad[] = [];
for (let i = 0; i < queues; i++) {
  const at = protocol.firstQueue * IDLE_QUEUE_BYTES + i * queueBytes(shape);
  const load = new QueueLoad(frontEnd.memory, at, protocol, { ...shape, seed: i + 1 });
  const [kick] = frontEnd.startQueue(protocol.firstQueue + i, load.size, load.place);
  loads.push(load);
  frontEnd.settle();
  load.start(kick);
}

/** Drive all queues for some milliseconds. @returns requests done */
function drive(ms: number): number {
  const until = performance.now() + ms;
  let done = 0;
  do {
    for (let i = 0; i < 256; i++) for (const load of loads) done += load.turn(false);
  } while (performance.now() < until);
  return done;
}

/** Latencies in log2/16 buckets of nanoseconds. */
const histogram = new Float64Array(64 * 16);
const bucketOf = (ns: number) => Math.floor(Math.log2(Math.max(ns, 1)) * 16);

let slowest = 0;

function percentile(p: number): number {
  const total = histogram.reduce((a, b) => a + b, 0);
  let seen = 0;
  for (let i = 0; i < histogram.length; i++) {
    seen += histogram[i];
    if (seen >= total * p) return 2 ** ((i + 0.5) / 16) / 1000;
  }
  return 0;
}

/** One request at a time, each timed. */
function driveTimed(ms: number, think: number): number {
  const load = loads[0];
  const until = performance.now() + ms;
  let done = 0;
  let started = performance.now();
  if (load.outstanding === 0) load.again();
  for (;;) {
    if (load.turn(true) === 0) continue;
    const now = performance.now();
    histogram[bucketOf((now - started) * 1e6)]++;
    slowest = Math.max(slowest, now - started);
    done++;
    if (now > until) return done;
    while (performance.now() < now + think / 1000);
    started = performance.now();
    load.again();
  }
}

const seconds = Number(values.seconds);
const samples: number[] = [];
if (values.latency) {
  driveTimed(Number(values.warmup) * 1000, Number(values.think));
  histogram.fill(0);
  slowest = 0;
  for (let i = 0; i < Number(values.samples); i++) {
    const begin = performance.now();
    const done = driveTimed(seconds * 1000, Number(values.think));
    samples.push((done / (performance.now() - begin)) * 1000);
  }
} else {
  drive(Number(values.warmup) * 1000);
  for (let i = 0; i < Number(values.samples); i++) {
    const begin = performance.now();
    const done = drive(seconds * 1000);
    samples.push((done / (performance.now() - begin)) * 1000);
  }
}
// Let everything come to rest, so that the back end stops with nothing in flight.
const until = performance.now() + 5000;
for (const load of loads) while (load.outstanding > 0 && performance.now() < until) load.turn(true);

const result: Record<string, unknown> = { iops: samples, kicks: loads.reduce((n, l) => n + l.kicks, 0) };
if (values.latency)
  result['latency_us'] = {
    p50: percentile(0.5),
    p99: percentile(0.99),
    p999: percentile(0.999),
    p9999: percentile(0.9999),
    max: slowest * 1000,
  };
console.log(JSON.stringify(result));
for (let i = 0; i < protocol.firstQueue + queues; i++) frontEnd.stopQueue(i);
frontEnd.close();
