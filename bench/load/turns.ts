/**
 * One load for several back ends in turns: each has its front end all the time, but only one of them runs; the others are stopped
 * (SIGSTOP). So every window of one has a window of each other within milliseconds, and what the machine does meanwhile
 * meets all of them alike. A window in which nothing came for a while tells only that one of both had no CPU, and is measured anew.
 *
 * `node --import tsx bench/load/turns.ts JSON` with {@link TurnsOptions}; prints {@link TurnsResult} as JSON.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { pinThread } from '../../src/sys/affinity.ts';
import { Rig, type RigOptions, Unsupported } from './rig.ts';

export interface TurnsOptions {
  cpu: number;
  /** Give the load and the back ends SCHED_RR once they are warm. */
  realtime: boolean;
  /** Write the whole span first: pages that nobody wrote are all one page of zeroes, quicker to read than a disk. */
  fill: boolean;
  load: Omit<RigOptions, 'socket' | 'device'>;
  /** Windows of each, and how long one is, milliseconds. */
  windows: number;
  window: number;
  backends: {
    name: string;
    device: 'scsi' | 'blk';
    socket: string;
    /** 0: it runs all the time, somebody else has started it. */
    pid: number;
    /** What `realtime` is for: all its threads, or only the one that serves. */
    realtime: 'all' | 'busiest';
    /** Milliseconds under load before the first window. */
    warmup: number;
  }[];
}

export interface TurnsResult {
  /** Requests a second, one number a window; the same index is the same time. */
  rates: Record<string, number[]>;
  /** Windows that were measured anew, and turns that were given up after {@link TRIES}. */
  disturbed: number;
  dropped: number;
  unsupported: string[];
  kicks: number;
}

/** After a back end goes on: its caches are others'. Milliseconds. */
const SETTLE = 4;
/** Writes of 128 KiB at random places: 16 for each place of 64 MiB, so that none is left out. */
const FILL = 8192;
/** A window's tries. */
const TRIES = 20;
/** So long without a completion: the load or the back end had no CPU. (The slowest answers 128 requests at once.) Milliseconds. */
const GAP = 0.6;
/** A turn while compilers and caches get warm. Milliseconds. */
const WARM_TURN = 250;

const options = JSON.parse(process.argv[2] ?? '{}') as TurnsOptions;
pinThread(options.cpu);

type Backend = TurnsOptions['backends'][number];
const stop = ({ pid }: Backend) => pid > 0 && process.kill(pid, 'SIGSTOP');
const go = ({ pid }: Backend) => pid > 0 && process.kill(pid, 'SIGCONT');

/** The thread of a process that has used most CPU time: the one that serves. */
function busiest(pid: number): number {
  const ticks = (tid: string) => {
    const fields = readFileSync(`/proc/${pid}/task/${tid}/stat`, 'latin1').replace(/.*\) /, '').split(' ');
    return Number(fields[11]) + Number(fields[12]); // utime and stime
  };
  return Number(readdirSync(`/proc/${pid}/task`).reduce((a, b) => (ticks(b) > ticks(a) ? b : a)));
}

const result: TurnsResult = { rates: {}, disturbed: 0, dropped: 0, unsupported: [], kicks: 0 };
const running: { backend: Backend; rig: Rig; rates: number[] }[] = [];
for (const backend of options.backends) {
  const { device, socket } = backend;
  if (options.fill) {
    const filling = { ...options.load, op: 'write' as const, bytes: 0x2_0000, depth: 16, queues: 1, indirect: false };
    const rig = new Rig({ ...filling, device, socket });
    let written = 0;
    for (const until = performance.now() + 10_000; written < FILL && performance.now() < until; )
      written += rig.drive(20);
    if (written < FILL) throw new Error(`${backend.name}: the disk could not be filled in 10 s`);
    rig.close();
    await sleep(100);
  }
  try {
    const rig = new Rig({ ...options.load, device, socket });
    const rates: number[] = [];
    result.rates[backend.name] = rates;
    running.push({ backend, rig, rates });
  } catch (error) {
    if (!(error instanceof Unsupported)) throw error;
    result.unsupported.push(backend.name);
  }
}
for (const { backend } of running) stop(backend);
for (const { backend, rig } of running) {
  for (let left = backend.warmup; left > 0; left -= WARM_TURN) {
    go(backend);
    rig.drive(Math.min(left, WARM_TURN));
    stop(backend);
  }
}
if (options.realtime) {
  execFileSync('chrt', ['-r', '-p', '1', String(process.pid)]);
  for (const { backend } of running) {
    if (backend.pid === 0) continue;
    const whom =
      backend.realtime === 'all' ? ['-a', '-p', '1', `${backend.pid}`] : ['-p', '1', `${busiest(backend.pid)}`];
    execFileSync('chrt', ['-r', ...whom]);
  }
}

/** @returns requests a second, or -1 when somebody had no CPU for a while in each try */
function measure({ backend, rig }: (typeof running)[number]): number {
  go(backend);
  rig.drive(SETTLE);
  let rate = -1;
  for (let i = 0; i < TRIES && rate < 0; i++) {
    const begin = performance.now();
    const done = rig.driveSteady(options.window, GAP);
    const ms = performance.now() - begin;
    if (done >= 0) rate = Math.round((done / ms) * 1000);
    else result.disturbed++;
  }
  stop(backend);
  return rate;
}
for (let w = 0; w < options.windows; w++) {
  const rates = running.map(measure);
  if (rates.includes(-1)) {
    result.dropped++;
    continue;
  }
  running.forEach((each, i) => {
    each.rates.push(rates[i]);
  });
}
for (const { backend, rig } of running) {
  go(backend);
  result.kicks += rig.loads.reduce((n, load) => n + load.kicks, 0);
  rig.close();
}
console.log(JSON.stringify(result));
