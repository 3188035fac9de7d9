import { BdevOp, BdevStatus } from '../../../src/bdev/bdev.ts';
import { assert } from '../../support/suite.ts';
import type { Case } from '../support/case.ts';
import type { Unit } from '../support/unit.ts';

const cached = { writeCache: true };
const logging = (unit: Unit) => {
  unit.channel.log = [];
};
const flushed = (unit: Unit) => assert.equal(unit.channel.log, ['FLUSH 0+0']);
const untouched = (unit: Unit) => assert.equal(unit.channel.log, []);
const failing = (unit: Unit) => unit.channel.failures.push({ op: BdevOp.FLUSH, status: BdevStatus.IO_ERROR });
/** The capacity changes after the nexus's first command. */
const resized = (unit: Unit) => {
  unit.run('00 00 00 00 00 00');
  unit.lun.capacityChanged();
};

/** Commands about the unit as a whole. */
export const unitCommands: readonly Case[] = [
  { command: 'TEST UNIT READY', kind: 'good', shows: 'ready, with no attention at first', cdb: '00 00 00 00 00 00' },
  {
    command: 'TEST UNIT READY',
    kind: 'edge',
    shows: 'tells a unit attention, once',
    before: resized,
    cdb: '00 00 00 00 00 00',
    sense: '06/2a/09',
    after: (unit) => assert.is(unit.run('00 00 00 00 00 00').status, 0),
  },
  {
    command: 'TEST UNIT READY',
    kind: 'edge',
    shows: 'the obsolete LUN field may be set',
    cdb: '00 20 00 00 00 00',
  },
  { command: 'TEST UNIT READY', kind: 'edge', shows: 'vendor bits of CONTROL may be set', cdb: '00 00 00 00 00 c0' },
  { command: 'TEST UNIT READY', kind: 'refused', shows: 'NACA', cdb: '00 00 00 00 00 04', sense: '05/24/00', field: 5 },
  {
    command: 'TEST UNIT READY',
    kind: 'refused',
    shows: 'a reserved byte',
    cdb: '00 00 00 01 00 00',
    sense: '05/24/00',
    field: 3,
  },

  {
    command: 'REQUEST SENSE',
    kind: 'good',
    shows: 'no sense',
    cdb: '03 00 00 00 12 00',
    in: '70 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 00 00 00',
  },
  {
    command: 'REQUEST SENSE',
    kind: 'good',
    shows: 'no sense in descriptor format',
    cdb: '03 01 00 00 fc 00',
    in: '72 00 00 00 00 00 00 00',
  },
  {
    command: 'REQUEST SENSE',
    kind: 'edge',
    shows: 'tells and clears a unit attention',
    before: resized,
    cdb: '03 00 00 00 12 00',
    in: '70 00 06 00 00 00 00 0a 00 00 00 00 2a 09 00 00 00 00',
    after: (unit) => assert.is(unit.run('00 00 00 00 00 00').status, 0),
  },
  {
    command: 'REQUEST SENSE',
    kind: 'edge',
    shows: 'a short allocation length',
    cdb: '03 00 00 00 04 00',
    in: '70 00 00 00',
  },
  {
    command: 'REQUEST SENSE',
    kind: 'refused',
    shows: 'a reserved bit',
    cdb: '03 02 00 00 12 00',
    sense: '05/24/00',
    field: 1,
  },

  { command: 'START STOP UNIT', kind: 'good', shows: 'start', cdb: '1b 00 00 00 01 00' },
  {
    command: 'START STOP UNIT',
    kind: 'good',
    shows: 'stop writes the cache back',
    disk: cached,
    before: logging,
    cdb: '1b 00 00 00 00 00',
    after: flushed,
  },
  {
    command: 'START STOP UNIT',
    kind: 'edge',
    shows: 'stop with NO_FLUSH does not',
    disk: cached,
    before: logging,
    cdb: '1b 00 00 00 04 00',
    after: untouched,
  },
  { command: 'START STOP UNIT', kind: 'edge', shows: 'IMMED', cdb: '1b 01 00 00 01 00' },
  {
    command: 'START STOP UNIT',
    kind: 'refused',
    shows: 'LOEJ: nothing to eject',
    cdb: '1b 00 00 00 02 00',
    sense: '05/24/00',
    field: 4,
  },
  {
    command: 'START STOP UNIT',
    kind: 'refused',
    shows: 'a power condition',
    cdb: '1b 00 00 00 10 00',
    sense: '05/24/00',
    field: 4,
  },

  { command: 'PREVENT ALLOW MEDIUM REMOVAL', kind: 'good', shows: 'prevent', cdb: '1e 00 00 00 01 00' },
  {
    command: 'PREVENT ALLOW MEDIUM REMOVAL',
    kind: 'edge',
    shows: 'allow, without a prevent before',
    cdb: '1e 00 00 00 00 00',
  },
  {
    command: 'PREVENT ALLOW MEDIUM REMOVAL',
    kind: 'refused',
    shows: 'an obsolete value',
    cdb: '1e 00 00 00 02 00',
    sense: '05/24/00',
    field: 4,
  },

  { command: 'SEND DIAGNOSTIC', kind: 'good', shows: 'the default self-test', cdb: '1d 04 00 00 00 00' },
  { command: 'SEND DIAGNOSTIC', kind: 'edge', shows: 'with PF, DEVOFFL and UNITOFFL', cdb: '1d 17 00 00 00 00' },
  {
    command: 'SEND DIAGNOSTIC',
    kind: 'refused',
    shows: 'a self-test code',
    cdb: '1d 20 00 00 00 00',
    sense: '05/24/00',
    field: 1,
  },
  {
    command: 'SEND DIAGNOSTIC',
    kind: 'edge',
    shows: 'no self-test and no parameter list: nothing to do',
    cdb: '1d 10 00 00 00 00',
  },
  {
    command: 'SEND DIAGNOSTIC',
    kind: 'refused',
    shows: 'a parameter list without a self-test',
    cdb: '1d 10 00 00 08 00',
    out: '00 00 00 00 00 00 00 00',
    sense: '05/24/00',
    field: 3,
  },
  {
    command: 'SEND DIAGNOSTIC',
    kind: 'refused',
    shows: 'a parameter list',
    cdb: '1d 04 00 00 08 00',
    out: '00 00 00 00 00 00 00 00',
    sense: '05/24/00',
    field: 3,
  },

  {
    command: 'SYNCHRONIZE CACHE(10)',
    kind: 'good',
    shows: 'flushes a disk with a cache',
    disk: cached,
    before: logging,
    cdb: '35 00 00 00 00 00 00 00 00 00',
    after: flushed,
  },
  {
    command: 'SYNCHRONIZE CACHE(10)',
    kind: 'edge',
    shows: 'no flush where there is no cache',
    before: logging,
    cdb: '35 00 00 00 00 00 00 00 00 00',
    after: untouched,
  },
  {
    command: 'SYNCHRONIZE CACHE(10)',
    kind: 'edge',
    shows: 'a range, IMMED',
    disk: cached,
    before: logging,
    cdb: '35 02 00 00 03 f0 00 00 10 00',
    after: flushed,
  },
  {
    command: 'SYNCHRONIZE CACHE(10)',
    kind: 'refused',
    shows: 'a range beyond the end',
    cdb: '35 00 00 00 03 f0 00 00 11 00',
    sense: '05/21/00',
  },
  {
    command: 'SYNCHRONIZE CACHE(10)',
    kind: 'refused',
    shows: 'the disk fails',
    disk: cached,
    before: failing,
    cdb: '35 00 00 00 00 00 00 00 00 00',
    sense: '04/44/00',
  },
  {
    command: 'SYNCHRONIZE CACHE(16)',
    kind: 'good',
    shows: 'flushes a disk with a cache',
    disk: cached,
    before: logging,
    cdb: '91 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00',
    after: flushed,
  },
  {
    command: 'SYNCHRONIZE CACHE(16)',
    kind: 'edge',
    shows: 'the last block',
    disk: cached,
    cdb: '91 00 00 00 00 00 00 00 03 ff 00 00 00 01 00 00',
  },
  {
    command: 'SYNCHRONIZE CACHE(16)',
    kind: 'refused',
    shows: 'an LBA over 2^53',
    cdb: '91 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00',
    sense: '05/21/00',
  },

  { command: 'other', kind: 'refused', shows: 'FORMAT UNIT is not there', cdb: '04 00 00 00 00 00', sense: '05/20/00' },
  {
    command: 'other',
    kind: 'refused',
    shows: 'LOG SELECT is not there',
    cdb: '4c 00 00 00 00 00 00 00 00 00',
    sense: '05/20/00',
  },
  {
    command: 'other',
    kind: 'refused',
    shows: 'SANITIZE is not there',
    cdb: '48 01 00 00 00 00 00 00 00 00',
    sense: '05/20/00',
  },
  {
    command: 'other',
    kind: 'refused',
    shows: 'EXTENDED COPY is not there',
    cdb: '83 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00',
    sense: '05/20/00',
  },
  {
    command: 'other',
    kind: 'refused',
    shows: 'RECEIVE COPY RESULTS is not there',
    cdb: '84 03 00 00 00 00 00 00 00 00 00 00 00 10 00 00',
    sense: '05/20/00',
  },
  {
    command: 'other',
    kind: 'refused',
    shows: 'REPORT TARGET PORT GROUPS (ALUA) is not there',
    cdb: 'a3 0a 00 00 00 00 00 00 00 10 00 00',
    sense: '05/24/00',
    field: 1,
  },
  {
    command: 'other',
    kind: 'refused',
    shows: 'SET TARGET PORT GROUPS is not there',
    cdb: 'a4 0a 00 00 00 00 00 00 00 10 00 00',
    sense: '05/20/00',
  },
  {
    command: 'other',
    kind: 'refused',
    shows: 'READ(32) is not there',
    cdb: '7f 00 00 00 00 00 00 18 00 09 00 00',
    sense: '05/20/00',
  },
  {
    command: 'other',
    kind: 'refused',
    shows: 'WRITE ATOMIC(16) is not there',
    cdb: '9c 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00',
    sense: '05/20/00',
  },
  { command: 'other', kind: 'refused', shows: 'a vendor-specific opcode', cdb: 'c0 00 00 00 00 00', sense: '05/20/00' },
];
