import type { Memory } from '../memory/memory.ts';
import type { ControlLoop } from '../pci/control-loop.ts';
import { adoptDma } from '../pci/dma.ts';
import { BoardState, QueueBoard } from '../pci/queue-board.ts';
import type { Poller } from '../sys/event-loop.ts';
import { EventFd } from '../sys/eventfd.ts';
import { Fd } from '../sys/fd.ts';
import { AbortAsked, type CommandOwner, QueuePair } from './queue-pair.ts';
import type { NvmeQueueShare, NvmeShare } from './share.ts';
import { LocalStatus } from './status.ts';

/**
 * A reactor's I/O queue pair of a controller, shared by its channels to the controller's namespaces. It follows the
 * board: lets go of the queue while the controller is reset, sends again what was outstanding, ends everything when
 * the controller is lost.
 */

/** The parts of a reactor's event loop in use. */
export interface QueueLoop extends ControlLoop {
  addPoller(poller: Poller): void;
  removePoller(poller: Poller): void;
}

export interface QueueClient extends CommandOwner {
  /** Command slots or bounce buffers may be free again. */
  resume(): void;
}

/** Fractions of the time limit: how often outstanding commands are looked at. */
const LOOKS_PER_TIMEOUT = 8;
/** A command that was not ended by an abort leads to a reset after this much of the time limit. */
const RESET_AFTER = 1.5;

/** The queues of this thread, by controller. */
const open = new Map<string, NvmeIoQueue>();

export class NvmeIoQueue implements CommandOwner {
  readonly share: NvmeShare;
  readonly queue: NvmeQueueShare;
  readonly pair: QueuePair;
  /** A page a command. */
  readonly lists: Memory;
  readonly bounce: Memory;
  /** 0 while the queue works or will again, else the LocalStatus that everything ends with. */
  dead = 0;
  private readonly board: QueueBoard;
  private readonly index: number;
  private readonly loop: QueueLoop;
  private readonly bell: EventFd;
  private readonly wake: EventFd;
  private readonly watch: { close(): void };
  private readonly freeBounce: Int16Array;
  private freeBounces: number;
  private readonly owners: (QueueClient | null)[];
  private readonly clients: QueueClient[] = [];
  private running = true;
  /** Change of the board that was followed last, and the controller's start that the rings belong to. */
  private seen = -1;
  private generation: number;
  private users = 0;
  private timer: { cancel(): void } | null = null;

  /** The thread's queue of this controller; claimed at the first use. @throws Error when none is free */
  static open(share: NvmeShare, loop: QueueLoop): NvmeIoQueue {
    let queue = open.get(share.key);
    if (queue === undefined) {
      queue = new NvmeIoQueue(share, loop);
      open.set(share.key, queue);
    }
    queue.users++;
    return queue;
  }

  private constructor(share: NvmeShare, loop: QueueLoop) {
    this.share = share;
    this.loop = loop;
    this.board = new QueueBoard(share.board);
    this.generation = this.board.generation;
    this.index = this.board.claim();
    if (this.index < 0) {
      throw new Error(
        `${share.name}: all ${share.queues.length} I/O queues are in use, one a reactor: attach the controller with more (num_io_queues)`,
      );
    }
    const queue = share.queues[this.index] as NvmeQueueShare;
    this.queue = queue;
    this.lists = adoptDma(queue.lists);
    this.bounce = adoptDma(queue.bounce);
    this.pair = new QueuePair(
      {
        id: queue.id,
        entries: queue.entries,
        sq: adoptDma(queue.sq),
        cq: adoptDma(queue.cq),
        doorbells: adoptDma(share.bar),
        tailDoorbell: queue.tailDoorbell,
        headDoorbell: queue.headDoorbell,
      },
      this,
    );
    const left = this.board.leftBy(this.index);
    if (left !== undefined) this.pair.resumeAt(left);
    this.owners = new Array<QueueClient | null>(this.pair.depth).fill(null);
    this.freeBounces = Math.floor(this.bounce.length / share.bounceBytes);
    this.freeBounce = Int16Array.from({ length: this.freeBounces }, (_, i) => i);
    // These descriptors belong to the main thread, which closes them after the last queue is released.
    this.bell = new EventFd(Fd.take(share.bellFd));
    this.wake = new EventFd(Fd.take(queue.wakeFd));
    this.watch = loop.watch(queue.wakeFd, () => this.wake.drain());
    loop.addPoller(this);
    this.follow();
    this.lookLater();
  }

