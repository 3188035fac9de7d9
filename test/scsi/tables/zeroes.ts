import { BdevOp, BdevStatus } from '../../../src/bdev/bdev.ts';
import { assert } from '../../support/suite.ts';
import { blocks, type Case, firstBytes, numbered } from '../support/case.ts';
import { rangeCdb, unmapList } from '../support/cdb.ts';
import type { Unit } from '../support/unit.ts';

const unmapCdb = (length: number) => `42 00 00 00 00 00 00 ${length.toString(16).padStart(4, '0')} 00`;
const log = (unit: Unit) => {
  numbered(unit);
  unit.channel.log = [];
};
const logged =
  (...lines: string[]) =>
  (unit: Unit) =>
    assert.equal(unit.channel.log, lines);
const fails = (op: BdevOp, status: BdevStatus) => (unit: Unit) => {
  unit.channel.failures.push({ op, status });
};

const unmap: Case[] = [
  {
    command: 'UNMAP',
    kind: 'good',
    shows: 'two ranges',
    before: log,
    cdb: unmapCdb(40),
    out: unmapList([
      [1, 2],
      [5, 1],
    ]),
    transferred: 40,
    after: (u) =>
      assert.equal(
        [firstBytes(u, 0, 7), u.channel.log],
        [
          [0, 0, 0, 3, 4, 0, 6],
          ['UNMAP 1+2', 'UNMAP 5+1'],
        ],
      ),
  },
  { command: 'UNMAP', kind: 'edge', shows: 'an empty parameter list', cdb: unmapCdb(0) },
  { command: 'UNMAP', kind: 'edge', shows: 'a list without descriptors', cdb: unmapCdb(8), out: unmapList([]) },
  {
    command: 'UNMAP',
    kind: 'edge',
    shows: 'no blocks, at the end of the disk',
    before: log,
    cdb: unmapCdb(24),
    out: unmapList([[1024, 0]]),
    after: logged(),
  },
  {
    command: 'UNMAP',
    kind: 'edge',
    shows: 'a descriptor cut off by the list length is none',
    before: log,
    cdb: unmapCdb(30),
    out: unmapList([
      [1, 1],
      [2, 1],
    ]).slice(0, 60),
    after: logged('UNMAP 1+1'),
  },
  {
    command: 'UNMAP',
    kind: 'edge',
    shows: 'a descriptor length that says less than there is',
    before: log,
    cdb: unmapCdb(40),
    out: `0026 0010 00000000${unmapList([
      [1, 1],
      [2, 1],
    ]).slice(16)}`,
    after: logged('UNMAP 1+1'),
  },
  {
    command: 'UNMAP',
    kind: 'edge',
    shows: 'a descriptor length that says more than there is',
    before: (unit) => {
      // The same work buffer has had a longer list before.
      unit.run(
        unmapCdb(40),
        unmapList([
          [1, 1],
          [9, 1],
        ]),
      );
      log(unit);
    },
    cdb: unmapCdb(24),
    out: `ffff fff0 00000000${unmapList([[1, 1]]).slice(16)}`,
    after: logged('UNMAP 1+1'),
  },
  {
    command: 'UNMAP',
    kind: 'edge',
    shows: '256 descriptors',
    before: log,
    cdb: unmapCdb(8 + 4096),
    out: unmapList(Array.from({ length: 256 }, (_, i) => [i, 1])),
    after: (u) => assert.equal([u.channel.log?.length, u.channel.disk.findIndex((b) => b !== 0)], [256, 257 * 512]),
  },
  {
    command: 'UNMAP',
    kind: 'refused',
    shows: '257 descriptors',
    cdb: unmapCdb(8 + 4112),
    out: unmapList(Array.from({ length: 257 }, (_, i) => [i, 1])),
    before: log,
    sense: '05/26/00',
    field: 2,
    after: logged(),
  },
  {
    command: 'UNMAP',
    kind: 'edge',
    shows: 'a list that is longer than its descriptors, whose length counts',
    before: log,
    cdb: unmapCdb(8 + 4112),
    out: `1016 0010 00000000${unmapList(Array.from({ length: 257 }, (_, i) => [i, 1])).slice(16)}`,
    after: logged('UNMAP 0+1'),
  },
  {
    command: 'UNMAP',
    kind: 'refused',
    shows: 'a list of less than 8 bytes',
    cdb: unmapCdb(7),
    out: '00 06 00 00 00 00 00',
    sense: '05/1a/00',
  },
  {
    command: 'UNMAP',
    kind: 'refused',
    shows: 'one range in the middle past the end: none is done',
    before: log,
    cdb: unmapCdb(40),
    out: unmapList([
      [1, 2],
      [1023, 2],
    ]),
    sense: '05/21/00',
    information: 1023,
    after: logged(),
  },
  {
    command: 'UNMAP',
    kind: 'refused',
    shows: 'more blocks than VPD b0h allows',
    before: (u) => {
      u.channel.info.numBlocks = 2 ** 40;
    },
    cdb: unmapCdb(40),
    out: unmapList([
      [0, 0x10_0000],
      [0x50_0000, 1],
    ]),
    sense: '05/26/00',
    field: 32,
  },
  {
    command: 'UNMAP',
    kind: 'refused',
    shows: 'ANCHOR',
    cdb: '42 01 00 00 00 00 00 00 08 00',
    out: unmapList([]),
    sense: '05/24/00',
    field: 1,
  },
  {
    command: 'UNMAP',
    kind: 'refused',
    shows: 'data shorter than the list',
    cdb: unmapCdb(40),
    out: unmapList([[1, 2]]),
    response: 5,
  },
  {
    command: 'UNMAP',
    kind: 'refused',
    shows: 'a disk that cannot',
    disk: { unmap: false },
    cdb: unmapCdb(24),
    out: unmapList([[1, 2]]),
    sense: '05/20/00',
  },
  {
    command: 'UNMAP',
    kind: 'refused',
    shows: 'a read-only disk',
    disk: { readOnly: true },
    cdb: unmapCdb(24),
    out: unmapList([[1, 2]]),
    sense: '07/27/00',
  },
  {
    command: 'UNMAP',
    kind: 'refused',
    shows: 'the disk fails',
    before: fails(BdevOp.UNMAP, BdevStatus.IO_ERROR),
    cdb: unmapCdb(24),
    out: unmapList([[1, 2]]),
    sense: '04/44/00',
  },
];

