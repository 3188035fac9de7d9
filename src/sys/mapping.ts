/**
 * Mapped memory with one owner. `Mapping` is the only way to get `Memory` over mmap: it hands out windows, and its
 * `unmap` revokes every one of them before the memory goes. A view that somebody kept beside its Memory reads zeroes
 * from then on (see address-range.ts), it never faults.
 *
 * What can still kill the process, in any language, is SIGBUS: a peer makes a mapped file shorter, or its file system
 * has no page left for a hole in it. The file's size is checked, and a seal against shrinking asked for, before
 * mapping; `sealed` says whether there is one.
 */
import { MAX_MEMORY, Memory } from '../memory/memory.ts';
import { AddressRange, type RangeShare } from './address-range.ts';
import { F, F_SEAL, MADV, MAP, MFD, PROT } from './constants.ts';
import { check, ERRNO, SysError } from './errno.ts';
import { Fd, fstat, ftruncate, hugePageSize, sealAgainstShrink } from './fd.ts';
import * as libc from './libc.ts';
import { WIDE_RANGE } from './native-copy.ts';

export const PAGE_SIZE = libc.getpagesize();

/**
 * What {@link Mapping.windowAt} adds beyond the bytes asked for, so that a ring at the edge lies in one piece. Bytes.
 */
export const OVERHANG = 0x10_0000;

/** Bytes. Also of transparent huge pages. */
const DEFAULT_HUGE_PAGE = 0x20_0000;
/** Mappings of at least this many bytes would fill the low addresses alone. */
const LOW_MOST = 0x3000_0000;
/** Longest ArrayBuffer over mapped memory (see libc.viewOf). */
const MAX_VIEW = 0x1_0000_0000;
/**
 * Views begin at multiples of this, so that every Memory that begins before the next lies in one view. Few long views:
 * V8 takes each for memory that it could free, and collects the whole heap for every one beyond some gigabyte.
 */
const VIEW_STEP = MAX_VIEW - MAX_MEMORY;

/** Memory of files in huge pages. */
const inHugePages = new WeakSet<Memory>();

/** Whether the memory was mapped from a file in explicit huge pages: reserved for it, never moved nor swapped. */
export function isInHugePages(memory: Memory): boolean {
  return inHugePages.has(memory);
}

/** A mapping for another thread of this process; survives structured clone. */
export interface MappingShare {
  readonly address: number;
  readonly size: number;
  readonly sealed: boolean;
  readonly range: RangeShare;
}

export class Mapping {
  /** Bytes. 0 once unmapped. */
  size: number;
  /** The file under it cannot shrink (or there is no file). */
  readonly sealed: boolean;
  private readonly address: number;
  private readonly range: AddressRange;
  private readonly owner: boolean;
  private readonly huge: boolean;
  /** By place: the same window asked for twice is one Memory, so this cannot grow without bound. */
  private readonly windows = new Map<string, Memory>();
  /** By number of VIEW_STEPs from the beginning. */
  private readonly views = new Map<number, ArrayBuffer>();

  /** For this file; others use mapFile, mapAnonymous and adopt. */
  constructor(
    range: AddressRange,
    address: number,
    size: number,
    sealed: boolean,
    owner: boolean,
    huge: boolean = false,
  ) {
    this.huge = huge;
    this.range = range;
    this.address = address;
    this.size = size;
    this.sealed = sealed;
    this.owner = owner;
  }

  /** Also when this is an adopted one and its owner, in another thread, has unmapped it. */
  get unmapped(): boolean {
    return this.size === 0 || this.range.retired;
  }

  /**
   * The `bytes` from `offset` on as Memory, valid until `unmap`.
   * @param offset multiple of 8
   * @throws RangeError outside the mapping, longer than MAX_MEMORY, or after the end of the mapping
   */
  memoryAt(offset: number, bytes: number): Memory {
    const memory = this.unopenedAt(offset, bytes);
    memory.open();
    return memory;
  }

  /** As {@link memoryAt}; its views are made when somebody opens it. */
  private unopenedAt(offset: number, bytes: number): Memory {
    if (!(offset >= 0 && bytes > 0 && offset + bytes <= this.size)) {
      throw new RangeError(`memoryAt: ${offset}+${bytes} of ${this.size}`);
    }
    if (bytes > MAX_MEMORY) throw new RangeError(`memoryAt: ${bytes} bytes are more than ${MAX_MEMORY}`);
    if ((this.address + offset) % 8 !== 0) throw new RangeError(`memoryAt: offset ${offset} is not a multiple of 8`);
    const key = `${offset}+${bytes}`;
    const known = this.windows.get(key);
    if (known !== undefined) return known;
    const step = Math.floor(offset / VIEW_STEP);
    const byteOffset = offset - step * VIEW_STEP;
    const memory = Memory.unopened(bytes, this.address + offset, () => ({ buffer: this.view(step), byteOffset }));
    this.windows.set(key, memory);
    if (this.huge) inHugePages.add(memory);
    return memory;
  }

