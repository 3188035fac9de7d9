import { BdevOp, BdevStatus } from '../../src/bdev/bdev.ts';
import { assert, suite } from '../support/suite.ts';
import { blocks, firstBytes, numbered } from './support/case.ts';
import { rangeCdb, unmapList } from './support/cdb.ts';
import { Unit } from './support/unit.ts';

/** Commands of many disk requests: in pieces, in turns, and out of the way of others. */

const test = suite('scsi: commands in steps');

test('a long VERIFY over a disk that completes at once lets others run between its turns', () => {
  const unit = new Unit({ numBlocks: 100_000 });
  const long = unit.send(rangeCdb(0x8f, 0, 100_000));
  let turns = 0;
  for (; long.done === 0; turns++) {
    assert.is(unit.send(rangeCdb(0x28, 0, 1)).result().status, 0);
    unit.target.poll();
  }
  assert.is(long.result().status, 0);
  assert.ok(turns > 40, `${turns}`); // 1 MiB a turn
});

test('a step that fails ends the command there', () => {
  const unit = new Unit();
  unit.channel.deferred = true;
  const sent = unit.send(rangeCdb(0x93, 0, 1024), blocks(1, 1));
  unit.channel.complete(1);
  unit.channel.failures.push({ op: BdevOp.WRITE, status: BdevStatus.WRITE_ERROR });
  unit.channel.complete(1);
  assert.is(unit.channel.waiting.length, 0);
  assert.is(sent.result().sense, '03/0c/00');
});

test('data in many small pieces', () => {
  const unit = new Unit();
  const data = new Uint8Array(300 * 512).map((_, i) => i * 7);
  assert.is(unit.run(rangeCdb(0x2a, 9, 300), data, { pieces: 100 }).status, 0);
  assert.equal(unit.channel.disk.slice(9 * 512, 309 * 512), data);
  assert.is(unit.run(rangeCdb(0x2f, 9, 300, 0x02), data, { pieces: 33 * 8 }).status, 0);
  assert.equal(unit.run(rangeCdb(0x28, 9, 128), '', { pieces: 100 }).dataIn, data.slice(0, 128 * 512));
  unit.channel.lacks.add(BdevOp.COMPARE);
  assert.is(unit.run(rangeCdb(0x2f, 9, 300, 0x02), data, { pieces: 1000 }).status, 0);
  data[99_999] ^= 1;
  const r = unit.run(rangeCdb(0x2f, 9, 300, 0x02), data, { pieces: 1000 });
  assert.is(new DataView(r.senseBytes.buffer).getUint32(3), 99_999);
  assert.is(unit.run(rangeCdb(0x8b, 0, 300), data, { pieces: 1000 }).status, 0);
});

test('UNMAP in pieces that a memory disk clears quickly', () => {
  const unit = new Unit({ numBlocks: 70_000 });
  numbered(unit);
  unit.channel.log = [];
  assert.is(unit.run('42 00 00 00 00 00 00 00 18 00', unmapList([[100, 69_000]])).status, 0);
  assert.equal(unit.channel.log, ['UNMAP 100+32768', 'UNMAP 32868+32768', 'UNMAP 65636+3464']);
  assert.equal(firstBytes(unit, 99, 2), [99, 0]);
  assert.equal(firstBytes(unit, 69_099, 2), [0, 69_100 & 0xff]);
});

test('WRITE SAME of a 4Kn disk', () => {
  const unit = new Unit({ blockSize: 4096, physicalBlockSize: 4096, numBlocks: 100 });
  assert.is(unit.run(rangeCdb(0x41, 3, 90), blocks(1, 0x5a, 4096)).status, 0);
  assert.equal([...unit.channel.disk.subarray(3 * 4096 - 1, 3 * 4096 + 1)], [0, 0x5a]);
  assert.equal([...unit.channel.disk.subarray(93 * 4096 - 1, 93 * 4096 + 1)], [0x5a, 0]);
  assert.is(unit.run(rangeCdb(0x2f, 3, 90, 0x06), blocks(1, 0x5a, 4096)).status, 0);
});

test('more commands in steps than there are buffers all end', () => {
  const unit = new Unit();
  unit.channel.deferred = true;
  const sent = Array.from({ length: 40 }, (_, i) => unit.send(rangeCdb(0x41, i, 1), blocks(1, i + 1)));
  for (let i = 0; i < 100 && unit.lun.outstanding > 0; i++) {
    unit.channel.complete();
    unit.settle();
  }
  for (const s of sent) assert.is(s.result().status, 0);
  assert.equal(
    firstBytes(unit, 0, 40),
    Array.from({ length: 40 }, (_, i) => i + 1),
  );
});

test('the guest may change its data meanwhile: WRITE SAME writes what it has copied', () => {
  const unit = new Unit();
  unit.channel.deferred = true;
  const sent = unit.send(rangeCdb(0x93, 0, 1024), blocks(1, 7));
  unit.channel.complete(1);
  sent.task.dataOut.memory[0].u8.fill(9);
  unit.channel.complete(1);
  while (unit.channel.waiting.length > 0) unit.channel.complete();
  assert.is(sent.result().status, 0);
  assert.is(
    unit.channel.disk.findIndex((b) => b !== 7),
    -1,
  );
});

test('the guest may change its UNMAP list meanwhile', () => {
  const unit = new Unit();
  unit.channel.deferred = true;
  unit.channel.log = [];
  const sent = unit.send(
    '42 00 00 00 00 00 00 00 28 00',
    unmapList([
      [1, 1],
      [5, 1],
    ]),
  );
  sent.task.dataOut.memory[0].u8.fill(0xff);
  unit.channel.complete(1);
  unit.channel.complete(1);
  assert.is(sent.result().status, 0);
  assert.equal(unit.channel.log, ['UNMAP 1+1', 'UNMAP 5+1']);
});

test.run();
