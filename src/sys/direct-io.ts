/**
 * What O_DIRECT asks of a file: alignments, as the kernel says them (statx STATX_DIOALIGN, Linux 6.1), else as the disk below makes
 * them likely.
 */
import { readFileSync } from 'node:fs';
import { F, O } from './constants.ts';
import { check } from './errno.ts';
import { type Fd, fstat } from './fd.ts';
import * as libc from './libc.ts';

const AT_EMPTY_PATH = 0x1000;
const STATX_DIOALIGN = 0x2000;
/** struct statx: u32 mask at 0, u32 dio_mem_align at 152, u32 dio_offset_align at 156. */
const STATX = { MASK: 0, MEMORY: 152 >> 2, OFFSET: 156 >> 2, BYTES: 256 } as const;

export interface DirectAlignment {
  /** Of buffer addresses, bytes. */
  readonly memory: number;
  /** Of file offsets and lengths, bytes. */
  readonly offset: number;
}

/** One number from a block device's directory in sysfs, of the whole disk when it is a partition; undefined when there is none. */
export function queueAttribute(device: bigint, attribute: string): number | undefined {
  // makedev(3): 12 bits of major at 8 and the rest at 32, 8 bits of minor at 0 and the rest at 12
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n);
  const minor = (device & 0xffn) | ((device >> 12n) & 0xffffff00n);
  for (const queue of ['queue', '../queue']) {
    try {
      const value = Number(readFileSync(`/sys/dev/block/${major}:${minor}/${queue}/${attribute}`, 'latin1'));
      if (Number.isFinite(value)) return value;
    } catch {
      // a partition, or a file system on no block device
    }
  }
  return undefined;
}

/** @returns undefined when the file cannot be used with O_DIRECT */
export function directAlignment(fd: Fd): DirectAlignment | undefined {
  const words = new Uint32Array(STATX.BYTES / 4);
  if (libc.statx(fd.number, '', AT_EMPTY_PATH, STATX_DIOALIGN, new Uint8Array(words.buffer)) === 0) {
    if ((words[STATX.MASK] & STATX_DIOALIGN) !== 0) {
      if (words[STATX.OFFSET] === 0) return undefined;
      return { memory: Math.max(1, words[STATX.MEMORY]), offset: words[STATX.OFFSET] };
    }
  }
  const { dev } = fstat(fd);
  const logical = queueAttribute(dev, 'logical_block_size') ?? 4096;
  return { memory: logical, offset: logical };
}

/** Switch O_DIRECT on for an open file. @returns false where the file system knows none */
export function setDirect(fd: Fd): boolean {
  const flags = check(libc.fcntl(fd.number, F.GETFL, 0), 'fcntl', 'F_GETFL');
  return libc.fcntl(fd.number, F.SETFL, flags | O.DIRECT) === 0;
}
