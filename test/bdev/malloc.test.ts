import { BdevIo, BdevOp, BdevStatus } from '../../src/bdev/bdev.ts';
import { createMallocBdev, type MallocBdev } from '../../src/bdev/malloc-bdev.ts';
import { openMallocChannel } from '../../src/bdev/malloc-channel.ts';
import { MAX_MEMORY, Memory } from '../../src/memory/memory.ts';
import { mapAnonymous } from '../../src/sys/mapping.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { DiskModel, fill, Owner, scatter, steps } from './disk-model.ts';

const test = suite('malloc disk');
const KIB = 1024;

function withDisk(options: Partial<Parameters<typeof createMallocBdev>[0]>, body: (disk: MallocBdev) => void): void {
  const disk = createMallocBdev({ name: 'Malloc0', numBlocks: 64, ...options });
  try {
    body(disk);
  } finally {
    disk.destroy();
  }
}

test('is what SPDK says of it', () => {
  withDisk({ uuid: '5B2A7E6C-0000-4000-8000-0123456789ab' }, (disk) => {
    assert.equal(disk.info, {
      name: 'Malloc0',
      product: 'Malloc disk',
      uuid: '5b2a7e6c-0000-4000-8000-0123456789ab',
      blockSize: 512,
      physicalBlockSize: 512,
      numBlocks: 64,
      writeCache: false,
      readOnly: false,
      unmap: true,
      unmapZeroes: true,
      nonRotational: true,
    });
    assert.equal(disk.config().method, 'bdev_malloc_create');
    assert.equal(disk.config().params['num_blocks'], 64);
  });
});

test('refuses options with their name', () => {
  const wrong: [Partial<Parameters<typeof createMallocBdev>[0]>, string][] = [
    [{ numBlocks: 0 }, 'numBlocks'],
    [{ numBlocks: 1.5 }, 'numBlocks'],
    [{ numBlocks: 2 ** 53 }, 'numBlocks'],
    [{ blockSize: 511 }, 'blockSize'],
    [{ blockSize: 513 }, 'blockSize'],
    [{ blockSize: 131072 }, 'blockSize'],
    [{ blockSize: 4096, physicalBlockSize: 512 }, 'physicalBlockSize'],
    [{ uuid: 'no' }, 'uuid'],
    [{ name: '' }, 'name'],
    [{ name: 'a/b' }, 'name'],
    [{ name: 'a\nb' }, 'name'],
  ];
  for (const [options, option] of wrong) {
    try {
      withDisk(options, () => assert.unreachable(`took ${JSON.stringify(options)}`));
    } catch (error) {
      assert.is((error as { option?: string }).option, option, String(error));
      assert.is((error as { code?: string }).code, 'EINVAL');
    }
  }
});

test('a disk larger than the machine is refused with ENOMEM', () => {
  try {
    withDisk({ numBlocks: 2 ** 36 }, () => assert.unreachable('32 TiB were given'));
  } catch (error) {
    assert.is((error as { code?: string }).code, 'ENOMEM');
    assert.match(String(error), /Malloc0.*smaller/);
  }
});

for (const blockSize of [512, 4096]) {
  test(`holds what a plain array holds, blocks of ${blockSize}`, () => {
    const numBlocks = 48;
    const guest = mapAnonymous(numBlocks * blockSize + 128 * KIB);
    fc.assert(
      fc.property(steps(numBlocks), (list) => {
        withDisk({ blockSize, numBlocks }, (disk) => {
          const channel = openMallocChannel(structuredClone(disk.share()));
          const model = new DiskModel(channel, guest.memoryAt(0, guest.size), () => channel.poll());
          for (const s of list) model.step(s);
          model.verify();
          channel.close();
        });
      }),
      budget(150),
    );
    guest.unmap();
  });
}

