/**
 * A stop of vrings that waits until nothing of theirs is outstanding. One at a time a session: no message is taken
 * while it lasts, and the end of the session replaces it.
 */
import type { EventLoop, Timer } from '../sys/event-loop.ts';
import { SLOW_DRAIN_MS } from './limits.ts';
import type { RunningRing } from './running-ring.ts';

export class Drain {
  private readonly loop: EventLoop;
  private readonly waiting: Set<RunningRing>;
  private readonly what: string;
  private after: (() => void) | null;
  private readonly timer: Timer;

  /**
   * @param what for the operator, should it last
   * @param slow called with what is waited for, after a while
   * @param then called once, in a pass of its own
   */
  constructor(
    loop: EventLoop,
    rings: readonly RunningRing[],
    what: string,
    slow: (reason: string) => void,
    then: () => void,
  ) {
    this.loop = loop;
    this.waiting = new Set(rings);
    this.what = what;
    this.after = then;
    this.timer = loop.after(SLOW_DRAIN_MS, () => slow(this.describe()));
    if (rings.length === 0) this.finish();
  }

  /** @returns whether it waited for this one */
  idle(running: RunningRing): boolean {
    if (!this.waiting.delete(running)) return false;
    if (this.waiting.size === 0) this.finish();
    return true;
  }

  /** Not here: this is the middle of a completion. */
  private finish(): void {
    this.timer.cancel();
    this.loop.defer(() => this.after?.());
  }

  /** What was to follow will not. */
  cancel(): void {
    this.timer.cancel();
    this.after = null;
  }

  describe(): string {
    const rings = [...this.waiting].map((r) => `${r.outstanding} of vring ${r.index}`).join(', ');
    return `${this.what} waits for requests: ${rings}`;
  }
}
