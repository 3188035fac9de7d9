import { BdevOp, BdevStatus } from '../../../src/bdev/bdev.ts';
import { OPCODES } from '../../../src/scsi/opcodes.ts';
import { assert } from '../../support/suite.ts';
import { blocks, type Case } from '../support/case.ts';

/** What the unit says of itself: opcodes, task management functions, logs. */

const RSOC = 'REPORT SUPPORTED OPERATION CODES';
const RSTMF = 'REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS';

export const reports: readonly Case[] = [
  {
    command: RSOC,
    kind: 'good',
    shows: 'all commands',
    cdb: 'a3 0c 00 00 00 00 00 00 ff ff 00 00',
    length: 4 + OPCODES.length * 8,
    starts: `00 00 ${(OPCODES.length * 8).toString(16).padStart(4, '0')}
             00 00 00 00 00 00 00 06   // TEST UNIT READY
             03 00 00 00 00 00 00 06   // REQUEST SENSE`,
  },
  {
    command: RSOC,
    kind: 'good',
    shows: 'all commands with timeouts',
    cdb: 'a3 0c 80 00 00 00 00 00 ff ff 00 00',
    length: 4 + OPCODES.length * 20,
    after: (_unit, r) => {
      assert.is(r.dataIn[4 + 5], 0x02); // CTDP
      assert.equal([...r.dataIn.subarray(12, 14)], [0, 10]);
    },
  },
  {
    command: RSOC,
    kind: 'good',
    shows: 'one opcode',
    cdb: 'a3 0c 01 28 00 00 00 00 ff ff 00 00',
    in: '00 03 00 0a  28 18 ff ff ff ff 3f ff ff 00',
  },
  {
    command: RSOC,
    kind: 'good',
    shows: 'one opcode with timeouts',
    cdb: 'a3 0c 81 28 00 00 00 00 ff ff 00 00',
    in: '00 83 00 0a  28 18 ff ff ff ff 3f ff ff 00  00 0a 00 00 00 00 00 00 00 00 00 1e',
  },
  {
    command: RSOC,
    kind: 'good',
    shows: 'a service action',
    cdb: 'a3 0c 02 9e 00 10 00 00 ff ff 00 00',
    in: '00 03 00 10  9e 10 ff ff ff ff ff ff ff ff ff ff ff ff 00 00',
  },
  {
    command: RSOC,
    kind: 'edge',
    shows: 'either form: a plain opcode',
    cdb: 'a3 0c 03 00 00 00 00 00 ff ff 00 00',
    in: '00 03 00 06 00 00 00 00 00 00',
  },
  {
    command: RSOC,
    kind: 'edge',
    shows: 'either form: a service action',
    cdb: 'a3 0c 03 a3 00 0d 00 00 00 06 00 00',
    in: '00 03 00 0c a3 0d',
  },
  {
    command: RSOC,
    kind: 'edge',
    shows: 'either form: a service action of a plain opcode',
    cdb: 'a3 0c 03 28 00 01 00 00 ff ff 00 00',
    in: '00 01 00 00',
  },
  {
    command: RSOC,
    kind: 'edge',
    shows: 'an opcode that is not there',
    cdb: 'a3 0c 01 04 00 00 00 00 ff ff 00 00',
    in: '00 01 00 00',
  },
  {
    command: RSOC,
    kind: 'edge',
    shows: 'a service action that is not there',
    cdb: 'a3 0c 02 9e 00 1f 00 00 ff ff 00 00',
    in: '00 01 00 00',
  },
  {
    command: RSOC,
    kind: 'edge',
    shows: 'UNMAP on a disk that cannot',
    disk: { unmap: false },
    cdb: 'a3 0c 01 42 00 00 00 00 ff ff 00 00',
    in: '00 01 00 00',
  },
  {
    command: RSOC,
    kind: 'edge',
    shows: 'a short allocation length',
    cdb: 'a3 0c 00 00 00 00 00 00 00 02 00 00',
    in: '00 00',
  },
  {
    command: RSOC,
    kind: 'refused',
    shows: 'an opcode with service actions, asked for without one',
    cdb: 'a3 0c 01 9e 00 00 00 00 ff ff 00 00',
    sense: '05/24/00',
    field: 2,
  },
  {
    command: RSOC,
    kind: 'refused',
    shows: 'a plain opcode, asked for with one',
    cdb: 'a3 0c 02 28 00 00 00 00 ff ff 00 00',
    sense: '05/24/00',
    field: 2,
  },
  {
    command: RSOC,
    kind: 'refused',
    shows: 'an unknown option',
    cdb: 'a3 0c 05 28 00 00 00 00 ff ff 00 00',
    sense: '05/24/00',
    field: 2,
  },

  {
    command: RSTMF,
    kind: 'good',
    shows: 'ABORT TASK (SET), CLEAR TASK SET, LU RESET, QUERY TASK (SET), I_T NEXUS RESET',
    cdb: 'a3 0d 00 00 00 00 00 00 00 ff 00 00',
    in: 'dc 03 00 00',
  },
  {
    command: RSTMF,
    kind: 'edge',
    shows: 'extended data',
    cdb: 'a3 0d 80 00 00 00 00 00 00 ff 00 00',
    in: 'dc 03 00 0c 00 00 00 00 00 00 00 00 00 00 00 00',
  },
  {
    command: RSTMF,
    kind: 'refused',
    shows: 'a reserved bit',
    cdb: 'a3 0d 01 00 00 00 00 00 00 ff 00 00',
    sense: '05/24/00',
    field: 2,
  },

  {
    command: 'LOG SENSE',
    kind: 'good',
    shows: 'supported pages',
    cdb: '4d 00 40 00 00 00 00 00 ff 00',
    in: '00 00 00 04 00 02 03 19',
  },
  {
    command: 'LOG SENSE',
    kind: 'good',
    shows: 'supported pages and subpages',
    cdb: '4d 00 40 ff 00 00 00 00 ff 00',
    in: '40 ff 00 0a 00 00 00 ff 02 00 03 00 19 00',
  },
  {
    command: 'LOG SENSE',
    kind: 'good',
    shows: 'read errors',
    before: (unit) => {
      unit.channel.failures.push({ op: BdevOp.READ, status: BdevStatus.READ_ERROR });
      unit.run('28 00 00 00 00 00 00 00 01 00');
    },
    cdb: '4d 00 43 00 00 00 00 00 ff 00',
    in: '83 00 00 0c  00 06 03 08 00 00 00 00 00 00 00 01',
  },
  {
    command: 'LOG SENSE',
    kind: 'good',
    shows: 'write errors: none',
    cdb: '4d 00 42 00 00 00 00 00 ff 00',
    in: '82 00 00 0c 00 06 03 08 00 00 00 00 00 00 00 00',
  },
  {
    command: 'LOG SENSE',
    kind: 'good',
    shows: 'general statistics',
    before: (unit) => {
      unit.run('28 00 00 00 00 00 00 00 02 00');
      unit.run('2a 00 00 00 00 00 00 00 03 00', blocks(3, 1));
    },
    cdb: '4d 00 59 00 00 00 00 00 ff 00',
    starts: `99 00 00 50
             00 01 03 40
             00 00 00 00 00 00 00 01   // read commands
             00 00 00 00 00 00 00 01   // write commands
             00 00 00 00 00 00 00 03   // blocks received
             00 00 00 00 00 00 00 02   // blocks transmitted`,
    length: 84,
  },
  {
    command: 'LOG SENSE',
    kind: 'edge',
    shows: 'parameters from a pointer on',
    cdb: '4d 00 59 00 00 00 02 00 ff 00',
    in: '99 00 00 0c 00 03 03 08 00 00 00 01 00 00 00 06',
  },
  {
    command: 'LOG SENSE',
    kind: 'edge',
    shows: 'a short allocation length',
    cdb: '4d 00 59 00 00 00 00 00 02 00',
    in: '99 00',
  },
  {
    command: 'LOG SENSE',
    kind: 'refused',
    shows: 'a pointer beyond the last parameter',
    cdb: '4d 00 42 00 00 00 07 00 ff 00',
    sense: '05/24/00',
    field: 5,
  },
  {
    command: 'LOG SENSE',
    kind: 'refused',
    shows: 'temperature: there is none',
    cdb: '4d 00 4d 00 00 00 00 00 ff 00',
    sense: '05/24/00',
    field: 2,
  },
  {
    command: 'LOG SENSE',
    kind: 'refused',
    shows: 'threshold values',
    cdb: '4d 00 02 00 00 00 00 00 ff 00',
    sense: '05/24/00',
    field: 2,
  },
  {
    command: 'LOG SENSE',
    kind: 'refused',
    shows: 'SP',
    cdb: '4d 01 40 00 00 00 00 00 ff 00',
    sense: '05/24/00',
    field: 1,
  },
];