  private view(step: number): ArrayBuffer {
    const known = this.views.get(step);
    if (known !== undefined && !this.range.retired) return known;
    const start = step * VIEW_STEP;
    const buffer = this.range.view(this.address + start, Math.min(MAX_VIEW, this.size - start));
    if (buffer === undefined) throw new RangeError('memoryAt: the owner has unmapped this');
    this.views.set(step, buffer);
    return buffer;
  }

  /**
   * As {@link memoryAt}, but unopened, and longer by up to OVERHANG where the mapping goes on. What cutWindows wants: a
   * front end may announce far more memory than it ever uses.
   */
  windowAt(offset: number, bytes: number): Memory {
    return this.unopenedAt(offset, Math.max(bytes, Math.min(bytes + OVERHANG, MAX_MEMORY, this.size - offset)));
  }

  /**
   * Revoke every Memory of this object; by the owner, also unmap. Nothing may be in flight: neither a device nor the
   * kernel may still be told these addresses. Adopted mappings of other threads should be unmapped before; if not,
   * they read zeroes. Calling it again is harmless.
   */
  unmap(): void {
    if (this.size === 0) return;
    this.size = 0;
    for (const memory of this.windows.values()) memory.revoke();
    this.windows.clear();
    this.views.clear();
    if (this.owner) this.range.retire();
  }

  /** For {@link adopt} in another thread of this process. */
  share(): MappingShare {
    if (this.size === 0) throw new RangeError('share: unmapped');
    return { address: this.address, size: this.size, sealed: this.sealed, range: this.range.share() };
  }

  /** Keep the memory in RAM. @throws SysError with the limit's name */
  lock(): void {
    if (libc.mlock(this.range.start, this.range.length) === 0) return;
    const error = libc.errno();
    const limited = error === ERRNO.ENOMEM || error === ERRNO.EPERM || error === ERRNO.EAGAIN;
    const hint = limited ? ' (raise the memlock limit: ulimit -l, or LimitMEMLOCK= in the unit)' : '';
    throw new SysError('mlock', error, `${this.range.length} bytes${hint}`);
  }

  /** madvise(2) on all of it. Advice: a refusal is no error. @returns whether the kernel took it */
  advise(advice: number): boolean {
    return this.size !== 0 && libc.madvise(this.range.start, this.range.length, advice) === 0;
  }
}

/**
 * mmap(2), where copies are cheapest (see native-copy.ts): below 2 GiB while there is room (the kernel gives out the half
 * above 1 GiB), else in the wide range, if there is one, else anywhere.
 * @param granule the beginning should be a multiple of this, bytes
 */
function map(length: number, prot: number, flags: number, fd: number, offset: number, granule: number): number {
  if (process.arch === 'x64' && length < LOW_MOST) {
    const start = libc.mmap(0, length, prot, flags | MAP.LOW, fd, offset);
    if (start >= 0) return start;
  }
  if (WIDE_RANGE !== null) {
    const start = mapInRange(WIDE_RANGE, length, prot, flags, fd, offset, Math.max(granule, DEFAULT_HUGE_PAGE));
    if (start >= 0) return start;
  }
  return libc.mmap(0, length, prot, flags, fd, offset);
}

/**
 * mmap(2) at the first place of the range that is free. The kernel is asked for one after the other: it knows what is
 * free, also when other threads map and unmap at this moment, and gives nothing out there by itself, so that the range
 * need not be reserved. @returns -1 when there is no place, or the kernel refuses for another reason
 */
function mapInRange(
  range: { from: number; to: number },
  length: number,
  prot: number,
  flags: number,
  fd: number,
  offset: number,
  step: number,
): number {
  for (let at = Math.ceil(range.from / step) * step; at + length <= range.to; at += step) {
    const start = libc.mmap(at, length, prot, flags | MAP.FIXED_NOREPLACE, fd, offset);
    if (start >= 0) return start;
    if (libc.errno() !== ERRNO.EEXIST) break;
  }
  return -1;
}

export interface MapFileOptions {
  /** Bytes into the file; any number, the mapping begins at the page below. Default 0. */
  offset?: number;
  /** Bytes. */
  size: number;
  /** PROT bits, default READ | WRITE. */
  prot?: number;
  /** MAP bits besides SHARED, e.g. POPULATE. */
  flags?: number;
  /** Keep it out of core dumps: guest memory, BARs. Default true. */
  dontDump?: boolean;
}

/**
 * Map a file, memfd or device, shared. The descriptor may be closed afterwards.
 * @throws Error when the file is shorter than offset + size; SysError from mmap
 */
