import type { GuestMemory } from '../memory/guest-memory.ts';
import type { SgList } from '../memory/sg-list.ts';
import { ChainFrame, ChainReader } from './chain-reader.ts';
import { VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_USED_F_NO_NOTIFY } from './features.ts';
import type { InflightLog } from './inflight-log.ts';
import { availEventOffset, usedEventOffset, VIRTQ_AVAIL, VIRTQ_USED } from './layout.ts';
import type { PlainChains } from './plain-chains.ts';
import { type RingPlace, ringPlaceError, ringSizeError } from './ring-place.ts';

/**
 * Device half of one split virtqueue (virtio 1.2 §2.7). Its one rule: whatever the driver wrote is read once into
 * locals and then judged; a wrong value breaks the ring with a reason and never throws.
 *
 * A reactor's order of calls: `pop` until it gives no head, `readChain` right after each; `push` when a request is
 * done (in any order); `publish` once a small batch. Before sleeping `armNotifications`, awake again
 * `suppressNotifications`. Single-threaded; the lists `readChain` fills belong to the caller.
 */

export interface DeviceRingOptions {
  guest: GuestMemory;
  /** Queue size. */
  size: number;
  /** VIRTIO_F_EVENT_IDX was negotiated. */
  eventIdx: boolean;
  /** VIRTIO_F_INDIRECT_DESC was negotiated. */
  indirect: boolean;
  /** Next available index to take (SET_VRING_BASE). */
  base: number;
  inflight?: InflightLog;
  /**
   * The memory under the running ring may be exchanged before anybody says so (vvu): what is read then is zeroes or something
   * else. The ring takes its own used.idx, which only it writes, for a sign that it is there; while it is away nothing read
   * counts, nothing is written, and an index that runs away is "no work" instead of the end of the ring.
   */
  jumpIsIdle?: boolean;
}

/** `pop` found nothing. */
export const RING_EMPTY = -1;
/** `pop` found the ring broken; `broken` says why. */
export const RING_BROKEN = -2;
/** `readPlain`: the memory went away meanwhile. */
export const RING_AWAY = -1;
/** `look` tells `pop` to go on. */
const FOUND = -3;

// Own copies: a constant of another module is loaded and checked at each use.
/** Elements of the used ring that may lie in the cache line of its index: 64 bytes, 8 an element. */
const INDEX_LINE = 8;
const NO_INTERRUPT = VIRTQ_AVAIL_F_NO_INTERRUPT;
const NO_NOTIFY = VIRTQ_USED_F_NO_NOTIFY;

/** What the ring knows of a head. */
const FREE = 0;
const IN_FLIGHT = 1;
/** Recovered by `resubmit`, not yet handed out. */
const WAITING = 2;

export class DeviceRing {
  readonly size: number;
  /** As of the options. */
  readonly jumpIsIdle: boolean;
  /** Why the ring is broken; null while it works. Once set, nothing is read from or written to the ring any more. */
  broken: string | null = null;
  /** Heads handed out and not yet pushed. */
  inFlight = 0;
  /** Index of the next available entry to take, mod 2^16. */
  nextAvail: number;
  /** used.idx with everything pushed, published or not, mod 2^16. */
  usedIndex: number;

  /** Chains read without fault. */
  chains = 0;
  /** Publications of used.idx. */
  publishes = 0;
  /** Publications after which the driver wanted a notification. */
  notifications = 0;
  /** Times `pop` met a runaway index and took it for "no work" (`jumpIsIdle`). */
  idleJumps = 0;

  private place!: RingPlace;
  private readonly reader: ChainReader;
  /** Frame of `readChain`. */
  private plain: ChainFrame | null = null;
  private desc32!: Uint32Array;
  private avail16!: Uint16Array;
  private used16!: Uint16Array;
  private used32!: Uint32Array;
  // Indexes of the shared words in those views.
  private descAt = 0;
  private availFlags = 0;
  private availIdx = 0;
  private availRing = 0;
  private usedEvent = 0;
  private usedFlags = 0;
  private usedIdx = 0;
  private usedRing = 0;
  private availEvent = 0;

