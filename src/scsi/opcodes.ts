import { readCapacity10, readCapacity16 } from './capacity.ts';
import { compareAndWrite, orWrite16 } from './compare-and-write.ts';
import { inquiry } from './inquiry.ts';
import { logSense } from './log-sense.ts';
import {
  getLbaStatus,
  prefetch10,
  prefetch16,
  readDefectData10,
  readDefectData12,
  sendDiagnostic,
} from './medium-commands.ts';
import { modeSelect6, modeSelect10 } from './mode-select.ts';
import { modeSense6, modeSense10 } from './mode-sense.ts';
import { Access, type OpcodeRow, type RowOptions, row } from './opcode-row.ts';
import * as pr from './persistent-reserve.ts';
import { read6, read10, read12, read16, write6, write10, write12, write16 } from './read-write.ts';
import { reportLuns } from './report-luns.ts';
import { reportSupportedOpcodes, reportSupportedTmfs } from './report-opcodes.ts';
import { release, reserve } from './reserve.ts';
import {
  preventAllowMediumRemoval,
  requestSense,
  startStopUnit,
  synchronizeCache10,
  synchronizeCache16,
  testUnitReady,
} from './unit-commands.ts';
import { unmap } from './unmap.ts';
import { verify10, verify12, verify16, writeAndVerify10, writeAndVerify12, writeAndVerify16 } from './verify.ts';
import { writeSame10, writeSame16 } from './write-same.ts';

/**
 * Every command there is: the one table. In the usage maps a set bit is looked at, or may at least be set (DPO and
 * GROUP NUMBER are hints); in a strict row a bit that is not set there is refused.
 */

/** Data in, allowed under every reservation, runs before unit attentions are told. */
const ANY_TIME: RowOptions = { data: 'in', access: Access.ALWAYS, attention: false };
const READ: RowOptions = { data: 'in', strict: false };
const WRITE: RowOptions = { data: 'out', access: Access.WRITE, writes: true, strict: false };
const CHANGES_MEDIUM: RowOptions = { data: 'out', access: Access.WRITE, writes: true };
const EXCLUSIVE: RowOptions = { data: 'out', access: Access.WRITE, exclusive: true };

const prIn = (serviceAction: number): RowOptions => ({ serviceAction, data: 'in', access: Access.ALWAYS_BUT_RESERVED });
const prOut = (serviceAction: number): RowOptions => ({ serviceAction, data: 'out', access: Access.OWN });

// Parts of usage maps.
const LBA32 = 'ff ff ff ff';
const LBA64 = 'ff ff ff ff ff ff ff ff';
const GROUP = '3f';

