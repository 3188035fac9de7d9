/**
 * An event loop with a clock of its own, for the control planes and queues of drivers: time passes only when a test says
 * so, so time limits of seconds are tested in no time.
 */
import type { Poller } from '../../src/sys/event-loop.ts';

interface Timer {
  due: number;
  fn: () => void;
}

export class FakeLoop {
  /** Nanoseconds. */
  now = 1e9;
  private timers: Timer[] = [];
  private readonly pollers: Poller[] = [];
  private readonly watches = new Set<() => void>();

  after(ms: number, fn: () => void): { cancel(): void } {
    const timer = { due: this.now + Math.max(1, ms * 1e6), fn };
    this.timers.push(timer);
    return {
      cancel: () => {
        this.timers = this.timers.filter((t) => t !== timer);
      },
    };
  }

  /** Every watch is called in every pass, as if its descriptor were always readable. */
  watch(_fd: number, fn: () => void): { fd: number; close(): void; modify(): void } {
    this.watches.add(fn);
    return { fd: _fd, close: () => this.watches.delete(fn), modify: () => {} };
  }

  addPoller(poller: Poller): void {
    this.pollers.push(poller);
  }

  removePoller(poller: Poller): void {
    const at = this.pollers.indexOf(poller);
    if (at >= 0) this.pollers.splice(at, 1);
  }

  get idle(): boolean {
    return this.timers.length === 0 && this.pollers.length === 0 && this.watches.size === 0;
  }

  /** One pass without time passing. */
  pass(): void {
    for (const poller of [...this.pollers]) poller.poll();
    for (const timer of this.timers.filter((t) => t.due <= this.now)) {
      if (!this.timers.includes(timer)) continue;
      this.timers = this.timers.filter((t) => t !== timer);
      timer.fn();
    }
    for (const fn of [...this.watches]) if (this.watches.has(fn)) fn();
  }

  /** Passes until `done`, a millisecond apart, with `also` in each. @returns whether it came to that in time */
  until(done: () => boolean, ms: number, also: () => void = () => {}): boolean {
    for (let i = 0; i < ms; i++) {
      also();
      this.pass();
      if (done()) return true;
      this.now += 1e6;
    }
    return done();
  }
}
