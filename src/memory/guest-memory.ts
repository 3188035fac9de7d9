import type { Memory } from './memory.ts';
import type { SgList } from './sg-list.ts';

/**
 * The front end's memory as this process sees it: the one function in which guest addresses become places, and
 * the one place where sums of address and length are made.
 *
 * A guest address arrives as two u32 words. The upper bits name a 1 GiB page, the lower 30 an offset in it, so all
 * arithmetic stays in small integers. Windows are cut at 1 GiB boundaries of the guest address, so no window
 * straddles a page; a buffer that crosses windows becomes several segments.
 */

export const PAGE_BITS = 30;
export const PAGE_MASK = 0x3fff_ffff;
const PAGE = 0x4000_0000;
/** Guest addresses are refused from 2^52 on: they would not be exact in a Number with their length added. */
export const TOO_HIGH = ~0xf_ffff;

/** Windows are found by the low bits of their page number; a row of the table then leads to the next with the same bits. */
const SLOTS = 256;
const SLOT_MASK = SLOTS - 1;

/** One piece of a region, within one 1 GiB page of the guest address. */
export interface Window {
  /** Guest physical address of the first byte. */
  readonly gpa: number;
  /** Front end's user address of the first byte (SET_VRING_ADDR speaks of these). */
  readonly uva: number;
  /** Bytes that belong to this window; its memory may be longer (overhang), so that a ring lies in one piece. */
  readonly length: number;
  /** May be unopened (Memory.open): who finds the window opens it. */
  readonly memory: Memory;
  /** Offset of `gpa` in `memory`. */
  readonly base: number;
}

/** What a look-up needs of a window, in one object: small integers only, on one or two cache lines. */
export class Row {
  /** Guest address >> 30. */
  readonly page: number;
  /** First offset in the page, and the one after the last (2^30 at most). */
  readonly start: number;
  readonly end: number;
  /** Offset in memory = offset in page + base. */
  readonly base: number;
  readonly memory: Memory;
  readonly index: number;
  /** The next window with the same slot. */
  readonly next: Row | null;
  /** Its memory is open. */
  ready = false;

  constructor(w: Window, index: number, slots: (Row | null)[]) {
    const page = Math.floor(w.gpa / PAGE);
    const start = w.gpa - page * PAGE;
    if (start + w.length > PAGE) throw new RangeError('GuestMemory: window crosses a 1 GiB page');
    // "| 0": sums of large numbers would stay heap numbers, and make each look-up compute with doubles.
    this.page = page | 0;
    this.start = start | 0;
    this.end = (start + w.length) | 0;
    this.base = (w.base - start) | 0;
    this.memory = w.memory;
    this.index = index;
    this.next = slots[this.page & SLOT_MASK];
  }

  /** The first address in it was found. Null when its memory cannot be had: it is as if there were none. */
  open(): Row | null {
    try {
      this.memory.open();
    } catch {
      return null;
    }
    this.ready = true;
    return this;
  }
}

export class GuestMemory {
  readonly windows: readonly Window[];
  private readonly rows: Row[] = [];
  /** First window of a slot. */
  private readonly slots: (Row | null)[] = new Array<Row | null>(SLOTS).fill(null);

  /** @param windows must not overlap in gpa, and must each lie within one 1 GiB page; {@link cutWindows} makes such. */
  constructor(windows: readonly Window[]) {
    this.windows = windows;
    windows.forEach((w, i) => {
      const row = new Row(w, i, this.slots);
      this.rows.push(row);
      this.slots[row.page & SLOT_MASK] = row;
    });
  }

  /** The window that holds a guest address, opened. */
  private find(page: number, offset: number): Row | null {
    let row = this.slots[page & SLOT_MASK];
    while (row !== null && (row.page !== page || offset < row.start || offset >= row.end)) row = row.next;
    return row === null || row.ready ? row : row.open();
  }

