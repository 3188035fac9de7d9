import type { Memory } from '../memory/memory.ts';
import type { Poller } from '../sys/event-loop.ts';
import { EventFd } from '../sys/eventfd.ts';
import { Fd } from '../sys/fd.ts';
import type { ControlLoop } from './control-loop.ts';
import { BoardState, QueueBoard } from './queue-board.ts';

/**
 * A reactor's queue of a device, whatever the device: shared by the reactor's channels, following the device's board. It lets go while
 * the device is reset and sends again what was outstanding; it ends everything when the device is lost; it asks for an
 * abort and then for a reset when a command takes too long.
 */

/** The parts of a reactor's event loop in use. */
export interface QueueLoop extends ControlLoop {
  addPoller(poller: Poller): void;
  removePoller(poller: Poller): void;
}

/** The driver's side of the rings: commands in slots 0 to depth - 1. */
export interface CommandRing {
  readonly depth: number;
  readonly inFlight: number;
  /** The reactor's clock, set before each poll: when commands are sent again. Nanoseconds. */
  time: number;
  /** Why the device can't be believed any more, or null. */
  readonly broken: string | null;
  /** {@link AbortAsked} of each slot. */
  readonly abortAsked: Uint8Array;
  /** A completion waits to be taken. Called before sleeping: notifications are on. */
  readonly ready: boolean;
  /** Where idle rings stand, for the queue's next owner. */
  readonly position: readonly number[];
  isBusy(slot: number): boolean;
  /** Give back a slot that was allocated and not submitted. */
  unallocate(slot: number): void;
  /** Tell the device of what was submitted. */
  ring(): void;
  /** Take completions. @returns how many */
  poll(): number;
  /** The device was reset: begin anew, send again what is outstanding. */
  restart(now: number): void;
  /** End everything outstanding with this status. */
  giveUp(status: number): void;
  /** First slot from `from` on whose command was sent before `time`, or -1. */
  olderThan(time: number, from?: number): number;
  /** So many nanoseconds are not held against the device. */
  forgive(ns: number): void;
  /** Going to sleep, and awake again: interrupts wanted or not. */
  wantInterrupts?(wanted: boolean): void;
}

/** Whether an abort of a slot's command was asked for. */
export const AbortAsked = {
  NO: 0,
  /** It took too long: when it is given up, it is sent again. */
  LATE: 1,
  /** Its owner wants it ended: an aborted status is its result. */
  WANTED: 2,
} as const;

/** How a command ends without the device. Outside the numbers of any device. */
export const Ended = {
  /** Given up by an abort or a reset of the driver. */
  ABORTED: 0x1_0000,
  /** The device failed and could not be reset. */
  FAILED: 0x1_0001,
  /** The device has gone. */
  REMOVED: 0x1_0002,
} as const;

export interface QueueClient {
  /** A command ended; its slot is free again. */
  commandDone(slot: number, status: number, result: number): void;
  /** Command slots or bounce buffers may be free again. */
  resume(): void;
}

/** What the main thread tells of the queue. */
export interface QueueLease {
  /** Names this start of the device within the process. */
  readonly key: string;
  readonly name: string;
  readonly board: SharedArrayBuffer;
  /** Index of the queue on the board; claimed. */
  readonly index: number;
  /** Eventfd that the main thread watches. */
  readonly bellFd: number;
  /** Eventfd by which the device and the main thread wake the reactor. */
  readonly wakeFd: number;
  readonly interrupts: boolean;
  readonly timeoutMs: number;
  /** Bounce buffers, `bounceBytes` each. */
  readonly bounce: Memory;
  readonly bounceBytes: number;
}

/** Fractions of the time limit: how often outstanding commands are looked at. */
const LOOKS_PER_TIMEOUT = 8;
/** A command that was not ended by an abort leads to a reset after this much of the time limit. */
const RESET_AFTER = 1.5;

