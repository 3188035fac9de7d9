import { be16, be32, be64 } from './bytes.ts';
import { refuseLba } from './checks.ts';
import type { Command, Step } from './command.ts';
import type { Lun } from './lun.ts';
import { responseWriter } from './task-result.ts';

/**
 * Commands that ask about the medium without moving its data: PRE-FETCH, GET LBA STATUS, READ DEFECT DATA, SEND
 * DIAGNOSTIC.
 */

/** SBC-3 5.7: a hint. GOOD says "checked, not all in the cache"; CONDITION MET would promise that it is. */
function prefetch(lun: Lun, command: Command, lba: number, blocks: number): boolean {
  if (refuseLba(lun, command, lba, blocks)) return true;
  return command.good();
}

export const prefetch10: Step = (lun, command) =>
  prefetch(lun, command, be32(command.task.cdb, 2), be16(command.task.cdb, 7));
export const prefetch16: Step = (lun, command) =>
  prefetch(lun, command, be64(command.task.cdb, 2), be32(command.task.cdb, 10));

/** SBC-3 5.6. Disks don't tell which blocks are allocated: one extent "mapped or unknown" to the end. */
export const getLbaStatus: Step = (lun, command) => {
  const cdb = command.task.cdb;
  const lba = be64(cdb, 2);
  const { numBlocks } = lun.info;
  if (refuseLba(lun, command, lba, 1)) return true;
  responseWriter
    .start()
    .u32(20) // bytes that follow
    .u32(0)
    .u64(lba)
    .u32(Math.min(numBlocks - lba, 0xffff_ffff))
    .u32(0); // provisioning status 0: mapped or unknown
  return command.respond(be32(cdb, 10));
};

/** SBC-3 5.18, 5.19: the lists asked for, in the format asked for, empty: we know of no defect. */
export const readDefectData10: Step = (_lun, command) => {
  const cdb = command.task.cdb;
  responseWriter
    .start()
    .u8(0)
    .u8(cdb[2] & 0x1f)
    .u16(0);
  return command.respond(be16(cdb, 7));
};

export const readDefectData12: Step = (_lun, command) => {
  const cdb = command.task.cdb;
  responseWriter
    .start()
    .u8(0)
    .u8(cdb[1] & 0x1f)
    .u16(0)
    .u32(0);
  return command.respond(be32(cdb, 6));
};

/** SPC-4 6.42: the default self-test, which an open disk passes, or nothing at all. No diagnostic pages. */
export const sendDiagnostic: Step = (_lun, command) => {
  const cdb = command.task.cdb;
  if ((cdb[1] & 0xe0) !== 0) return command.invalidCdb(1, 7); // SELF-TEST CODE: no extended or background one
  if (be16(cdb, 3) !== 0) return command.invalidCdb(3);
  return command.good();
};
