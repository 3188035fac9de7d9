import type { Memory } from '../memory/memory.ts';
import type { SgList } from '../memory/sg-list.ts';

/**
 * Where two pieces of memory first differ. Either side may be a guest's memory, which can change meanwhile: the answer is that
 * of some moment, as with any device that reads by DMA.
 */

/**
 * @param bytes both ranges lie within their memories
 * @returns offset of the first difference from the start of the ranges, or -1 when there is none
 */
export function firstDifference(a: Memory, aOff: number, b: Memory, bOff: number, bytes: number): number {
  let i = 0;
  // Words first, where both sides are aligned alike; the byte loop then finds the place in the word, or ends the range.
  if ((aOff & 3) === 0 && (bOff & 3) === 0) {
    const a32 = a.u32;
    const b32 = b.u32;
    const aw = aOff >> 2;
    const bw = bOff >> 2;
    const words = bytes >> 2;
    let w = 0;
    while (w < words && a32[aw + w] === b32[bw + w]) w++;
    i = w << 2;
  }
  const a8 = a.u8;
  const b8 = b.u8;
  while (i < bytes) {
    if (a8[aOff + i] !== b8[bOff + i]) return i;
    i++;
  }
  return -1;
}

/**
 * Compare bytes of a list, from its byte `from` on, with memory of ours.
 * @param bytes the list has that many from there
 * @returns as {@link firstDifference}
 */
export function differenceIn(sg: SgList, from: number, other: Memory, otherOff: number, bytes: number): number {
  let skip = from;
  let done = 0;
  for (let i = 0; i < sg.count && done < bytes; i++) {
    const length = sg.length[i];
    if (skip >= length) {
      skip -= length;
      continue;
    }
    const n = Math.min(length - skip, bytes - done);
    const d = firstDifference(sg.memory[i], sg.offset[i] + skip, other, otherOff + done, n);
    if (d >= 0) return done + d;
    done += n;
    skip = 0;
  }
  return -1;
}
