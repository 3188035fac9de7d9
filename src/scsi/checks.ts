import type { Command } from './command.ts';
import type { Lun } from './lun.ts';
import { NONE, Sense } from './sense.ts';

/**
 * The checks that many commands share. Each returns true when the command is refused: the result is set.
 */

/** A range must lie on the disk. `lba + blocks` is never computed: it might not be exact. */
export function refuseLba(lun: Lun, command: Command, lba: number, blocks: number): boolean {
  if (lba <= lun.info.numBlocks - blocks) return false;
  return command.fail(Sense.LBA_OUT_OF_RANGE, lba <= Number.MAX_SAFE_INTEGER ? lba : NONE);
}

/** The range of a data transfer: on the disk, and not longer than VPD B0h allows. */
export function refuseRange(lun: Lun, command: Command, lba: number, blocks: number, lengthByte: number): boolean {
  if (refuseLba(lun, command, lba, blocks)) return true;
  return blocks > lun.maxTransfer && command.invalidCdb(lengthByte);
}

/** The unit may be read-only, or write-protected by the Control mode page. */
export function refuseWrite(lun: Lun, command: Command): boolean {
  if (!lun.writeProtected) return false;
  return command.fail(lun.info.readOnly ? Sense.WRITE_PROTECTED : Sense.SOFTWARE_WRITE_PROTECTED);
}
