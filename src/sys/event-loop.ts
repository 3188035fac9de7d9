/**
 * The reactor's loop: one thread, one epoll set. It polls while there is work and for a short while after; then it asks
 * every poller for notifications, looks once more, and sleeps.
 *
 * One pass: deferred calls, pollers, due timers, then descriptors (each pass when idle, every {@link CHECK_NS} when
 * busy, because asking the kernel costs as much as a request). Nothing is allocated in a pass. A handler that throws
 * is reported to `onError` and the loop goes on: a bug in one session must not take its neighbours down.
 *
 * Three ways to drive it: `run()` owns a worker thread, `attach()` shares the main thread with Node's event loop,
 * `turn()` is for tests and debugging.
 */
import { performance } from 'node:perf_hooks'; // the global is a getter, which costs as much as the clock
import { type PollHandle, pollReadable } from './libc.ts';
import { logger } from './log.ts';
import { type Timer, TimerList } from './timers.ts';
import { READABLE, type Watch, type WatchHandler, WatchTable } from './watch-table.ts';

export type { Timer, Watch };

const log = logger('loop');

/** Something that is looked at again and again while the loop is awake. */
export interface Poller {
  /** Do work; how many things were done. */
  poll(): number;
  /** About to sleep: ask for notifications, then look again. True when there is work after all (nobody sleeps then). */
  arm(): boolean;
  /** Awake again: suppress notifications. Follows every `arm`, whatever that said. */
  disarm(): void;
  /**
   * Nothing has come of polling for a while, as other pollers kept the loop awake: arm, and say true if from now on only
   * `EventLoop.rouse` needs to bring this one back. Its work must be announced: by a descriptor whose handler rouses
   * it, or by a call. False leaves it as it was. Absent: it is always polled.
   */
  doze?(): boolean;
}

export interface EventLoopOptions {
  /** How long to go on polling after the last work. Default 200. */
  spinMicroseconds?: number;
  /** Never sleep. */
  alwaysPoll?: boolean;
  /** A handler's failure. The default logs it. */
  onError?: (error: unknown) => void;
}

export interface LoopStats {
  passes: number;
  /** Time of passes that did work, and of all others including sleep. Nanoseconds. */
  busyNs: number;
  idleNs: number;
  /** Times the loop went to sleep, and times a descriptor (not the time limit) woke it. */
  sleeps: number;
  wakes: number;
  /** Failures of handlers. */
  errors: number;
}

/** Descriptors are looked at this often while pollers keep the loop busy. Nanoseconds. */
const CHECK_NS = 100_000;
/**
 * Longest sleep, milliseconds: a worker that is ended by force ends when the call returns that it sleeps in. Every wake of an emulated CPU
 * costs it milliseconds, so not much shorter.
 */
const MAX_SLEEP_MS = 1000;
/** How long `run` goes on before it lets Node's event loop have a turn. Nanoseconds. */
const SLICE_NS = 50_000_000;

/** Polls of a pass in which there is nothing to do: the clock and all else that belongs to a pass cost more than a look. */
const LOOKS = 16;

/** Pollers without work for one to two of these may doze. Nanoseconds. */
const DOZE_NS = 10_000_000;

/** Stands in for a removed poller until the next pass. */
const NOBODY: Poller = { poll: () => 0, arm: () => false, disarm: () => {} };

export class EventLoop {
  /**
   * This thread's clock, nanoseconds since the thread began, read once a pass. Not comparable between threads.
   */
  now = performance.now() * 1e6;
  readonly stats: LoopStats = { passes: 0, busyNs: 0, idleNs: 0, sleeps: 0, wakes: 0, errors: 0 };

  private readonly spinNs: number;
  private readonly alwaysPoll: boolean;
  private readonly onError: ((error: unknown) => void) | undefined;
  private readonly watches = new WatchTable(
    (error) => this.fail(error),
    () => this.closeHandle(),
  );
  private readonly timers = new TimerList();
  private readonly pollers: Poller[] = [];
  /** Of each, the things done since the last look for those who may doze. */
  private readonly worked: number[] = [];
  private readonly dozing = new Set<Poller>();
  private lastDoze = 0;
  private removed = false;
  private deferred: (() => void)[] = [];
  private deferring: (() => void)[] = [];
  private lastWork = 0;
  private lastCheck = 0;
  private busy = false;
  private inTurn = false;
  /** The first so many pollers are armed. */
  private armed = 0;
  private running = false;
  private closed = false;

  // attach()
  private attached = false;
  private handle: PollHandle | undefined;
  private immediate: NodeJS.Immediate | undefined;
  private wakeTimer: NodeJS.Timeout | undefined;

  constructor(options: EventLoopOptions = {}) {
    this.spinNs = (options.spinMicroseconds ?? 200) * 1000;
    this.alwaysPoll = options.alwaysPoll ?? false;
    this.onError = options.onError;
  }

  addPoller(poller: Poller): void {
    if (this.pollers.includes(poller) || this.dozing.has(poller))
      throw new Error('EventLoop: the poller is there already');
    this.pollers.push(poller);
    this.worked.push(1);
    this.wake();
  }

