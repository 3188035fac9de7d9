import { randomUUID } from 'node:crypto';
import { BdevError } from './errors.ts';

/**
 * Checks of what all kinds of disk are made from. Every value comes from an operator or a configuration file, so each check
 * names the option, the value, and what was expected.
 */

/** Largest block we serve, bytes. SCSI has no limit; virtio-blk guests refuse more than a page. */
export const MAX_BLOCK_SIZE = 65536;
/** Largest disk, bytes: byte offsets stay exact in a Number with room for sums (8 PiB). */
export const MAX_DISK = 2 ** 53;

function isPowerOfTwo(n: number): boolean {
  return n > 0 && Number.isInteger(Math.log2(n));
}

/** A name by which the registry, the guest's VPD pages and file names of dumps know the disk. */
export function checkName(name: unknown): string {
  if (typeof name !== 'string' || name.length === 0 || name.length > 255 || /[\p{Cc}/]/u.test(name)) {
    throw new BdevError(
      'EINVAL',
      `name ${JSON.stringify(name)}: expected 1 to 255 characters, no "/" and no control characters`,
      'name',
    );
  }
  return name;
}

/** @returns bytes; 512 or more, a power of two */
export function checkBlockSize(value: unknown, option = 'blockSize'): number {
  if (
    typeof value !== 'number' ||
    !Number.isInteger(value) ||
    value < 512 ||
    value > MAX_BLOCK_SIZE ||
    !isPowerOfTwo(value)
  ) {
    throw new BdevError(
      'EINVAL',
      `${option} ${value}: expected a power of two from 512 to ${MAX_BLOCK_SIZE} bytes; use 512 or 4096`,
      option,
    );
  }
  return value;
}

/** The physical block: a multiple of the logical one, which is what it is when nothing is said. */
export function checkPhysicalBlockSize(value: unknown, blockSize: number): number {
  if (value === undefined || value === 0) return blockSize;
  const physical = checkBlockSize(value, 'physicalBlockSize');
  if (physical < blockSize) {
    throw new BdevError(
      'EINVAL',
      `physicalBlockSize ${physical}: expected at least the block size, ${blockSize}`,
      'physicalBlockSize',
    );
  }
  return physical;
}

export function checkNumBlocks(value: unknown, blockSize: number): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1 || value > MAX_DISK / blockSize) {
    throw new BdevError(
      'EINVAL',
      `numBlocks ${value}: expected an integer from 1 to ${MAX_DISK / blockSize}`,
      'numBlocks',
    );
  }
  return value;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** The uuid in lower case, or a fresh random one. */
export function checkUuid(value: unknown): string {
  if (value === undefined || value === '') return randomUUID();
  const text = typeof value === 'string' ? value.toLowerCase() : '';
  if (!UUID.test(text)) {
    throw new BdevError('EINVAL', `uuid ${JSON.stringify(value)}: expected 8-4-4-4-12 hexadecimal digits`, 'uuid');
  }
  return text;
}
