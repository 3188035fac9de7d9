/**
 * A started vring: the device half of the ring, the requests taken from it, and how to notify. The model takes heads
 * and completes them here; the session stops it. Its one rule: every head that `read` accepted is completed exactly
 * once, and the memory it was translated with stays mapped until then.
 */
import type { SgList } from '../memory/sg-list.ts';
import type { EventLoop } from '../sys/event-loop.ts';
import type { ChainFrame } from '../virtio/chain-reader.ts';
import type { DeviceRing } from '../virtio/device-ring.ts';
import type { PlainChains } from '../virtio/plain-chains.ts';
import { Coalescer, type CoalescingSettings } from './coalescing.ts';
import type { ModelQueue } from './device-model.ts';
import { PUBLISH_EVERY, REQUESTS_PER_PASS } from './limits.ts';
import type { MemoryTable, MemoryTables } from './memory-table.ts';
import type { KickSource, Notifier } from './transport.ts';

// Own copies of what the hot path uses: a constant of another module is loaded and checked at each use.
const BATCH = PUBLISH_EVERY;
const BUDGET = REQUESTS_PER_PASS;

/** What it tells the session. */
export interface RunningRingOwner {
  /** The ring broke: `ring.broken` says why. Once. */
  ringBroke(running: RunningRing): void;
  /** `whenIdle` was asked for, and nothing is outstanding now. */
  ringIdle(running: RunningRing): void;
}

export interface RunningRingOptions {
  readonly owner: RunningRingOwner;
  readonly loop: EventLoop;
  readonly memory: MemoryTables;
  readonly coalescing: CoalescingSettings;
  readonly index: number;
  readonly ring: DeviceRing;
  readonly kick: KickSource;
  readonly call: Notifier | null;
  readonly enabled: boolean;
}

export class RunningRing {
  readonly index: number;
  readonly ring: DeviceRing;
  /** Changes while running (SET_VRING_KICK again). */
  kick: KickSource;
  /** Where used buffers are reported; null: the driver polls. Changes while running (SET_VRING_CALL). */
  call: Notifier | null;
  /** SET_VRING_ENABLE. A disabled ring takes nothing, but completes what it took. */
  enabled: boolean;
  /** Requests accepted and not completed. */
  outstanding = 0;

  private readonly owner: RunningRingOwner;
  private readonly loop: EventLoop;
  private readonly memory: MemoryTables;
  private readonly coalescer: Coalescer;
  /** What requests are translated with now. The ring holds it for all of them at once. */
  private table: MemoryTable;
  /** Heads that `read` accepted and nobody completed. */
  private readonly accepted: Uint8Array;
  /** Of those, the ones that were translated with an older table, each of which holds its own. */
  private readonly tableOf: (MemoryTable | null)[];
  private older = 0;
  private queue!: ModelQueue;
  private unpublished = 0;
  private stopping = false;
  private dead = false;
  private brokenReported = false;

  constructor(options: RunningRingOptions) {
    this.owner = options.owner;
    this.loop = options.loop;
    this.memory = options.memory;
    this.coalescer = new Coalescer(options.coalescing);
    this.index = options.index;
    this.ring = options.ring;
    this.kick = options.kick;
    this.call = options.call;
    this.enabled = options.enabled;
    this.table = options.memory.current;
    this.table.hold();
    this.accepted = new Uint8Array(options.ring.size);
    this.tableOf = new Array<MemoryTable | null>(options.ring.size).fill(null);
  }

  // For the session.

  begin(queue: ModelQueue): void {
    this.queue = queue;
    // The driver may have been notified through another descriptor before: one interrupt too many costs nothing.
    this.call?.signal();
  }

  poll(): number {
    // Most looks of an awake loop end here.
    if (this.ring.still && this.unpublished === 0 && !this.coalescer.pending) return 0;
    let done = 0;
    if (this.enabled && !this.stopping && this.ring.broken === null) {
      done = this.queue.poll(BUDGET);
      if (this.ring.broken !== null) this.reportBroken();
    }
    if (this.unpublished > 0 || this.ring.unpublished) {
      done += this.unpublished;
      this.publish();
    }
    if (this.coalescer.pending && this.coalescer.due(this.loop.now)) this.call?.signal();
    return done;
  }

  arm(): boolean {
    if (this.unpublished > 0 || this.coalescer.pending) return true;
    if (!this.enabled || this.stopping || this.ring.broken !== null) return false;
    return this.queue.arm();
  }

  disarm(): void {
    if (this.enabled && !this.stopping && this.ring.broken === null) this.queue.disarm();
  }

  /** Take nothing more. `owner.ringIdle` follows when (or as soon as) nothing is outstanding. */
  stop(): void {
    this.stopping = true;
    if (this.outstanding === 0) this.idle();
  }

  /**
   * The front end has gone. Completions end here from now on: the driver's next back end finds the heads not used,
   * and does them again. The used ring must not move any more, for the front end has read where it stands.
   */
  abandon(): void {
    this.dead = true;
    this.stop();
  }

  /** Nothing may be written for the driver any more. */
  get abandoned(): boolean {
    return this.dead;
  }

  private idle(): void {
    if (!this.dead) {
      this.publish();
      // Nobody polls it from now on: what is owed is given now.
      if (this.coalescer.pending) this.call?.signal();
    }
    this.owner.ringIdle(this);
  }

  /** The session has seen `ringIdle` and is done with it. */
  ended(): void {
    this.queue.stopped();
    this.table.drop();
  }