const UNMAP = 0x08;

function writeSame(size: number, opcode: number, lengthByte: number): Case[] {
  const c = { command: `WRITE SAME(${size})`, kind: 'good' } as const;
  return [
    {
      ...c,
      shows: 'a pattern',
      before: log,
      cdb: rangeCdb(opcode, 2, 3),
      out: blocks(1, 0x77),
      transferred: 512,
      after: (u) => assert.equal([firstBytes(u, 1, 5), u.channel.log], [[1, 0x77, 0x77, 0x77, 5], ['WRITE 2+3']]),
    },
    {
      ...c,
      shows: 'zeroes',
      before: log,
      cdb: rangeCdb(opcode, 2, 3),
      out: blocks(1, 0),
      after: (u) => assert.equal([firstBytes(u, 1, 5), u.channel.log], [[1, 0, 0, 0, 5], ['WRITE_ZEROES 2+3']]),
    },
    {
      ...c,
      shows: 'zeroes with UNMAP',
      before: log,
      cdb: rangeCdb(opcode, 2, 3, UNMAP),
      out: blocks(1, 0),
      after: logged('UNMAP 2+3'),
    },
    {
      ...c,
      kind: 'edge',
      shows: 'zeroes with UNMAP where unmapped blocks may read otherwise',
      disk: { unmapZeroes: false },
      before: log,
      cdb: rangeCdb(opcode, 2, 3, UNMAP),
      out: blocks(1, 0),
      after: logged('WRITE_ZEROES 2+3'),
    },
    {
      ...c,
      kind: 'edge',
      shows: 'a pattern with UNMAP is written',
      before: log,
      cdb: rangeCdb(opcode, 2, 3, UNMAP),
      out: blocks(1, 0x77),
      after: logged('WRITE 2+3'),
    },
    {
      ...c,
      kind: 'edge',
      shows: 'zeroes on a disk without WRITE_ZEROES',
      before: (u) => {
        log(u);
        u.channel.lacks.add(BdevOp.WRITE_ZEROES);
      },
      cdb: rangeCdb(opcode, 2, 3),
      out: blocks(1, 0),
      after: logged('WRITE_ZEROES 2+3', 'WRITE 2+3'),
    },
    {
      ...c,
      kind: 'edge',
      shows: 'a pattern in pieces to the end of the disk',
      before: log,
      cdb: rangeCdb(opcode, 24, 1000),
      out: blocks(1, 0x77),
      after: (u) =>
        assert.equal(
          [u.channel.log?.length, firstBytes(u, 23, 2), u.channel.disk.lastIndexOf(23)],
          [4, [23, 0x77], 24 * 512 - 1],
        ),
    },
    {
      ...c,
      kind: 'edge',
      shows: 'a write-through cache',
      disk: { writeCache: true },
      before: (u) => {
        u.run('15 10 00 00 18 00', '00 00 00 00  08 12 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00');
        log(u);
      },
      cdb: rangeCdb(opcode, 2, 1),
      out: blocks(1, 0x77),
      after: logged('WRITE 2+1 fua'),
    },
    {
      ...c,
      kind: 'edge',
      shows: 'zeroes with UNMAP and a write-through cache: blocks given up would be zeroes on the medium later only',
      disk: { writeCache: true },
      before: (u) => {
        u.run('15 10 00 00 18 00', '00 00 00 00  08 12 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00');
        log(u);
      },
      cdb: rangeCdb(opcode, 2, 1, UNMAP),
      out: blocks(1, 0),
      after: logged('WRITE_ZEROES 2+1 fua'),
    },
    {
      ...c,
      kind: 'refused',
      shows: 'no blocks (WSNZ)',
      cdb: rangeCdb(opcode, 2, 0),
      out: blocks(1, 0),
      sense: '05/24/00',
      field: lengthByte,
    },
    {
      ...c,
      kind: 'refused',
      shows: 'past the end',
      cdb: rangeCdb(opcode, 1020, 5),
      out: blocks(1, 0),
      sense: '05/21/00',
    },
    {
      ...c,
      kind: 'refused',
      shows: 'half a block of data',
      cdb: rangeCdb(opcode, 0, 1, UNMAP),
      out: blocks(1, 0, 256),
      sense: '05/24/00',
    },
    {
      ...c,
      kind: 'refused',
      shows: 'two blocks of data',
      cdb: rangeCdb(opcode, 0, 1, UNMAP),
      out: blocks(2, 0),
      sense: '05/24/00',
    },
    {
      ...c,
      kind: 'refused',
      shows: 'ANCHOR',
      cdb: rangeCdb(opcode, 0, 1, 0x18),
      out: blocks(1, 0),
      sense: '05/24/00',
      field: 1,
    },
    {
      ...c,
      kind: 'refused',
      shows: 'WRPROTECT',
      cdb: rangeCdb(opcode, 0, 1, 0x20),
      out: blocks(1, 0),
      sense: '05/24/00',
      field: 1,
    },
    {
      ...c,
      kind: 'refused',
      shows: 'UNMAP on a disk that cannot',
      disk: { unmap: false },
      cdb: rangeCdb(opcode, 0, 1, UNMAP),
      out: blocks(1, 0),
      sense: '05/24/00',
      field: 1,
    },
    {
      ...c,
      kind: 'refused',
      shows: 'a read-only disk',
      disk: { readOnly: true },
      cdb: rangeCdb(opcode, 0, 1),
      out: blocks(1, 0),
      sense: '07/27/00',
    },
    {
      ...c,
      kind: 'refused',
      shows: 'UNMAP on a disk that cannot as it is read-only',
      disk: { readOnly: true, unmap: false },
      cdb: rangeCdb(opcode, 0, 1, UNMAP),
      out: blocks(1, 0),
      sense: '07/27/00',
    },
    {
      ...c,
      kind: 'refused',
      shows: 'the disk fails',
      before: fails(BdevOp.WRITE, BdevStatus.WRITE_ERROR),
      cdb: rangeCdb(opcode, 0, 1),
      out: blocks(1, 1),
      sense: '03/0c/00',
    },
  ];
}