  private readonly mask: number;
  private readonly eventIdx: boolean;
  private readonly indirect: boolean;
  private readonly inflight: InflightLog | null;
  /** avail.idx as last loaded: entries before it may be read. */
  private knownAvail: number;
  /** used.idx as the driver sees it. */
  private visibleUsed: number;
  /** used.idx at the last decision about a notification; meaningless until the first. */
  private signalledUsed = 0;
  private signalledValid = false;
  private readonly heads: Uint8Array;
  private readonly recovered: Uint16Array;
  private recoveredAt = 0;
  private recoveredCount = 0;
  /** With `jumpIsIdle`: which available index a head was taken from last. */
  private readonly takenAt: Uint16Array;
  /** With `jumpIsIdle`: used elements that are not written yet (they wait for `publish`), by their index in the ring. */
  private readonly heldHead: Uint16Array;
  private readonly heldLength: Uint32Array;

  /** @returns the ring, or why there can be none with these values. */
  static create(place: RingPlace, options: DeviceRingOptions): DeviceRing | string {
    const error = ringSizeError(options.size) ?? ringPlaceError(place, options.size, options.eventIdx);
    if (error !== null) return error;
    const { base } = options;
    if (!Number.isInteger(base) || base < 0 || base > 0xffff) return `next available index ${base} is not 0 to 65535`;
    return new DeviceRing(place, options);
  }

  private constructor(place: RingPlace, options: DeviceRingOptions) {
    this.size = options.size;
    this.mask = options.size - 1;
    this.eventIdx = options.eventIdx;
    this.indirect = options.indirect;
    this.jumpIsIdle = options.jumpIsIdle ?? false;
    this.inflight = options.inflight ?? null;
    this.nextAvail = options.base;
    this.knownAvail = options.base;
    this.heads = new Uint8Array(options.size);
    this.recovered = new Uint16Array(options.size);
    this.takenAt = new Uint16Array(this.jumpIsIdle ? options.size : 0);
    this.heldHead = new Uint16Array(this.jumpIsIdle ? options.size : 0);
    this.heldLength = new Uint32Array(this.jumpIsIdle ? options.size : 0);
    this.reader = new ChainReader(options.guest, options.indirect);
    this.settle(place, options.guest);
    // The front end does not tell where the used index stands: the ring itself does.
    this.usedIndex = Atomics.load(this.used16, this.usedIdx);
    this.visibleUsed = this.usedIndex;
  }

  /** Take the views and the places of the shared words out of a checked place. */
  private settle(place: RingPlace, guest: GuestMemory): void {
    this.place = place;
    this.reader.guest = guest;
    this.desc32 = place.desc.memory.u32;
    this.descAt = place.desc.offset >> 2;
    this.avail16 = place.avail.memory.u16;
    const avail = place.avail.offset;
    this.availFlags = (avail + VIRTQ_AVAIL.fields.flags[0]) >> 1;
    this.availIdx = (avail + VIRTQ_AVAIL.fields.idx[0]) >> 1;
    this.availRing = (avail + VIRTQ_AVAIL.size) >> 1;
    this.usedEvent = (avail + usedEventOffset(this.size)) >> 1;
    this.used16 = place.used.memory.u16;
    this.used32 = place.used.memory.u32;
    const used = place.used.offset;
    this.usedFlags = (used + VIRTQ_USED.fields.flags[0]) >> 1;
    this.usedIdx = (used + VIRTQ_USED.fields.idx[0]) >> 1;
    this.usedRing = (used + VIRTQ_USED.size) >> 2;
    this.availEvent = (used + availEventOffset(this.size)) >> 1;
  }

  /**
   * The memory table changed under the running ring: go on at the new place with the same indexes. A place that
   * cannot hold the ring breaks it. Lists read before keep naming the old memory: the caller owns that question.
   */
  replaceMemory(place: RingPlace, guest: GuestMemory): void {
    if (this.broken !== null) return;
    const error = ringPlaceError(place, this.size, this.eventIdx);
    if (error !== null) {
      this.fail(`memory table change: ${error}`);
      return;
    }
    this.settle(place, guest);
    this.knownAvail = this.nextAvail; // what was known was said by the old memory
  }