  /** A poller that may be dozing has, or may have, work: poll it again from now on. Costs next to nothing if it is not. */
  rouse(poller: Poller): void {
    if (!this.dozing.delete(poller)) return;
    this.pollers.push(poller);
    this.worked.push(1);
    try {
      poller.disarm();
    } catch (error) {
      this.fail(error);
    }
    this.wake();
  }

  /** It is not called any more, not even in this pass. */
  removePoller(poller: Poller): void {
    if (this.dozing.delete(poller)) return;
    const i = this.pollers.indexOf(poller);
    if (i < 0) return;
    this.pollers[i] = NOBODY;
    this.removed = true;
  }

  /**
   * Call `handler` while `fd` is readable (level-triggered). Close the watch before the descriptor.
   * @param events EPOLL bits instead of EPOLL.IN
   */
  watch(fd: number, handler: WatchHandler, events = READABLE): Watch {
    return this.watches.add(fd, handler, events);
  }

  /** Call `fn` once, `ms` from now or a little later, never within this pass. */
  after(ms: number, fn: () => void): Timer {
    const timer = this.timers.add(performance.now() * 1e6 + Math.max(1, ms * 1e6), fn);
    this.wake();
    return timer;
  }

  /** Call `fn` at the beginning of the next pass. */
  defer(fn: () => void): void {
    this.deferred.push(fn);
    this.wake();
  }

  /**
   * One pass. Sleeps for up to `timeoutMs` when nothing has happened for the spin time; with 0 it never sleeps nor
   * arms, and always looks at the descriptors.
   * @returns whether anything was done
   */
  turn(timeoutMs: number): boolean {
    if (this.inTurn) throw new Error('EventLoop: turn() within turn()');
    this.inTurn = true;
    try {
      this.pass(timeoutMs > 0 && this.spinning ? LOOKS : 1);
      if (timeoutMs <= 0) return this.look() || this.busy;
      if (this.awake()) return (this.now - this.lastCheck >= CHECK_NS && this.look()) || this.busy;
      return this.sleep(timeoutMs);
    } finally {
      this.inTurn = false;
      this.wake();
    }
  }

  /**
   * Own this (worker) thread until `stop()`. Resolves then. Node's own events (messages, promises) get a turn every
   * 50 ms.
   */
  run(): Promise<void> {
    this.running = true;
    return new Promise((resolve, reject) => {
      const slice = () => {
        try {
          const end = performance.now() * 1e6 + SLICE_NS;
          do {
            if (!this.running) return resolve();
            this.turn(MAX_SLEEP_MS);
          } while (this.now < end);
          setImmediate(slice);
        } catch (error) {
          reject(error);
        }
      };
      slice();
    });
  }

  /** End `run()` after this pass. From this thread; others ring a watched eventfd. */
  stop(): void {
    this.running = false;
  }

  /**
   * Live on Node's event loop: a pass per turn of it while busy, waiting in it for a descriptor or a timer while
   * idle.
   */
  attach(): void {
    if (this.attached) return;
    this.attached = true;
    this.wake();
  }

  detach(): void {
    this.attached = false;
    this.closeHandle();
    if (this.immediate !== undefined) clearImmediate(this.immediate);
    this.immediate = undefined;
    clearTimeout(this.wakeTimer);
    this.disarm();
  }

  /** Drop all watches, timers and pollers. The descriptors stay their owners'. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.running = false;
    this.detach();
    this.pollers.fill(NOBODY);
    this.dozing.clear();
    this.removed = true;
    this.timers.clear();
    this.deferred.length = 0;
    this.watches.close();
  }

  private fail(error: unknown): void {
    this.stats.errors++;
    if (this.onError !== undefined) this.onError(error);
    // A handler that fails in every pass would fill the disk: report the 1st, 2nd, 4th, 8th ... failure.
    else if ((this.stats.errors & (this.stats.errors - 1)) === 0) {
      log.warn(`failure ${this.stats.errors} in a handler:`, error);
    }
  }

  private tick(): void {
    const now = performance.now() * 1e6;
    if (this.busy) this.stats.busyNs += now - this.now;
    else this.stats.idleNs += now - this.now;
    this.now = now;
  }

  /** Everything but waiting. Sets `busy`. @param looks times to poll while there is nothing */
  private pass(looks: number): void {
    if (this.armed > 0) this.disarm();
    if (this.removed) this.compact();
    this.tick();
    this.stats.passes++;
    let work = this.deferred.length > 0 ? this.runDeferred() : 0;
    const { pollers, worked } = this;
    for (let look = 0; look < looks; look++) {
      for (let i = 0; i < pollers.length; i++) {
        const done = this.poll(pollers[i]);
        work += done;
        worked[i] |= done;
      }
      if (work > 0 || this.deferred.length > 0) break;
    }
    if (this.now - this.lastDoze > DOZE_NS) this.letDoze();
    this.runTimers();
    this.busy = work > 0;
    if (this.busy) this.lastWork = this.now;
  }

  private poll(poller: Poller): number {
    try {
      return poller.poll();
    } catch (error) {
      this.fail(error);
      return 0;
    }
  }

