import { BdevOp, BdevStatus } from '../../../src/bdev/bdev.ts';
import { assert } from '../../support/suite.ts';
import { blocks, type Case, firstBytes, numbered } from '../support/case.ts';
import { rangeCdb } from '../support/cdb.ts';
import type { Unit } from '../support/unit.ts';

/** `count` blocks as `numbered` made them, from `lba` on; byte `wrong` of them differs. */
function numberedData(lba: number, count: number, wrong = -1): Uint8Array {
  const data = new Uint8Array(count * 512).map((_, i) => (lba + Math.floor(i / 512)) & 0xff);
  if (wrong >= 0) data[wrong] ^= 0x40;
  return data;
}

const cannotCompare = (unit: Unit) => {
  numbered(unit);
  unit.channel.lacks.add(BdevOp.COMPARE);
};
const fails = (op: BdevOp, status: BdevStatus) => (unit: Unit) => {
  unit.channel.failures.push({ op, status });
};

const BYTCHK1 = 0x02;
const BYTCHK3 = 0x06;

function verify(size: number, opcode: number): Case[] {
  const c = { command: `VERIFY(${size})`, kind: 'good' } as const;
  return [
    {
      ...c,
      shows: 'BYTCHK 0 reads',
      before: (u) => {
        u.channel.log = [];
      },
      cdb: rangeCdb(opcode, 3, 2),
      after: (u) => assert.equal(u.channel.log, ['READ 3+2']),
    },
    {
      ...c,
      shows: 'BYTCHK 1, equal',
      before: numbered,
      cdb: rangeCdb(opcode, 3, 4, BYTCHK1),
      out: numberedData(3, 4),
      transferred: 2048,
    },
    {
      ...c,
      shows: 'BYTCHK 1 on a disk that cannot compare',
      before: cannotCompare,
      cdb: rangeCdb(opcode, 3, 4, BYTCHK1),
      out: numberedData(3, 4),
    },
    {
      ...c,
      kind: 'edge',
      shows: 'BYTCHK 1, a byte differs: its offset is told',
      before: numbered,
      cdb: rangeCdb(opcode, 3, 4, BYTCHK1),
      out: numberedData(3, 4, 1027),
      sense: '0e/1d/00',
      information: 1027,
    },
    {
      ...c,
      kind: 'edge',
      shows: 'BYTCHK 1, a byte differs, on a disk that cannot compare',
      before: cannotCompare,
      cdb: rangeCdb(opcode, 3, 300, BYTCHK1),
      out: numberedData(3, 300, 140_001),
      sense: '0e/1d/00',
      information: 140_001,
    },
    { ...c, kind: 'edge', shows: 'no blocks', cdb: rangeCdb(opcode, 0, 0, BYTCHK1) },
    {
      ...c,
      kind: 'edge',
      shows: 'BYTCHK 0 takes more blocks than a transfer may have',
      disk: { numBlocks: 9000 },
      cdb: rangeCdb(opcode, 0, 9000),
    },
    {
      ...c,
      kind: 'edge',
      shows: 'BYTCHK 3, all blocks equal the one',
      before: (u) => u.channel.disk.fill(0x5a, 0, 512 * 600),
      cdb: rangeCdb(opcode, 0, 600, BYTCHK3),
      out: blocks(1, 0x5a),
      transferred: 512,
    },
    {
      ...c,
      kind: 'edge',
      shows: 'BYTCHK 3, a block whose bytes differ from each other',
      before: (u) => {
        for (let i = 0; i < u.channel.disk.length; i++) u.channel.disk[i] = (i % 512) * 3;
      },
      cdb: rangeCdb(opcode, 0, 300, BYTCHK3),
      out: new Uint8Array(512).map((_, i) => i * 3),
    },
    {
      ...c,
      kind: 'edge',
      shows: 'BYTCHK 3, one differs',
      before: (u) => u.channel.disk.fill(0x5a, 0, 512 * 599 + 7),
      cdb: rangeCdb(opcode, 0, 600, BYTCHK3),
      out: blocks(1, 0x5a),
      sense: '0e/1d/00',
      information: 512 * 599 + 7,
    },
    { ...c, kind: 'refused', shows: 'BYTCHK 2', cdb: rangeCdb(opcode, 0, 1, 0x04), sense: '05/24/00', field: 1 },
    {
      ...c,
      kind: 'refused',
      shows: 'VRPROTECT',
      cdb: rangeCdb(opcode, 0, 1, 0x20 | BYTCHK1),
      out: blocks(1, 0),
      sense: '05/24/00',
      field: 1,
    },
    { ...c, kind: 'refused', shows: 'past the end', cdb: rangeCdb(opcode, 1020, 5), sense: '05/21/00' },
    {
      ...c,
      kind: 'refused',
      shows: 'no blocks beyond the end',
      cdb: rangeCdb(opcode, 1025, 0, BYTCHK1),
      sense: '05/21/00',
    },
    {
      ...c,
      kind: 'refused',
      shows: 'data too short',
      cdb: rangeCdb(opcode, 0, 2, BYTCHK1),
      out: blocks(1, 0),
      response: 5,
    },
    {
      ...c,
      kind: 'refused',
      shows: 'an unreadable block',
      before: fails(BdevOp.READ, BdevStatus.READ_ERROR),
      cdb: rangeCdb(opcode, 0, 2),
      sense: '03/11/00',
    },
  ];
}

