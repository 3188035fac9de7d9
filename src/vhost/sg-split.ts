/** Cut header and status off a segment list, wherever its segments end: drivers may cut a request as they like. */
import type { SgList } from '../memory/sg-list.ts';

/**
 * Move the first `bytes` of `sg` to the end of `front`; null drops them. The caller knows that `sg` has so many.
 * @returns false when `front` is full; `sg` is useless then
 */
export function cutFront(sg: SgList, bytes: number, front: SgList | null): boolean {
  const { memory, offset, length, count } = sg;
  let left = bytes;
  let whole = 0;
  while (left > 0) {
    const n = length[whole];
    if (n > left) {
      if (front !== null && !front.push(memory[whole], offset[whole], left)) return false;
      offset[whole] += left;
      length[whole] = n - left;
      break;
    }
    if (front !== null && !front.push(memory[whole], offset[whole], n)) return false;
    left -= n;
    whole++;
  }
  if (whole > 0) {
    for (let from = whole, to = 0; from < count; from++, to++) {
      memory[to] = memory[from];
      offset[to] = offset[from];
      length[to] = length[from];
    }
    sg.count = count - whole;
  }
  sg.bytes -= bytes;
  return true;
}

/** Move the last byte of `sg` to the end of `back`. The caller knows that there is one; `back` has room. */
export function cutBack(sg: SgList, back: SgList): void {
  const last = sg.count - 1; // segments of no bytes do not get into a list
  const length = sg.length[last] - 1;
  back.push(sg.memory[last], sg.offset[last] + length, 1);
  sg.length[last] = length;
  if (length === 0) sg.count = last;
  sg.bytes--;
}
