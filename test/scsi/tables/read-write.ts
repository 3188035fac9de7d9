import { BdevOp, BdevStatus } from '../../../src/bdev/bdev.ts';
import { assert } from '../../support/suite.ts';
import { blocks, type Case, firstBytes, numbered } from '../support/case.ts';
import { rangeCdb } from '../support/cdb.ts';
import type { Unit } from '../support/unit.ts';

const logging = (unit: Unit) => {
  unit.channel.log = [];
};
const logged =
  (...lines: string[]) =>
  (unit: Unit) =>
    assert.equal(unit.channel.log, lines);
const fails = (op: BdevOp, status: BdevStatus) => (unit: Unit) => {
  unit.channel.failures.push({ op, status });
};

/** READ and WRITE of one CDB size. @param lengthByte where the CDB's number of blocks begins */
function pair(size: number, readOp: number, writeOp: number, lengthByte: number): Case[] {
  const read = { command: `READ(${size})`, kind: 'good' } as const;
  const write = { command: `WRITE(${size})`, kind: 'good' } as const;
  const cases: Case[] = [
    {
      ...read,
      shows: 'two blocks',
      before: numbered,
      cdb: rangeCdb(readOp, 7, 2),
      length: 1024,
      after: (_unit, r) => assert.equal([r.dataIn[0], r.dataIn[511], r.dataIn[512], r.dataIn[1023]], [7, 7, 8, 8]),
    },
    {
      ...read,
      kind: 'edge',
      shows: 'the last block',
      before: numbered,
      cdb: rangeCdb(readOp, 1023, 1),
      length: 512,
    },
    {
      ...read,
      kind: 'edge',
      shows: 'a buffer too short: overrun, nothing read',
      before: logging,
      cdb: rangeCdb(readOp, 0, 2),
      room: 1023,
      response: 5,
      transferred: 0,
      after: logged(),
    },
    {
      ...read,
      kind: 'edge',
      shows: 'a buffer longer than needed',
      cdb: rangeCdb(readOp, 0, 1),
      room: 4096,
      transferred: 512,
    },
    {
      ...read,
      kind: 'refused',
      shows: 'one block past the end',
      cdb: rangeCdb(readOp, 1024, 1),
      sense: '05/21/00',
      information: 1024,
    },
    {
      ...read,
      kind: 'refused',
      shows: 'a range that ends past the end',
      cdb: rangeCdb(readOp, 1023, 2),
      sense: '05/21/00',
      information: 1023,
    },
    {
      ...read,
      kind: 'refused',
      shows: 'an unreadable block',
      before: fails(BdevOp.READ, BdevStatus.READ_ERROR),
      cdb: rangeCdb(readOp, 1, 1),
      sense: '03/11/00',
    },
    {
      ...write,
      shows: 'two blocks',
      cdb: rangeCdb(writeOp, 5, 2),
      out: blocks(2, 0x77),
      transferred: 1024,
      after: (unit) => assert.equal(firstBytes(unit, 4, 4), [0, 0x77, 0x77, 0]),
    },
    {
      ...write,
      kind: 'edge',
      shows: 'data beyond the transfer is left alone',
      cdb: rangeCdb(writeOp, 0, 1),
      out: blocks(2, 0x77),
      transferred: 512,
      after: (unit) => assert.equal(firstBytes(unit, 0, 2), [0x77, 0]),
    },
    {
      ...write,
      kind: 'edge',
      shows: 'data too short: overrun, nothing written',
      before: logging,
      cdb: rangeCdb(writeOp, 0, 2),
      out: blocks(1, 1),
      response: 5,
      transferred: 0,
      after: logged(),
    },
    {
      ...write,
      kind: 'refused',
      shows: 'a range that ends past the end',
      cdb: rangeCdb(writeOp, 1023, 2),
      out: blocks(2, 1),
      sense: '05/21/00',
      information: 1023,
    },
    {
      ...write,
      kind: 'refused',
      shows: 'a read-only disk',
      disk: { readOnly: true },
      cdb: rangeCdb(writeOp, 0, 1),
      out: blocks(1, 1),
      sense: '07/27/00',
    },
    {
      ...write,
      kind: 'refused',
      shows: 'no space left',
      before: fails(BdevOp.WRITE, BdevStatus.NO_SPACE),
      cdb: rangeCdb(writeOp, 0, 1),
      out: blocks(1, 1),
      sense: '07/27/07',
    },
  ];
  if (size === 6) return cases;
  cases.push(
    {
      ...read,
      kind: 'edge',
      shows: 'no blocks: nothing to do',
      before: logging,
      cdb: rangeCdb(readOp, 0, 0),
      after: logged(),
    },
    { ...read, kind: 'edge', shows: 'no blocks at the end of the disk', cdb: rangeCdb(readOp, 1024, 0) },
    { ...read, kind: 'refused', shows: 'no blocks beyond the end', cdb: rangeCdb(readOp, 1025, 0), sense: '05/21/00' },
    {
      ...read,
      kind: 'edge',
      shows: 'DPO and FUA',
      before: logging,
      cdb: rangeCdb(readOp, 0, 1, 0x18),
      length: 512,
      after: logged('READ 0+1 fua'),
    },
    { ...read, kind: 'refused', shows: 'RDPROTECT', cdb: rangeCdb(readOp, 0, 1, 0x20), sense: '05/24/00', field: 1 },
    { ...read, kind: 'refused', shows: 'NACA', cdb: rangeCdb(readOp, 0, 1).replace(/00$/, '04'), sense: '05/24/00' },
    {
      ...write,
      kind: 'edge',
      shows: 'FUA',
      disk: { writeCache: true },
      before: logging,
      cdb: rangeCdb(writeOp, 0, 1, 0x08),
      out: blocks(1, 1),
      after: logged('WRITE 0+1 fua'),
    },
    {
      ...write,
      kind: 'edge',
      shows: 'no FUA with the cache on',
      disk: { writeCache: true },
      before: logging,
      cdb: rangeCdb(writeOp, 0, 1),
      out: blocks(1, 1),
      after: logged('WRITE 0+1'),
    },
    {
      ...write,
      kind: 'refused',
      shows: 'WRPROTECT',
      cdb: rangeCdb(writeOp, 0, 1, 0xe0),
      out: blocks(1, 1),
      sense: '05/24/00',
      field: 1,
    },
  );
  cases.push({
    ...read,
    kind: 'refused',
    shows: 'more blocks than VPD b0h allows',
    disk: { numBlocks: 8193 },
    cdb: rangeCdb(readOp, 0, 8193),
    sense: '05/24/00',
    field: lengthByte,
  });
  return cases;
}