function writeAndVerify(size: number, opcode: number): Case[] {
  const c = { command: `WRITE AND VERIFY(${size})`, kind: 'good' } as const;
  return [
    {
      ...c,
      shows: 'writes through, then reads',
      disk: { writeCache: true },
      before: (u) => {
        u.channel.log = [];
      },
      cdb: rangeCdb(opcode, 3, 2),
      out: blocks(2, 0x33),
      transferred: 1024,
      after: (u) =>
        assert.equal(
          [u.channel.log, firstBytes(u, 2, 4)],
          [
            ['WRITE 3+2 fua', 'READ 3+2 fua'],
            [0, 0x33, 0x33, 0],
          ],
        ),
    },
    {
      ...c,
      shows: 'BYTCHK 1 compares what it wrote',
      before: (u) => {
        u.channel.log = [];
      },
      cdb: rangeCdb(opcode, 3, 2, BYTCHK1),
      out: blocks(2, 0x33),
      after: (u) => assert.equal(u.channel.log, ['WRITE 3+2 fua', 'COMPARE 3+2']),
    },
    { ...c, kind: 'edge', shows: 'no blocks', cdb: rangeCdb(opcode, 3, 0) },
    {
      ...c,
      kind: 'edge',
      shows: 'the disk reads back something else',
      before: fails(BdevOp.COMPARE, BdevStatus.MISCOMPARE),
      cdb: rangeCdb(opcode, 3, 1, BYTCHK1),
      out: blocks(1, 1),
      sense: '0e/1d/00',
    },
    {
      ...c,
      kind: 'refused',
      shows: 'the write fails',
      before: fails(BdevOp.WRITE, BdevStatus.WRITE_ERROR),
      cdb: rangeCdb(opcode, 3, 1),
      out: blocks(1, 1),
      sense: '03/0c/00',
    },
    {
      ...c,
      kind: 'refused',
      shows: 'past the end',
      cdb: rangeCdb(opcode, 1024, 1),
      out: blocks(1, 1),
      sense: '05/21/00',
    },
    {
      ...c,
      kind: 'refused',
      shows: 'WRPROTECT',
      cdb: rangeCdb(opcode, 0, 1, 0x20),
      out: blocks(1, 1),
      sense: '05/24/00',
    },
    {
      ...c,
      kind: 'refused',
      shows: 'data too short',
      cdb: rangeCdb(opcode, 0, 2),
      out: blocks(1, 1),
      response: 5,
      after: (u) => assert.equal(firstBytes(u, 0, 1), [0]),
    },
    {
      ...c,
      kind: 'refused',
      shows: 'a read-only disk',
      disk: { readOnly: true },
      cdb: rangeCdb(opcode, 0, 1),
      out: blocks(1, 1),
      sense: '07/27/00',
    },
  ];
}

/** A COMPARE AND WRITE: `count` blocks at `lba`. */
const caw = (lba: number, count: number, flags = 0) =>
  rangeCdb(0x89, lba, 0, flags).replace(/00000000(0000)$/, `000000${count.toString(16).padStart(2, '0')}$1`);

function cawData(lba: number, count: number, value: number, wrong = -1): Uint8Array {
  const data = new Uint8Array(count * 1024);
  data.set(numberedData(lba, count, wrong));
  data.fill(value, count * 512);
  return data;
}

