import { BdevOp, BdevStatus } from '../bdev/bdev.ts';
import { be16, be32, be64 } from './bytes.ts';
import { refuseLba } from './checks.ts';
import type { Command, Step } from './command.ts';
import type { Lun } from './lun.ts';
import { NexusWord } from './lun-state.ts';
import { Sense, writeSense } from './sense.ts';
import { responseWriter } from './task-result.ts';
import { firstAttention, senseOfAttention } from './unit-attention.ts';

/**
 * Commands without data, or nearly: TEST UNIT READY, REQUEST SENSE, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL,
 * SYNCHRONIZE CACHE.
 */

/** The disk is open, so the unit is ready; a failing disk says so at its next transfer. */
export const testUnitReady: Step = (_lun, command) => command.good();

/** SPC-4 6.39: tells a pending unit attention as data and clears it. There is no other sense to keep. */
export const requestSense: Step = (lun, command) => {
  const cdb = command.task.cdb;
  const record = lun.recordOf(command.task.nexus);
  const pending = record < 0 ? 0 : lun.state.words[lun.state.nexusWord(record, NexusWord.ATTENTION)];
  let sense = Sense.NO_SENSE as { key: number; asc: number; ascq: number };
  if (pending !== 0) {
    const bit = firstAttention(pending);
    lun.state.clearAttention(record, bit);
    sense = senseOfAttention(bit);
  }
  const bytes = new Uint8Array(32);
  const length = writeSense(bytes, sense, (cdb[1] & 0x01) !== 0);
  responseWriter.start().bytes(bytes, 0, length);
  return command.respond(cdb[4]);
};

/** Write back what the disk caches, then GOOD. */
export function flush(lun: Lun, command: Command): boolean {
  if (!lun.info.writeCache) return command.good();
  const io = command.io;
  io.op = BdevOp.FLUSH;
  io.lba = 0;
  io.blocks = 0;
  io.fua = false;
  return command.submit(flushed);
}

const flushed: Step = (lun, command) => (command.io.status === BdevStatus.OK ? command.good() : lun.failIo(command));

/**
 * SBC-3 5.25. There is nothing that spins: starting and stopping succeed, stopping writes the cache back first.
 * Power conditions and ejecting don't exist and are refused.
 */
export const startStopUnit: Step = (lun, command) => {
  const cdb = command.task.cdb;
  if ((cdb[4] & 0xf0) !== 0) return command.invalidCdb(4, 7);
  if ((cdb[4] & 0x02) !== 0) return command.invalidCdb(4, 1);
  const stop = (cdb[4] & 0x01) === 0;
  const noFlush = (cdb[4] & 0x04) !== 0;
  return stop && !noFlush ? flush(lun, command) : command.good();
};

/** SBC-3 5.13. The medium is never removable, so preventing is free. PREVENT 10b and 11b are obsolete. */
export const preventAllowMediumRemoval: Step = (_lun, command) =>
  (command.task.cdb[4] & 0x02) !== 0 ? command.invalidCdb(4, 1) : command.good();

/** Disks flush as a whole. IMMED is allowed to wait (SBC-3 5.26), and does. */
function synchronize(lun: Lun, command: Command, lba: number, blocks: number): boolean {
  if (refuseLba(lun, command, lba, blocks)) return true;
  return flush(lun, command);
}

export const synchronizeCache10: Step = (lun, command) =>
  synchronize(lun, command, be32(command.task.cdb, 2), be16(command.task.cdb, 7));

export const synchronizeCache16: Step = (lun, command) =>
  synchronize(lun, command, be64(command.task.cdb, 2), be32(command.task.cdb, 10));
