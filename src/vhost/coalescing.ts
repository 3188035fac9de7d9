/**
 * Interrupt coalescing of one vring, with the two numbers that SPDK's RPC gives it: when the vring completes more
 * requests a second than a threshold, notifications are held back, the longer the more of them there are. Off by
 * default; a vring that is asked to hold nothing back pays one comparison a batch.
 */

/** Shared by all vrings of a controller; may change at any time. */
export interface CoalescingSettings {
  /** Longest that a notification waits when the rate is twice the threshold; 0 turns coalescing off. Microseconds. */
  delayUs: number;
  /** Requests a second up to which nothing waits. */
  iopsThreshold: number;
}

export const NO_COALESCING: CoalescingSettings = { delayUs: 0, iopsThreshold: 60_000 };

/** How long requests are counted before the delay follows their rate. Nanoseconds. */
const INTERVAL_NS = 10_000_000;

export class Coalescer {
  /** A notification is owed to the driver. */
  pending = false;
  private readonly settings: CoalescingSettings;
  private completed = 0;
  private intervalEnd = 0;
  private delayNs = 0;
  /** Not before this. Reactor clock. */
  private earliest = 0;

  constructor(settings: CoalescingSettings) {
    this.settings = settings;
  }

  /** The driver wants to hear of `completed` more requests. @returns whether to tell it now */
  wants(now: number, completed: number): boolean {
    const { delayUs } = this.settings;
    if (delayUs === 0) return true;
    this.completed += completed;
    if (now >= this.intervalEnd) this.measure(now);
    this.pending = true;
    return this.due(now);
  }

  private measure(now: number): void {
    const allowed = (this.settings.iopsThreshold * INTERVAL_NS) / 1e9;
    // An interval that ended long ago was not a busy one.
    const busy = now < this.intervalEnd + INTERVAL_NS ? this.completed - allowed : 0;
    this.delayNs = busy > 0 ? (this.settings.delayUs * 1000 * busy) / Math.max(1, allowed) : 0;
    this.completed = 0;
    this.intervalEnd = now + INTERVAL_NS;
  }

  /** Whether the notification that is owed is to be given now; then it is not owed any more. */
  due(now: number): boolean {
    if (!this.pending || (now < this.earliest && this.settings.delayUs > 0)) return false;
    this.pending = false;
    this.earliest = now + this.delayNs;
    return true;
  }
}
