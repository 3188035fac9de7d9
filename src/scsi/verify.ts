import { BdevOp, BdevStatus } from '../bdev/bdev.ts';
import { be16, be32, be64 } from './bytes.ts';
import { refuseLba, refuseRange, refuseWrite } from './checks.ts';
import type { Command, Step } from './command.ts';
import { compareRange, miscompare, readRange, succeeded } from './compare.ts';
import { CHUNK_BYTES } from './limits.ts';
import type { Lun } from './lun.ts';

/**
 * VERIFY and WRITE AND VERIFY (SBC-3 5.30 to 5.32, 5.42 to 5.44). BYTCHK 0: the blocks can be read; 1: they equal the
 * data; 3: each equals the one block of data (VERIFY only).
 */

function bytchk(cdb: Uint8Array): number {
  return (cdb[1] >>> 1) & 0x03;
}

function verify(lun: Lun, command: Command, lba: number, blocks: number, lengthByte: number): boolean {
  const cdb = command.task.cdb;
  const check = bytchk(cdb);
  if (check === 2) return command.invalidCdb(1, 2);
  if (refuseLba(lun, command, lba, blocks)) return true;
  if (blocks === 0) return command.good();
  command.begin(lba, blocks, false);
  if (check === 0) return readRange(lun, command, succeeded); // moves no data, so it may be as long as the disk
  const data = check === 1 ? blocks * lun.info.blockSize : lun.info.blockSize;
  if (check === 1 && blocks > lun.maxTransfer) return command.invalidCdb(lengthByte);
  if (command.task.dataOut.bytes < data) return command.overrun();
  command.task.transferred = data;
  return check === 1 ? compareRange(lun, command, succeeded) : lun.withBuffer(command, copyPattern);
}

export const verify10: Step = (lun, command) =>
  verify(lun, command, be32(command.task.cdb, 2), be16(command.task.cdb, 7), 7);
export const verify12: Step = (lun, command) =>
  verify(lun, command, be32(command.task.cdb, 2), be32(command.task.cdb, 6), 6);
export const verify16: Step = (lun, command) =>
  verify(lun, command, be64(command.task.cdb, 2), be32(command.task.cdb, 10), 10);

// BYTCHK 3: the pattern lies in the buffer's last block, the medium is read before it.

const copyPattern: Step = (lun, command) => {
  const { blockSize } = lun.info;
  command.task.dataOut.gather(0, command.buffer!, CHUNK_BYTES - blockSize, blockSize);
  return readForPattern(lun, command);
};

const readForPattern: Step = (lun, command) => {
  const left = command.blocks - command.progress;
  if (left === 0) return command.good();
  const piece = Math.min(left, CHUNK_BYTES / lun.info.blockSize - 1);
  command.useBuffer(BdevOp.READ, command.lba + command.progress, piece);
  return command.submit(comparePattern);
};

const comparePattern: Step = (lun, command) => {
  const { io } = command;
  if (io.status !== BdevStatus.OK) return lun.failIo(command);
  const { blockSize } = lun.info;
  const u8 = command.buffer!.u8;
  const pattern = CHUNK_BYTES - blockSize;
  for (let i = 0; i < io.blocks * blockSize; i++) {
    if (u8[i] !== u8[pattern + (i & (blockSize - 1))]) return miscompare(lun, command, i);
  }
  command.progress += io.blocks;
  return readForPattern(lun, command);
};

function writeAndVerify(lun: Lun, command: Command, lba: number, blocks: number, lengthByte: number): boolean {
  if (refuseRange(lun, command, lba, blocks, lengthByte)) return true;
  if (refuseWrite(lun, command)) return true;
  if (blocks === 0) return command.good();
  const bytes = blocks * lun.info.blockSize;
  if (command.task.dataOut.bytes < bytes) return command.overrun();
  command.task.transferred = bytes;
  command.begin(lba, blocks, true); // to the medium: it is the medium that is verified
  command.useDataOut(BdevOp.WRITE, lba, blocks, 0);
  return command.submit(written);
}

const written: Step = (lun, command) => {
  if (command.io.status !== BdevStatus.OK) return lun.failIo(command);
  return bytchk(command.task.cdb) === 1 ? compareRange(lun, command, succeeded) : readRange(lun, command, succeeded);
};

export const writeAndVerify10: Step = (lun, command) =>
  writeAndVerify(lun, command, be32(command.task.cdb, 2), be16(command.task.cdb, 7), 7);
export const writeAndVerify12: Step = (lun, command) =>
  writeAndVerify(lun, command, be32(command.task.cdb, 2), be32(command.task.cdb, 6), 6);
export const writeAndVerify16: Step = (lun, command) =>
  writeAndVerify(lun, command, be64(command.task.cdb, 2), be32(command.task.cdb, 10), 10);