export function mapFile(fd: Fd, options: MapFileOptions): Mapping {
  const { offset = 0, size, prot = PROT.READ | PROT.WRITE, flags = 0, dontDump = true } = options;
  if (!(Number.isSafeInteger(offset) && offset >= 0 && Number.isSafeInteger(size) && size > 0)) {
    throw new RangeError(`mapFile: ${size} bytes at ${offset}`);
  }
  if (!Number.isSafeInteger(offset + size)) throw new RangeError(`mapFile: ${offset}+${size} is too large`);
  // Seal first, then look: the other order would leave a moment to shrink the file in.
  const sealed = sealAgainstShrink(fd);
  const stat = fstat(fd);
  if (stat.kind === 'file' && stat.size < offset + size) {
    throw new Error(`mmap: the file has ${stat.size} bytes, fewer than offset ${offset} + size ${size}`);
  }
  const hugePage = hugePageSize(fd);
  const granule = hugePage || PAGE_SIZE;
  const lead = offset % granule;
  const length = Math.ceil((lead + size) / granule) * granule;
  const start = map(length, prot, MAP.SHARED | flags, fd.number, offset - lead, granule);
  if (start < 0) throw new SysError('mmap', libc.errno(), `${size} bytes at ${offset}`);
  const mapping = new Mapping(
    new AddressRange(start, length),
    start + lead,
    size,
    sealed || stat.kind !== 'file',
    true,
    hugePage > 0,
  );
  if (dontDump) mapping.advise(MADV.DONTDUMP);
  return mapping;
}

export interface MapAnonymousOptions {
  /**
   * Explicit huge pages: true for the default size, or the size in bytes (0x20_0000, 0x4000_0000). The size is
   * rounded up to them.
   */
  hugepages?: boolean | number;
  /** Let the kernel use transparent huge pages where it can. */
  transparentHugepages?: boolean;
  /** Allocate all pages now. */
  populate?: boolean;
  /** Reserve nothing: pages are allocated, or fail with a fatal signal, when first touched. */
  noReserve?: boolean;
  dontDump?: boolean;
}

function hugeFlags(bytes: number): number {
  const shift = Math.log2(bytes);
  if (!Number.isInteger(shift)) throw new RangeError(`huge pages of ${bytes} bytes: not a power of two`);
  return shift * 2 ** MAP.HUGE_SHIFT;
}

function hugeError(error: number, size: number, page: number): SysError {
  const mib = page / 0x10_0000;
  const hint =
    error === ERRNO.ENOMEM
      ? `too few free huge pages; reserve ${Math.ceil(size / page)} of them: vvu-target setup hugepages`
      : `this machine may have no huge pages of that size; see /sys/kernel/mm/hugepages`;
  return new SysError('mmap', error, `${size} bytes in huge pages of ${mib} MiB (${hint})`);
}

/** Map zeroed memory, page aligned. Shared between this process's threads like all memory; a fork would get a copy. */
export function mapAnonymous(size: number, options: MapAnonymousOptions = {}): Mapping {
  if (!(Number.isSafeInteger(size) && size > 0)) throw new RangeError(`mapAnonymous: ${size} bytes`);
  const { hugepages = false, transparentHugepages = false, populate = false, noReserve = false } = options;
  const granule = hugepages === false ? PAGE_SIZE : hugepages === true ? DEFAULT_HUGE_PAGE : hugepages;
  const length = Math.ceil(size / granule) * granule;
  let flags = MAP.PRIVATE | MAP.ANONYMOUS;
  if (hugepages !== false) flags += MAP.HUGETLB + hugeFlags(granule);
  if (populate) flags += MAP.POPULATE;
  if (noReserve) flags += MAP.NORESERVE;
  const start = map(length, PROT.READ | PROT.WRITE, flags, -1, 0, granule);
  if (start < 0) {
    const error = libc.errno();
    throw hugepages === false ? new SysError('mmap', error, `${size} bytes`) : hugeError(error, size, granule);
  }
  const mapping = new Mapping(new AddressRange(start, length), start, size, true, true);
  if (transparentHugepages) mapping.advise(MADV.HUGEPAGE);
  if (options.dontDump === true) mapping.advise(MADV.DONTDUMP);
  return mapping;
}

/**
 * Another thread's mapping, in this thread. Its `unmap` revokes this thread's Memory and leaves the mapping to its
 * owner.
 */
export function adopt(share: MappingShare): Mapping {
  return new Mapping(AddressRange.adopt(share.range), share.address, share.size, share.sealed, false);
}

/**
 * An anonymous file to share by descriptor. @param name shown in /proc
 * @param options.seal nobody can change its size any more (default true)
 */
export function memfd(name: string, size: number, options: { seal?: boolean; hugepages?: boolean } = {}): Fd {
  const { seal = true, hugepages = false } = options;
  const flags = MFD.CLOEXEC | MFD.ALLOW_SEALING | (hugepages ? MFD.HUGETLB : 0);
  const fd = Fd.take(check(libc.memfd_create(name, flags), 'memfd_create', name));
  try {
    ftruncate(fd, size);
    const seals = F_SEAL.SHRINK | F_SEAL.GROW | F_SEAL.SEAL;
    if (seal) check(libc.fcntl(fd.number, F.ADD_SEALS, seals), 'fcntl', 'F_ADD_SEALS');
    return fd;
  } catch (error) {
    fd.close();
    throw error;
  }
}
