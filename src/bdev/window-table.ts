import type { Memory } from '../memory/memory.ts';
import { zeroPages } from '../sys/zero-pages.ts';

/**
 * A disk's memory as windows of at most 1 GiB: offsets in a window stay small integers. The windows follow one another without
 * gaps; they differ in length where the disk has grown.
 */

const WINDOW = 0x4000_0000;

/** What a window table is made of: a mapping. */
export interface Piece {
  readonly size: number;
  memoryAt(offset: number, bytes: number): Memory;
}

export class WindowTable {
  readonly memory: Memory[] = [];
  /** Byte of the disk at which window i starts; one more entry tells where the last one ends. */
  readonly start: number[] = [0];
  private last = 0;

  /** Bytes in all windows. */
  get size(): number {
    return this.start[this.start.length - 1];
  }

  append(piece: Piece): void {
    for (let at = 0; at < piece.size; at += WINDOW) {
      const length = Math.min(WINDOW, piece.size - at);
      this.memory.push(piece.memoryAt(at, length));
      this.start.push(this.size + length);
    }
  }

  /** Index of the window that holds byte `offset` of the disk. The caller has checked that it is below `size`. */
  find(offset: number): number {
    const start = this.start;
    const last = this.last;
    if (offset >= start[last] && offset < start[last + 1]) return last;
    let low = 0;
    let high = start.length - 2;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (start[middle] <= offset) low = middle;
      else high = middle - 1;
    }
    this.last = low;
    return low;
  }
}

/**
 * Make a range of the disk read as zeroes.
 * @param give ranges of at least this many bytes give their whole pages back to the system; shorter ones keep them, because the
 * next write would fault each page in again
 * @param canGive false for explicit huge pages, which are only filled
 */
export function zeroRange(windows: WindowTable, offset: number, bytes: number, give: number, canGive: boolean): void {
  const end = offset + bytes;
  for (let at = offset; at < end; ) {
    const w = windows.find(at);
    const from = windows.start[w];
    const to = Math.min(end, windows.start[w + 1]);
    if (canGive) zeroPages(windows.memory[w], at - from, to - at, give);
    else windows.memory[w].u8.fill(0, at - from, to - from);
    at = to;
  }
}