  /**
   * Append the guest range to `sg`, split where windows end.
   * @param lo low 32 bits of the address; signed or unsigned (signed saves the hot path a heap number)
   * @param hi high 32 bits, likewise
   * @param bytes 32-bit length, not 0; signed or unsigned
   * @returns false when any byte lies outside all windows, the address is 2^52 or more, or `sg` is full. `sg` then
   * holds a part of the range: the caller drops the chain.
   */
  translate(lo: number, hi: number, bytes: number, sg: SgList): boolean {
    if ((hi & TOO_HIGH) !== 0) return false;
    const page = (hi << 2) | (lo >>> PAGE_BITS);
    const offset = lo & PAGE_MASK;
    const row = this.find(page, offset);
    if (row === null) return false;
    const length = bytes | 0;
    if (length > 0 && length <= row.end - offset) return sg.push(row.memory, offset + row.base, length);
    return this.translateSplit(page, offset, bytes >>> 0, sg);
  }

  /**
   * The window that holds the whole range, or null: the range is split, or wrong. Takes its arguments as `translate` does.
   * The range lies at {@link offsetOf} in the window's memory.
   */
  whole(lo: number, hi: number, bytes: number): Row | null {
    if ((hi & TOO_HIGH) !== 0) return null;
    const offset = lo & PAGE_MASK;
    const row = this.find((hi << 2) | (lo >>> PAGE_BITS), offset);
    const length = bytes | 0;
    return row !== null && length > 0 && length <= row.end - offset ? row : null;
  }

  private translateSplit(firstPage: number, firstOffset: number, bytes: number, sg: SgList): boolean {
    let page = firstPage;
    let offset = firstOffset;
    let left = bytes;
    while (left > 0) {
      const row = this.find(page, offset);
      if (row === null) return false;
      const n = Math.min(left, row.end - offset);
      if (!sg.push(row.memory, offset + row.base, n)) return false;
      left -= n;
      offset += n;
      if (offset >= PAGE) {
        offset = 0;
        page++;
      }
    }
    return true;
  }

  /**
   * Index in `windows` of the one that holds the whole guest range, or -1 (the range may still be split over
   * windows: `translate` tells). Takes its arguments as `translate` does.
   */
  windowOf(lo: number, hi: number, bytes: number): number {
    return this.whole(lo, hi, bytes)?.index ?? -1;
  }

  /** Memory of window `index`. */
  memoryOf(index: number): Memory {
    return this.rows[index].memory;
  }

  /** Offset in window `index`'s memory of a guest address in it; `lo` as for `translate`. */
  offsetIn(index: number, lo: number): number {
    return (lo & PAGE_MASK) + this.rows[index].base;
  }

  /**
   * The window in which the `bytes` from front-end user address `uva` lie in one piece (rings need that), opened, or
   * undefined. The overhang of a window counts.
   */
  windowOfUser(uva: number, bytes: number): Window | undefined {
    const i = this.windows.findIndex(
      (w) => uva >= w.uva && uva < w.uva + w.length && w.base + (uva - w.uva) + bytes <= w.memory.length,
    );
    return i < 0 || this.rows[i].open() === null ? undefined : this.windows[i];
  }
}

/** Offset in its window's memory of a guest address that `whole` found there. */
export function offsetOf(row: Row, lo: number): number {
  return (lo & PAGE_MASK) + row.base;
}

/**
 * Cut a region at the 1 GiB pages of its guest address. `memoryAt(offset, bytes)` gives a Memory over the region from
 * `offset` on that is at least `bytes` long (and may be longer, up to the region's end, by the overhang).
 */
export function cutWindows(
  gpa: number,
  uva: number,
  size: number,
  memoryAt: (offset: number, bytes: number) => Memory,
): Window[] {
  const windows: Window[] = [];
  for (let at = 0; at < size; ) {
    const room = PAGE - ((gpa + at) % PAGE);
    const length = Math.min(room, size - at);
    windows.push({ gpa: gpa + at, uva: uva + at, length, memory: memoryAt(at, length), base: 0 });
    at += length;
  }
  return windows;
}
