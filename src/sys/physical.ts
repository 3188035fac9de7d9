/**
 * Where memory lies physically, as /proc/self/pagemap tells it, and the flags of physical pages (/proc/kpageflags). Only root learns
 * page frame numbers; others read zeroes there, which is told apart from "not present".
 */
import type { Memory } from '../memory/memory.ts';
import { O } from './constants.ts';
import { ERRNO, SysError } from './errno.ts';
import { type Fd, open, pread } from './fd.ts';
import { PAGE_SIZE } from './mapping.ts';

/** Bits of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst), of its high word. */
const PRESENT = 0x8000_0000;
/** Bits 0 to 54 are the frame number: 23 of them in the high word. */
const PFN_HI_MASK = 0x7f_ffff;
/** Bit of a kpageflags entry: a huge page of hugetlbfs. */
const KPF_HUGE = 1 << 17;
/** Granule of the tables given out, bytes; a page of the machine is one or more of them. */
const IO_PAGE = 4096;
const ENTRIES_AT_ONCE = 8192;

/**
 * The address of `memory`'s byte `offset` into a kernel structure, 64 bits at `at`. For ioctls that take user addresses: the
 * kernel reads the structure within the call, or (VFIO maps) for as long as the memory is mapped.
 */
export function putPointer(structure: DataView, at: number, memory: Memory, offset = 0): void {
  if (memory.address === 0) throw new RangeError('putPointer: the memory has no address');
  structure.setBigUint64(at, BigInt(memory.address + offset), true);
}

/**
 * Physical address of every 4 KiB of the memory, -1 where no page is present. They hold only while the pages can't move: pin them
 * before asking.
 * @param memory begins on a page boundary
 * @throws SysError EPERM when this process may not learn them
 */
export function physicalPages(memory: Memory): Float64Array {
  if (memory.address === 0 || memory.address % PAGE_SIZE !== 0) {
    throw new RangeError('physicalPages: the memory does not begin on a page boundary');
  }
  const count = Math.ceil(memory.length / PAGE_SIZE);
  const perPage = PAGE_SIZE / IO_PAGE;
  const pages = new Float64Array(Math.ceil(memory.length / IO_PAGE));
  const fd = open('/proc/self/pagemap', O.RDONLY);
  try {
    const words = new Uint32Array(2 * Math.min(count, ENTRIES_AT_ONCE));
    const bytes = new Uint8Array(words.buffer);
    for (let first = 0; first < count; first += ENTRIES_AT_ONCE) {
      const n = Math.min(ENTRIES_AT_ONCE, count - first);
      readAll(fd, bytes.subarray(0, 8 * n), (memory.address / PAGE_SIZE + first) * 8);
      for (let i = 0; i < n; i++) {
        const frame = (words[2 * i + 1] & PFN_HI_MASK) * 2 ** 32 + words[2 * i];
        const present = (words[2 * i + 1] & PRESENT) !== 0;
        if (present && frame === 0) {
          throw new SysError('pagemap', ERRNO.EPERM, 'physical addresses are for root (CAP_SYS_ADMIN)');
        }
        for (let k = 0; k < perPage && (first + i) * perPage + k < pages.length; k++) {
          pages[(first + i) * perPage + k] = present ? frame * PAGE_SIZE + k * IO_PAGE : -1;
        }
      }
    }
  } finally {
    fd.close();
  }
  return pages;
}

function readAll(fd: Fd, into: Uint8Array, at: number): void {
  for (let done = 0; done < into.length; ) {
    const n = pread(fd, into.subarray(done), at + done);
    if (n <= 0) throw new SysError('pagemap', ERRNO.EIO, `nothing at ${at + done}`);
    done += n;
  }
}

/** Whether a physical page belongs to a huge page of hugetlbfs: those do not move and are not swapped. */
export function isHugePage(physical: number): boolean {
  const fd = open('/proc/kpageflags', O.RDONLY);
  try {
    const entry = new Uint32Array(2);
    readAll(fd, new Uint8Array(entry.buffer), Math.floor(physical / PAGE_SIZE) * 8);
    return (entry[0] & KPF_HUGE) !== 0;
  } finally {
    fd.close();
  }
}
