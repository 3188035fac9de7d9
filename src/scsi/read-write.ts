import { BdevOp } from '../bdev/bdev.ts';
import { be16, be32, be64 } from './bytes.ts';
import { refuseRange, refuseWrite } from './checks.ts';
import type { Command, Step } from './command.ts';
import type { Lun } from './lun.ts';
import { Counter } from './statistics.ts';

// Own copies of what the hot path uses: a constant of another module is loaded and checked at each use.
const READ = BdevOp.READ;
const WRITE = BdevOp.WRITE;
const READ_COMMANDS = Counter.READ_COMMANDS;
const WRITE_COMMANDS = Counter.WRITE_COMMANDS;

/**
 * READ and WRITE (SBC-3 5.8 to 5.12, 5.38 to 5.41): the data goes straight between the guest's buffers and the disk.
 * The hot path: no allocation, no copy.
 */

const FUA = 0x08;
const PROTECT = 0xe0;

function read(lun: Lun, command: Command, lba: number, blocks: number, fua: boolean, lengthByte: number): boolean {
  lun.counters[READ_COMMANDS]++;
  if (refuseRange(lun, command, lba, blocks, lengthByte)) return true;
  if (blocks === 0) return command.good();
  const sg = command.task.dataIn;
  if (sg.bytes < blocks * lun.info.blockSize) return command.overrun();
  const io = command.io;
  io.op = READ;
  io.lba = lba;
  io.blocks = blocks;
  io.sg = sg;
  io.sgOffset = 0;
  io.fua = fua;
  lun.channel.submit(io);
  return false;
}

function write(lun: Lun, command: Command, lba: number, blocks: number, fua: boolean, lengthByte: number): boolean {
  lun.counters[WRITE_COMMANDS]++;
  if (refuseRange(lun, command, lba, blocks, lengthByte)) return true;
  if (refuseWrite(lun, command)) return true;
  if (blocks === 0) return command.good();
  const sg = command.task.dataOut;
  if (sg.bytes < blocks * lun.info.blockSize) return command.overrun();
  const io = command.io;
  io.op = WRITE;
  io.lba = lba;
  io.blocks = blocks;
  io.sg = sg;
  io.sgOffset = 0;
  io.fua = fua || lun.forceFua;
  lun.channel.submit(io);
  return false;
}

/** 21 bits of LBA; a length of 0 means 256 blocks. */
function lba6(cdb: Uint8Array): number {
  return ((cdb[1] & 0x1f) << 16) | be16(cdb, 2);
}

export const read6: Step = (lun, command) => {
  const cdb = command.task.cdb;
  return read(lun, command, lba6(cdb), cdb[4] === 0 ? 256 : cdb[4], false, 4);
};

export const write6: Step = (lun, command) => {
  const cdb = command.task.cdb;
  return write(lun, command, lba6(cdb), cdb[4] === 0 ? 256 : cdb[4], false, 4);
};

export const read10: Step = (lun, command) => {
  const cdb = command.task.cdb;
  if ((cdb[1] & PROTECT) !== 0) return command.invalidCdb(1, 7);
  return read(lun, command, be32(cdb, 2), be16(cdb, 7), (cdb[1] & FUA) !== 0, 7);
};

export const write10: Step = (lun, command) => {
  const cdb = command.task.cdb;
  if ((cdb[1] & PROTECT) !== 0) return command.invalidCdb(1, 7);
  return write(lun, command, be32(cdb, 2), be16(cdb, 7), (cdb[1] & FUA) !== 0, 7);
};

export const read12: Step = (lun, command) => {
  const cdb = command.task.cdb;
  if ((cdb[1] & PROTECT) !== 0) return command.invalidCdb(1, 7);
  return read(lun, command, be32(cdb, 2), be32(cdb, 6), (cdb[1] & FUA) !== 0, 6);
};

export const write12: Step = (lun, command) => {
  const cdb = command.task.cdb;
  if ((cdb[1] & PROTECT) !== 0) return command.invalidCdb(1, 7);
  return write(lun, command, be32(cdb, 2), be32(cdb, 6), (cdb[1] & FUA) !== 0, 6);
};

export const read16: Step = (lun, command) => {
  const cdb = command.task.cdb;
  if ((cdb[1] & PROTECT) !== 0) return command.invalidCdb(1, 7);
  return read(lun, command, be64(cdb, 2), be32(cdb, 10), (cdb[1] & FUA) !== 0, 10);
};

export const write16: Step = (lun, command) => {
  const cdb = command.task.cdb;
  if ((cdb[1] & PROTECT) !== 0) return command.invalidCdb(1, 7);
  return write(lun, command, be64(cdb, 2), be32(cdb, 10), (cdb[1] & FUA) !== 0, 10);
};