  /**
   * Hand out these heads again before any new one: the requests an inflight log shows as taken by a process that
   * died, in the order it took them. Call it before the first `pop`. The list comes from memory shared with
   * the front end: a wrong one breaks the ring.
   */
  resubmit(heads: ArrayLike<number>): void {
    this.knownAvail = this.nextAvail; // pop takes its slow path, where these come first
    for (let i = 0; i < heads.length && this.broken === null; i++) {
      const head = heads[i];
      if (!Number.isInteger(head) || head < 0 || head >= this.size) {
        this.fail(`inflight log names head ${head}, queue size is ${this.size}`);
      } else if (this.heads[head] !== FREE) {
        this.fail(`inflight log names head ${head} twice`);
      } else {
        this.heads[head] = WAITING;
        this.recovered[this.recoveredCount++] = head;
      }
    }
  }

  /** Recovered heads that `pop` has not handed out yet. */
  get recovering(): number {
    return this.recoveredCount - this.recoveredAt;
  }

  /**
   * The available index to go on with when the ring is stopped (GET_VRING_BASE): that of the first entry which is not done. Heads that
   * were taken and wait to be handed out again are not; they can be named where they are the last that were taken.
   */
  get resumeAt(): number {
    const waiting = this.recovering;
    // Where there is an inflight log, it names them.
    if (!this.jumpIsIdle || this.inflight !== null) return this.nextAvail;
    for (let i = this.recoveredAt; i < this.recoveredCount; i++) {
      const back = (this.nextAvail - this.takenAt[this.recovered[i]]) & 0xffff;
      if (back === 0 || back > waiting) return this.nextAvail;
    }
    return (this.nextAvail - waiting) & 0xffff;
  }

  /** Nothing has come, nothing is to be handed out again, and the driver can see all that was pushed: a look costs one load. */
  get still(): boolean {
    const next = this.nextAvail;
    return (
      this.avail16[this.availIdx] === next &&
      this.knownAvail === next &&
      this.recoveredCount === 0 &&
      this.usedIndex === this.visibleUsed
    );
  }

  /** The next head, {@link RING_EMPTY} or {@link RING_BROKEN}. */
  pop(): number {
    if (this.knownAvail === this.nextAvail) {
      const found = this.look();
      if (found !== FOUND) return found;
    }
    const at = this.nextAvail;
    const head = this.avail16[this.availRing + (at & this.mask)];
    if (head >= this.size || this.heads[head] !== FREE) return this.badHead(head, at);
    if (this.jumpIsIdle && this.away) return this.nothing();
    this.heads[head] = IN_FLIGHT;
    this.inFlight++;
    this.nextAvail = (at + 1) & 0xffff;
    if (this.jumpIsIdle) this.takenAt[head] = at;
    if (this.inflight !== null) this.inflight.taken(head);
    return head;
  }

  /**
   * The heads that `pop` would give one after the other, of those that are known; a look for more is made when there are none.
   * Not while heads are {@link recovering}.
   * @returns how many: at most `most`
   */
  popMany(heads: Uint16Array, most: number): number {
    if (this.knownAvail === this.nextAvail && this.look() !== FOUND) return 0;
    const { avail16, heads: states } = this;
    const availRing = this.availRing | 0;
    const mask = this.mask | 0;
    const size = this.size | 0;
    const begin = this.nextAvail | 0;
    const known = (this.knownAvail - begin) & 0xffff;
    const end = known < most ? known : most | 0;
    let n = 0;
    let bad = -1;
    for (; n < end; n = (n + 1) | 0) {
      const head = avail16[(availRing + ((begin + n) & mask)) | 0];
      if (head >= size || states[head] !== FREE) {
        bad = head;
        break;
      }
      states[head] = IN_FLIGHT;
      heads[n] = head;
    }
    if (this.jumpIsIdle) {
      if (this.away) {
        // The entries may be those of other memory: none was taken.
        for (let i = 0; i < n; i++) states[heads[i]] = FREE;
        this.nothing();
        return 0;
      }
      for (let i = 0; i < n; i++) this.takenAt[heads[i]] = begin + i;
    }
    this.inFlight += n;
    this.nextAvail = (begin + n) & 0xffff;
    if (this.inflight !== null) for (let i = 0; i < n; i++) this.inflight.taken(heads[i]);
    if (bad >= 0) this.badHead(bad, this.nextAvail);
    return n;
  }

