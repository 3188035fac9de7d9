import { BdevOp, BdevStatus } from '../bdev/bdev.ts';
import type { Memory } from '../memory/memory.ts';
import type { SgList } from '../memory/sg-list.ts';
import type { Command, Step } from './command.ts';
import { CHUNK_BYTES, COMPARE_CHUNK_BYTES } from './limits.ts';
import type { Lun } from './lun.ts';
import { Sense } from './sense.ts';

/**
 * Comparing the medium with the guest's data, or just reading it: the part that VERIFY, WRITE AND VERIFY and COMPARE
 * AND WRITE share. In pieces; the disk compares where it can, else we read into a work buffer and compare here.
 *
 * command.lba, command.blocks: the range; command.progress: blocks done; command.after: what follows a match.
 */

/** Compare dataOut from its byte 0 on with the range, then run `after`. */
export function compareRange(lun: Lun, command: Command, after: Step): boolean {
  command.progress = 0;
  command.after = after;
  return compareNext(lun, command);
}

const compareNext: Step = (lun, command) => {
  const left = command.blocks - command.progress;
  if (left === 0) return command.after!(lun, command);
  if (!lun.diskCompares) {
    return command.buffer === null ? lun.withBuffer(command, readToCompare) : readToCompare(lun, command);
  }
  const { blockSize } = lun.info;
  const piece = Math.min(left, Math.floor(COMPARE_CHUNK_BYTES / blockSize));
  command.useDataOut(BdevOp.COMPARE, command.lba + command.progress, piece, command.progress * blockSize);
  command.io.fua = false;
  return command.submit(diskCompared);
};

const diskCompared: Step = (lun, command) => {
  const { io } = command;
  if (io.status === BdevStatus.NOT_SUPPORTED) {
    lun.diskCompares = false;
    return compareNext(lun, command);
  }
  if (io.status === BdevStatus.MISCOMPARE) return miscompare(lun, command, io.miscompareOffset);
  if (io.status !== BdevStatus.OK) return lun.failIo(command);
  command.progress += io.blocks;
  return compareNext(lun, command);
};

const readToCompare: Step = (lun, command) => {
  const piece = Math.min(command.blocks - command.progress, Math.floor(CHUNK_BYTES / lun.info.blockSize));
  command.useBuffer(BdevOp.READ, command.lba + command.progress, piece);
  return command.submit(compareHere);
};

const compareHere: Step = (lun, command) => {
  const { io } = command;
  if (io.status !== BdevStatus.OK) return lun.failIo(command);
  const { blockSize } = lun.info;
  const at = firstDifference(
    command.task.dataOut,
    command.progress * blockSize,
    command.buffer!,
    io.blocks * blockSize,
  );
  if (at >= 0) return miscompare(lun, command, at);
  command.progress += io.blocks;
  return compareNext(lun, command);
};

/** @param offset of the first difference, bytes from the start of the current piece */
export function miscompare(lun: Lun, command: Command, offset: number): boolean {
  return command.fail(Sense.MISCOMPARE_DURING_VERIFY, command.progress * lun.info.blockSize + offset);
}

/** Offset of the first byte in which `bytes` of `sg` from its byte `from` on differ from `memory`; -1 when none does. */
function firstDifference(sg: SgList, from: number, memory: Memory, bytes: number): number {
  const other = memory.u8;
  let skip = from;
  let at = 0;
  for (let i = 0; i < sg.count && at < bytes; i++) {
    if (skip >= sg.length[i]) {
      skip -= sg.length[i];
      continue;
    }
    const u8 = sg.memory[i].u8;
    const end = sg.offset[i] + Math.min(sg.length[i], skip + bytes - at);
    for (let j = sg.offset[i] + skip; j < end; j++, at++) if (u8[j] !== other[at]) return at;
    skip = 0;
  }
  return -1;
}

/** Read the range into nowhere, to see that it can be read; then run `after`. */
export function readRange(lun: Lun, command: Command, after: Step): boolean {
  command.progress = 0;
  command.after = after;
  return lun.withBuffer(command, readNext);
}

const readNext: Step = (lun, command) => {
  const left = command.blocks - command.progress;
  if (left === 0) return command.after!(lun, command);
  const piece = Math.min(left, Math.floor(CHUNK_BYTES / lun.info.blockSize));
  command.useBuffer(BdevOp.READ, command.lba + command.progress, piece);
  return command.submit(readDone);
};

const readDone: Step = (lun, command) => {
  if (command.io.status !== BdevStatus.OK) return lun.failIo(command);
  command.progress += command.io.blocks;
  return readNext(lun, command);
};

/** Success of the whole command. */
export const succeeded: Step = (_lun, command) => command.good();
