import { IO_PAGE } from '../memory/io-address.ts';
import type { Memory } from '../memory/memory.ts';
import {
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_F_NO_NOTIFY,
} from './features.ts';
import type { IoList } from './io-list.ts';
import {
  availBytes,
  availEventOffset,
  descBytes,
  usedBytes,
  usedEventOffset,
  VIRTQ_AVAIL,
  VIRTQ_DESC,
  VIRTQ_USED,
} from './layout.ts';
import { type RingPlace, ringPlaceError, ringSizeError } from './ring-place.ts';

/**
 * Driver half of one split virtqueue (virtio 1.2 §2.7). Its one rule: what is needed to take a buffer back is kept
 * privately; the device is believed nothing but "this head is done", and that is checked.
 *
 * Order of calls: `add` a few, `publish` (kick when it says so), `poll` until nothing is left. Before sleeping `arm`,
 * awake again `suppress`. No call allocates.
 */

/**
 * Memory for indirect tables, one a head. No table crosses a page of 4 KiB, so the pages may lie anywhere in the device's
 * address space.
 */
export interface IndirectTables {
  readonly memory: Memory;
  /** Multiple of 4096. */
  readonly offset: number;
  /** Where the device sees the byte at this offset of `memory`; asked once a table. */
  readonly addressOf: (offset: number) => number;
  /** Descriptors a table, 256 at most. */
  readonly entries: number;
}

export interface DriverRingOptions {
  size: number;
  /** VIRTIO_F_EVENT_IDX was negotiated. */
  eventIdx: boolean;
  /** Present when VIRTIO_F_INDIRECT_DESC was negotiated and the driver wants it. */
  tables?: IndirectTables;
  /** Where both indexes begin, mod 2^16; 0 unless the device is told so too. */
  base?: number;
  /**
   * The device has this ring already, idle at `base` (another driver half has let go of it): nothing of it is written, since
   * the device may be looking.
   */
  live?: boolean;
}

/** Descriptors that a page holds. */
const PAGE_ENTRIES = IO_PAGE / VIRTQ_DESC.size;

/** Bytes that {@link IndirectTables} take: whole pages. */
export function tablesBytes(size: number, entries: number): number {
  return Math.ceil(size / Math.floor(PAGE_ENTRIES / entries)) * IO_PAGE;
}

/** Where the table of a head lies among them: a page has as many as fit in it whole. */
function tableOffset(head: number, entries: number): number {
  const perPage = Math.floor(PAGE_ENTRIES / entries);
  return Math.floor(head / perPage) * IO_PAGE + (head % perPage) * descBytes(entries);
}

export class DriverRing {
  readonly size: number;
  /** Why the device can't be believed any more; null while it can. The ring is dead then: reset the device. */
  broken: string | null = null;
  /** Chains added and not yet polled. */
  inFlight = 0;
  /** Free descriptors. */
  free: number;
  /** Bytes the device wrote to the chain `poll` has just returned: never more than its writable bytes. */
  usedLength = 0;
  /**
   * Times the device claimed more bytes than the chain can take. Counted and cut, not fatal: some devices (QEMU's
   * virtio-scsi for writes) add what they read.
   */
  overlong = 0;

  private readonly place: RingPlace;
  private readonly desc32: Uint32Array;
  private readonly avail16: Uint16Array;
  private readonly used16: Uint16Array;
  private readonly used32: Uint32Array;
  private readonly descAt: number;
  private readonly availFlags: number;
  private readonly availIdx: number;
  private readonly availRing: number;
  private readonly usedEvent: number;
  private readonly usedFlags: number;
  private readonly usedIdx: number;
  private readonly usedRing: number;
  private readonly availEvent: number;

  private readonly mask: number;
  private readonly eventIdx: boolean;
  private readonly table32: Uint32Array;
  private readonly tableEntries: number;
  /** Per head: its table's first word in `table32`, and the device's address of it. */
  private readonly tableAt: Uint32Array;
  private readonly tableLo: Uint32Array;
  private readonly tableHi: Uint32Array;
  /** Links of the free list and of each chain in flight. */
  private readonly next: Uint16Array;
  private firstFree = 0;
  /** Per head in flight: its last descriptor, how many it has (0: not in flight), bytes it can take. */
  private readonly tail: Uint16Array;
  private readonly taken: Uint16Array;
  private readonly writable: Float64Array;
  private availIndex: number;
  private visibleAvail: number;
  private lastUsed: number;
  private knownUsed: number;

  /**
   * Clears the three parts and makes a ring there; the device must not have been told of it yet.
   * @returns the ring, or why there can be none.
   */
  static create(place: RingPlace, options: DriverRingOptions): DriverRing | string {
    const error = ringSizeError(options.size) ?? ringPlaceError(place, options.size, options.eventIdx);
    if (error !== null) return error;
    const { tables, size } = options;
    if (tables !== undefined) {
      const { offset, entries, memory } = tables;
      const whole = offset % IO_PAGE === 0 && entries >= 1 && entries <= PAGE_ENTRIES;
      if (!whole || offset + tablesBytes(size, entries) > memory.length) {
        return `indirect tables at offset ${offset}: ${size} of ${entries} descriptors do not fit`;
      }
    }
    return new DriverRing(place, options);
  }

