import { assert } from '../../support/suite.ts';
import { blocks, type Case } from '../support/case.ts';
import { toHex } from '../support/unit.ts';

const CONTROL = '0a 0a 02 10 00 00 00 00 ff ff 00 00';
const CONTROL_D_SENSE = '0a 0a 06 10 00 00 00 00 ff ff 00 00';
const CONTROL_SWP = '0a 0a 02 10 08 00 00 00 ff ff 00 00';
const CACHING = '08 12 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00';
const CACHING_WCE = '08 12 04 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00';
const RECOVERY = '01 0a 00 00 00 00 00 00 00 00 00 00';
const DISCONNECT = '02 0e 00 00 00 00 00 00 00 00 00 00 00 00 00 00';
const CONTROL_EXTENSION = `4a 01 00 1c ${'00 '.repeat(28)}`;
const POWER = `1a 26 ${'00 '.repeat(38)}`;
const EXCEPTIONS = '1c 0a 08 00 00 00 00 00 00 00 00 00';
const DESCRIPTOR = '00 00 04 00 00 00 02 00';

const sense: Case[] = [
  {
    command: 'MODE SENSE(6)',
    kind: 'good',
    shows: 'caching page with a block descriptor',
    disk: { writeCache: true },
    cdb: '1a 00 08 00 ff 00',
    in: `1f 00
         10            // DPOFUA
         08            // one block descriptor
         ${DESCRIPTOR} // 1024 blocks of 512
         ${CACHING_WCE}`,
  },
  {
    command: 'MODE SENSE(6)',
    kind: 'good',
    shows: 'control page alone (DBD)',
    cdb: '1a 08 0a 00 ff 00',
    in: `0f 00 10 00 ${CONTROL}`,
  },
  {
    command: 'MODE SENSE(6)',
    kind: 'good',
    shows: 'all pages',
    cdb: '1a 08 3f 00 ff 00',
    in: `73 00 10 00 ${RECOVERY} ${DISCONNECT} ${CACHING} ${CONTROL} ${POWER} ${EXCEPTIONS}`,
  },
  {
    command: 'MODE SENSE(6)',
    kind: 'good',
    shows: 'all pages and subpages',
    cdb: '1a 08 3f ff ff 00',
    in: `93 00 10 00 ${RECOVERY} ${DISCONNECT} ${CACHING} ${CONTROL} ${CONTROL_EXTENSION} ${POWER} ${EXCEPTIONS}`,
  },
  {
    command: 'MODE SENSE(6)',
    kind: 'edge',
    shows: 'changeable bits of the control page: D_SENSE, SWP',
    cdb: '1a 08 4a 00 ff 00',
    in: '0f 00 10 00 0a 0a 04 00 08 00 00 00 00 00 00 00',
  },
  {
    command: 'MODE SENSE(6)',
    kind: 'edge',
    shows: 'WCE is changeable on a disk with a cache',
    disk: { writeCache: true },
    cdb: '1a 08 48 00 ff 00',
    starts: '17 00 10 00 08 12 04 00',
  },
  {
    command: 'MODE SENSE(6)',
    kind: 'edge',
    shows: 'WCE is not changeable without a cache',
    cdb: '1a 08 48 00 ff 00',
    starts: '17 00 10 00 08 12 00 00',
  },
  {
    command: 'MODE SENSE(6)',
    kind: 'edge',
    shows: 'default values stay what they were',
    before: (unit) => unit.run('15 10 00 00 10 00', `00 00 00 00 ${CONTROL_D_SENSE}`),
    cdb: '1a 08 8a 00 ff 00',
    in: `0f 00 10 00 ${CONTROL}`,
  },
  {
    command: 'MODE SENSE(6)',
    kind: 'edge',
    shows: 'one subpage',
    cdb: '1a 08 0a 01 ff 00',
    in: `23 00 10 00 ${CONTROL_EXTENSION}`,
  },
  {
    command: 'MODE SENSE(6)',
    kind: 'edge',
    shows: 'a page with its subpages',
    cdb: '1a 08 0a ff ff 00',
    in: `2f 00 10 00 ${CONTROL} ${CONTROL_EXTENSION}`,
  },
  {
    command: 'MODE SENSE(6)',
    kind: 'edge',
    shows: 'a read-only disk: WP',
    disk: { readOnly: true },
    cdb: '1a 08 0a 00 04 00',
    in: '0f 00 90 00',
  },
  {
    command: 'MODE SENSE(6)',
    kind: 'edge',
    shows: 'a short allocation length',
    cdb: '1a 00 3f 00 04 00',
    in: '7b 00 10 08',
  },
  { command: 'MODE SENSE(6)', kind: 'refused', shows: 'saved values', cdb: '1a 08 ca 00 ff 00', sense: '05/39/00' },
  {
    command: 'MODE SENSE(6)',
    kind: 'refused',
    shows: 'an unknown page',
    cdb: '1a 08 05 00 ff 00',
    sense: '05/24/00',
    field: 2,
  },
  {
    command: 'MODE SENSE(6)',
    kind: 'refused',
    shows: 'an unknown subpage',
    cdb: '1a 08 0a 02 ff 00',
    sense: '05/24/00',
    field: 2,
  },
  {
    command: 'MODE SENSE(10)',
    kind: 'good',
    shows: 'control page',
    cdb: '5a 00 0a 00 00 00 00 00 ff 00',
    in: `00 1a 00 10 00 00 00 08 ${DESCRIPTOR} ${CONTROL}`,
  },
  {
    command: 'MODE SENSE(10)',
    kind: 'edge',
    shows: 'LLBAA: a long block descriptor',
    cdb: '5a 10 0a 00 00 00 00 00 ff 00',
    in: `00 22 00 10 01 00 00 10
         00 00 00 00 00 00 04 00  00 00 00 00  00 00 02 00
         ${CONTROL}`,
  },
  {
    command: 'MODE SENSE(10)',
    kind: 'edge',
    shows: 'a disk of 2^40 blocks in a short descriptor',
    before: (unit) => {
      unit.channel.info.numBlocks = 2 ** 40;
    },
    cdb: '5a 00 0a 00 00 00 00 00 10 00',
    in: '00 1a 00 10 00 00 00 08 ff ff ff ff 00 00 02 00',
  },
  {
    command: 'MODE SENSE(10)',
    kind: 'refused',
    shows: 'an unknown page',
    cdb: '5a 00 19 00 00 00 00 00 ff 00',
    sense: '05/24/00',
  },
  {
    command: 'MODE SENSE(10)',
    kind: 'refused',
    shows: 'saved values',
    cdb: '5a 00 ff 00 00 00 00 00 ff 00',
    sense: '05/39/00',
  },
];