export class ReactorQueue<R extends CommandRing> implements Poller {
  readonly pair: R;
  readonly bounce: Memory;
  readonly interrupts: boolean;
  /** 0 while the queue works or will again, else what everything ends with ({@link Ended}). */
  dead = 0;
  protected readonly lease: QueueLease;
  protected readonly loop: QueueLoop;
  protected readonly board: QueueBoard;
  protected running = true;
  private readonly bell: EventFd;
  private readonly wake: EventFd;
  private readonly watch: { close(): void };
  private readonly freeBounce: Int16Array;
  private freeBounces: number;
  private readonly owners: (QueueClient | null)[];
  private readonly clients: QueueClient[] = [];
  /** Change of the board that was followed last, and the device's start that the rings belong to. */
  private seen = -1;
  private generation: number;
  private users = 0;
  private timer: { cancel(): void } | null = null;
  private readonly forget: () => void;

  /**
   * @param ring makes the rings; it is given what the queue's last owner left, if the device was not started since
   * @param forget called when the last user has closed
   */
  constructor(
    lease: QueueLease,
    loop: QueueLoop,
    ring: (owner: QueueOwner, left: readonly [number, number, number] | undefined) => R,
    forget: () => void,
  ) {
    this.lease = lease;
    this.loop = loop;
    this.forget = forget;
    this.board = new QueueBoard(lease.board);
    this.generation = this.board.generation;
    this.interrupts = lease.interrupts;
    this.bounce = lease.bounce;
    this.pair = ring(this, this.board.leftBy(lease.index));
    this.owners = new Array<QueueClient | null>(this.pair.depth).fill(null);
    this.freeBounces = Math.floor(lease.bounce.length / lease.bounceBytes);
    this.freeBounce = Int16Array.from({ length: this.freeBounces }, (_, i) => i);
    // These descriptors belong to the main thread, which closes them after the last queue is released.
    this.bell = new EventFd(Fd.take(lease.bellFd));
    this.wake = new EventFd(Fd.take(lease.wakeFd));
    this.watch = loop.watch(lease.wakeFd, () => this.wake.drain());
    loop.addPoller(this);
    this.follow();
    this.lookLater();
  }

  /** One more channel uses it. */
  attach(client: QueueClient): void {
    this.clients.push(client);
    this.users++;
  }

  /** The client has nothing outstanding. The last one gives the queue back. */
  close(client: QueueClient): void {
    const at = this.clients.indexOf(client);
    if (at >= 0) this.clients.splice(at, 1);
    if (--this.users > 0) return;
    this.forget();
    this.timer?.cancel();
    this.loop.removePoller(this);
    this.watch.close();
    if (this.running && this.dead === 0) this.pair.ring();
    this.board.release(this.lease.index, this.pair.position);
    if (this.board.state === BoardState.HOLD) this.bell.signal(); // one queue fewer to wait for
  }

  get now(): number {
    return this.loop.now;
  }

  /** Commands can be sent now. */
  get open(): boolean {
    return this.running && this.dead === 0 && this.pair.broken === null;
  }

  protected own(slot: number, client: QueueClient): void {
    this.owners[slot] = client;
  }

  /** From the rings. */
  commandDone(slot: number, status: number, result: number): void {
    const owner = this.owners[slot];
    this.owners[slot] = null;
    owner?.commandDone(slot, status, result);
  }

  /** Bounce buffers that can be taken. */
  get freeBuffers(): number {
    return this.freeBounces;
  }

  /** Byte offset of a free bounce buffer, or -1. */
  takeBounce(): number {
    return this.freeBounces === 0 ? -1 : (this.freeBounce[--this.freeBounces] as number) * this.lease.bounceBytes;
  }

  giveBounce(offset: number): void {
    this.freeBounce[this.freeBounces++] = offset / this.lease.bounceBytes;
  }

  // Poller

  poll(): number {
    if (this.board.changesHint !== this.seen) this.follow();
    if (!this.running || this.dead !== 0) return 0;
    const pair = this.pair;
    pair.time = this.loop.now;
    pair.ring();
    const done = pair.poll();
    if (done > 0) {
      const clients = this.clients;
      for (let i = 0; i < clients.length; i++) clients[i].resume();
      pair.ring();
    }
    if (pair.broken !== null && this.running) this.askReset();
    return done;
  }

