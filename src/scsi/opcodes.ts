import { readCapacity10, readCapacity16 } from './capacity.ts';
import { inquiry } from './inquiry.ts';
import { modeSense6, modeSense10 } from './mode-sense.ts';
import { Access, type OpcodeRow, row } from './opcode-row.ts';
import { read6, read10, read12, read16, write6, write10, write12, write16 } from './read-write.ts';
import { reportLuns } from './report-luns.ts';
import {
  preventAllowMediumRemoval,
  requestSense,
  startStopUnit,
  synchronizeCache10,
  synchronizeCache16,
  testUnitReady,
} from './unit-commands.ts';

/**
 * Every command there is: the one table. Usage maps: a set bit is looked at, or may at least be set (DPO, GROUP
 * NUMBER are hints).
 */
export const OPCODES: readonly OpcodeRow[] = [
  row('TEST UNIT READY', '00 00 00 00 00 00', testUnitReady, { access: Access.ALWAYS_BUT_RESERVED }),
  row('REQUEST SENSE', '03 01 00 00 ff 00', requestSense, { data: 'in', access: Access.ALWAYS, attention: false }),
  row('READ(6)', '08 1f ff ff ff 00', read6, { data: 'in', strict: false }),
  row('WRITE(6)', '0a 1f ff ff ff 00', write6, { data: 'out', access: Access.WRITE, writes: true, strict: false }),
  row('INQUIRY', '12 01 ff ff ff 00', inquiry, { data: 'in', access: Access.ALWAYS, attention: false }),
  row('MODE SENSE(6)', '1a 08 ff ff ff 00', modeSense6, { data: 'in' }),
  row('START STOP UNIT', '1b 01 00 00 f7 00', startStopUnit, {
    access: Access.WRITE,
    accessOf: (cdb) => ((cdb[4] & 0x01) !== 0 ? Access.ALWAYS_BUT_RESERVED : Access.WRITE),
  }),
  row('PREVENT ALLOW MEDIUM REMOVAL', '1e 00 00 00 03 00', preventAllowMediumRemoval, {
    access: Access.WRITE,
    accessOf: (cdb) => ((cdb[4] & 0x03) === 0 ? Access.ALWAYS : Access.WRITE),
  }),
  row('READ CAPACITY(10)', '25 00 ff ff ff ff 00 00 00 00', readCapacity10, { data: 'in', access: Access.ALWAYS }),
  row('READ(10)', '28 18 ff ff ff ff 3f ff ff 00', read10, { data: 'in', strict: false }),
  row('WRITE(10)', '2a 18 ff ff ff ff 3f ff ff 00', write10, {
    data: 'out',
    access: Access.WRITE,
    writes: true,
    strict: false,
  }),
  row('SYNCHRONIZE CACHE(10)', '35 06 ff ff ff ff 3f ff ff 00', synchronizeCache10, { access: Access.WRITE }),
  row('MODE SENSE(10)', '5a 18 ff ff 00 00 00 ff ff 00', modeSense10, { data: 'in' }),
  row('READ(16)', '88 18 ff ff ff ff ff ff ff ff ff ff ff ff 3f 00', read16, { data: 'in', strict: false }),
  row('WRITE(16)', '8a 18 ff ff ff ff ff ff ff ff ff ff ff ff 3f 00', write16, {
    data: 'out',
    access: Access.WRITE,
    writes: true,
    strict: false,
  }),
  row('SYNCHRONIZE CACHE(16)', '91 06 ff ff ff ff ff ff ff ff ff ff ff ff 3f 00', synchronizeCache16, {
    access: Access.WRITE,
  }),
  row('READ CAPACITY(16)', '9e 1f ff ff ff ff ff ff ff ff ff ff ff ff 00 00', readCapacity16, {
    serviceAction: 0x10,
    data: 'in',
    access: Access.ALWAYS,
  }),
  row('REPORT LUNS', 'a0 00 ff 00 00 00 ff ff ff ff 00 00', reportLuns, {
    data: 'in',
    access: Access.ALWAYS,
    attention: false,
  }),
  row('READ(12)', 'a8 18 ff ff ff ff ff ff ff ff 3f 00', read12, { data: 'in', strict: false }),
  row('WRITE(12)', 'aa 18 ff ff ff ff ff ff ff ff 3f 00', write12, {
    data: 'out',
    access: Access.WRITE,
    writes: true,
    strict: false,
  }),
];
