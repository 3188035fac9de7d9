/**
 * Counters of one Lun: a Float64Array, so that another thread can read them when it lies over shared memory. Only
 * the Lun's reactor writes; a reader may see a count one command old, never a torn one on 64-bit hosts.
 */

/** Index of each counter. Times are nanoseconds of the reactor's clock. */
export const Counter = {
  READ_COMMANDS: 0,
  WRITE_COMMANDS: 1,
  READ_BYTES: 2,
  WRITE_BYTES: 3,
  /** All commands, whatever their result. */
  COMMANDS: 4,
  /** Commands that ended with CHECK CONDITION. */
  CHECK_CONDITIONS: 5,
  RESERVATION_CONFLICTS: 6,
  /** Given up by TMFs or resets. */
  ABORTED_COMMANDS: 7,
  /** Buffers too short for the CDB. */
  OVERRUNS: 8,
  /** READ or WRITE that failed in the disk. */
  READ_ERRORS: 9,
  WRITE_ERRORS: 10,
  READ_NANOSECONDS: 11,
  WRITE_NANOSECONDS: 12,
  UNMAPPED_BLOCKS: 13,
} as const;

/** Latency histograms: bucket i counts commands of less than 2^i microseconds (the last: all longer ones). */
export const LATENCY_BUCKETS = 24;
export const READ_LATENCY = 16;
export const WRITE_LATENCY = READ_LATENCY + LATENCY_BUCKETS;
/** Length of the array. */
export const COUNTERS = WRITE_LATENCY + LATENCY_BUCKETS;

/** Names for reports, in the order of {@link Counter}. */
export const COUNTER_NAMES: readonly string[] = Object.keys(Counter).map((name) => name.toLowerCase());

export function latencyBucket(nanoseconds: number): number {
  const bucket = 32 - Math.clz32(nanoseconds / 1000);
  return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

/** The counters as an object, for RPC. */
export function readCounters(counters: Float64Array): Record<string, number> {
  const result: Record<string, number> = {};
  COUNTER_NAMES.forEach((name, i) => {
    result[name] = counters[i];
  });
  return result;
}