  arm(): boolean {
    if (this.board.changes !== this.seen) return true;
    if (!this.running || this.dead !== 0) return false;
    this.pair.ring();
    // Without interrupts there is nothing to sleep on while a command is out.
    if (!this.interrupts) return this.pair.inFlight > 0;
    this.pair.wantInterrupts?.(true);
    return this.pair.ready;
  }

  disarm(): void {
    this.pair.wantInterrupts?.(false);
  }

  /** Ask for the end of a client's commands; each still completes, by the device or by a reset. */
  abortAll(client: QueueClient): void {
    let asked = false;
    for (let slot = 0; slot < this.pair.depth; slot++) {
      if (this.owners[slot] !== client || !this.pair.isBusy(slot)) continue;
      this.pair.abortAsked[slot] = AbortAsked.WANTED;
      this.board.askAbort(this.lease.index, slot);
      asked = true;
    }
    if (asked) this.bell.signal();
  }

  /** Leave a word on the board for the main thread. */
  ringBell(): void {
    this.bell.signal();
  }

  /** The board says something new. */
  private follow(): void {
    this.seen = this.board.changes; // before the state: one that changes meanwhile is followed again
    const state = this.board.state;
    switch (state) {
      case BoardState.HOLD:
        if (this.running && this.pair.broken === null) this.pair.poll(); // what has come before the reset counts
        this.running = false;
        this.board.acknowledgeHold(this.lease.index);
        this.bell.signal();
        return;
      case BoardState.RUN:
        if (this.running && this.generation === this.board.generation) return;
        this.running = true;
        this.generation = this.board.generation;
        this.pair.restart(this.loop.now);
        for (const client of [...this.clients]) client.resume();
        this.pair.ring();
        return;
      default:
        this.running = false;
        this.dead = state === BoardState.REMOVED ? Ended.REMOVED : Ended.FAILED;
        this.pair.giveUp(this.dead);
        for (const client of [...this.clients]) client.resume();
    }
  }

  private askReset(): void {
    this.board.askReset();
    this.bell.signal();
  }

  private lookLater(): void {
    const ms = this.lease.timeoutMs / LOOKS_PER_TIMEOUT;
    const due = this.loop.now + ms * 1e6;
    this.timer = this.loop.after(ms, () => {
      // When this thread could not run, the completions may be there: that time does not count.
      const late = this.loop.now - due;
      if (late > ms * 1e6) this.pair.forgive(late);
      this.look();
      this.lookLater();
    });
  }

  /** Late commands: abort, then reset. Also the net under a reactor that missed its wake-up. */
  private look(): void {
    if (this.board.changes !== this.seen) this.follow();
    if (!this.running || this.dead !== 0) return;
    const pair = this.pair;
    const limit = this.lease.timeoutMs * 1e6;
    if (pair.broken !== null || pair.olderThan(this.loop.now - RESET_AFTER * limit) >= 0) {
      this.askReset();
      return;
    }
    const before = this.loop.now - limit;
    let asked = false;
    for (let slot = pair.olderThan(before); slot >= 0; slot = pair.olderThan(before, slot + 1)) {
      if (pair.abortAsked[slot] !== AbortAsked.NO) continue;
      pair.abortAsked[slot] = AbortAsked.LATE;
      this.board.askAbort(this.lease.index, slot);
      asked = true;
    }
    if (asked) this.bell.signal();
  }
}

/** What rings know of their queue. */
export interface QueueOwner {
  commandDone(slot: number, status: number, result: number): void;
}

/** Claim a queue on the board. @throws Error when none is free */
export function claimQueue(board: SharedArrayBuffer, name: string, option: string): number {
  const claims = new QueueBoard(board);
  const index = claims.claim();
  if (index < 0) {
    throw new Error(
      `${name}: all ${claims.queues} I/O queues are in use, one a reactor: attach it with more (${option})`,
    );
  }
  return index;
}
