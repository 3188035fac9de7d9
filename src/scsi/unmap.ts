import { BdevOp, BdevStatus } from '../bdev/bdev.ts';
import { be16, be32, be64 } from './bytes.ts';
import { refuseLba, refuseWrite } from './checks.ts';
import type { Command, Step } from './command.ts';
import { MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS, ZERO_CHUNK_BYTES } from './limits.ts';
import type { Lun } from './lun.ts';
import { Sense } from './sense.ts';
import { Counter } from './statistics.ts';

/**
 * UNMAP (SBC-3 5.28). The list is copied and checked whole before the first block is given up, then done range by
 * range in pieces that a memory disk clears quickly.
 *
 * command.blocks: descriptors; command.progress: the current one; command.lba, command.dataOffset: where in it.
 */

const HEADER = 8;
const DESCRIPTOR = 16;

export const unmap: Step = (lun, command) => {
  const length = be16(command.task.cdb, 7);
  if (refuseWrite(lun, command)) return true;
  if (length === 0) return command.good();
  if (length < HEADER) return command.fail(Sense.PARAMETER_LIST_LENGTH_ERROR);
  if (command.task.dataOut.bytes < length) return command.overrun();
  return lun.withBuffer(command, checkList);
};

const checkList: Step = (lun, command) => {
  const length = be16(command.task.cdb, 7);
  const list = command.buffer!.u8;
  command.task.dataOut.gather(0, command.buffer!, 0, length);
  command.task.transferred = length;
  // A descriptor cut off by either length is not one (SBC-3 5.28.2).
  const descriptors = Math.floor(Math.min(be16(list, 2), length - HEADER) / DESCRIPTOR);
  if (descriptors > MAX_UNMAP_DESCRIPTORS) return command.invalidParameter(2);
  let sum = 0;
  for (let i = 0; i < descriptors; i++) {
    const at = HEADER + i * DESCRIPTOR;
    const lba = be64(list, at);
    const blocks = be32(list, at + 8);
    if (refuseLba(lun, command, lba, blocks)) return true;
    sum += blocks;
    if (sum > MAX_UNMAP_BLOCKS) return command.invalidParameter(at + 8);
  }
  command.begin(0, descriptors, false);
  return nextPiece(lun, command);
};

const nextPiece: Step = (lun, command) => {
  const list = command.buffer!.u8;
  while (command.progress < command.blocks) {
    const at = HEADER + command.progress * DESCRIPTOR;
    const left = be32(list, at + 8) - command.dataOffset;
    if (left > 0) {
      const piece = Math.min(left, Math.floor(ZERO_CHUNK_BYTES / lun.info.blockSize));
      const io = command.io;
      io.op = BdevOp.UNMAP;
      io.lba = be64(list, at) + command.dataOffset;
      io.blocks = piece;
      io.fua = false;
      command.dataOffset += piece;
      return command.submit(pieceDone);
    }
    command.progress++;
    command.dataOffset = 0;
  }
  return command.good();
};

const pieceDone: Step = (lun: Lun, command: Command) => {
  if (command.io.status !== BdevStatus.OK) return lun.failIo(command);
  lun.counters[Counter.UNMAPPED_BLOCKS] += command.io.blocks;
  return nextPiece(lun, command);
};
