/**
 * The load generator: a process of its own that drives any vhost-user-scsi or vhost-user-blk back end and prints one JSON
 * object. `node --import tsx bench/load/main.ts --socket PATH [options]`; see OPTIONS for them.
 */
import { parseArgs } from 'node:util';
import { pinThread } from '../../src/sys/affinity.ts';
import { drive, Rig, Unsupported } from './rig.ts';

const OPTIONS = {
  /** Several: a front end at each, all kept busy at once. */
  socket: { type: 'string', multiple: true },
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
if (values.latency && values.depth !== '1') throw new Error('--latency times one request at a time: give --depth 1');
if (values.cpu !== undefined) pinThread(Number(values.cpu));

const device = values.device === 'blk' ? 'blk' : 'scsi';
const op = values.op === 'write' ? 'write' : 'read';
const rigs: Rig[] = [];
try {
  for (const socket of values.socket) {
    const rig = new Rig({
      socket,
      device,
      target: Number(values.target),
      op,
      bytes: Number(values.bytes),
      depth: Number(values.depth),
      queues: Number(values.queues),
      indirect: values.indirect,
      span: Number(values.span) * 2 ** 20,
    });
    rigs.push(rig);
  }
} catch (error) {
  if (!(error instanceof Unsupported)) throw error;
  console.log(JSON.stringify({ unsupported: error.message }));
  process.exit(0);
}
const loads = rigs.flatMap((rig) => rig.loads);

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
  drive(loads, Number(values.warmup) * 1000);
  for (let i = 0; i < Number(values.samples); i++) {
    const begin = performance.now();
    const done = drive(loads, seconds * 1000);
    samples.push((done / (performance.now() - begin)) * 1000);
  }
}
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
for (const rig of rigs) rig.close();
