/** How much memory the machine has left, and how much of a mapping is in it. */
import { readFileSync } from 'node:fs';
import type { Memory } from '../memory/memory.ts';
import { check } from './errno.ts';
import * as libc from './libc.ts';
import { PAGE_SIZE } from './mapping.ts';

export interface Ram {
  /** Bytes of the machine, or of what this process was given of it. */
  readonly total: number;
  /** Bytes that can be allocated without swapping; huge pages do not count. */
  readonly available: number;
}

/** Pages asked about in one call. */
const AT_ONCE = 0x2000;

/** From /proc/meminfo; null where there is none. */
export function machineRam(path = '/proc/meminfo'): Ram | null {
  let text: string;
  try {
    text = readFileSync(path, 'latin1');
  } catch {
    return null;
  }
  const kibibytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? Number.NaN);
  const [total, available] = [kibibytes('MemTotal') * 1024, kibibytes('MemAvailable') * 1024];
  return Number.isNaN(total + available) ? null : { total, available };
}

/**
 * Bytes of the memory that no page stands behind yet: holes of a sparse file, say. For huge pages it is all that this process has not touched.
 * @param memory begins on a page boundary
 * @param enough nothing is counted beyond so much, which saves time
 * @throws SysError ENOMEM for memory that is not mapped
 */
export function absentBytes(memory: Memory, enough: number = Number.POSITIVE_INFINITY): number {
  const pages = Math.ceil(memory.length / PAGE_SIZE);
  const vector = new Uint8Array(Math.min(pages, AT_ONCE));
  let absent = 0;
  for (let first = 0; first < pages && absent * PAGE_SIZE <= enough; first += AT_ONCE) {
    const n = Math.min(AT_ONCE, pages - first);
    check(libc.mincore(memory.address + first * PAGE_SIZE, n * PAGE_SIZE, vector), 'mincore', `${n} pages`);
    for (let i = 0; i < n; i++) absent += 1 - (vector[i] & 1);
  }
  return absent * PAGE_SIZE;
}