export const zeroes: readonly Case[] = [
  ...unmap,
  ...writeSame(10, 0x41, 7),
  ...writeSame(16, 0x93, 10),
  {
    command: 'WRITE SAME(16)',
    kind: 'good',
    shows: 'NDOB: zeroes without data',
    before: log,
    cdb: rangeCdb(0x93, 2, 3, 0x01),
    after: logged('WRITE_ZEROES 2+3'),
  },
  {
    command: 'WRITE SAME(16)',
    kind: 'edge',
    shows: 'NDOB with UNMAP',
    before: log,
    cdb: rangeCdb(0x93, 2, 3, 0x09),
    after: logged('UNMAP 2+3'),
  },
  {
    command: 'WRITE SAME(10)',
    kind: 'refused',
    shows: 'NDOB is not in the 10-byte form',
    cdb: rangeCdb(0x41, 2, 3, 0x01),
    out: blocks(1, 0),
    sense: '05/24/00',
    field: 1,
  },
  {
    command: 'WRITE SAME(16)',
    kind: 'refused',
    shows: 'more blocks than VPD b0h allows',
    before: (u) => {
      u.channel.info.numBlocks = 2 ** 40;
    },
    cdb: rangeCdb(0x93, 0, 0x8001),
    out: blocks(1, 0),
    sense: '05/24/00',
    field: 10,
  },
  {
    command: 'WRITE SAME(10)',
    kind: 'refused',
    shows: 'more blocks than VPD b0h allows',
    before: (u) => {
      u.channel.info.numBlocks = 2 ** 40;
    },
    cdb: rangeCdb(0x41, 0, 0x8001),
    out: blocks(1, 0),
    sense: '05/24/00',
    field: 7,
  },
  {
    command: 'WRITE SAME(16)',
    kind: 'refused',
    shows: 'UNMAP: more blocks than VPD b0h allows',
    before: (u) => {
      u.channel.info.numBlocks = 2 ** 40;
    },
    cdb: rangeCdb(0x93, 0, 0x1_0000, 0x08),
    out: blocks(1, 0),
    sense: '05/24/00',
    field: 10,
  },
  {
    command: 'WRITE SAME(16)',
    kind: 'edge',
    shows: 'UNMAP of as many blocks as VPD b0h allows: one request to the disk',
    disk: { numBlocks: 0x8000 },
    before: (u) => {
      u.channel.log = [];
    },
    cdb: rangeCdb(0x93, 0, 0x8000, 0x08),
    out: blocks(1, 0),
    after: logged('UNMAP 0+32768'),
  },
  {
    command: 'WRITE SAME(16)',
    kind: 'refused',
    shows: 'LBA 2^64 - 1',
    cdb: '93 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00',
    out: blocks(1, 0),
    sense: '05/21/00',
  },
];