const compareAndWrite: Case[] = [
  {
    command: 'COMPARE AND WRITE',
    kind: 'good',
    shows: 'equal: writes',
    before: numbered,
    cdb: caw(6, 2),
    out: cawData(6, 2, 0xee),
    transferred: 2048,
    after: (u) => assert.equal(firstBytes(u, 5, 4), [5, 0xee, 0xee, 8]),
  },
  {
    command: 'COMPARE AND WRITE',
    kind: 'good',
    shows: 'equal, on a disk that cannot compare',
    before: cannotCompare,
    cdb: caw(6, 2),
    out: cawData(6, 2, 0xee),
    after: (u) => assert.equal(firstBytes(u, 5, 4), [5, 0xee, 0xee, 8]),
  },
  {
    command: 'COMPARE AND WRITE',
    kind: 'edge',
    shows: 'different: writes nothing, tells where',
    before: numbered,
    cdb: caw(6, 2),
    out: cawData(6, 2, 0xee, 513),
    sense: '0e/1d/00',
    information: 513,
    after: (u) => assert.equal(firstBytes(u, 5, 4), [5, 6, 7, 8]),
  },
  {
    command: 'COMPARE AND WRITE',
    kind: 'edge',
    shows: '255 blocks',
    before: numbered,
    cdb: caw(0, 255),
    out: cawData(0, 255, 0xee),
    after: (u) => assert.equal(firstBytes(u, 254, 2), [0xee, 255]),
  },
  { command: 'COMPARE AND WRITE', kind: 'edge', shows: 'no blocks', cdb: caw(0, 0) },
  {
    command: 'COMPARE AND WRITE',
    kind: 'edge',
    shows: 'FUA and DPO',
    disk: { writeCache: true },
    before: (u) => {
      numbered(u);
      u.channel.log = [];
    },
    cdb: caw(1, 1, 0x18),
    out: cawData(1, 1, 0xee),
    after: (u) => assert.equal(u.channel.log, ['COMPARE 1+1', 'WRITE 1+1 fua']),
  },
  {
    command: 'COMPARE AND WRITE',
    kind: 'refused',
    shows: 'only half of the data',
    before: numbered,
    cdb: caw(6, 2),
    out: numberedData(6, 2),
    response: 5,
  },
  {
    command: 'COMPARE AND WRITE',
    kind: 'refused',
    shows: 'past the end',
    cdb: caw(1023, 2),
    out: blocks(4, 0),
    sense: '05/21/00',
  },
  {
    command: 'COMPARE AND WRITE',
    kind: 'refused',
    shows: 'WRPROTECT',
    cdb: caw(0, 1, 0x20),
    out: blocks(2, 0),
    sense: '05/24/00',
  },
  {
    command: 'COMPARE AND WRITE',
    kind: 'refused',
    shows: 'a read-only disk',
    disk: { readOnly: true },
    cdb: caw(0, 1),
    out: blocks(2, 0),
    sense: '07/27/00',
  },
];

const orWrite: Case[] = [
  {
    command: 'ORWRITE(16)',
    kind: 'good',
    shows: 'adds bits',
    before: (u) => u.channel.disk.fill(0x0f),
    cdb: rangeCdb(0x8b, 2, 2),
    out: blocks(2, 0xf0),
    transferred: 1024,
    after: (u) => assert.equal(firstBytes(u, 1, 4), [0x0f, 0xff, 0xff, 0x0f]),
  },
  {
    command: 'ORWRITE(16)',
    kind: 'edge',
    shows: 'more than one work buffer',
    before: (u) => u.channel.disk.fill(0x0f),
    cdb: rangeCdb(0x8b, 0, 1000),
    out: blocks(1000, 0x30),
    after: (u) =>
      assert.equal(
        u.channel.disk.findIndex((b) => b !== 0x3f),
        512_000,
      ),
  },
  { command: 'ORWRITE(16)', kind: 'edge', shows: 'no blocks', cdb: rangeCdb(0x8b, 2, 0) },
  {
    command: 'ORWRITE(16)',
    kind: 'refused',
    shows: 'past the end',
    cdb: rangeCdb(0x8b, 1024, 1),
    out: blocks(1, 1),
    sense: '05/21/00',
  },
  {
    command: 'ORWRITE(16)',
    kind: 'refused',
    shows: 'ORPROTECT',
    cdb: rangeCdb(0x8b, 0, 1, 0x20),
    out: blocks(1, 1),
    sense: '05/24/00',
  },
  {
    command: 'ORWRITE(16)',
    kind: 'refused',
    shows: 'data too short',
    cdb: rangeCdb(0x8b, 0, 2),
    out: blocks(1, 1),
    response: 5,
  },
  {
    command: 'ORWRITE(16)',
    kind: 'refused',
    shows: 'the read fails',
    before: fails(BdevOp.READ, BdevStatus.READ_ERROR),
    cdb: rangeCdb(0x8b, 0, 1),
    out: blocks(1, 1),
    sense: '03/11/00',
  },
];

