import { type BdevIo, BdevStatus } from './bdev.ts';

// Own copies of what the hot path uses: a constant of another module is loaded and checked at each use.
const OK = BdevStatus.OK;

/**
 * Statistics of one disk. Each channel counts in its own row of memory that all threads share, so counting needs no
 * atomics; the main thread adds the rows up. Nobody but the channel writes a row, so a reset is a baseline that is subtracted.
 *
 * A row is doubles: for every BdevOp a group of {@link Field}s and latency buckets, then the counts that belong to no
 * operation. Integers in doubles are exact to 2^53, and an aligned double is never seen half-written.
 */

/** Operations counted: BdevOp 0 to 5. */
const OPS = 6;

/** Offsets in an operation's group. Latencies are nanoseconds. */
const Field = { COUNT: 0, BYTES: 1, ERRORS: 2, SAMPLES: 3, SUM: 4, MIN: 5, MAX: 6, BUCKETS: 7 } as const;

/** Latency buckets: bucket i counts [2^(8+i), 2^(9+i)) ns; the first also what is shorter, the last what is longer. */
export const LATENCY_BUCKETS = 25;
export const FIRST_BUCKET_LOG2 = 8;
const GROUP = 32; // 7 fields + 25 buckets

/** Offsets behind the groups. */
const BOUNCED_OPS = OPS * GROUP;
const BOUNCED_BYTES = BOUNCED_OPS + 1;
/** Requests that had to wait for a slot, a bounce buffer or a QoS token. */
const QUEUED = BOUNCED_OPS + 2;
/** Failures by BdevStatus, 16 places. */
const BY_STATUS = BOUNCED_OPS + 8;
const ROW = 256;
const STATUSES = 16;

/** Channels that can count at the same time; the memory of unused rows is never touched. */
export const MAX_ROWS = 256;
/** The header has one Int32 a row: 0 never used, FREE (released; it keeps its counts and the next channel takes it up), TAKEN. */
const HEADER_BYTES = MAX_ROWS * 4;
const FREE = 1;
const TAKEN = 2;

/** Every how many requests a channel that completes at once takes the time: two clock reads cost more than its work. */
export const SAMPLE_EVERY = 64;

/** One channel's counters. Made when a channel opens; the methods are what a channel calls when a request ends. */
export class ChannelStats {
  private readonly row: Float64Array;
  private readonly release: () => void;

  constructor(row: Float64Array = new Float64Array(ROW), release: () => void = () => {}) {
    this.row = row;
    this.release = release;
  }

  /** A request has ended. @param bytes moved or covered */
  count(io: BdevIo, bytes: number): void {
    const at = io.op * GROUP;
    const row = this.row;
    row[at + Field.COUNT]++;
    if (io.status === OK) {
      row[at + Field.BYTES] += bytes;
    } else {
      row[at + Field.ERRORS]++;
      row[BY_STATUS + io.status]++;
    }
  }

  /** So many requests have ended well. */
  countMany(op: number, requests: number, bytes: number): void {
    const at = op * GROUP;
    this.row[at + Field.COUNT] += requests;
    this.row[at + Field.BYTES] += bytes;
  }

  /** How long it took, for those requests whose time is taken: all, or one in {@link SAMPLE_EVERY}. */
  latency(op: number, ns: number): void {
    const at = op * GROUP;
    const row = this.row;
    row[at + Field.SUM] += ns;
    if (ns > row[at + Field.MAX]) row[at + Field.MAX] = ns;
    if (ns < row[at + Field.MIN] || row[at + Field.SAMPLES] === 0) row[at + Field.MIN] = ns;
    row[at + Field.SAMPLES]++;
    row[at + Field.BUCKETS + latencyBucket(ns)]++;
  }

  bounced(bytes: number): void {
    this.row[BOUNCED_OPS]++;
    this.row[BOUNCED_BYTES] += bytes;
  }

  queued(): void {
    this.row[QUEUED]++;
  }

  /** The channel closes; what it counted stays in the sums. */
  close(): void {
    this.release();
  }
}

/** Which bucket a latency falls into. */
export function latencyBucket(ns: number): number {
  if (ns >= 0x1_0000_0000) return LATENCY_BUCKETS - 1; // beyond what clz32 sees; the last bucket starts at 2^32
  const log2 = 31 - Math.clz32(ns);
  return log2 <= FIRST_BUCKET_LOG2 ? 0 : log2 - FIRST_BUCKET_LOG2;
}

/** Sums of one operation. Latencies in nanoseconds, over `samples` requests (not `count`: see SAMPLE_EVERY). */
export interface OpStats {
  count: number;
  bytes: number;
  errors: number;
  samples: number;
  latencySum: number;
  latencyMin: number;
  latencyMax: number;
  buckets: number[];
}