  /** The memory table may have changed: requests in flight keep the one they were translated with. */
  memoryChanged(): void {
    const before = this.table;
    const { current } = this.memory;
    if (current === before) return;
    for (let head = 0; head < this.accepted.length; head++) {
      if (this.accepted[head] === 0 || this.tableOf[head] !== null) continue;
      this.tableOf[head] = before;
      this.older++;
      before.hold();
    }
    this.table = current;
    current.hold();
    before.drop();
  }

  private publish(): void {
    const completed = this.unpublished;
    this.unpublished = 0;
    if (this.ring.publish() && this.coalescer.wants(this.loop.now, completed)) this.call?.signal();
  }

  private reportBroken(): void {
    if (this.brokenReported) return;
    this.brokenReported = true;
    this.owner.ringBroke(this);
  }

  /** The ring broke outside a pass (its memory went away). */
  checkBroken(): void {
    if (this.ring.broken !== null) this.reportBroken();
  }

  // For the model. Hot path.

  /** The next head to read, or a negative number when there is none now. */
  next(): number {
    return this.ring.broken === null && !this.stopping ? this.ring.pop() : -1;
  }

  /**
   * Read the chain of the head `next` gave: readable buffers to `out`, writable ones to `into`.
   * @returns false when the ring is broken now; the head is gone then. True: `complete` it once.
   */
  read(head: number, out: SgList, into: SgList): boolean {
    return this.ring.readChain(head, out, into) && this.accept(head);
  }

  /** As `read`, for chains with a header in front. */
  readFrame(head: number, frame: ChainFrame): boolean {
    return this.ring.readFrame(head, frame) && this.accept(head);
  }

  /** As many heads as `next` gives. @returns how many: at most `most` */
  nextMany(heads: Uint16Array, most: number): number {
    if (this.stopping) return 0;
    const { ring } = this;
    // Recovered heads are taken one by one: they cannot be put back.
    if (ring.recovering === 0) return ring.popMany(heads, most);
    const head = most > 0 ? ring.pop() : -1;
    if (head < 0) return 0;
    heads[0] = head;
    return 1;
  }

  /**
   * Read plain chains of heads that `next` gave into a batch. They are not accepted: whoever has them ends each with `completePlain`
   * before he returns to the loop, or reads it with one of the others.
   * @returns how many; when none, the first head is not plain; RING_AWAY: all of them are to go back by `again`
   */
  readPlain(heads: Uint16Array, from: number, end: number, batch: PlainChains): number {
    return this.ring.readPlain(heads, from, end, batch);
  }

  /**
   * What was just read for heads may be other memory's, and what was just written may have gone to it: they are to go back, by `again`
   * or, when they were accepted, by `redo`. Never so with rings whose memory stays where it is.
   */
  get astray(): boolean {
    // The table cannot change between `next` and here: messages are callbacks of the loop of their own. So what the ring
    // has now is what they were translated with.
    return this.ring.jumpIsIdle && (this.ring.away || !this.memory.current.mapsLike(this.table));
  }

  /** Hand out a head again that `read` has just accepted, instead of completing it. */
  redo(head: number): void {
    this.release(head);
    this.ring.again(head);
  }

  /** Hand out heads again that `next` gave and nobody read, or that went {@link astray}; in this order. */
  again(heads: Uint16Array, from: number, end: number): void {
    for (let i = from; i < end; i++) this.ring.again(heads[i]);
  }

  /** @param written bytes written to the writable buffers of each, from their beginning on */
  completePlain(heads: Uint16Array, written: Int32Array, from: number, end: number): void {
    this.ring.pushMany(heads, written, from, end);
    this.unpublished += end - from;
    if (this.unpublished >= BATCH) this.publish();
  }

  private accept(head: number): true {
    this.accepted[head] = 1;
    this.outstanding++;
    return true;
  }

  /** Make completions visible now, for those that no pass follows. */
  flush(): void {
    if (this.unpublished > 0) this.publish();
  }

  /** @param written bytes written to the writable buffers, from their beginning on */
  complete(head: number, written: number): void {
    if (this.ring.jumpIsIdle && this.wentAstray(head)) {
      this.redo(head);
      return;
    }
    this.release(head);
    if (!this.dead) {
      this.ring.push(head, written);
      if (++this.unpublished >= BATCH) this.publish();
    }
    if (this.stopping && this.outstanding === 0) this.idle();
  }

  /**
   * The memory was exchanged while the request was at work, so its bytes may have gone anywhere: it has to be done again. A guest
   * has not been told of it, so for it nothing is done twice. A ring that stops completes what it has.
   */
  private wentAstray(head: number): boolean {
    if (this.dead || this.stopping) return false;
    return this.ring.away || !this.memory.current.mapsLike(this.tableOf[head] ?? this.table);
  }

  /** The chain of a head that `read` accepted makes no sense: the ring is broken, the head is not answered. */
  fail(head: number, reason: string): void {
    this.release(head);
    this.ring.broken ??= `head ${head}: ${reason}`;
    // The session hears of it at the end of the queue's poll; outside of one, now.
    if (this.stopping && this.outstanding === 0) this.idle();
  }

  private release(head: number): void {
    this.accepted[head] = 0;
    this.outstanding--;
    if (this.older > 0) this.releaseOlder(head);
  }

  private releaseOlder(head: number): void {
    const table = this.tableOf[head];
    if (table === null) return;
    this.tableOf[head] = null;
    this.older--;
    table.drop();
  }
}