/** How each failure of the disk looks to the guest. */
const FAILURES: readonly [BdevStatus, string][] = [
  [BdevStatus.IO_ERROR, '04/44/00'],
  [BdevStatus.ABORTED, '0b/00/00'],
  [BdevStatus.REMOVED, '05/25/00'],
  [BdevStatus.OUT_OF_RANGE, '05/21/00'],
  [BdevStatus.WRITE_PROTECTED, '07/27/00'],
  [BdevStatus.WRITE_ERROR, '03/0c/00'],
  [BdevStatus.NOT_READY, '02/04/00'],
  [BdevStatus.NOT_SUPPORTED, '05/20/00'],
];

export const readWrite: readonly Case[] = [
  ...pair(6, 0x08, 0x0a, 4),
  ...pair(10, 0x28, 0x2a, 7),
  ...pair(12, 0xa8, 0xaa, 6),
  ...pair(16, 0x88, 0x8a, 10),
  {
    command: 'READ(6)',
    kind: 'edge',
    shows: 'a length of 0 means 256 blocks',
    cdb: '08 00 00 00 00 00',
    room: 256 * 512,
    length: 256 * 512,
  },
  {
    command: 'WRITE(6)',
    kind: 'edge',
    shows: 'a length of 0 means 256 blocks',
    cdb: '0a 00 00 00 00 00',
    out: blocks(256, 9),
    after: (unit) => assert.equal(firstBytes(unit, 255, 2), [9, 0]),
  },
  {
    command: 'READ(6)',
    kind: 'edge',
    shows: 'the top bits of byte 1 are not LBA',
    cdb: '08 e0 00 00 01 00',
    length: 512,
  },
  {
    command: 'READ(16)',
    kind: 'refused',
    shows: 'an LBA that fixed format has no room for: not VALID',
    cdb: '88 00 00 00 01 00 00 00 00 00 00 00 00 01 00 00',
    sense: '05/21/00',
    after: (_unit, r) => assert.equal([...r.senseBytes.subarray(0, 8)], [0x70, 0, 5, 0, 0, 0, 0, 10]),
  },
  {
    command: 'READ(16)',
    kind: 'refused',
    shows: 'LBA 2^63',
    cdb: '88 00 80 00 00 00 00 00 00 00 00 00 00 01 00 00',
    sense: '05/21/00',
  },
  {
    command: 'READ(16)',
    kind: 'refused',
    shows: 'LBA 2^64 - 1',
    cdb: '88 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00',
    sense: '05/21/00',
  },
  {
    command: 'READ(16)',
    kind: 'refused',
    shows: 'LBA and length that wrap around 2^64',
    cdb: '88 00 ff ff ff ff ff ff ff ff 00 00 00 02 00 00',
    sense: '05/21/00',
  },
  {
    command: 'READ(16)',
    kind: 'refused',
    shows: '2^32 - 1 blocks',
    cdb: '88 00 00 00 00 00 00 00 00 00 ff ff ff ff 00 00',
    sense: '05/21/00',
  },
  {
    command: 'READ(12)',
    kind: 'refused',
    shows: '2^32 - 1 blocks',
    cdb: 'a8 00 00 00 00 00 ff ff ff ff 00 00',
    sense: '05/21/00',
  },
  {
    command: 'READ(10)',
    kind: 'edge',
    shows: 'a 4Kn disk',
    disk: { blockSize: 4096, physicalBlockSize: 4096, numBlocks: 16 },
    cdb: '28 00 00 00 00 0f 00 00 01 00',
    length: 4096,
  },
  {
    command: 'READ(10)',
    kind: 'edge',
    shows: 'GROUP NUMBER is a hint',
    cdb: '28 00 00 00 00 00 03 00 01 00',
    length: 512,
  },
  {
    command: 'READ(10)',
    kind: 'edge',
    shows: 'a unit attention comes first',
    before: (unit) => {
      unit.run('00 00 00 00 00 00');
      unit.lun.capacityChanged();
    },
    cdb: '28 00 00 00 00 00 00 00 01 00',
    sense: '06/2a/09',
  },
  {
    command: 'READ(10)',
    kind: 'refused',
    shows: 'the disk has a reservation elsewhere',
    before: fails(BdevOp.READ, BdevStatus.RESERVATION_CONFLICT),
    cdb: '28 00 00 00 00 00 00 00 01 00',
    status: 0x18,
  },
  ...FAILURES.map(
    ([status, sense]): Case => ({
      command: 'WRITE(10)',
      kind: 'refused',
      shows: `bdev status ${Object.keys(BdevStatus)[status]}`,
      before: fails(BdevOp.WRITE, status),
      cdb: '2a 00 00 00 00 00 00 00 01 00',
      out: blocks(1, 1),
      sense,
    }),
  ),
];
