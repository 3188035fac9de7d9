import type { EventLoop, Timer } from '../../sys/event-loop.ts';

/**
 * How often a sleeping reactor looks at a device that can't wake it: often after work, ever more seldom while nothing happens. The
 * cost of sleeping longer is the delay of the first request after a pause: up to the interval.
 */

/** Shortest and longest sleep, ms; the longest with no front end to keep waiting. */
export const MIN_PACE_MS = 1;
export const MAX_PACE_MS = 8;
export const IDLE_PACE_MS = 50;
/** Looks in vain before the interval doubles. */
const PATIENCE = 32;

export class PollPace {
  intervalMs = MIN_PACE_MS;
  private readonly loop: EventLoop;
  private timer: Timer | null = null;
  private busyNs = 0;
  private inVain = 0;

  constructor(loop: EventLoop) {
    this.loop = loop;
  }

  /** About to sleep: see to it that somebody looks again. @param waiting nobody is connected */
  arm(waiting: boolean): void {
    if (this.timer !== null) return;
    const { busyNs } = this.loop.stats;
    if (busyNs !== this.busyNs) {
      this.busyNs = busyNs;
      this.intervalMs = MIN_PACE_MS;
      this.inVain = 0;
    } else if (++this.inVain >= PATIENCE) {
      this.inVain = 0;
      this.intervalMs = Math.min(2 * this.intervalMs, waiting ? IDLE_PACE_MS : MAX_PACE_MS);
    }
    // It only has to end the sleep: the pass that follows looks at everything.
    this.timer = this.loop.after(this.intervalMs, () => {
      this.timer = null;
    });
  }

  close(): void {
    this.timer?.cancel();
    this.timer = null;
  }
}
