import { BdevIo, BdevOp, BdevStatus } from '../../src/bdev/bdev.ts';
import { createNullBdev, openNullChannel } from '../../src/bdev/null-bdev.ts';
import { Memory } from '../../src/memory/memory.ts';
import { assert, suite } from '../support/suite.ts';
import { Owner, scatter } from './disk-model.ts';

const test = suite('null disk');

test('ends every request and touches no buffer', () => {
  const disk = createNullBdev({ name: 'Null0', numBlocks: 8, blockSize: 4096 });
  const channel = openNullChannel(structuredClone(disk.share()));
  const memory = new Memory(new ArrayBuffer(4096));
  memory.u8.fill(0x5a);
  const rows: [number, number, number, number][] = [
    [BdevOp.READ, 0, 1, BdevStatus.OK],
    [BdevOp.WRITE, 7, 1, BdevStatus.OK],
    [BdevOp.READ, 7, 2, BdevStatus.OUT_OF_RANGE],
    [BdevOp.READ, 2 ** 50, 1, BdevStatus.OUT_OF_RANGE],
    [BdevOp.FLUSH, 0, 0, BdevStatus.OK],
    [BdevOp.UNMAP, 0, 8, BdevStatus.OK],
    [BdevOp.WRITE_ZEROES, 0, 8, BdevStatus.OK],
    [BdevOp.COMPARE, 0, 1, BdevStatus.NOT_SUPPORTED],
  ];
  for (const [op, lba, blocks, status] of rows) {
    const io = new BdevIo(new Owner(), scatter(memory, 4096, [], 0, 0));
    io.op = op as BdevOp;
    io.lba = lba;
    io.blocks = blocks;
    channel.submit(io);
    assert.is((io.owner as Owner).done.size, 1);
    assert.is(io.status, status, `op ${op} ${lba}+${blocks}`);
  }
  assert.ok(memory.u8.every((b) => b === 0x5a));
  disk.resize(9);
  channel.resized(disk.share());
  assert.is(channel.info.numBlocks, 9);
  channel.close();
  disk.destroy();
});

test('tells of the blocks there are for transfers on the spot: after a resize, and none once it is removed', () => {
  const disk = createNullBdev({ name: 'Null0', numBlocks: 8 });
  const channel = openNullChannel(disk.share());
  const ends = () => [0, 1, 8, 9, 2 ** 32].filter((lba) => channel.locate(lba, 1));
  assert.equal(ends(), [0, 1]);
  assert.not(channel.locate(1, 8));
  disk.resize(9);
  channel.resized(disk.share());
  assert.equal(ends(), [0, 1, 8]);
  disk.resize(2 ** 40);
  channel.resized(disk.share());
  assert.equal(ends(), [0, 1, 8, 9, 2 ** 32]);
  channel.remove();
  assert.equal(ends(), []);
  channel.resized(disk.share());
  assert.equal(ends(), []);
  channel.close();
});

test('says what it is', () => {
  const disk = createNullBdev({ name: 'Null0', numBlocks: 8 });
  assert.is(disk.info.product, 'Null disk');
  assert.is(disk.config().method, 'bdev_null_create');
  assert.throws(() => createNullBdev({ name: 'Null0', numBlocks: -1 }), /numBlocks/);
});

test.run();