  /** @returns FOUND when entries may be read, else what `pop` is to return. */
  private look(): number {
    if (this.broken !== null) return RING_BROKEN;
    if (this.jumpIsIdle && this.away) return this.nothing();
    if (this.recoveredAt < this.recoveredCount) {
      const head = this.recovered[this.recoveredAt++];
      if (this.recoveredAt === this.recoveredCount) this.recoveredAt = this.recoveredCount = 0;
      this.heads[head] = IN_FLIGHT;
      this.inFlight++;
      return head;
    }
    const next = this.nextAvail;
    if (this.avail16[this.availIdx] === next) return RING_EMPTY; // plain: an idle poll costs a load
    // Acquire: entries and descriptors are read after the index that covers them. Also the value to judge: the
    // plain load above is not used for more than the look.
    const idx = Atomics.load(this.avail16, this.availIdx);
    const count = (idx - next) & 0xffff;
    if (count > this.size) {
      if (this.jumpIsIdle) return this.nothing();
      this.fail(`avail.idx ${idx} is ${count} ahead of ${next}, queue size is ${this.size}`);
      return RING_BROKEN;
    }
    this.knownAvail = idx;
    return count === 0 ? RING_EMPTY : FOUND;
  }

  /**
   * The ring's memory is not where it was: used.idx is not what we wrote. Of all values in other memory one in 65536 deceives;
   * where that is not good enough the caller compares memory tables, too.
   */
  get away(): boolean {
    return this.used16[this.usedIdx] !== this.visibleUsed;
  }

  /** What was read is not to be believed: look again later. */
  private nothing(): number {
    this.idleJumps++;
    this.knownAvail = this.nextAvail;
    return RING_EMPTY;
  }

  /**
   * Take the head of a request back, to hand it out again by the next `pop`: what was done for it went to memory that is
   * not there any more. Not for rings with an inflight log.
   */
  again(head: number): void {
    this.drop(head);
    if (this.broken !== null) return;
    this.heads[head] = WAITING;
    // One that was handed out before those that wait comes before them again; else behind those that came back before it.
    if (this.recoveredAt > 0) this.recovered[--this.recoveredAt] = head;
    else this.recovered[this.recoveredCount++] = head;
    this.knownAvail = this.nextAvail; // pop takes its slow path, where these come first
  }

  /**
   * Read the chain of a head that `pop` has just given: every descriptor once, device-readable buffers to `out`,
   * device-writable ones to `into` (both are reset first).
   * @returns false when the chain is wrong: the ring is broken then, and the head is not to be pushed. Also when the memory went
   * away meanwhile (`jumpIsIdle`): the head comes again.
   */
  readChain(head: number, out: SgList, into: SgList): boolean {
    this.plain ??= new ChainFrame(out, into);
    this.plain.out = out;
    this.plain.into = into;
    return this.readFrame(head, this.plain);
  }

  /** As {@link readChain}, for chains with a header in front. */
  readFrame(head: number, frame: ChainFrame): boolean {
    const read = this.reader.read(this.desc32, this.descAt, this.size, head, frame);
    if (this.jumpIsIdle && this.away) {
      frame.reset();
      this.idleJumps++;
      this.again(head);
      return false;
    }
    if (read) {
      this.chains++;
      return true;
    }
    frame.reset();
    this.drop(head); // nothing was started for it
    this.fail(`head ${head}: ${this.reader.error}`);
    return false;
  }

  /** Undo the last `pop`: the ring broke over a head before this one, and takes nothing behind it. Not for recovered heads. */
  unpop(head: number): void {
    this.drop(head);
    this.nextAvail = (this.nextAvail - 1) & 0xffff;
    this.knownAvail = this.nextAvail;
  }