test('two channels see one disk', () => {
  withDisk({}, (disk) => {
    const a = openMallocChannel(disk.share());
    const b = openMallocChannel(disk.share());
    const memory = new Memory(new ArrayBuffer(8 * KIB));
    fill(memory.u8.subarray(0, 4 * KIB), 7);
    const io = new BdevIo(new Owner(), scatter(memory, 4 * KIB, [100], 0, 0));
    io.op = BdevOp.WRITE;
    io.lba = 3;
    io.blocks = 8;
    a.submit(io);
    const back = new BdevIo(new Owner(), scatter(memory, 4 * KIB, [], 4 * KIB, 0));
    back.lba = 3;
    back.blocks = 8;
    b.submit(back);
    assert.is(Buffer.compare(memory.u8.subarray(0, 4 * KIB), memory.u8.subarray(4 * KIB)), 0);
    a.close();
    b.close();
    const read = disk.stats.snapshot();
    assert.is(read.write.count, 1);
    assert.is(read.read.bytes, 4 * KIB);
  });
});

test('requests across the windows of a large disk', () => {
  // 2.5 GiB of addresses; only the touched pages cost memory.
  const gib = 0x4000_0000;
  withDisk({ numBlocks: (gib * 2.5) / 512 }, (disk) => {
    const channel = openMallocChannel(disk.share());
    const memory = new Memory(new ArrayBuffer(16 * KIB));
    for (const edge of [gib, 2 * gib]) {
      fill(memory.u8.subarray(0, 8 * KIB), edge / gib);
      const io = new BdevIo(new Owner(), scatter(memory, 8 * KIB, [300, 500], 0, 0));
      io.op = BdevOp.WRITE;
      io.lba = (edge - 4 * KIB) / 512;
      io.blocks = 16;
      channel.submit(io);
      assert.is(io.status, BdevStatus.OK);
      io.op = BdevOp.COMPARE;
      (io.owner as Owner).done.clear();
      channel.submit(io);
      assert.is(io.status, BdevStatus.OK);
      io.op = BdevOp.UNMAP;
      (io.owner as Owner).done.clear();
      channel.submit(io);
      memory.u8.fill(0);
      io.op = BdevOp.COMPARE;
      (io.owner as Owner).done.clear();
      channel.submit(io);
      assert.is(io.status, BdevStatus.OK);
    }
    assert.ok(gib <= MAX_MEMORY);
    channel.close();
  });
});

test('grows with zeroes, shrinks, and forgets what it shrank', () => {
  withDisk({ numBlocks: 16 }, (disk) => {
    const channel = openMallocChannel(disk.share());
    const guest = new Memory(new ArrayBuffer(512 * KIB));
    disk.resize(256);
    const io = new BdevIo(new Owner(), scatter(guest, 512, [], 0, 0));
    io.lba = 200;
    io.blocks = 1;
    channel.submit(io);
    assert.is(io.status, BdevStatus.OUT_OF_RANGE, 'not told yet');
    channel.resized(structuredClone(disk.share()));
    const model = new DiskModel(channel, guest, () => {});
    assert.is(channel.info.numBlocks, 256);
    model.verify();
    model.step({ op: BdevOp.WRITE, lba: 10, blocks: 240, fua: false, seed: 5, cuts: [1, 500], gap: 3, skip: 0 });
    model.verify();
    disk.resize(20);
    channel.resized(disk.share());
    assert.is(
      model.run(Object.assign(new BdevIo(new Owner(), scatter(guest, 512, [], 0, 0)), { lba: 20, blocks: 1 })),
      BdevStatus.OUT_OF_RANGE,
    );
    disk.resize(256);
    channel.resized(disk.share());
    model.contents.fill(0, 20 * 512);
    model.verify();
    channel.close();
  });
});

test('a short list, a removed disk and a revoked buffer are statuses', () => {
  withDisk({}, (disk) => {
    const channel = openMallocChannel(disk.share());
    const mapping = mapAnonymous(4 * KIB);
    const memory = mapping.memoryAt(0, 4 * KIB);
    const io = new BdevIo(new Owner(), scatter(memory, 512, [], 0, 0));
    io.blocks = 2;
    channel.submit(io);
    assert.is(io.status, BdevStatus.IO_ERROR);
    mapping.unmap();
    io.blocks = 1;
    (io.owner as Owner).done.clear();
    channel.submit(io);
    assert.is(io.status, BdevStatus.IO_ERROR);
    channel.remove();
    (io.owner as Owner).done.clear();
    channel.submit(io);
    assert.is(io.status, BdevStatus.REMOVED);
    assert.equal(disk.stats.snapshot().errorsByStatus, { IO_ERROR: 2, REMOVED: 1 });
    channel.close();
  });
});

test.run();
