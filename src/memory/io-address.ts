import type { Memory } from './memory.ts';

/**
 * Where devices see a piece of memory. The rule of every access mode is that the I/O address is the physical address,
 * so one number serves all devices of the machine.
 */

/** Granule of {@link Memory.ioPages}, bytes. */
export const IO_PAGE = 4096;
const IO_PAGE_BITS = 12;

/** I/O address of the byte at `offset`, or -1 when no device can reach it. Exact: physical addresses end below 2^52. */
export function ioAddressOf(memory: Memory, offset: number): number {
  if (memory.ioAddress >= 0) return memory.ioAddress + offset;
  const pages = memory.ioPages;
  if (pages === null) return -1;
  const page = pages[offset >>> IO_PAGE_BITS];
  return page === undefined || page < 0 ? -1 : page + (offset & (IO_PAGE - 1));
}

/**
 * How many of the `bytes` from `offset` on a device sees in one piece, 0 when it cannot reach the first.
 * The caller has checked that the range lies in the memory.
 */
export function ioRunBytes(memory: Memory, offset: number, bytes: number): number {
  if (memory.ioAddress >= 0) return bytes;
  const pages = memory.ioPages;
  if (pages === null) return 0;
  let page = offset >>> IO_PAGE_BITS;
  if (!(pages[page] >= 0)) return 0;
  let run = IO_PAGE - (offset & (IO_PAGE - 1));
  while (run < bytes && pages[page + 1] === pages[page] + IO_PAGE) {
    run += IO_PAGE;
    page++;
  }
  return Math.min(run, bytes);
}

/** The table as one address when its pages follow each other, else -1. */
export function linearAddress(pages: Float64Array): number {
  for (let i = 1; i < pages.length; i++) if (pages[i] !== pages[0] + i * IO_PAGE) return -1;
  return pages.length === 0 ? -1 : pages[0];
}
