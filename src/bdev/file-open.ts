import { type BigIntStats, statfsSync, statSync } from 'node:fs';
import { BLK, FALLOC_FL, O } from '../sys/constants.ts';
import { type DirectAlignment, directAlignment, queueAttribute, setDirect } from '../sys/direct-io.ts';
import { SysError } from '../sys/errno.ts';
import { blockDeviceSize, type Fd, fallocate, fstat, ioctlResult, open } from '../sys/fd.ts';
import { lockFile } from '../sys/file-lock.ts';
import { BdevError } from './errors.ts';

/**
 * Opens what a file disk lies on, and finds out what the host makes of it. All refusals are the operator's: they name the path and
 * the next step.
 */

const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;
/** How long to wait for the lock of a program that has just been killed. */
const LOCK_WAIT_MS = 500;

/** How deallocation is done: holes (which read as zeroes), a discard (which promises nothing), or not at all. */
export type UnmapMethod = 'punch' | 'discard' | 'none';

export interface OpenedFile {
  readonly fd: Fd;
  readonly block: boolean;
  /** The block device, or the one that the file's file system lies on. */
  readonly device: bigint;
  /** Bytes. */
  readonly size: number;
  /** Smallest block the file can have, and the physical one, bytes. */
  readonly logicalBlockSize: number;
  readonly physicalBlockSize: number;
  readonly rotational: boolean;
  /** It lives in memory (tmpfs). */
  readonly inMemory: boolean;
  /** Opened with O_DIRECT, which asks for these alignments. */
  readonly direct: DirectAlignment | undefined;
}

export interface OpenFileOptions {
  readonly path: string;
  readonly readOnly: boolean;
  /** Let others use the file at the same time. */
  readonly share: boolean;
  /** true: O_DIRECT or fail; undefined: where it goes. */
  readonly direct: boolean | undefined;
  /** The disk's block size, when it is given. */
  readonly blockSize: number | undefined;
}

function look(path: string): BigIntStats {
  try {
    return statSync(path, { bigint: true });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') {
      throw new BdevError('ENOENT', `${path}; create it first (truncate -s 10G ${path})`, 'filename');
    }
    if (code === 'EACCES')
      throw new BdevError('EACCES', `${path}: a directory on the way may not be searched`, 'filename');
    throw new BdevError('EINVAL', `${path}: ${(error as Error).message}`, 'filename');
  }
}

function refuse(path: string, error: unknown, readOnly: boolean): never {
  if (!(error instanceof SysError)) throw error;
  switch (error.code) {
    case 'EACCES':
    case 'EPERM':
      throw new BdevError(
        'EACCES',
        readOnly
          ? `${path}: not readable for this user: change its owner or mode`
          : `${path}: not writable for this user: change its owner or mode, or make the disk read-only`,
        'filename',
      );
    case 'EROFS':
      throw new BdevError('EACCES', `${path}: on a read-only file system: make the disk read-only`, 'filename');
    case 'EBUSY':
      throw new BdevError(
        'EBUSY',
        `${path}: in use (mounted, or part of a RAID or a volume group): unmount it, or use the share option`,
        'filename',
      );
    case 'ETXTBSY':
      throw new BdevError('EBUSY', `${path}: in use as swap or as a running program`, 'filename');
    default:
      throw new BdevError('EIO', `${path}: ${error.message}`, 'filename');
  }
}

function inMemory(path: string): boolean {
  const { type } = statfsSync(path);
  return type === TMPFS_MAGIC || type === RAMFS_MAGIC;
}

function numberOf(fd: Fd, request: number): number {
  const value = new Uint32Array(1);
  return ioctlResult(fd, request, new Uint8Array(value.buffer)) < 0 ? 0 : value[0];
}

