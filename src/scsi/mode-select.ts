import { be16, be24, be32, be64 } from './bytes.ts';
import type { Command, Step } from './command.ts';
import { MAX_PARAMETER_LIST } from './limits.ts';
import type { Lun } from './lun.ts';
import { ModeBit } from './lun-state.ts';
import { MODE_PAGES, type ModePage, modeByte, PageControl } from './mode-pages.ts';
import { copyParameterList } from './parameter-list.ts';
import { Sense } from './sense.ts';
import { Attention } from './unit-attention.ts';
import { flush } from './unit-commands.ts';

/**
 * MODE SELECT (6) and (10) (SPC-4 6.11, 6.12). The whole list is checked before anything changes; bits that can't be
 * changed must be sent as they are. Nothing is saved: SP is refused. The rows are exclusive: a write that is under way when the
 * cache is turned off could be answered GOOD and never be written back.
 */

const PF = 0x10;
/** The list is wrong and the result set. */
const REFUSED = -1;

export const modeSelect6: Step = (lun, command) => modeSelect(lun, command, 4, command.task.cdb[4]);
export const modeSelect10: Step = (lun, command) => modeSelect(lun, command, 8, be16(command.task.cdb, 7));

/** @param header 4 or 8 bytes */
function modeSelect(lun: Lun, command: Command, header: 4 | 8, length: number): boolean {
  const flags = command.task.cdb[1];
  if (length === 0) return command.good();
  if ((flags & PF) === 0) return command.invalidCdb(1, 4); // vendor-specific pages: none
  if (length > MAX_PARAMETER_LIST) return command.invalidCdb(header === 4 ? 4 : 7);
  const list = copyParameterList(command, length);
  if (list === undefined) return command.overrun();
  const was = lun.state.mode;
  const mode = parseList(lun, command, list, header, was);
  if (mode === REFUSED) return true;
  if (mode === was) return command.good();
  lun.state.setMode(mode);
  lun.state.attendOthers(lun.recordOf(command.task.nexus), Attention.MODE_CHANGED);
  // Turning the cache off writes back what it holds.
  return (was & ~mode & ModeBit.WCE) !== 0 ? flush(lun, command) : command.good();
}

/** @returns the new mode bits, or REFUSED */
function parseList(lun: Lun, command: Command, list: Uint8Array, header: 4 | 8, was: number): number {
  if (list.length < header) return tooShort(command);
  const long = header === 8 && (list[4] & 0x01) !== 0;
  const descriptor = header === 4 ? list[3] : be16(list, 6);
  const medium = header === 4 ? 1 : 2;
  if (list[medium] !== 0) return refuse(command, medium);
  if (list.length < header + descriptor) return tooShort(command);
  if (descriptor !== 0 && !checkBlockDescriptor(lun, list, header, descriptor, long)) return refuse(command, header);
  let mode = was;
  for (let at = header + descriptor; at < list.length; ) {
    if (list.length - at < 2) return tooShort(command);
    const subpages = (list[at] & 0x40) !== 0;
    const code = list[at] & 0x3f;
    const sub = subpages ? list[at + 1] : 0;
    const page = MODE_PAGES.find((p) => p.page === code && p.subpage === sub);
    if (page === undefined) return refuse(command, at, 5);
    if (list.length - at < page.bytes.length) return tooShort(command);
    const next = parsePage(lun, command, list, at, page, was, mode);
    if (next === REFUSED) return REFUSED;
    mode = next;
    at += page.bytes.length;
  }
  return mode;
}

/** A block descriptor may repeat what is, or say "unchanged" (0 blocks, or all ones): formatting is not done here. */
function checkBlockDescriptor(lun: Lun, list: Uint8Array, at: number, length: number, long: boolean): boolean {
  if (length !== (long ? 16 : 8)) return false;
  const blocks = long ? be64(list, at) : be32(list, at);
  const size = long ? be32(list, at + 12) : be24(list, at + 5);
  const unchanged = blocks === 0 || blocks === lun.info.numBlocks || blocks >= (long ? 2 ** 64 : 0xffff_ffff);
  return unchanged && size === lun.info.blockSize;
}

function parsePage(
  lun: Lun,
  command: Command,
  list: Uint8Array,
  at: number,
  page: ModePage,
  was: number,
  mode: number,
): number {
  let result = mode;
  for (let i = 0; i < page.bytes.length; i++) {
    const sent = i === 0 ? list[at] & 0x7f : list[at + i]; // PS is reserved here
    const may = i < 2 ? 0 : modeByte(lun, page, i, PageControl.CHANGEABLE, 0);
    const wrong = (sent ^ modeByte(lun, page, i, PageControl.CURRENT, was)) & ~may;
    if (wrong !== 0) return refuse(command, at + i, 31 - Math.clz32(wrong));
    for (const f of page.fields) {
      if (f.byte === i && f.changeable(lun)) result = (sent & f.mask) !== 0 ? result | f.bit : result & ~f.bit;
    }
  }
  return result;
}

function tooShort(command: Command): number {
  command.fail(Sense.PARAMETER_LIST_LENGTH_ERROR);
  return REFUSED;
}

function refuse(command: Command, byte: number, bit?: number): number {
  command.invalidParameter(byte, bit);
  return REFUSED;
}
