import type { Fd } from '../../sys/fd.ts';
import { fstat, hugePageSize, sealAgainstShrink } from '../../sys/fd.ts';
import { withheldPages } from '../../sys/withheld-pages.ts';

/**
 * What of the compute VM's files lies where in the window. The rules come from the appliance's QEMU: each mapping is one of few
 * memory sections that vhost-user can describe, so files are mapped in one piece; and a mapping goes only when
 * the driver has let go of every table that used it.
 */

/** Mappings at a time in one window: memory, and an inflight region. A vhost-user table has 8 entries for all of the appliance's memory. */
export const MAX_MAPPINGS = 5;
const MIB2 = 2 ** 21;
const GIB = 2 ** 30;

export interface Mapping {
  /** Device, inode, offset and length: the same bytes. */
  readonly key: string;
  readonly fileOffset: number;
  readonly bytes: number;
  /** Offset in the window. */
  readonly at: number;
  /** Generations of the table that use it. */
  readonly users: Set<number>;
  /** To be told when it is mapped, or why it is not. */
  readonly waiting: ((error: string | null) => void)[];
  state: 'mapping' | 'mapped' | 'unmapping';
}

/** Bytes of a file that the compute VM names. */
export interface FileRange {
  readonly offset: number;
  readonly size: number;
}

/** One file of a message: all of it that the message names, in one piece. */
export interface FilePiece {
  readonly key: string;
  /** The region's descriptor; borrowed. */
  readonly fd: Fd;
  readonly fileOffset: number;
  readonly bytes: number;
  /** It can't get shorter. A page that is cut off ends the appliance's QEMU when it is touched. */
  readonly sealed: boolean;
}

/**
 * The files of a message, and which of them holds each range.
 * @returns or why they can't be mapped
 */
export function filePieces(
  ranges: readonly FileRange[],
  fds: readonly Fd[],
): { pieces: FilePiece[]; of: number[] } | string {
  if (fds.length !== ranges.length) return `${ranges.length} memory regions with ${fds.length} descriptors`;
  const files = new Map<string, { fd: Fd; from: number; to: number; size: number; granule: number; index: number }>();
  const of: number[] = [];
  for (const [i, range] of ranges.entries()) {
    const withheld = withheldPages(fds[i]);
    if (withheld !== null) return `memory region ${i}: ${withheld}`;
    const stat = fstat(fds[i]);
    if (stat.kind !== 'file') return `the descriptor of memory region ${i} is a ${stat.kind}, not a file or memfd`;
    const id = `${stat.dev}:${stat.ino}`;
    const to = range.offset + range.size;
    if (stat.size < to) return `memory region ${i} ends at ${to} of a file of ${stat.size} bytes`;
    const known = files.get(id);
    if (known === undefined) {
      const granule = hugePageSize(fds[i]) || 4096;
      files.set(id, { fd: fds[i], from: range.offset, to, size: stat.size, granule, index: files.size });
      of.push(files.size - 1);
    } else {
      known.from = Math.min(known.from, range.offset);
      known.to = Math.max(known.to, to);
      of.push(known.index);
    }
  }
  const pieces: FilePiece[] = [];
  for (const [id, { fd, from, to, size, granule }] of files) {
    const start = from - (from % granule);
    const bytes = Math.ceil((to - start) / granule) * granule;
    const sealed = sealAgainstShrink(fd);
    if (start + bytes > size) return `a file of ${size} bytes ends in the middle of its last page`;
    pieces.push({ key: `${id}:${start}+${bytes}`, fd, fileOffset: start, bytes, sealed });
  }
  return { pieces, of };
}

export class WindowMap {
  readonly mappings: Mapping[] = [];
  private readonly bytes: number;

  constructor(bytes: number) {
    this.bytes = bytes;
  }

  find(key: string): Mapping | undefined {
    return this.mappings.find((m) => m.key === key && m.state !== 'unmapping');
  }

  /** Take a place for a piece. @returns or why there is none */
  place(piece: FilePiece): Mapping | string {
    if (this.mappings.length >= MAX_MAPPINGS)
      return `${MAX_MAPPINGS} files are mapped already: use one memory backend for all memory`;
    const align = piece.bytes >= GIB ? GIB : MIB2;
    const sorted = [...this.mappings].sort((a, b) => a.at - b.at);
    let at = 0;
    for (const m of sorted) {
      if (at + piece.bytes <= m.at) break;
      at = Math.ceil((m.at + m.bytes) / align) * align;
    }
    if (at + piece.bytes > this.bytes)
      return `the window of ${this.bytes} bytes has no room for ${piece.bytes}: start the relay with a larger --window`;
    const { key, fileOffset, bytes } = piece;
    const mapping: Mapping = { key, fileOffset, bytes, at, users: new Set(), waiting: [], state: 'mapping' };
    this.mappings.push(mapping);
    return mapping;
  }

  has(mapping: Mapping): boolean {
    return this.mappings.includes(mapping);
  }

  remove(mapping: Mapping): void {
    const i = this.mappings.indexOf(mapping);
    if (i >= 0) this.mappings.splice(i, 1);
  }

  /** The driver has let go of a generation. @returns the mappings nobody uses now */
  release(generation: number): Mapping[] {
    const free: Mapping[] = [];
    for (const m of this.mappings)
      if (m.users.delete(generation) && m.users.size === 0 && m.state === 'mapped') free.push(m);
    return free;
  }

  /** The device was stopped: QEMU has dropped all of them by itself. */
  clear(): void {
    this.mappings.length = 0;
  }
}
