/**
 * What a device ring tells whoever records requests in flight, so that they survive a crash of this process
 * (vhost-user "Inflight I/O tracking", split virtqueue). The ring calls at the moments the protocol demands;
 * the log owns the bytes. No call may allocate.
 */
export interface InflightLog {
  /**
   * `head` was taken from the available ring and the device has not yet worked on it:
   * desc[head].counter = the next count, then desc[head].inflight = 1. Not called for heads given to `resubmit`.
   */
  taken(head: number): void;
  /** The used element of `head` is written, used.idx is not: desc[head].next = last_batch_head; last_batch_head = head. */
  completing(head: number): void;
  /**
   * used.idx is `usedIdx` now, for the whole batch of `completing` calls since the last one:
   * desc[...].inflight = 0 for each, then used_idx = usedIdx.
   */
  published(usedIdx: number): void;
}
