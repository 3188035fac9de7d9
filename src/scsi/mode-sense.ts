import { be16 } from './bytes.ts';
import type { Command, Step } from './command.ts';
import type { Lun } from './lun.ts';
import { modeByte, PageControl, selectPages } from './mode-pages.ts';
import type { ResponseWriter } from './response-writer.ts';
import { Sense } from './sense.ts';
import { responseWriter } from './task-result.ts';

/**
 * MODE SENSE (6) and (10) (SPC-4 6.13, 6.14). Parameters can't be saved: asking for saved values is refused.
 */

const DBD = 0x08;
const LLBAA = 0x10;
const DPOFUA = 0x10;

export const modeSense6: Step = (lun, command) => modeSense(lun, command, 4);
export const modeSense10: Step = (lun, command) => modeSense(lun, command, 8);

/** @param header 4 or 8 bytes */
function modeSense(lun: Lun, command: Command, header: 4 | 8): boolean {
  const cdb = command.task.cdb;
  const control = cdb[2] >>> 6;
  if (control === PageControl.SAVED) return command.fail(Sense.SAVING_PARAMETERS_NOT_SUPPORTED);
  const pages = selectPages(cdb[2] & 0x3f, cdb[3]);
  if (pages.length === 0) return command.invalidCdb(2, 5);
  const long = header === 8 && (cdb[1] & LLBAA) !== 0;
  const descriptor = (cdb[1] & DBD) !== 0 ? 0 : long ? 16 : 8;
  const deviceSpecific = DPOFUA | (lun.writeProtected ? 0x80 : 0);

  const w = responseWriter.start().zeros(header);
  if (header === 4) w.patch8(2, deviceSpecific).patch8(3, descriptor);
  else
    w.patch8(3, deviceSpecific)
      .patch8(4, long ? 1 : 0)
      .patch16(6, descriptor);
  writeBlockDescriptor(w, lun, descriptor);
  const mode = lun.state.mode;
  for (const p of pages) for (let i = 0; i < p.bytes.length; i++) w.u8(modeByte(lun, p, i, control, mode));
  if (header === 4) w.patch8(0, w.length - 1);
  else w.patch16(0, w.length - 2);
  return command.respond(header === 4 ? cdb[4] : be16(cdb, 7));
}

/** SBC-3 6.4.2. @param length 0, 8 (short LBA) or 16 (long LBA) */
function writeBlockDescriptor(w: ResponseWriter, lun: Lun, length: number): void {
  const { numBlocks, blockSize } = lun.info;
  if (length === 8) w.u32(Math.min(numBlocks, 0xffff_ffff)).u32(blockSize);
  else if (length === 16) w.u64(numBlocks).u32(0).u32(blockSize);
}
