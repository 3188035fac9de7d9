/**
 * File descriptors with one owner each. Closing twice is harmless, and a closed `Fd` has the number -1, so that a
 * late use fails with EBADF instead of reaching a stranger's file that got the same number. Every descriptor made
 * here is close-on-exec.
 */
import { type BigIntStats, fstatSync, readlinkSync, statfsSync } from 'node:fs';
import type { Memory } from '../memory/memory.ts';
import { BLK, F, F_SEAL, HUGETLBFS_MAGIC, O } from './constants.ts';
import { check, ERRNO, SysError, sysError } from './errno.ts';
import * as libc from './libc.ts';

export class Fd {
  private fd: number;

  private constructor(fd: number) {
    this.fd = fd;
  }

  /** Own a descriptor that nobody else will close. */
  static take(fd: number): Fd {
    if (!Number.isInteger(fd) || fd < 0) throw new RangeError(`Fd.take: ${fd} is no file descriptor`);
    return new Fd(fd);
  }

  /** -1 once closed or released. */
  get number(): number {
    return this.fd;
  }

  get closed(): boolean {
    return this.fd < 0;
  }

  /** Harmless when closed already. Errors of close(2) mean nothing to a caller and are not reported. */
  close(): void {
    const fd = this.fd;
    if (fd < 0) return;
    this.fd = -1;
    libc.close(fd); // also with EINTR the descriptor is gone on Linux: never again
  }

  /** Give the number away: the caller owns it now. */
  release(): number {
    const fd = this.fd;
    this.fd = -1;
    return fd;
  }

  /** A second descriptor of the same open file. */
  duplicate(): Fd {
    return new Fd(check(libc.fcntl(this.fd, F.DUPFD_CLOEXEC, 0), 'fcntl', 'F_DUPFD_CLOEXEC'));
  }
}

/** Close all; for error paths that have received descriptors. */
export function closeAll(fds: readonly Fd[]): void {
  for (const fd of fds) fd.close();
}

/** open(2). @param mode permission bits when O.CREAT makes the file */
export function open(path: string, flags: number, mode = 0o600): Fd {
  for (;;) {
    const fd = libc.open(path, flags | O.CLOEXEC, mode);
    if (fd >= 0) return Fd.take(fd);
    const error = sysError('open', path);
    if (error.errno !== ERRNO.EINTR) throw error;
  }
}

/** Make one transfer, again when a signal interrupts it. -1 for EAGAIN, the only failure that is not thrown. */
function transfer(name: string, call: () => number): number {
  for (;;) {
    const n = call();
    if (n >= 0) return n;
    const error = libc.errno();
    if (error === ERRNO.EAGAIN) return -1;
    if (error !== ERRNO.EINTR) throw new SysError(name, error);
  }
}

/** @returns bytes read, 0 at the end, -1 when the descriptor is non-blocking and has nothing */
export function read(fd: Fd, into: Uint8Array): number {
  return transfer('read', () => libc.read(fd.number, into, into.length));
}

/** @returns bytes written (may be fewer than given), -1 for EAGAIN */
export function write(fd: Fd, from: Uint8Array): number {
  return transfer('write', () => libc.write(fd.number, from, from.length));
}

export function pread(fd: Fd, into: Uint8Array, fileOffset: number): number {
  return transfer('pread', () => libc.pread(fd.number, into, into.length, fileOffset));
}

export function pwrite(fd: Fd, from: Uint8Array, fileOffset: number): number {
  return transfer('pwrite', () => libc.pwrite(fd.number, from, from.length, fileOffset));
}

function checkRange(what: string, memory: Memory, offset: number, bytes: number): void {
  if (!(offset >= 0 && bytes >= 0 && offset + bytes <= memory.length)) {
    throw new RangeError(`${what}: ${offset}+${bytes} of ${memory.length}`);
  }
}

/**
 * Read from a file straight into memory. No allocation and no exception for a host's failure.
 * @returns bytes read, or the negative errno
 * @throws RangeError when the range is outside the memory (a bug of ours)
 */
export function preadInto(fd: Fd, memory: Memory, offset: number, bytes: number, fileOffset: number): number {
  checkRange('preadInto', memory, offset, bytes);
  for (;;) {
    const n =
      memory.address !== 0
        ? libc.preadAt(fd.number, memory.address + offset, bytes, fileOffset)
        : libc.pread(fd.number, memory.u8.subarray(offset, offset + bytes), bytes, fileOffset);
    if (n >= 0) return n;
    const error = libc.errno();
    if (error !== ERRNO.EINTR) return -error;
  }
}

/** Write to a file straight from memory; as {@link preadInto}. */
export function pwriteFrom(fd: Fd, memory: Memory, offset: number, bytes: number, fileOffset: number): number {
  checkRange('pwriteFrom', memory, offset, bytes);
  for (;;) {
    const n =
      memory.address !== 0
        ? libc.pwriteAt(fd.number, memory.address + offset, bytes, fileOffset)
        : libc.pwrite(fd.number, memory.u8.subarray(offset, offset + bytes), bytes, fileOffset);
    if (n >= 0) return n;
    const error = libc.errno();
    if (error !== ERRNO.EINTR) return -error;
  }
}

