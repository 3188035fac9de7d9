import { BdevOp, BdevStatus } from '../bdev/bdev.ts';
import { be16, be32, be64 } from './bytes.ts';
import { refuseLba, refuseWrite } from './checks.ts';
import type { Command, Step } from './command.ts';
import { CHUNK_BYTES, ZERO_CHUNK_BYTES } from './limits.ts';
import type { Lun } from './lun.ts';
import { Counter } from './statistics.ts';
import { maxWriteSame } from './vpd.ts';

/**
 * WRITE SAME (10) and (16) (SBC-3 5.44, 5.45): one block written to a whole range. Zeroes go as UNMAP where that is
 * asked for and reads back as zeroes, else as WRITE_ZEROES; other data as a work buffer full of copies.
 */

const UNMAP = 0x08;
const NDOB = 0x01;

export const writeSame10: Step = (lun, command) => {
  const cdb = command.task.cdb;
  return writeSame(lun, command, be32(cdb, 2), be16(cdb, 7), 7);
};

export const writeSame16: Step = (lun, command) => {
  const cdb = command.task.cdb;
  return writeSame(lun, command, be64(cdb, 2), be32(cdb, 10), 10);
};

function writeSame(lun: Lun, command: Command, lba: number, blocks: number, lengthByte: number): boolean {
  const flags = command.task.cdb[1];
  // A read-only file cannot unmap: it is the protection that its user should hear of.
  if ((flags & UNMAP) !== 0 && !lun.info.unmap) return refuseWrite(lun, command) || command.invalidCdb(1, 3);
  if (refuseLba(lun, command, lba, blocks)) return true;
  if (refuseWrite(lun, command)) return true;
  if (blocks === 0 || blocks > maxWriteSame(lun)) return command.invalidCdb(lengthByte); // WSNZ is 1
  if ((flags & NDOB) === 0 && command.task.dataOut.bytes !== lun.info.blockSize) return command.invalidCdb(lengthByte);
  command.begin(lba, blocks, lun.forceFua);
  return lun.withBuffer(command, begin);
}

const begin: Step = (lun, command) => {
  const flags = command.task.cdb[1];
  const { blockSize } = lun.info;
  const block = command.buffer!.u8;
  if ((flags & NDOB) !== 0) block.fill(0, 0, blockSize);
  else command.task.transferred = command.task.dataOut.gather(0, command.buffer!, 0, blockSize);
  if (!allZero(block, blockSize)) {
    for (let at = blockSize; at < CHUNK_BYTES; at += blockSize) block.copyWithin(at, 0, blockSize);
    return writeCopies(lun, command);
  }
  block.fill(0, 0, CHUNK_BYTES); // should the disk not know WRITE_ZEROES
  // Disks give blocks up without telling when that has reached the medium: not while every write must.
  const mayUnmap = (flags & UNMAP) !== 0 && lun.info.unmapZeroes && !command.fua;
  command.io.op = mayUnmap ? BdevOp.UNMAP : BdevOp.WRITE_ZEROES;
  return clear(lun, command);
};

function allZero(bytes: Uint8Array, length: number): boolean {
  for (let i = 0; i < length; i++) if (bytes[i] !== 0) return false;
  return true;
}

/** The next piece of a range of zeroes. */
const clear: Step = (lun, command) => {
  const left = command.blocks - command.progress;
  if (left === 0) return command.good();
  const io = command.io;
  io.lba = command.lba + command.progress;
  io.blocks = Math.min(left, Math.floor(ZERO_CHUNK_BYTES / lun.info.blockSize));
  io.fua = command.fua;
  return command.submit(cleared);
};

const cleared: Step = (lun, command) => {
  const { io } = command;
  if (io.status === BdevStatus.NOT_SUPPORTED) return writeCopies(lun, command);
  if (io.status !== BdevStatus.OK) return lun.failIo(command);
  if (io.op === BdevOp.UNMAP) lun.counters[Counter.UNMAPPED_BLOCKS] += io.blocks;
  command.progress += io.blocks;
  return clear(lun, command);
};

/** The next piece from the buffer full of copies. */
const writeCopies: Step = (lun, command) => {
  const left = command.blocks - command.progress;
  if (left === 0) return command.good();
  const piece = Math.min(left, Math.floor(CHUNK_BYTES / lun.info.blockSize));
  command.useBuffer(BdevOp.WRITE, command.lba + command.progress, piece);
  return command.submit(copiesWritten);
};

const copiesWritten: Step = (lun, command) => {
  if (command.io.status !== BdevStatus.OK) return lun.failIo(command);
  command.progress += command.io.blocks;
  return writeCopies(lun, command);
};