  private compact(): void {
    this.removed = false;
    let to = 0;
    for (let from = 0; from < this.pollers.length; from++) {
      if (this.pollers[from] === NOBODY) continue;
      this.pollers[to] = this.pollers[from];
      this.worked[to++] = this.worked[from];
    }
    this.pollers.length = to;
    this.worked.length = to;
  }

  /** A loop that never rests would look at every idle controller in every pass: leave those alone that can call. */
  private letDoze(): void {
    this.lastDoze = this.now;
    for (let i = 0; i < this.pollers.length; i++) {
      const idle = this.worked[i] === 0;
      this.worked[i] = 0;
      const poller = this.pollers[i];
      if (!idle || this.alwaysPoll || poller.doze === undefined || !this.mayDoze(poller)) continue;
      this.pollers[i] = NOBODY;
      this.removed = true;
      this.dozing.add(poller);
    }
  }

  private mayDoze(poller: Poller): boolean {
    try {
      return poller.doze?.() === true;
    } catch (error) {
      this.fail(error);
      return false;
    }
  }

  private runDeferred(): number {
    // Two arrays take turns, so that what is deferred meanwhile waits for the next pass.
    const calls = this.deferred;
    this.deferred = this.deferring;
    this.deferring = calls;
    const n = calls.length;
    for (let i = 0; i < n; i++) this.call(calls[i]);
    calls.length = 0;
    return n;
  }

  private runTimers(): void {
    if (this.timers.next > this.now) return;
    for (let fn = this.timers.takeDue(this.now); fn !== undefined; fn = this.timers.takeDue(this.now)) this.call(fn);
  }

  private call(fn: () => void): void {
    try {
      fn();
    } catch (error) {
      this.fail(error);
    }
  }

  /** Polling goes on although there may be nothing to do. */
  private get spinning(): boolean {
    return this.alwaysPoll || this.now - this.lastWork < this.spinNs;
  }

  /** Not to sleep yet. */
  private awake(): boolean {
    if (this.deferred.length > 0 || this.busy || this.alwaysPoll || this.closed) return true;
    return this.pollers.length > 0 && this.now - this.lastWork < this.spinNs;
  }

  /** Serve the descriptors that are ready now. */
  private look(): boolean {
    if (this.closed) return false;
    this.lastCheck = this.now;
    return this.serve(this.watches.wait(0));
  }

  private serve(events: number): boolean {
    if (events === 0) return false;
    this.watches.dispatch(events);
    this.busy = true;
    this.lastWork = this.now;
    return true;
  }

  private sleep(timeoutMs: number): boolean {
    if (!this.arm()) {
      this.disarm();
      this.lastWork = this.now;
      return true;
    }
    const untilTimer = Math.ceil((this.timers.next - this.now) / 1e6);
    const timeout = Math.max(0, Math.min(timeoutMs, MAX_SLEEP_MS, untilTimer));
    this.stats.sleeps++;
    const events = this.watches.wait(timeout);
    this.tick();
    this.lastCheck = this.now;
    this.disarm();
    if (events > 0) this.stats.wakes++;
    const served = this.serve(events);
    if (!this.closed) this.runTimers();
    return served;
  }

  /** Ask every poller for notifications. False when one of them has work; some are armed then. */
  private arm(): boolean {
    const pollers = this.pollers;
    for (let i = 0; i < pollers.length; i++) {
      this.armed = i + 1;
      try {
        if (pollers[i].arm()) return false;
      } catch (error) {
        this.fail(error);
      }
    }
    return this.deferred.length === 0; // an arm() may have deferred something
  }

  private disarm(): void {
    const n = this.armed;
    this.armed = 0;
    for (let i = 0; i < n; i++) {
      try {
        this.pollers[i].disarm();
      } catch (error) {
        this.fail(error);
      }
    }
  }

  /** attach(): let a pass come soon. */
  private wake(): void {
    if (!this.attached || this.immediate !== undefined) return;
    this.immediate = setImmediate(this.attachedTurn);
  }

  private readonly attachedTurn = (): void => {
    this.immediate = undefined;
    if (!this.attached || this.inTurn) return;
    clearTimeout(this.wakeTimer);
    this.inTurn = true;
    try {
      this.pass(1);
      const due = this.now - this.lastCheck >= CHECK_NS || !this.awake();
      const served = due && this.look();
      if (!this.attached) return;
      if (served || this.awake() || !this.arm()) this.wake();
      else this.rest();
    } finally {
      this.inTurn = false;
    }
  };

  /** attach(): wait in Node's event loop. The epoll descriptor itself is readable when one of ours is. */
  private rest(): void {
    this.stats.sleeps++;
    this.handle ??= pollReadable(this.watches.epollFd, this.onReadable);
    const ms = (this.timers.next - this.now) / 1e6;
    if (ms < 2 ** 31) this.wakeTimer = setTimeout(this.attachedTurn, Math.ceil(ms));
  }

  private closeHandle(): void {
    this.handle?.close();
    this.handle = undefined;
  }

  private readonly onReadable = (): void => {
    if (this.immediate !== undefined) return; // a pass comes anyway
    this.stats.wakes++;
    this.wake();
  };
}