  attach(client: QueueClient): void {
    this.clients.push(client);
  }

  /** The client has nothing outstanding. The last one gives the queue back. */
  close(client: QueueClient): void {
    const at = this.clients.indexOf(client);
    if (at >= 0) this.clients.splice(at, 1);
    if (--this.users > 0) return;
    open.delete(this.share.key);
    this.timer?.cancel();
    this.loop.removePoller(this);
    this.watch.close();
    if (this.running && this.dead === 0) this.pair.ring();
    this.board.release(this.index, this.pair.position);
    if (this.board.state === BoardState.HOLD) this.bell.signal(); // one queue fewer to wait for
  }

  get now(): number {
    return this.loop.now;
  }

  /** A command slot, as QueuePair.allocate; -1 also while the controller is being reset. */
  allocate(opcode: number, nsid: number): number {
    return this.running && this.dead === 0 && this.pair.broken === null ? this.pair.allocate(opcode, nsid) : -1;
  }

  /** The command goes out with the next poll. */
  submit(cid: number, client: QueueClient): void {
    this.owners[cid] = client;
    this.pair.submit(cid, this.loop.now);
  }

  commandDone(cid: number, status: number, dw0: number): void {
    const owner = this.owners[cid];
    this.owners[cid] = null;
    owner?.commandDone(cid, status, dw0);
  }

  /** Bounce buffers that can be taken. */
  get freeBuffers(): number {
    return this.freeBounces;
  }

  /** Byte offset of a free bounce buffer, or -1. */
  takeBounce(): number {
    return this.freeBounces === 0 ? -1 : (this.freeBounce[--this.freeBounces] as number) * this.share.bounceBytes;
  }

  giveBounce(offset: number): void {
    this.freeBounce[this.freeBounces++] = offset / this.share.bounceBytes;
  }

  // Poller

  poll(): number {
    if (this.board.changesHint !== this.seen) this.follow();
    if (!this.running || this.dead !== 0) return 0;
    const pair = this.pair;
    pair.ring();
    const done = pair.poll();
    if (done > 0) {
      const clients = this.clients;
      for (let i = 0; i < clients.length; i++) clients[i].resume();
      pair.ring();
    }
    if (pair.broken !== null && this.running) this.distrust();
    return done;
  }

  arm(): boolean {
    if (this.board.changes !== this.seen) return true;
    if (!this.running || this.dead !== 0) return false;
    this.pair.ring();
    // Without interrupts there is nothing to sleep on while a command is out.
    return this.queue.interrupts ? this.pair.ready : this.pair.inFlight > 0;
  }

  disarm(): void {}

  /** Ask for the end of a client's commands; each still completes, by the device or by a reset. */
  abortAll(client: QueueClient): void {
    let asked = false;
    for (let cid = 0; cid < this.pair.depth; cid++) {
      if (this.owners[cid] !== client || !this.pair.isBusy(cid)) continue;
      this.pair.abortAsked[cid] = AbortAsked.WANTED;
      this.board.askAbort(this.index, cid);
      asked = true;
    }
    if (asked) this.bell.signal();
  }

  /** The board says something new. */
  private follow(): void {
    this.seen = this.board.changes; // before the state: one that changes meanwhile is followed again
    const state = this.board.state;
    switch (state) {
      case BoardState.HOLD:
        if (this.running && this.pair.broken === null) this.pair.poll(); // what has come before the reset counts
        this.running = false;
        this.board.acknowledgeHold(this.index);
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
        this.dead = state === BoardState.REMOVED ? LocalStatus.REMOVED : LocalStatus.FAILED;
        this.pair.giveUp(this.dead);
        for (const client of [...this.clients]) client.resume();
    }
  }

  private distrust(): void {
    this.board.askReset();
    this.bell.signal();
  }

  private lookLater(): void {
    const ms = this.share.timeoutMs / LOOKS_PER_TIMEOUT;
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
    const limit = this.share.timeoutMs * 1e6;
    if (pair.broken !== null || pair.olderThan(this.loop.now - RESET_AFTER * limit) >= 0) {
      this.distrust();
      return;
    }
    const before = this.loop.now - limit;
    let asked = false;
    for (let cid = pair.olderThan(before); cid >= 0; cid = pair.olderThan(before, cid + 1)) {
      if (pair.abortAsked[cid] !== AbortAsked.NO) continue;
      pair.abortAsked[cid] = AbortAsked.LATE;
      this.board.askAbort(this.index, cid);
      asked = true;
    }
    if (asked) this.bell.signal();
  }
}
