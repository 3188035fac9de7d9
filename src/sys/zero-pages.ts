/**
 * Make a range of our own anonymous memory read as zeroes and give whole pages back to the system. Only for memory from
 * `mapAnonymous` without explicit huge pages: on a mapped file or on shared memory the advice used here would not zero.
 */
import type { Memory } from '../memory/memory.ts';
import { check } from './errno.ts';
import * as libc from './libc.ts';

const MADV_DONTNEED = 4;
const PAGE_SIZE = libc.getpagesize();

/**
 * @param give below this many bytes the range is filled with zeroes instead, which is cheaper than the page faults to come
 * @throws RangeError when the range is outside the memory (a bug of ours)
 */
export function zeroPages(memory: Memory, offset: number, bytes: number, give: number): void {
  const end = offset + bytes;
  if (!(offset >= 0 && bytes >= 0 && end <= memory.length)) {
    throw new RangeError(`zeroPages: ${offset}+${bytes} of ${memory.length}`);
  }
  const inPage = (memory.address + offset) % PAGE_SIZE;
  const first = inPage === 0 ? offset : offset + PAGE_SIZE - inPage;
  const last = end - ((memory.address + end) % PAGE_SIZE);
  if (memory.address === 0 || bytes < give || first >= last) {
    memory.u8.fill(0, offset, end);
    return;
  }
  memory.u8.fill(0, offset, first);
  memory.u8.fill(0, last, end);
  check(libc.madvise(memory.address + first, last - first, MADV_DONTNEED), 'madvise', 'MADV_DONTNEED');
}