export interface IoStatsSnapshot {
  read: OpStats;
  write: OpStats;
  flush: OpStats;
  unmap: OpStats;
  writeZeroes: OpStats;
  compare: OpStats;
  bouncedOps: number;
  bouncedBytes: number;
  queued: number;
  /** Failed requests by the name of their BdevStatus; only those that occurred. */
  errorsByStatus: Record<string, number>;
}

const STATUS_NAMES = new Map(Object.entries(BdevStatus).map(([name, value]) => [value as number, name]));

/** The main thread's side: owns the shared memory, gives sums. */
export class IoStats {
  /** Goes to the reactors with the disk's share. */
  readonly shared: SharedArrayBuffer;
  private readonly header: Int32Array;
  private readonly rows: Float64Array;
  private readonly baseline = new Float64Array(ROW);

  constructor() {
    this.shared = new SharedArrayBuffer(HEADER_BYTES + MAX_ROWS * ROW * 8);
    this.header = new Int32Array(this.shared, 0, MAX_ROWS);
    this.rows = new Float64Array(this.shared, HEADER_BYTES);
  }

  /** Sums over all channels that ever were, since the last reset. Reads 2 KiB a channel: not for hot paths. */
  snapshot(): IoStatsSnapshot {
    return describe(this.sum(), this.baseline);
  }

  /** Start from zero. Minima and maxima restart too, save for a request that ends in the same instant. */
  reset(): void {
    for (let r = 0; r < MAX_ROWS; r++) {
      if (Atomics.load(this.header, r) === 0) continue;
      for (let at = r * ROW; at < r * ROW + OPS * GROUP; at += GROUP) {
        this.rows[at + Field.MAX] = 0;
        this.rows[at + Field.MIN] = Number.POSITIVE_INFINITY;
      }
    }
    this.baseline.set(this.sum());
  }

  private sum(): Float64Array {
    const total = new Float64Array(ROW);
    for (let at = 0; at < OPS * GROUP; at += GROUP) total[at + Field.MIN] = Number.POSITIVE_INFINITY;
    for (let r = 0; r < MAX_ROWS; r++) {
      if (Atomics.load(this.header, r) === 0) continue;
      const row = this.rows.subarray(r * ROW, (r + 1) * ROW);
      for (let i = 0; i < ROW; i++) {
        const field = i < OPS * GROUP ? i % GROUP : -1;
        if (field === Field.MAX) total[i] = Math.max(total[i], row[i]);
        else if (field !== Field.MIN) total[i] += row[i];
        else if (row[i - Field.MIN + Field.SAMPLES] > 0) total[i] = Math.min(total[i], row[i]);
      }
    }
    return total;
  }
}

function describe(total: Float64Array, baseline: Float64Array): IoStatsSnapshot {
  const since = (i: number) => total[i] - baseline[i];
  const group = (op: number): OpStats => {
    const at = op * GROUP;
    const samples = since(at + Field.SAMPLES);
    return {
      count: since(at + Field.COUNT),
      bytes: since(at + Field.BYTES),
      errors: since(at + Field.ERRORS),
      samples,
      latencySum: since(at + Field.SUM),
      latencyMin: samples > 0 ? total[at + Field.MIN] : 0,
      latencyMax: samples > 0 ? total[at + Field.MAX] : 0,
      buckets: Array.from({ length: LATENCY_BUCKETS }, (_, i) => since(at + Field.BUCKETS + i)),
    };
  };
  const errorsByStatus: Record<string, number> = {};
  for (let s = 1; s < STATUSES; s++) {
    const n = since(BY_STATUS + s);
    if (n > 0) errorsByStatus[STATUS_NAMES.get(s) ?? String(s)] = n;
  }
  return {
    read: group(0),
    write: group(1),
    flush: group(2),
    unmap: group(3),
    writeZeroes: group(4),
    compare: group(5),
    bouncedOps: since(BOUNCED_OPS),
    bouncedBytes: since(BOUNCED_BYTES),
    queued: since(QUEUED),
    errorsByStatus,
  };
}

/**
 * A row for a channel that opens, on whatever thread. Without shared memory (a test), or when all rows are taken, the counts go
 * nowhere.
 */
export function claimStats(shared: SharedArrayBuffer | undefined): ChannelStats {
  if (shared === undefined) return new ChannelStats();
  const header = new Int32Array(shared, 0, MAX_ROWS);
  for (let r = 0; r < MAX_ROWS; r++) {
    const was = Atomics.load(header, r);
    if (was !== TAKEN && Atomics.compareExchange(header, r, was, TAKEN) === was) {
      const row = new Float64Array(shared, HEADER_BYTES + r * ROW * 8, ROW);
      return new ChannelStats(row, () => Atomics.store(header, r, FREE));
    }
  }
  return new ChannelStats();
}
