/**
 * Watched descriptors of one epoll set. The one rule: a handler hears only of the file it was registered for.
 *
 * Each registration carries its slot and a generation as token, so an event that was fetched before a watch closed
 * finds nobody, also when slot or descriptor number have a new owner by then. Closing a descriptor before its watch
 * leaves a registration that cannot be removed while a peer holds the same open file (epoll counts open files, not
 * numbers), and that would report for ever; the table notices when the watch closes and moves to a fresh epoll set.
 */
import { EPOLL } from './constants.ts';
import { Epoll } from './epoll.ts';
import { ERRNO, SysError } from './errno.ts';

/** @param events EPOLL bits that are pending */
export type WatchHandler = (events: number) => void;

export interface Watch {
  /** Stop; the handler is not called any more, not even for an event of this pass. Close the descriptor after this. */
  close(): void;
  /** Change the events waited for. EPOLL.ERR and EPOLL.HUP always come. */
  modify(events: number): void;
}

class Slot implements Watch {
  readonly index: number;
  readonly generation: number;
  readonly fd: number;
  events: number;
  readonly handler: WatchHandler;
  private readonly table: WatchTable;

  constructor(table: WatchTable, index: number, generation: number, fd: number, events: number, handler: WatchHandler) {
    this.table = table;
    this.index = index;
    this.generation = generation;
    this.fd = fd;
    this.events = events;
    this.handler = handler;
  }

  close(): void {
    this.table.remove(this);
  }

  modify(events: number): void {
    this.table.modify(this, events);
  }
}

export class WatchTable {
  private epoll = new Epoll();
  private readonly slots: (Slot | undefined)[] = [];
  private readonly byFd = new Map<number, Slot>();
  private readonly free: number[] = [];
  private generation = 0;
  private needsRebuild = false;
  /** The last attempt failed, and was reported. */
  private rebuildFailed = false;
  /** Called with each handler's failure. */
  private readonly onError: (error: unknown) => void;
  /** Called before `epollFd` changes: nobody may go on using the old one. */
  private readonly onReplace: () => void;

  constructor(onError: (error: unknown) => void, onReplace: () => void) {
    this.onError = onError;
    this.onReplace = onReplace;
  }

  /** The epoll descriptor: readable when an event waits. */
  get epollFd(): number {
    return this.epoll.fd.number;
  }

  get size(): number {
    return this.byFd.size;
  }

  add(fd: number, handler: WatchHandler, events: number): Watch {
    const index = this.free.pop() ?? this.slots.push(undefined) - 1;
    this.generation = (this.generation + 1) >>> 0;
    const slot = new Slot(this, index, this.generation, fd, events, handler);
    const stale = this.byFd.get(fd);
    let error = this.epoll.add(fd, events, index, slot.generation);
    if (error === ERRNO.EEXIST && (stale === undefined || this.needsRebuild)) {
      // Left behind by a descriptor that was closed before its watch, and came back.
      const failure = this.rebuild();
      if (failure !== null) {
        this.free.push(index);
        throw failure;
      }
      error = this.epoll.add(fd, events, index, slot.generation);
    }
    if (error !== 0) {
      this.free.push(index);
      throw new SysError('epoll_ctl', error, `watch of descriptor ${fd}`);
    }
    if (stale !== undefined) {
      // The number has a new file, so the old one was closed under its watch.
      this.forget(stale);
      this.needsRebuild = true;
    }
    this.slots[index] = slot;
    this.byFd.set(fd, slot);
    return slot;
  }

  /** For Slot. */
  remove(slot: Slot): void {
    if (this.slots[slot.index] !== slot) return;
    this.forget(slot);
    if (this.epoll.fd.closed) return;
    // Failing means that the number is closed or another file's by now, and the registration may be out of reach.
    if (this.epoll.remove(slot.fd) !== 0) this.needsRebuild = true;
  }

  private forget(slot: Slot): void {
    this.slots[slot.index] = undefined;
    this.free.push(slot.index);
    if (this.byFd.get(slot.fd) === slot) this.byFd.delete(slot.fd);
  }

  /** For Slot. */
  modify(slot: Slot, events: number): void {
    if (this.slots[slot.index] !== slot || slot.events === events) return;
    const error = this.epoll.modify(slot.fd, events, slot.index, slot.generation);
    if (error !== 0) throw new SysError('epoll_ctl', error, `watch of descriptor ${slot.fd}`);
    slot.events = events;
  }

  /** Block for at most `timeoutMs`, and keep the events for `dispatch`. @returns how many */
  wait(timeoutMs: number): number {
    if (this.needsRebuild) this.tryRebuild();
    return this.epoll.wait(timeoutMs);
  }

  /** Without a descriptor for it the old set goes on: what it reports for nobody costs time, and the next wait tries again. */
  private tryRebuild(): void {
    const failure = this.rebuild();
    if (failure !== null && !this.rebuildFailed) this.onError(failure);
    this.rebuildFailed = failure !== null;
  }

  /** Call the handlers of the `count` events of the last wait. */
  dispatch(count: number): void {
    for (let i = 0; i < count; i++) {
      const slot = this.slots[this.epoll.tokenLo(i)];
      if (slot === undefined || slot.generation !== this.epoll.tokenHi(i)) continue; // closed in this batch
      try {
        slot.handler(this.epoll.eventsOf(i));
      } catch (error) {
        this.onError(error);
      }
    }
  }

  /** @returns why there is no fresh set; then nothing is changed */
  private rebuild(): Error | null {
    const old = this.epoll;
    try {
      this.epoll = new Epoll();
    } catch (error) {
      return error as Error;
    }
    this.onReplace();
    old.close();
    this.needsRebuild = false;
    for (const slot of this.byFd.values()) {
      const error = this.epoll.add(slot.fd, slot.events, slot.index, slot.generation);
      if (error !== 0) {
        this.forget(slot);
        this.onError(new SysError('epoll_ctl', error, `descriptor ${slot.fd} was closed before its watch`));
      }
    }
    return null;
  }

  close(): void {
    this.slots.length = 0;
    this.byFd.clear();
    this.epoll.close();
  }
}

/** What a watch waits for when nothing else is said. */
export const READABLE: number = EPOLL.IN;
