import type { IoStatsSnapshot, OpStats } from '../../bdev/io-stats.ts';

/** Counters of a disk as bdev_get_iostat shows them: SPDK's names, and ours for what SPDK does not count. */
export function describeIoStats(name: string, s: IoStatsSnapshot, throttled: number): Record<string, unknown> {
  return {
    name,
    bytes_read: s.read.bytes,
    num_read_ops: s.read.count,
    bytes_written: s.write.bytes + s.writeZeroes.bytes,
    num_write_ops: s.write.count + s.writeZeroes.count,
    bytes_unmapped: s.unmap.bytes,
    num_unmap_ops: s.unmap.count,
    bytes_copied: 0,
    num_copy_ops: 0,
    ...latency('read', s.read),
    ...latency('write', s.write),
    ...latency('unmap', s.unmap),
    num_flush_ops: s.flush.count,
    num_compare_ops: s.compare.count,
    num_bounced_ops: s.bouncedOps,
    bytes_bounced: s.bouncedBytes,
    num_queued_ops: s.queued,
    num_throttled_ops: throttled,
    io_error: s.errorsByStatus,
    latency_histogram_ns: {
      lowest_bucket: 256,
      read: s.read.buckets,
      write: s.write.buckets,
    },
  };
}

/** SPDK's sum covers all requests; ours a sample of them where the disk is as fast as the clock, so it is scaled. */
function latency(word: string, op: OpStats): Record<string, number> {
  const sum = op.samples > 0 ? Math.round((op.latencySum / op.samples) * op.count) : 0;
  return {
    [`${word}_latency_ticks`]: sum,
    [`max_${word}_latency_ticks`]: op.latencyMax,
    [`min_${word}_latency_ticks`]: op.latencyMin,
  };
}