  /**
   * Read chains of heads that `pop` has given into a batch, see PlainChains.
   * @returns how many; when none, `heads[from]` is to be read with one of the others. {@link RING_AWAY} when the memory went away
   * meanwhile (`jumpIsIdle`): what was read is nothing, and all these heads are to go back by `again`.
   */
  readPlain(heads: Uint16Array, from: number, end: number, batch: PlainChains): number {
    const n = batch.read(this.desc32, this.descAt, this.size, this.indirect, this.reader.guest, heads, from, end);
    if (this.jumpIsIdle && this.away) {
      this.idleJumps++;
      return RING_AWAY;
    }
    this.chains += n;
    return n;
  }

  /**
   * Give a chain back with the number of bytes written to its writable buffers. Not yet visible to the driver. On a
   * broken ring only the count of requests in flight changes.
   * @throws Error for a head that is not in flight: a bug of ours, the request was completed twice.
   */
  push(head: number, written: number): void {
    if (this.heads[head] !== IN_FLIGHT) throw new Error(`DeviceRing.push: head ${head} is not in flight`);
    this.drop(head);
    if (this.broken !== null) return;
    const slot = this.usedIndex & this.mask;
    if (this.jumpIsIdle) {
      // Written by `publish`, when the ring is seen to be there.
      this.heldHead[slot] = head;
      this.heldLength[slot] = written;
    } else {
      const at = this.usedRing + (slot << 1);
      this.used32[at] = head;
      this.used32[at + 1] = written;
    }
    this.usedIndex = (this.usedIndex + 1) & 0xffff;
    if (this.inflight !== null) this.inflight.completing(head);
  }

  /**
   * As {@link push}, for many. @param heads in flight, each once
   * @param written bytes of each; only indices from `from` to `end` of both count
   */
  pushMany(heads: Uint16Array, written: Int32Array, from: number, end: number): void {
    if (this.broken !== null || this.jumpIsIdle || this.inflight !== null) {
      for (let i = from; i < end; i++) this.push(heads[i], written[i]);
      return;
    }
    const { heads: states, used32 } = this;
    // "| 0": known to be small from here on, where a parameter or a field would be looked at in each round.
    const usedRing = this.usedRing | 0;
    const mask = this.mask | 0;
    const stop = end | 0;
    let index = this.usedIndex | 0;
    for (let i = from | 0; i < stop; i = (i + 1) | 0, index = (index + 1) | 0) {
      const head = heads[i];
      if (states[head] !== IN_FLIGHT) throw new Error(`DeviceRing.push: head ${head} is not in flight`);
      states[head] = FREE;
      const at = (usedRing + ((index & mask) << 1)) | 0;
      used32[at] = head;
      used32[(at + 1) | 0] = written[i];
    }
    this.usedIndex = index & 0xffff;
    this.inFlight -= end - from;
  }

  /**
   * So many will be pushed soon: ask for the lines of their elements now, which the driver's processor has to give up. What is
   * written there means nothing before the index covers it.
   */
  claim(count: number): void {
    if (this.broken !== null || this.jumpIsIdle) return;
    const first = this.usedIndex & this.mask;
    const last = (first + count - 1) & this.mask;
    // The first elements share a line with the index, which a polling driver takes back at once.
    if (first >= INDEX_LINE) this.used32[this.usedRing + (first << 1)] = 0;
    if (last >= INDEX_LINE) this.used32[this.usedRing + (last << 1)] = 0;
  }

  /**
   * Make everything pushed visible to the driver.
   * @returns true when the driver wants to be notified of it. With `jumpIsIdle` it may have to be called again: `unpublished` tells.
   */
  publish(): boolean {
    const now = this.usedIndex;
    if (now === this.visibleUsed || this.broken !== null) return false;
    if (this.jumpIsIdle) {
      if (this.away) return false;
      for (let i = this.visibleUsed; i !== now; i = (i + 1) & 0xffff) {
        const slot = i & this.mask;
        this.used32[this.usedRing + (slot << 1)] = this.heldHead[slot];
        this.used32[this.usedRing + (slot << 1) + 1] = this.heldLength[slot];
      }
    }
    // Release: elements and data are visible before the index. The store is also a full barrier, so that the
    // driver's wish is read after the index can be seen (§2.7.7.2): without it both sides may miss each other.
    Atomics.store(this.used16, this.usedIdx, now);
    this.visibleUsed = now;
    this.publishes++;
    if (this.inflight !== null) this.inflight.published(now);
    if (!this.wantsNotification(now)) return false;
    this.notifications++;
    return true;
  }