function prefetch(size: number, opcode: number): Case[] {
  const c = { command: `PRE-FETCH(${size})`, kind: 'good' } as const;
  return [
    { ...c, shows: 'a hint', cdb: rangeCdb(opcode, 0, 8) },
    { ...c, kind: 'edge', shows: 'IMMED, to the end of the disk', cdb: rangeCdb(opcode, 1024, 0, 0x02) },
    { ...c, kind: 'refused', shows: 'past the end', cdb: rangeCdb(opcode, 1020, 5), sense: '05/21/00' },
  ];
}

export const medium: readonly Case[] = [
  ...verify(10, 0x2f),
  ...verify(12, 0xaf),
  ...verify(16, 0x8f),
  ...writeAndVerify(10, 0x2e),
  ...writeAndVerify(12, 0xae),
  ...writeAndVerify(16, 0x8e),
  ...compareAndWrite,
  ...orWrite,
  ...prefetch(10, 0x34),
  ...prefetch(16, 0x90),
  {
    command: 'GET LBA STATUS',
    kind: 'good',
    shows: 'one extent to the end',
    cdb: '9e 12 00 00 00 00 00 00 00 04 00 00 00 18 00 00',
    in: `00 00 00 14 00 00 00 00
         00 00 00 00 00 00 00 04  // from LBA 4
         00 00 03 fc              // 1020 blocks
         00 00 00 00              // mapped or unknown`,
  },
  {
    command: 'GET LBA STATUS',
    kind: 'edge',
    shows: 'the last block',
    cdb: '9e 12 00 00 00 00 00 00 03 ff 00 00 00 18 00 00',
    in: '00 00 00 14 00 00 00 00 00 00 00 00 00 00 03 ff 00 00 00 01 00 00 00 00',
  },
  {
    command: 'GET LBA STATUS',
    kind: 'edge',
    shows: 'an extent of at most 2^32 - 1 blocks',
    before: (u) => {
      u.channel.info.numBlocks = 2 ** 40;
    },
    cdb: '9e 12 00 00 00 00 00 00 00 00 00 00 00 18 00 00',
    in: '00 00 00 14 00 00 00 00 00 00 00 00 00 00 00 00 ff ff ff ff 00 00 00 00',
  },
  {
    command: 'GET LBA STATUS',
    kind: 'refused',
    shows: 'past the end',
    cdb: '9e 12 00 00 00 00 00 00 04 00 00 00 00 18 00 00',
    sense: '05/21/00',
  },
  {
    command: 'READ DEFECT DATA(10)',
    kind: 'good',
    shows: 'both lists, empty',
    cdb: '37 00 1d 00 00 00 00 00 ff 00',
    in: '00 1d 00 00',
  },
  {
    command: 'READ DEFECT DATA(10)',
    kind: 'edge',
    shows: 'a short allocation length',
    cdb: '37 00 00 00 00 00 00 00 02 00',
    in: '00 00',
  },
  {
    command: 'READ DEFECT DATA(10)',
    kind: 'refused',
    shows: 'a reserved bit',
    cdb: '37 00 20 00 00 00 00 00 ff 00',
    sense: '05/24/00',
    field: 2,
  },
  {
    command: 'READ DEFECT DATA(12)',
    kind: 'good',
    shows: 'both lists, empty',
    cdb: 'b7 1d 00 00 00 00 00 00 00 ff 00 00',
    in: '00 1d 00 00 00 00 00 00',
  },
  {
    command: 'READ DEFECT DATA(12)',
    kind: 'edge',
    shows: 'allocation length 0',
    cdb: 'b7 08 00 00 00 00 00 00 00 00 00 00',
    length: 0,
  },
  {
    command: 'READ DEFECT DATA(12)',
    kind: 'refused',
    shows: 'an index into an empty list',
    cdb: 'b7 08 00 00 00 01 00 00 00 ff 00 00',
    sense: '05/24/00',
    field: 5,
  },
];
