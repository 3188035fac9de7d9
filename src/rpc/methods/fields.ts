import { z } from 'zod';
import { ACCESS_MODES } from '../../pci/access-mode.ts';

/** Parameters that several methods share. Every text in a schema here ends up in a refusal: "must be …". */

/** A name for a disk, as the bdev layer wants it. */
export const bdevName = () =>
  z.string().regex(/^[^/\p{Cc}]{1,255}$/u, 'a name of 1 to 255 characters without "/" and control characters');

/** A controller's name is its socket's file name. */
export const controllerName = () =>
  z
    .string()
    .regex(/^(?!\.{1,2}$)[^/\p{Cc}]{1,100}$/u, 'a file name of 1 to 100 characters without "/" and control characters');

/** A name for a device; its disks' names begin with it. */
export const deviceName = () =>
  z.string().regex(/^[^/\p{Cc}]{1,200}$/u, 'a name of 1 to 200 characters without "/" and control characters');

/** PCI address; the device layer says what is wrong with one. */
export const pciAddress = () => z.string().min(1).max(64);

export const accessMode = () => z.enum(ACCESS_MODES);

export const uuid = () =>
  z.string().regex(/^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$/, 'a UUID: 8-4-4-4-12 hexadecimal digits');

export const numBlocks = () => z.int().min(1);
export const blockSize = () => z.int().min(512).max(65536);
export const physicalBlockSize = () => z.int().min(512).max(65536);

/** The number of a SCSI target, 0 to 7; the target itself says what is wrong with others. */
export const targetNumber = () => z.int();

export const noParams = z.strictObject({});

const MIB = 1024 * 1024;

/** MiB to blocks; @throws nothing: a remainder is dropped, as rpc.py does. */
export function mibToBlocks(mib: number, blockBytes: number): number {
  return Math.floor((mib * MIB) / blockBytes);
}