/** @throws BdevError */
export function openFile(options: OpenFileOptions): OpenedFile {
  const { path, readOnly, share } = options;
  const stat = look(path);
  const block = stat.isBlockDevice();
  if (stat.isDirectory())
    throw new BdevError('EINVAL', `${path}: a directory; a file or block device is needed`, 'filename');
  if (!block && !stat.isFile())
    throw new BdevError('EINVAL', `${path}: neither a regular file nor a block device`, 'filename');
  // O_EXCL on a block device: fails when the kernel itself uses it, a mount for instance.
  const flags = (readOnly ? O.RDONLY : O.RDWR) | (block && !readOnly && !share ? O.EXCL : 0);
  let fd: Fd | undefined;
  try {
    fd = open(path, flags);
    const opened = fstat(fd);
    if (opened.dev !== stat.dev || opened.ino !== stat.ino) {
      throw new BdevError('EBUSY', `${path}: was replaced while it was opened: try again`, 'filename');
    }
    const logical = block ? numberOf(fd, BLK.SSZGET) || 512 : 512;
    const memory = !block && inMemory(path);
    return {
      fd,
      block,
      device: block ? stat.rdev : stat.dev,
      size: sizeOf(fd, block),
      logicalBlockSize: logical,
      // For a file, the file system's block: partitions aligned to it save the host read-modify-write.
      physicalBlockSize: block ? numberOf(fd, BLK.PBSZGET) || logical : Math.min(4096, Math.max(512, opened.blockSize)),
      rotational: block && (numberOf(fd, BLK.ROTATIONAL) & 0xffff) !== 0,
      inMemory: memory,
      direct: memory ? undefined : tryDirect(fd, options, logical),
    };
  } catch (error) {
    fd?.close();
    return refuse(path, error, readOnly);
  }
}

/** Switch O_DIRECT on where it goes. A disk in memory has no use for it. */
function tryDirect(fd: Fd, options: OpenFileOptions, logicalBlockSize: number): DirectAlignment | undefined {
  if (options.direct === false) return undefined;
  const blockSize = options.blockSize ?? logicalBlockSize;
  const alignment = directAlignment(fd);
  // A block that is smaller than the alignment could only be written with its neighbours, whom somebody else may be writing.
  if (alignment !== undefined && blockSize % alignment.offset === 0 && setDirect(fd)) return alignment;
  if (options.direct === undefined) return undefined;
  const needed =
    alignment === undefined
      ? 'the file system has none'
      : `it needs blocks of ${alignment.offset} bytes, not ${blockSize}`;
  throw new BdevError(
    'EINVAL',
    `${options.path}: O_DIRECT does not work here (${needed}); leave the option out`,
    'direct',
  );
}

/** Bytes, now. */
export function sizeOf(fd: Fd, block: boolean): number {
  return block ? blockDeviceSize(fd) : fstat(fd).size;
}

/** Keep other programs from the file; see lockFile. @throws BdevError when one has it */
export function claimFile(fd: Fd, path: string, readOnly: boolean): void {
  if (lockFile(fd, !readOnly, LOCK_WAIT_MS)) return;
  throw new BdevError(
    'EBUSY',
    `${path}: locked by another disk or program (another vvu-target, QEMU): stop it, or use the share option if it knows what it does`,
    'filename',
  );
}

/** How blocks of the file can be given back. */
export function unmapMethod(file: OpenedFile): UnmapMethod {
  if (!file.block) {
    // Beyond the end nothing is there to be punched, but a file system that cannot says so.
    const end = Math.ceil(file.size / 4096) * 4096 + 4096;
    return fallocate(file.fd, FALLOC_FL.PUNCH_HOLE | FALLOC_FL.KEEP_SIZE, end, 4096) === 0 ? 'punch' : 'none';
  }
  const discards = (queueAttribute(file.device, 'discard_max_bytes') ?? 0) > 0;
  // Only a device that writes zeroes by itself can both give blocks back and promise zeroes.
  if (discards && (queueAttribute(file.device, 'write_zeroes_max_bytes') ?? 0) > 0) return 'punch';
  return discards ? 'discard' : 'none';
}