  private constructor(place: RingPlace, options: DriverRingOptions) {
    const { size, eventIdx, tables, base = 0 } = options;
    this.place = place;
    this.availIndex = base;
    this.visibleAvail = base;
    this.lastUsed = base;
    this.knownUsed = base;
    this.size = size;
    this.mask = size - 1;
    this.eventIdx = eventIdx;
    const { desc, avail, used } = place;
    if (options.live !== true) {
      desc.memory.u8.fill(0, desc.offset, desc.offset + descBytes(size));
      avail.memory.u8.fill(0, avail.offset, avail.offset + availBytes(size, eventIdx));
      used.memory.u8.fill(0, used.offset, used.offset + usedBytes(size, eventIdx));
    }
    this.desc32 = desc.memory.u32;
    this.descAt = desc.offset >> 2;
    this.avail16 = avail.memory.u16;
    this.availFlags = (avail.offset + VIRTQ_AVAIL.fields.flags[0]) >> 1;
    this.availIdx = (avail.offset + VIRTQ_AVAIL.fields.idx[0]) >> 1;
    this.availRing = (avail.offset + VIRTQ_AVAIL.size) >> 1;
    this.usedEvent = (avail.offset + usedEventOffset(size)) >> 1;
    this.used16 = used.memory.u16;
    this.used32 = used.memory.u32;
    this.usedFlags = (used.offset + VIRTQ_USED.fields.flags[0]) >> 1;
    this.usedIdx = (used.offset + VIRTQ_USED.fields.idx[0]) >> 1;
    this.usedRing = (used.offset + VIRTQ_USED.size) >> 2;
    this.availEvent = (used.offset + availEventOffset(size)) >> 1;
    if (options.live !== true) {
      this.avail16[this.availIdx] = base;
      this.used16[this.usedIdx] = base;
    }

    this.table32 = tables?.memory.u32 ?? desc.memory.u32;
    this.tableEntries = tables?.entries ?? 0;
    this.tableAt = new Uint32Array(size);
    this.tableLo = new Uint32Array(size);
    this.tableHi = new Uint32Array(size);
    for (let head = 0; head < size && tables !== undefined; head++) {
      const at = tables.offset + tableOffset(head, tables.entries);
      const address = tables.addressOf(at);
      this.tableAt[head] = at >> 2;
      this.tableLo[head] = address; // modulo 2^32
      this.tableHi[head] = Math.floor(address / 0x1_0000_0000);
    }
    this.free = size;
    this.next = Uint16Array.from({ length: size }, (_, i) => i + 1);
    this.tail = new Uint16Array(size);
    this.taken = new Uint16Array(size);
    this.writable = new Float64Array(size);
  }

  /**
   * Add a chain: `out` is read by the device, `into` written. Not yet visible to the device.
   * @param indirect put the chain into the head's indirect table, if there are tables and it fits
   * @returns the head, by which `poll` names the chain; -1 when too few descriptors are free.
   * @throws RangeError for a chain of no buffers.
   */
  add(out: IoList, into: IoList, indirect: boolean): number {
    const n = out.count + into.count;
    if (n === 0) throw new RangeError('DriverRing.add: a chain needs a buffer');
    if (this.broken !== null) return -1;
    const head = this.firstFree;
    if (indirect && n <= this.tableEntries) {
      if (this.free === 0) return -1;
      this.fillTable(this.tableAt[head], out, into);
      const at = this.descAt + head * 4;
      this.desc32[at] = this.tableLo[head];
      this.desc32[at + 1] = this.tableHi[head];
      this.desc32[at + 2] = n * VIRTQ_DESC.size;
      this.desc32[at + 3] = VIRTQ_DESC_F_INDIRECT;
      this.firstFree = this.next[head];
      this.tail[head] = head;
      this.taken[head] = 1;
      this.free--;
    } else {
      if (this.free < n) return -1;
      const tail = this.fillChain(head, out, into);
      this.firstFree = this.next[tail];
      this.tail[head] = tail;
      this.taken[head] = n;
      this.free -= n;
    }
    this.writable[head] = into.bytes;
    this.avail16[this.availRing + (this.availIndex & this.mask)] = head;
    this.availIndex = (this.availIndex + 1) & 0xffff;
    this.inFlight++;
    return head;
  }

  /** Write the chain into the free descriptors from `head` on. @returns the last one. */
  private fillChain(head: number, out: IoList, into: IoList): number {
    const desc = this.desc32;
    const readable = out.count;
    const last = readable + into.count - 1;
    let i = head;
    for (let k = 0; ; k++) {
      const at = this.descAt + i * 4;
      const list = k < readable ? out : into;
      const j = k < readable ? k : k - readable;
      const flags = k < readable ? 0 : VIRTQ_DESC_F_WRITE;
      desc[at] = list.lo[j];
      desc[at + 1] = list.hi[j];
      desc[at + 2] = list.length[j];
      if (k === last) {
        desc[at + 3] = flags;
        return i;
      }
      const next = this.next[i];
      desc[at + 3] = flags | VIRTQ_DESC_F_NEXT | (next << 16);
      i = next;
    }
  }