/** Ascending by opcode and service action. */
export const OPCODES: readonly OpcodeRow[] = [
  row('TEST UNIT READY', '00 00 00 00 00 00', testUnitReady, { access: Access.ALWAYS_BUT_RESERVED }),
  row('REQUEST SENSE', '03 01 00 00 ff 00', requestSense, ANY_TIME),
  row('READ(6)', '08 1f ff ff ff 00', read6, READ),
  row('WRITE(6)', '0a 1f ff ff ff 00', write6, WRITE),
  row('INQUIRY', '12 01 ff ff ff 00', inquiry, ANY_TIME),
  row('MODE SELECT(6)', '15 10 00 00 ff 00', modeSelect6, EXCLUSIVE),
  row('RESERVE(6)', '16 00 00 00 00 00', reserve, { access: Access.OWN }),
  row('RELEASE(6)', '17 00 00 00 00 00', release, { access: Access.ALWAYS }),
  row('MODE SENSE(6)', '1a 08 ff ff ff 00', modeSense6, { data: 'in' }),
  row('START STOP UNIT', '1b 01 00 00 f7 00', startStopUnit, {
    access: Access.WRITE,
    accessOf: (cdb) => ((cdb[4] & 0x01) !== 0 ? Access.ALWAYS_BUT_RESERVED : Access.WRITE),
  }),
  row('SEND DIAGNOSTIC', '1d 17 00 ff ff 00', sendDiagnostic, { access: Access.WRITE }),
  row('PREVENT ALLOW MEDIUM REMOVAL', '1e 00 00 00 03 00', preventAllowMediumRemoval, {
    access: Access.WRITE,
    accessOf: (cdb) => ((cdb[4] & 0x03) === 0 ? Access.ALWAYS : Access.WRITE),
  }),
  row('READ CAPACITY(10)', `25 00 ${LBA32} 00 00 00 00`, readCapacity10, { data: 'in', access: Access.ALWAYS }),
  row('READ(10)', `28 18 ${LBA32} ${GROUP} ff ff 00`, read10, READ),
  row('WRITE(10)', `2a 18 ${LBA32} ${GROUP} ff ff 00`, write10, WRITE),
  row('WRITE AND VERIFY(10)', `2e 12 ${LBA32} ${GROUP} ff ff 00`, writeAndVerify10, CHANGES_MEDIUM),
  row('VERIFY(10)', `2f 16 ${LBA32} ${GROUP} ff ff 00`, verify10, { data: 'out', timeout: 60 }),
  row('PRE-FETCH(10)', `34 02 ${LBA32} ${GROUP} ff ff 00`, prefetch10),
  row('SYNCHRONIZE CACHE(10)', `35 06 ${LBA32} ${GROUP} ff ff 00`, synchronizeCache10, {
    access: Access.WRITE,
    timeout: 60,
  }),
  row('READ DEFECT DATA(10)', '37 00 1f 00 00 00 00 ff ff 00', readDefectData10, { data: 'in' }),
  row('WRITE SAME(10)', `41 08 ${LBA32} ${GROUP} ff ff 00`, writeSame10, CHANGES_MEDIUM),
  row('UNMAP', `42 00 00 00 00 00 ${GROUP} ff ff 00`, unmap, { ...CHANGES_MEDIUM, needs: (info) => info.unmap }),
  row('LOG SENSE', '4d 00 ff ff 00 ff ff ff ff 00', logSense, { data: 'in', access: Access.ALWAYS }),
  row('MODE SELECT(10)', '55 10 00 00 00 00 00 ff ff 00', modeSelect10, EXCLUSIVE),
  row('RESERVE(10)', '56 00 00 00 00 00 00 00 00 00', reserve, { access: Access.OWN }),
  row('RELEASE(10)', '57 00 00 00 00 00 00 00 00 00', release, { access: Access.ALWAYS }),
  row('MODE SENSE(10)', '5a 18 ff ff 00 00 00 ff ff 00', modeSense10, { data: 'in' }),
  row('PERSISTENT RESERVE IN, READ KEYS', '5e 00 00 00 00 00 00 ff ff 00', pr.readKeys, prIn(0x00)),
  row('PERSISTENT RESERVE IN, READ RESERVATION', '5e 01 00 00 00 00 00 ff ff 00', pr.readReservation, prIn(0x01)),
  row('PERSISTENT RESERVE IN, REPORT CAPABILITIES', '5e 02 00 00 00 00 00 ff ff 00', pr.reportCapabilities, prIn(0x02)),
  row('PERSISTENT RESERVE IN, READ FULL STATUS', '5e 03 00 00 00 00 00 ff ff 00', pr.readFullStatus, prIn(0x03)),
  row('PERSISTENT RESERVE OUT, REGISTER', '5f 00 ff 00 00 ff ff ff ff 00', pr.prRegister, prOut(0x00)),
  row('PERSISTENT RESERVE OUT, RESERVE', '5f 01 ff 00 00 ff ff ff ff 00', pr.prReserve, prOut(0x01)),
  row('PERSISTENT RESERVE OUT, RELEASE', '5f 02 ff 00 00 ff ff ff ff 00', pr.prRelease, prOut(0x02)),
  row('PERSISTENT RESERVE OUT, CLEAR', '5f 03 ff 00 00 ff ff ff ff 00', pr.prClear, prOut(0x03)),
  row('PERSISTENT RESERVE OUT, PREEMPT', '5f 04 ff 00 00 ff ff ff ff 00', pr.prPreempt, prOut(0x04)),
  row('PERSISTENT RESERVE OUT, PREEMPT AND ABORT', '5f 05 ff 00 00 ff ff ff ff 00', pr.prPreemptAndAbort, prOut(0x05)),
  row(
    'PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY',
    '5f 06 ff 00 00 ff ff ff ff 00',
    pr.prRegisterAndIgnore,
    prOut(0x06),
  ),
  row('READ(16)', `88 18 ${LBA64} ff ff ff ff ${GROUP} 00`, read16, READ),
  row('COMPARE AND WRITE', `89 18 ${LBA64} 00 00 00 ff ${GROUP} 00`, compareAndWrite, EXCLUSIVE),
  row('WRITE(16)', `8a 18 ${LBA64} ff ff ff ff ${GROUP} 00`, write16, WRITE),
  row('ORWRITE(16)', `8b 18 ${LBA64} ff ff ff ff ${GROUP} 00`, orWrite16, EXCLUSIVE),
  row('WRITE AND VERIFY(16)', `8e 12 ${LBA64} ff ff ff ff ${GROUP} 00`, writeAndVerify16, CHANGES_MEDIUM),
  row('VERIFY(16)', `8f 16 ${LBA64} ff ff ff ff ${GROUP} 00`, verify16, { data: 'out', timeout: 60 }),
  row('PRE-FETCH(16)', `90 02 ${LBA64} ff ff ff ff ${GROUP} 00`, prefetch16),
  row('SYNCHRONIZE CACHE(16)', `91 06 ${LBA64} ff ff ff ff ${GROUP} 00`, synchronizeCache16, {
    access: Access.WRITE,
    timeout: 60,
  }),
  row('WRITE SAME(16)', `93 09 ${LBA64} ff ff ff ff ${GROUP} 00`, writeSame16, CHANGES_MEDIUM),
  row('READ CAPACITY(16)', `9e 10 ${LBA64} ff ff ff ff 00 00`, readCapacity16, {
    serviceAction: 0x10,
    data: 'in',
    access: Access.ALWAYS,
  }),
  row('GET LBA STATUS', `9e 12 ${LBA64} ff ff ff ff 00 00`, getLbaStatus, { serviceAction: 0x12, data: 'in' }),
  row('REPORT LUNS', 'a0 00 ff 00 00 00 ff ff ff ff 00 00', reportLuns, ANY_TIME),
  row('REPORT SUPPORTED OPERATION CODES', 'a3 0c 87 ff ff ff ff ff ff ff 00 00', reportSupportedOpcodes, {
    serviceAction: 0x0c,
    data: 'in',
  }),
  row('REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS', 'a3 0d 80 00 00 00 ff ff ff ff 00 00', reportSupportedTmfs, {
    serviceAction: 0x0d,
    data: 'in',
  }),
  row('READ(12)', `a8 18 ${LBA32} ff ff ff ff ${GROUP} 00`, read12, READ),
  row('WRITE(12)', `aa 18 ${LBA32} ff ff ff ff ${GROUP} 00`, write12, WRITE),
  row('WRITE AND VERIFY(12)', `ae 12 ${LBA32} ff ff ff ff ${GROUP} 00`, writeAndVerify12, CHANGES_MEDIUM),
  row('VERIFY(12)', `af 16 ${LBA32} ff ff ff ff ${GROUP} 00`, verify12, { data: 'out', timeout: 60 }),
  row('READ DEFECT DATA(12)', 'b7 1f 00 00 00 00 ff ff ff ff 00 00', readDefectData12, { data: 'in' }),
];

export { cdbLength } from './opcode-row.ts';

const NAMES = new Map(OPCODES.map((r) => [r.opcode * 256 + Math.max(r.serviceAction, 0), r.name]));

/** A command's name for traces: by opcode and service action, whether or not a unit has it. */
export function commandName(cdb: Uint8Array): string {
  const opcode = cdb[0] * 256;
  return NAMES.get(opcode + (cdb[1] & 0x1f)) ?? NAMES.get(opcode) ?? `opcode ${cdb[0].toString(16)}h`;
}