  /** Something was pushed that the driver does not see yet. */
  get unpublished(): boolean {
    return this.usedIndex !== this.visibleUsed;
  }

  private wantsNotification(now: number): boolean {
    if (!this.eventIdx) return (this.avail16[this.availFlags] & NO_INTERRUPT) === 0;
    const since = this.signalledUsed;
    const valid = this.signalledValid;
    this.signalledUsed = now;
    this.signalledValid = true;
    // Nobody knows what was signalled before the ring was taken over: one interrupt too many is the safe side.
    if (!valid) return true;
    return ((now - this.avail16[this.usedEvent] - 1) & 0xffff) < ((now - since) & 0xffff);
  }

  /**
   * Ask the driver to notify us of the next buffer it makes available.
   * @returns true when there is work already: then no notification may come, and the caller must not sleep.
   */
  armNotifications(): boolean {
    if (this.broken !== null) return false;
    if (this.jumpIsIdle && this.away) return false; // who brings the memory back wakes us
    if (this.recoveredCount !== 0) return true;
    const next = this.nextAvail;
    // Full barrier: the wish is visible before avail.idx is looked at again; the driver does the same crosswise.
    if (this.eventIdx) Atomics.store(this.used16, this.availEvent, next);
    else Atomics.store(this.used16, this.usedFlags, 0);
    const ahead = (Atomics.load(this.avail16, this.availIdx) - next) & 0xffff;
    return ahead !== 0 && !(this.jumpIsIdle && ahead > this.size);
  }

  /** We are looking anyway: notifications cost the driver an exit for nothing. A hint, so no barrier. */
  suppressNotifications(): void {
    // With EVENT_IDX there is nothing to do: the event armed last lies behind, and passes once in 2^16 buffers.
    if (this.jumpIsIdle && this.away) return;
    if (!this.eventIdx && this.broken === null) this.used16[this.usedFlags] = NO_NOTIFY;
  }

  private drop(head: number): void {
    this.heads[head] = FREE;
    this.inFlight--;
  }

  private fail(reason: string): void {
    this.broken ??= reason;
    this.knownAvail = this.nextAvail; // pop takes its slow path from now on
  }

  private badHead(head: number, at: number): number {
    if (this.jumpIsIdle && this.away) return this.nothing();
    const why = head >= this.size ? `queue size is ${this.size}` : 'which is still in flight';
    this.fail(`avail.ring[${at & this.mask}] (index ${at}) names head ${head}, ${why}`);
    return RING_BROKEN;
  }

  /** Everything one wants to see of a ring, for RPC and the debugger. Reads shared memory; control path only. */
  dump(): Record<string, unknown> {
    const heads: number[] = [];
    for (let i = 0; i < this.size; i++) if (this.heads[i] === IN_FLIGHT) heads.push(i);
    return {
      size: this.size,
      broken: this.broken,
      event_idx: this.eventIdx,
      next_avail: this.nextAvail,
      used_index: this.usedIndex,
      published_used: this.visibleUsed,
      in_flight: this.inFlight,
      heads_in_flight: heads.slice(0, 32),
      recovering: this.recovering,
      driver: {
        avail_flags: this.avail16[this.availFlags] ?? 0,
        avail_idx: this.avail16[this.availIdx] ?? 0,
        ...(this.eventIdx ? { used_event: this.avail16[this.usedEvent] ?? 0 } : {}),
      },
      device: {
        used_flags: this.used16[this.usedFlags] ?? 0,
        used_idx: this.used16[this.usedIdx] ?? 0,
        ...(this.eventIdx ? { avail_event: this.used16[this.availEvent] ?? 0 } : {}),
      },
      place: {
        desc: this.place.desc.offset,
        avail: this.place.avail.offset,
        used: this.place.used.offset,
      },
      chains: this.chains,
      publishes: this.publishes,
      notifications: this.notifications,
      idle_jumps: this.idleJumps,
    };
  }
}