  private fillTable(base: number, out: IoList, into: IoList): void {
    const table = this.table32;
    const readable = out.count;
    const n = readable + into.count;
    for (let k = 0; k < n; k++) {
      const at = base + k * 4;
      const list = k < readable ? out : into;
      const j = k < readable ? k : k - readable;
      const flags = k < readable ? 0 : VIRTQ_DESC_F_WRITE;
      table[at] = list.lo[j];
      table[at + 1] = list.hi[j];
      table[at + 2] = list.length[j];
      table[at + 3] = k === n - 1 ? flags : flags | VIRTQ_DESC_F_NEXT | ((k + 1) << 16);
    }
  }

  /**
   * Make everything added visible to the device.
   * @returns true when the device wants a notification (kick).
   */
  publish(): boolean {
    const now = this.availIndex;
    const old = this.visibleAvail;
    if (now === old || this.broken !== null) return false;
    // Release: descriptors and entries are visible before the index. And a full barrier: the device's wish is read
    // after the index can be seen (§2.7.13.4.1).
    Atomics.store(this.avail16, this.availIdx, now);
    this.visibleAvail = now;
    if (!this.eventIdx) return (this.used16[this.usedFlags] & VIRTQ_USED_F_NO_NOTIFY) === 0;
    return ((now - this.used16[this.availEvent] - 1) & 0xffff) < ((now - old) & 0xffff);
  }

  /** Chains that have gone through an idle ring, mod 2^16: the `base` of whoever goes on with it. */
  get index(): number {
    return this.lastUsed;
  }

  /** The next finished chain: its head, with `usedLength` set; -1 when there is none, -2 when the ring is broken. */
  poll(): number {
    const at = this.lastUsed;
    if (this.knownUsed === at) {
      if (this.broken !== null) return -2;
      if (this.used16[this.usedIdx] === at) return -1; // plain: an idle poll costs a load
      // Acquire: elements and data are read after the index that covers them.
      const idx = Atomics.load(this.used16, this.usedIdx);
      const count = (idx - at) & 0xffff;
      const published = this.inFlight - ((this.availIndex - this.visibleAvail) & 0xffff);
      if (count > published) {
        return this.fail(`used.idx ${idx} is ${count} ahead of ${at}, ${published} chains are in flight`);
      }
      if (count === 0) return -1;
      this.knownUsed = idx;
    }
    const elem = this.usedRing + ((at & this.mask) << 1);
    const id = this.used32[elem];
    const len = this.used32[elem + 1];
    if (id >= this.size || this.taken[id] === 0) {
      const why = id >= this.size ? `queue size is ${this.size}` : 'which is not in flight';
      return this.fail(`used.ring[${at & this.mask}] names head ${id}, ${why}`);
    }
    if (len > this.writable[id]) {
      this.overlong++;
      this.usedLength = this.writable[id];
    } else {
      this.usedLength = len;
    }
    this.next[this.tail[id]] = this.firstFree;
    this.firstFree = id;
    this.free += this.taken[id];
    this.taken[id] = 0;
    this.inFlight--;
    this.lastUsed = (at + 1) & 0xffff;
    return id;
  }

  /**
   * Ask the device to interrupt us for the next chain it finishes.
   * @returns true when there is one already: then no interrupt may come, and the caller must not sleep.
   */
  arm(): boolean {
    if (this.broken !== null) return false;
    // Full barrier: the wish is visible before used.idx is looked at again; the device does the same crosswise.
    if (this.eventIdx) Atomics.store(this.avail16, this.usedEvent, this.lastUsed);
    else Atomics.store(this.avail16, this.availFlags, 0);
    return Atomics.load(this.used16, this.usedIdx) !== this.lastUsed;
  }

  /** We are looking anyway. A hint, so no barrier. */
  suppress(): void {
    // With EVENT_IDX: name an event that lies as far away as can be.
    if (this.eventIdx) this.avail16[this.usedEvent] = this.lastUsed - 1;
    else this.avail16[this.availFlags] = VIRTQ_AVAIL_F_NO_INTERRUPT;
  }

  private fail(reason: string): number {
    this.broken = reason;
    this.knownUsed = this.lastUsed;
    return -2;
  }

  /** For RPC and the debugger; reads shared memory. */
  dump(): Record<string, unknown> {
    return {
      size: this.size,
      broken: this.broken,
      event_idx: this.eventIdx,
      in_flight: this.inFlight,
      free: this.free,
      avail_index: this.availIndex,
      published_avail: this.visibleAvail,
      last_used: this.lastUsed,
      overlong: this.overlong,
      device: { used_flags: this.used16[this.usedFlags] ?? 0, used_idx: this.used16[this.usedIdx] ?? 0 },
      place: { desc: this.place.desc.offset, avail: this.place.avail.offset, used: this.place.used.offset },
    };
  }
}
