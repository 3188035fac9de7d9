import { BdevOp, BdevStatus } from '../bdev/bdev.ts';
import { be32, be64 } from './bytes.ts';
import { refuseLba, refuseRange, refuseWrite } from './checks.ts';
import type { Command, Step } from './command.ts';
import { compareRange, succeeded } from './compare.ts';
import { CHUNK_BYTES } from './limits.ts';
import type { Lun } from './lun.ts';
import { maxCompareAndWrite } from './vpd.ts';

/**
 * The two commands that read, decide and write as one: COMPARE AND WRITE (SBC-3 5.3) and ORWRITE (SBC-3 5.14). Their
 * rows are exclusive: while one runs, no other command changes the medium, through whichever controller it came.
 */

const FUA = 0x08;

/** dataOut: the blocks to compare, then the blocks to write. */
export const compareAndWrite: Step = (lun, command) => {
  const cdb = command.task.cdb;
  const lba = be64(cdb, 2);
  const blocks = cdb[13];
  if (refuseLba(lun, command, lba, blocks)) return true;
  if (blocks > maxCompareAndWrite(lun)) return command.invalidCdb(13);
  if (refuseWrite(lun, command)) return true;
  if (blocks === 0) return command.good();
  const bytes = 2 * blocks * lun.info.blockSize;
  if (command.task.dataOut.bytes < bytes) return command.overrun();
  command.task.transferred = bytes;
  command.begin(lba, blocks, (cdb[1] & FUA) !== 0 || lun.forceFua);
  return compareRange(lun, command, writeSecondHalf);
};

const writeSecondHalf: Step = (lun, command) => {
  command.useDataOut(BdevOp.WRITE, command.lba, command.blocks, command.blocks * lun.info.blockSize);
  return command.submit(written);
};

const written: Step = (lun, command) =>
  command.io.status === BdevStatus.OK ? succeeded(lun, command) : lun.failIo(command);

export const orWrite16: Step = (lun, command) => {
  const cdb = command.task.cdb;
  const lba = be64(cdb, 2);
  const blocks = be32(cdb, 10);
  if (refuseRange(lun, command, lba, blocks, 10)) return true;
  if (refuseWrite(lun, command)) return true;
  if (blocks === 0) return command.good();
  const bytes = blocks * lun.info.blockSize;
  if (command.task.dataOut.bytes < bytes) return command.overrun();
  command.task.transferred = bytes;
  command.begin(lba, blocks, (cdb[1] & FUA) !== 0 || lun.forceFua);
  return lun.withBuffer(command, readPiece);
};

const readPiece: Step = (lun, command) => {
  const left = command.blocks - command.progress;
  if (left === 0) return command.good();
  const piece = Math.min(left, Math.floor(CHUNK_BYTES / lun.info.blockSize));
  command.useBuffer(BdevOp.READ, command.lba + command.progress, piece);
  return command.submit(orPiece);
};

const orPiece: Step = (lun, command) => {
  if (command.io.status !== BdevStatus.OK) return lun.failIo(command);
  const { blocks } = command.io;
  orInto(command, command.progress * lun.info.blockSize, blocks * lun.info.blockSize);
  command.useBuffer(BdevOp.WRITE, command.lba + command.progress, blocks);
  return command.submit(pieceWritten);
};

const pieceWritten: Step = (lun: Lun, command: Command) => {
  if (command.io.status !== BdevStatus.OK) return lun.failIo(command);
  command.progress += command.io.blocks;
  return readPiece(lun, command);
};

/** OR `bytes` of dataOut from its byte `from` on into the work buffer. */
function orInto(command: Command, from: number, bytes: number): void {
  const into = command.buffer!.u8;
  const sg = command.task.dataOut;
  let skip = from;
  let at = 0;
  for (let i = 0; i < sg.count && at < bytes; i++) {
    if (skip >= sg.length[i]) {
      skip -= sg.length[i];
      continue;
    }
    const u8 = sg.memory[i].u8;
    const end = sg.offset[i] + Math.min(sg.length[i], skip + bytes - at);
    for (let j = sg.offset[i] + skip; j < end; j++, at++) into[at] |= u8[j];
    skip = 0;
  }
}
