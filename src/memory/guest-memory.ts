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

const PAGE_BITS = 30;
const PAGE_MASK = 0x3fff_ffff;
const PAGE = 0x4000_0000;
/** Guest addresses are refused from 2^52 on: they would not be exact in a Number with their length added. */
const MAX_HI = 0x10_0000;

/** One piece of a region, within one 1 GiB page of the guest address. */
export interface Window {
  /** Guest physical address of the first byte. */
  readonly gpa: number;
  /** Front end's user address of the first byte (SET_VRING_ADDR speaks of these). */
  readonly uva: number;
  /** Bytes that belong to this window; its memory may be longer (overhang), so that a ring lies in one piece. */
  readonly length: number;
  readonly memory: Memory;
  /** Offset of `gpa` in `memory`. */
  readonly base: number;
}

export class GuestMemory {
  readonly windows: readonly Window[];
  private readonly memory: Memory[];
  private readonly page: Int32Array;
  private readonly start: Int32Array;
  private readonly end: Int32Array;
  private readonly base: Int32Array;
  private last = 0;

  /** @param windows must not overlap in gpa, and must each lie within one 1 GiB page; {@link cutWindows} makes such. */
  constructor(windows: readonly Window[]) {
    const n = windows.length;
    this.windows = windows;
    this.memory = windows.map((w) => w.memory);
    this.page = new Int32Array(n);
    this.start = new Int32Array(n);
    this.end = new Int32Array(n);
    this.base = new Int32Array(n);
    windows.forEach((w, i) => {
      const page = Math.floor(w.gpa / PAGE);
      const start = w.gpa - page * PAGE;
      if (start + w.length > PAGE) throw new RangeError('GuestMemory: window crosses a 1 GiB page');
      this.page[i] = page;
      this.start[i] = start;
      this.end[i] = start + w.length; // may be 2^30 exactly
      this.base[i] = w.base - start; // offset in memory = offset in page + base
    });
  }

  /** Index of the window that holds a guest address, or -1. */
  private find(page: number, offset: number): number {
    const last = this.last;
    if (last < this.page.length && this.page[last] === page && offset >= this.start[last] && offset < this.end[last]) {
      return last;
    }
    for (let i = 0; i < this.page.length; i++) {
      if (this.page[i] === page && offset >= this.start[i] && offset < this.end[i]) {
        this.last = i;
        return i;
      }
    }
    return -1;
  }

  /**
   * Append the guest range to `sg`, split where windows end.
   * @param lo low 32 bits of the address, unsigned
   * @param hi high 32 bits, unsigned
   * @param bytes unsigned 32-bit length, not 0
   * @returns false when any byte lies outside all windows, the address is 2^52 or more, or `sg` is full. `sg` then
   * holds a part of the range: the caller drops the chain.
   */
  translate(lo: number, hi: number, bytes: number, sg: SgList): boolean {
    if (hi >= MAX_HI) return false;
    let page = (hi << 2) | (lo >>> PAGE_BITS);
    let offset = lo & PAGE_MASK;
    let left = bytes;
    while (left > 0) {
      const i = this.find(page, offset);
      if (i < 0) return false;
      const room = this.end[i] - offset;
      const n = left < room ? left : room;
      if (!sg.push(this.memory[i], offset + this.base[i], n)) return false;
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
   * The window in which the `bytes` from front-end user address `uva` lie in one piece (rings need that), or
   * undefined. The overhang of a window counts.
   */
  windowOfUser(uva: number, bytes: number): Window | undefined {
    return this.windows.find(
      (w) => uva >= w.uva && uva < w.uva + w.length && w.base + (uva - w.uva) + bytes <= w.memory.length,
    );
  }
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