export interface FdStat {
  /** Bytes; 0 for devices and anonymous files. */
  readonly size: number;
  /** Bytes really allocated. */
  readonly allocated: number;
  /** Permission bits. */
  readonly mode: number;
  readonly kind: 'file' | 'directory' | 'block' | 'character' | 'socket' | 'fifo' | 'other';
  /** Device and inode together name a file: two descriptors of one file agree in both. */
  readonly dev: bigint;
  readonly ino: bigint;
  /** Preferred block size; the huge page size for files of huge pages. */
  readonly blockSize: number;
}

const KINDS = new Map<bigint, FdStat['kind']>([
  [0o100000n, 'file'],
  [0o040000n, 'directory'],
  [0o060000n, 'block'],
  [0o020000n, 'character'],
  [0o140000n, 'socket'],
  [0o010000n, 'fifo'],
]);

/** fstat(2), by Node: struct stat has another layout on every platform. */
export function fstat(fd: Fd): FdStat {
  let stat: BigIntStats;
  if (fd.closed) throw new SysError('fstat', ERRNO.EBADF);
  try {
    stat = fstatSync(fd.number, { bigint: true });
  } catch (error) {
    throw new SysError('fstat', -((error as NodeJS.ErrnoException).errno ?? -ERRNO.EIO));
  }
  return {
    size: Number(stat.size),
    allocated: Number(stat.blocks) * 512,
    mode: Number(stat.mode & 0o7777n),
    kind: KINDS.get(stat.mode & 0o170000n) ?? 'other',
    dev: stat.dev,
    ino: stat.ino,
    blockSize: Number(stat.blksize),
  };
}

/** What a descriptor is, as the kernel names it: a path, 'anon_inode:[eventfd]', 'socket:[123]'; '' without /proc. */
export function describeFd(fd: Fd): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd.number}`);
  } catch {
    return '';
  }
}

/** Bytes of a huge page when the file is made of them, else 0. */
export function hugePageSize(fd: Fd): number {
  try {
    const { type, bsize } = statfsSync(`/proc/self/fd/${fd.number}`);
    return type === HUGETLBFS_MAGIC ? bsize : 0;
  } catch {
    return 0; // sockets, pipes and the like have no file system
  }
}

export function ftruncate(fd: Fd, bytes: number): void {
  check(libc.ftruncate(fd.number, bytes), 'ftruncate', `to ${bytes}`);
}

/**
 * fallocate(2). @param mode FALLOC_FL bits; 0 allocates
 * @returns 0 or the negative errno (EOPNOTSUPP is an answer here, not a failure)
 */
export function fallocate(fd: Fd, mode: number, offset: number, bytes: number): number {
  for (;;) {
    if (libc.fallocate(fd.number, mode, offset, bytes) === 0) return 0;
    const error = libc.errno();
    if (error !== ERRNO.EINTR) return -error;
  }
}

/** @returns 0 or the negative errno: after an error the kernel may have dropped the pages, so it is never repeated */
export function fdatasync(fd: Fd): number {
  return libc.fdatasync(fd.number) === 0 ? 0 : -libc.errno();
}

/** ioctl(2) with a structure or an integer. @returns its result, 0 or more. @param name for the error */
export function ioctl(
  fd: Fd,
  request: number,
  arg: Uint8Array | number,
  name = `ioctl 0x${request.toString(16)}`,
): number {
  const result = ioctlResult(fd, request, arg);
  if (result < 0) throw new SysError(name, -result);
  return result;
}

/** As {@link ioctl}, but a failure is the negative errno. */
export function ioctlResult(fd: Fd, request: number, arg: Uint8Array | number): number {
  for (;;) {
    const result =
      typeof arg === 'number' ? libc.ioctlNumber(fd.number, request, arg) : libc.ioctlBytes(fd.number, request, arg);
    if (result >= 0) return result;
    const error = libc.errno();
    if (error !== ERRNO.EINTR) return -error;
  }
}

/** Bytes of a block device. */
export function blockDeviceSize(fd: Fd): number {
  const size = new BigUint64Array(1);
  ioctl(fd, BLK.GETSIZE64, new Uint8Array(size.buffer), 'BLKGETSIZE64');
  return Number(size[0]);
}

/** O_NONBLOCK belongs to the open file: everybody who has a descriptor of it sees the change. */
export function setNonBlocking(fd: Fd): void {
  const flags = check(libc.fcntl(fd.number, F.GETFL, 0), 'fcntl', 'F_GETFL');
  if ((flags & O.NONBLOCK) === 0) check(libc.fcntl(fd.number, F.SETFL, flags | O.NONBLOCK), 'fcntl', 'F_SETFL');
}

/**
 * Ask that nobody can make the file shorter (a mapping beyond the end is a fatal SIGBUS).
 * @returns true when that holds: the seal was there or could be set. False for files that know no seals.
 */
export function sealAgainstShrink(fd: Fd): boolean {
  if (libc.fcntl(fd.number, F.ADD_SEALS, F_SEAL.SHRINK) === 0) return true;
  const seals = libc.fcntl(fd.number, F.GET_SEALS, 0);
  return seals >= 0 && (seals & F_SEAL.SHRINK) !== 0;
}
