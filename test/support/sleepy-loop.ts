/**
 * A reactor's loop that sleeps, with a clock of its own: as the real one it polls while there is work, then asks its pollers for
 * notifications, looks once more, and from then on goes on for a timer or a readable descriptor only. A wake-up that gets lost
 * shows as a request that does not end.
 */

import { EPOLL } from '../../src/sys/constants.ts';
import type { Poller } from '../../src/sys/event-loop.ts';
import { TimerList } from '../../src/sys/timers.ts';
import { type Watch, WatchTable } from '../../src/sys/watch-table.ts';

export class SleepyLoop {
  /** Nanoseconds; who drives the loop sets it. */
  now = 1e9;
  asleep = false;
  sleeps = 0;
  /** Called once, between the last look and arming. */
  aboutToSleep: (() => void) | null = null;
  private readonly timers = new TimerList();
  private readonly pollers: Poller[] = [];
  private readonly watches = new WatchTable(
    (error) => {
      throw error;
    },
    () => {},
  );

  after(ms: number, fn: () => void): { cancel(): void } {
    return this.timers.add(this.now + Math.max(1, ms * 1e6), fn);
  }

  watch(fd: number, fn: () => void): Watch {
    return this.watches.add(fd, fn, EPOLL.IN);
  }

  addPoller(poller: Poller): void {
    this.pollers.push(poller);
    this.asleep = false;
  }

  removePoller(poller: Poller): void {
    this.pollers.splice(this.pollers.indexOf(poller), 1);
  }

  get idle(): boolean {
    return this.timers.next === Number.POSITIVE_INFINITY && this.pollers.length === 0 && this.watches.size === 0;
  }

  /** A pass of one that is awake, or that something wakes. @returns whether there was one */
  pass(): boolean {
    const events = this.watches.wait(0);
    if (this.asleep) {
      if (events === 0 && this.timers.next > this.now) return false;
      this.asleep = false;
      for (const poller of this.pollers) poller.disarm();
    }
    let work = events;
    this.watches.dispatch(events);
    for (const poller of [...this.pollers]) work += poller.poll();
    for (let fn = this.timers.takeDue(this.now); fn !== undefined; fn = this.timers.takeDue(this.now)) fn();
    if (work > 0) return true;
    this.aboutToSleep?.();
    this.aboutToSleep = null;
    // Armed one after the other, as the loop does it: the first that has work after all ends that.
    const armed = this.pollers.findIndex((poller) => poller.arm());
    if (armed < 0) {
      this.asleep = true;
      this.sleeps++;
    } else for (const poller of this.pollers.slice(0, armed + 1)) poller.disarm();
    return true;
  }

  close(): void {
    this.watches.close();
  }
}