const select: Case[] = [
  {
    command: 'MODE SELECT(6)',
    kind: 'good',
    shows: 'D_SENSE: sense comes in descriptor format',
    cdb: '15 10 00 00 10 00',
    out: `00 00 00 00 ${CONTROL_D_SENSE}`,
    transferred: 16,
    after: (unit) => {
      const r = unit.run('88 00 00 00 00 00 00 00 04 00 00 00 00 01 00 00');
      assert.is(
        toHex(r.senseBytes),
        '72 05 21 00 00 00 00 0c 00 0a 80 00 00 00 00 00 00 00 04 00', // information: LBA 1024
      );
      const field = unit.run('12 00 80 00 60 00');
      assert.is(toHex(field.senseBytes), '72 05 24 00 00 00 00 08 02 06 00 00 cf 00 02 00'); // CDB byte 2, bit 7
    },
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'good',
    shows: 'SWP: reads work, writes do not',
    cdb: '15 10 00 00 10 00',
    out: `00 00 00 00 ${CONTROL_SWP}`,
    after: (unit) => {
      assert.is(unit.run('28 00 00 00 00 00 00 00 01 00').status, 0);
      assert.is(unit.run('2a 00 00 00 00 00 00 00 01 00', blocks(1, 1)).sense, '07/27/02');
      assert.is(unit.run('1a 08 0a 00 04 00').dataIn[2], 0x90);
      assert.is(unit.run('15 10 00 00 10 00', `00 00 00 00 ${CONTROL}`).status, 0);
      assert.is(unit.run('2a 00 00 00 00 00 00 00 01 00', blocks(1, 1)).status, 0);
    },
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'good',
    shows: 'WCE off: writes back the cache, then writes go through',
    disk: { writeCache: true },
    before: (unit) => {
      unit.channel.log = [];
    },
    cdb: '15 10 00 00 18 00',
    out: `00 00 00 00 ${CACHING}`,
    after: (unit) => {
      unit.run('2a 00 00 00 00 00 00 00 01 00', blocks(1, 1));
      assert.equal(unit.channel.log, ['FLUSH 0+0', 'WRITE 0+1 fua']);
      unit.run('15 10 00 00 18 00', `00 00 00 00 ${CACHING_WCE}`);
      unit.run('2a 00 00 00 00 00 00 00 01 00', blocks(1, 1));
      assert.is(unit.channel.log?.at(-1), 'WRITE 0+1');
    },
  },
  { command: 'MODE SELECT(6)', kind: 'edge', shows: 'an empty list', cdb: '15 10 00 00 00 00' },
  { command: 'MODE SELECT(6)', kind: 'edge', shows: 'a header alone', cdb: '15 10 00 00 04 00', out: '00 00 00 00' },
  {
    command: 'MODE SELECT(6)',
    kind: 'edge',
    shows: 'what MODE SENSE returned, PS set',
    cdb: '15 10 00 00 18 00',
    out: `00 00 00 08 ${DESCRIPTOR} 8a ${CONTROL.slice(3)}`,
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'edge',
    shows: 'two pages',
    cdb: '15 10 00 00 24 00',
    out: `00 00 00 00 ${CONTROL} ${CACHING}`,
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'a wrong page after a right one: nothing changes',
    cdb: '15 10 00 00 24 00',
    out: `00 00 00 00 ${CONTROL_SWP} ${CACHING_WCE}`,
    sense: '05/26/00',
    field: 18,
    after: (unit) => assert.is(unit.run('2a 00 00 00 00 00 00 00 01 00', blocks(1, 1)).status, 0),
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'SP: nothing can be saved',
    cdb: '15 11 00 00 10 00',
    out: `00 00 00 00 ${CONTROL}`,
    sense: '05/24/00',
    field: 1,
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'vendor-specific pages (PF 0)',
    cdb: '15 00 00 00 10 00',
    out: `00 00 00 00 ${CONTROL}`,
    sense: '05/24/00',
    field: 1,
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'a list shorter than its header',
    cdb: '15 10 00 00 03 00',
    out: '00 00 00',
    sense: '05/1a/00',
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'a page cut off',
    cdb: '15 10 00 00 0f 00',
    out: `00 00 00 00 ${CONTROL.slice(0, -3)}`,
    sense: '05/1a/00',
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'a page header cut off',
    cdb: '15 10 00 00 05 00',
    out: '00 00 00 00 0a',
    sense: '05/1a/00',
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'a block descriptor cut off',
    cdb: '15 10 00 00 08 00',
    out: '00 00 00 08 00 00 00 00',
    sense: '05/1a/00',
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'another block size',
    cdb: '15 10 00 00 0c 00',
    out: '00 00 00 08 00 00 00 00 00 00 10 00',
    sense: '05/26/00',
    field: 4,
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'another capacity',
    cdb: '15 10 00 00 0c 00',
    out: '00 00 00 08 00 00 02 00 00 00 02 00',
    sense: '05/26/00',
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'a block descriptor of odd length',
    cdb: '15 10 00 00 08 00',
    out: '00 00 00 04 00 00 00 00',
    sense: '05/26/00',
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'an unknown page',
    cdb: '15 10 00 00 08 00',
    out: '00 00 00 00 05 02 00 00',
    sense: '05/26/00',
    field: 4,
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'a page of another length',
    cdb: '15 10 00 00 10 00',
    out: '00 00 00 00 0a 09 02 10 00 00 00 00 ff ff 00 00',
    sense: '05/26/00',
    field: 5,
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'a bit that cannot be changed',
    cdb: '15 10 00 00 10 00',
    out: '00 00 00 00 0a 0a 02 00 00 00 00 00 ff ff 00 00',
    sense: '05/26/00',
    field: 7,
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'a medium type',
    cdb: '15 10 00 00 04 00',
    out: '00 01 00 00',
    sense: '05/26/00',
    field: 1,
  },
  {
    command: 'MODE SELECT(6)',
    kind: 'refused',
    shows: 'data shorter than the list',
    cdb: '15 10 00 00 10 00',
    out: '00 00 00 00',
    response: 5,
  },
  {
    command: 'MODE SELECT(10)',
    kind: 'good',
    shows: 'D_SENSE',
    cdb: '55 10 00 00 00 00 00 00 14 00',
    out: `00 00 00 00 00 00 00 00 ${CONTROL_D_SENSE}`,
    after: (unit) => assert.is(unit.run('c0 00 00 00 00 00').senseBytes[0], 0x72),
  },
  {
    command: 'MODE SELECT(10)',
    kind: 'edge',
    shows: 'a long block descriptor',
    cdb: '55 10 00 00 00 00 00 00 24 00',
    out: `00 00 00 00 01 00 00 10  00 00 00 00 00 00 04 00 00 00 00 00 00 00 02 00 ${CONTROL}`,
  },
  {
    command: 'MODE SELECT(10)',
    kind: 'refused',
    shows: 'a list longer than any can be',
    cdb: '55 10 00 00 00 00 00 ff ff 00',
    out: blocks(128, 0),
    sense: '05/24/00',
    field: 7,
  },
  {
    command: 'MODE SELECT(10)',
    kind: 'refused',
    shows: 'a descriptor length beyond the list',
    cdb: '55 10 00 00 00 00 00 00 08 00',
    out: '00 00 00 00 00 00 ff ff',
    sense: '05/1a/00',
  },
];

export const mode: readonly Case[] = [...sense, ...select];
