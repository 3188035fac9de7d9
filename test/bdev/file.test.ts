/** The file disk through each engine, with and without O_DIRECT, on a disk and in memory. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BdevIo, BdevOp, BdevStatus } from '../../src/bdev/bdev.ts';
import { createFileBdev, type FileBdev, type FileBdevOptions, type FileShare } from '../../src/bdev/file-bdev.ts';
import { type FileChannel, openFileChannel } from '../../src/bdev/file-channel.ts';
import { openChannel } from '../../src/bdev/open-channel.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { ERRNO } from '../../src/sys/errno.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { type IoEngine, slotOf } from '../../src/sys/io-engine.ts';
import { ioUringUnavailable } from '../../src/sys/io-uring.ts';
import type { IovecTable } from '../../src/sys/iovec-table.ts';
import { mapAnonymous } from '../../src/sys/mapping.ts';
import type { EngineKind } from '../../src/sys/shared-engine.ts';
import { openFds } from '../support/open-fds.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';
import { DiskModel, fill, Owner, scatter, steps } from './disk-model.ts';

const test = suite('file disk');
const KIB = 1024;
const onDisk = tempDir();
const inMemory = mkdtempSync('/dev/shm/vvu-test-');
process.on('exit', () => rmSync(inMemory, { recursive: true, force: true }));

const loop = new EventLoop();
const guest = mapAnonymous(1024 * KIB);
const memory = guest.memoryAt(0, guest.size);
let files = 0;

function newFile(folder: string, bytes: number): string {
  const path = join(folder, `disk${files++}.img`);
  writeFileSync(path, '');
  truncateSync(path, bytes);
  return path;
}

interface Rig {
  disk: FileBdev;
  channel: FileChannel;
  path: string;
}

function withFile(folder: string, bytes: number, options: Partial<FileBdevOptions>, body: (rig: Rig) => void): void {
  const path = newFile(folder, bytes);
  const disk = createFileBdev({ name: 'Aio0', filename: path, ...options });
  const channel = openFileChannel(structuredClone(disk.share()), loop);
  try {
    body({ disk, channel, path });
    assert.is(channel.inFlight, 0);
  } finally {
    if (channel.inFlight === 0) channel.close();
    disk.destroy();
    rmSync(path);
  }
}

const pump = (): void => {
  loop.turn(10);
};

function request(op: number, lba: number, blocks: number, sg = scatter(memory, blocks * 512, [], 0, 0)): BdevIo {
  const io = new BdevIo(new Owner(), sg);
  io.op = op as BdevOp;
  io.lba = lba;
  io.blocks = blocks;
  return io;
}

function waitFor(done: () => boolean): void {
  const end = Date.now() + 20_000;
  while (!done()) {
    pump();
    if (Date.now() > end) throw new Error('requests do not end');
  }
}

const ended = (io: BdevIo): boolean => (io.owner as Owner).done.has(io);

const kinds: EngineKind[] = ['inline', 'threads'];
if (ioUringUnavailable() === null) kinds.unshift('io_uring');

/** One channel an engine lives as long as the tests: the engine then does too, and threads are slow to start. */
const anchorFile = createFileBdev({ name: 'anchor', filename: newFile(onDisk, 512) });
const anchors = kinds.map((engine) => {
  const share = anchorFile.share();
  return openFileChannel({ ...share, data: { ...(share.data as FileShare), engine } }, loop);
});

/** Descriptors of our files: threads, and Node itself, open and close others in the background. */
function ourFds(): string[] {
  return openFds().filter((line) => line.includes(onDisk) || line.includes(inMemory));
}

for (const engine of kinds) {
  for (const [where, folder, direct] of [
    ['disk, O_DIRECT', onDisk, undefined],
    ['disk, page cache', onDisk, false],
    ['memory', inMemory, undefined],
  ] as const) {
    test(`${engine}, ${where}: holds what a plain array holds`, () => {
      for (const blockSize of [512, 4096]) {
        fc.assert(
          fc.property(steps(40), (list) => {
            withFile(folder, 40 * blockSize + 100, { engine, direct, blockSize }, ({ channel, path }) => {
              const model = new DiskModel(channel, memory, pump);
              assert.is(channel.info.numBlocks, 40);
              for (const s of list) model.step(s);
              model.verify();
              const contents = readFileSync(path);
              assert.is(contents.length, 40 * blockSize + 100, 'the size has changed');
              assert.is(Buffer.compare(contents.subarray(0, 40 * blockSize), model.contents), 0, 'the file differs');
            });
          }),
          budget(12),
        );
      }
    });
  }

  test(`${engine}: more requests than slots and bounce buffers, each ends once`, () => {
    const N = 700;
    withFile(onDisk, N * 2 * 512, { engine }, ({ channel, disk, path }) => {
      const ios: BdevIo[] = [];
      // Every second one misaligned for O_DIRECT, in two segments.
      for (let i = 0; i < N; i++) {
        const at = i * 1100 + (i & 1);
        const sg = new SgList(2);
        sg.push(memory, at, 500);
        sg.push(memory, at + 520, 524);
        fill(memory.u8.subarray(at, at + 500), i);
        fill(memory.u8.subarray(at + 520, at + 1044), i + 1);
        ios.push(request(BdevOp.WRITE, i * 2, 2, sg));
      }
      for (const io of ios) channel.submit(io);
      waitFor(() => ios.every(ended));
      assert.ok(ios.every((io) => io.status === BdevStatus.OK));
      const contents = readFileSync(path);
      for (let i = 0; i < N; i++) {
        const at = i * 1100 + (i & 1);
        assert.is(Buffer.compare(contents.subarray(i * 1024, i * 1024 + 500), memory.u8.subarray(at, at + 500)), 0);
        assert.is(
          Buffer.compare(contents.subarray(i * 1024 + 500, i * 1024 + 1024), memory.u8.subarray(at + 520, at + 1044)),
          0,
        );
      }
      const sums = disk.stats.snapshot();
      assert.is(sums.write.count, N);
      assert.is(sums.write.bytes, N * 1024);
      if (channel.zeroCopy) assert.is(sums.bouncedBytes, N * 1024);
      if (engine !== 'inline') assert.ok(sums.queued > 0);
    });
  });

  test(`${engine}: a transfer larger than a bounce buffer`, () => {
    const blocks = 1800;
    withFile(onDisk, blocks * 512, { engine }, ({ channel }) => {
      const model = new DiskModel(channel, memory, pump);
      model.step({ op: BdevOp.WRITE, lba: 0, blocks, fua: true, seed: 3, cuts: [1, 333, 777], gap: 3, skip: 5 });
      model.verify();
      model.step({ op: BdevOp.COMPARE, lba: 0, blocks, fua: false, seed: 2, cuts: [500], gap: 0, skip: 1 });
      model.step({ op: BdevOp.COMPARE, lba: 0, blocks, fua: false, seed: 900_001, cuts: [500], gap: 0, skip: 1 });
    });
  });

  test(`${engine}: segments beyond what one call takes`, () => {
    const blocks = 1500;
    withFile(onDisk, blocks * 512, { engine }, ({ channel, path }) => {
      const io = new BdevIo(new Owner(), new SgList(8, 2048));
      // Aligned, and no neighbours: 1024 go in the first call.
      for (let i = 0; i < blocks; i++) io.sg.push(memory, ((i * 1024) % (1024 * KIB - 512)) & ~511, 512);
      fill(memory.u8, 77);
      io.op = BdevOp.WRITE;
      io.blocks = blocks;
      channel.submit(io);
      waitFor(() => ended(io));
      assert.is(io.status, BdevStatus.OK);
      const expected = Buffer.concat(
        [...Array(blocks).keys()].map((i) => memory.u8.subarray(io.sg.offset[i], io.sg.offset[i] + 512)),
      );
      assert.is(Buffer.compare(readFileSync(path), expected), 0);
    });
  });

  test(`${engine}: removal with requests in flight`, () => {
    withFile(onDisk, 512 * KIB, { engine }, ({ channel }) => {
      const ios = [...Array(400).keys()].map((i) => request(BdevOp.WRITE, i, 1, scatter(memory, 512, [], i * 512, 0)));
      for (const io of ios) channel.submit(io);
      channel.remove();
      const late = request(BdevOp.READ, 0, 1);
      channel.submit(late);
      assert.is(late.status, BdevStatus.REMOVED);
      if (channel.inFlight > 0) assert.throws(() => channel.close(), /in flight/);
      waitFor(() => ios.every(ended));
      assert.is(channel.inFlight, 0);
      assert.ok(ios.every((io) => io.status === BdevStatus.OK || io.status === BdevStatus.REMOVED));
      if (engine !== 'inline') assert.ok(ios.some((io) => io.status === BdevStatus.REMOVED));
    });
  });

  test(`${engine}: a reset gives up what waits`, () => {
    withFile(onDisk, 512 * KIB, { engine }, ({ channel }) => {
      const ios = [...Array(300).keys()].map((i) => request(BdevOp.READ, i, 1, scatter(memory, 512, [], i * 512, 0)));
      for (const io of ios) channel.submit(io);
      channel.reset();
      waitFor(() => ios.every(ended));
      assert.is(ios.filter((io) => io.status === BdevStatus.ABORTED).length, engine === 'inline' ? 0 : 44);
    });
  });
}

test('requests that owners submit from ioDone, and a channel closed from there', () => {
  const path = newFile(onDisk, 64 * KIB);
  const disk = createFileBdev({ name: 'Aio0', filename: path });
  const channel = openChannel(disk.share(), loop);
  let left = 200;
  const owner = {
    ioDone(io: BdevIo) {
      assert.is(io.status, BdevStatus.OK);
      if (--left > 0) channel.submit(io);
      else channel.close();
    },
  };
  const io = request(BdevOp.READ, 3, 1);
  io.owner = owner;
  channel.submit(io);
  waitFor(() => left === 0);
  disk.destroy();
});

test('memory that cannot be pinned is bounced', () => {
  withFile(onDisk, 64 * KIB, {}, ({ channel, disk }) => {
    if (!channel.zeroCopy) return; // no O_DIRECT here
    const { engine } = channel as unknown as { engine: IoEngine };
    const { readv, writev } = engine;
    // What the kernel answers for a PCI BAR: its own buffers are fine, others are not.
    let direct = 0;
    const refuse = (iovecs: IovecTable, slot: number): boolean => {
      const ours = iovecs.count[slot] === 1 && iovecs.bytes[slot] <= 0x4_0000 && direct > 0;
      if (!ours) direct++;
      return !ours;
    };
    engine.writev = (tag, file, iovecs, dsync) =>
      refuse(iovecs, slotOf(tag)) ? -ERRNO.EFAULT : writev.call(engine, tag, file, iovecs, dsync);
    engine.readv = (tag, file, iovecs) =>
      refuse(iovecs, slotOf(tag)) ? -ERRNO.EFAULT : readv.call(engine, tag, file, iovecs);
    try {
      const model = new DiskModel(channel, memory, pump);
      model.step({ op: BdevOp.WRITE, lba: 0, blocks: 64, fua: false, seed: 4, cuts: [], gap: 0, skip: 0 });
      model.verify();
      assert.is(direct, 1, 'asked once');
      assert.is(disk.stats.snapshot().bouncedOps, 2);
    } finally {
      Object.assign(engine, { readv, writev });
    }
  });
});

test('grows with its file and becomes shorter with it', () => {
  withFile(onDisk, 8 * KIB, {}, ({ disk, channel, path }) => {
    assert.is(disk.info.numBlocks, 16);
    assert.is(disk.rescan(), false);
    truncateSync(path, 64 * KIB + 511);
    assert.is(disk.rescan(), true);
    assert.is(disk.info.numBlocks, 128);
    channel.resized(disk.share());
    const model = new DiskModel(channel, memory, pump);
    model.step({ op: BdevOp.WRITE, lba: 100, blocks: 28, fua: false, seed: 9, cuts: [], gap: 0, skip: 0 });
    model.verify();
    // Nobody has told the channel that the end is gone: an error, not zeroes.
    truncateSync(path, 8 * KIB);
    assert.is(model.run(request(BdevOp.READ, 100, 1)), BdevStatus.READ_ERROR);
    assert.is(model.run(request(BdevOp.READ, 14, 4)), BdevStatus.READ_ERROR);
    assert.is(disk.rescan(), true);
    channel.resized(disk.share());
    assert.is(model.run(request(BdevOp.READ, 100, 1)), BdevStatus.OUT_OF_RANGE);
    truncateSync(path, 100);
    assert.throws(() => disk.rescan(), /no block of 512.*truncate -s/);
  });
});

test('gives holes back to the file system', () => {
  withFile(onDisk, 1024 * KIB, {}, ({ disk, channel, path }) => {
    assert.ok(disk.info.unmap && disk.info.unmapZeroes);
    const model = new DiskModel(channel, memory, pump);
    const whole = { lba: 0, blocks: 1024, fua: false, seed: 1, cuts: [], gap: 0, skip: 0 };
    model.step({ ...whole, op: BdevOp.WRITE });
    model.step({ ...whole, op: BdevOp.FLUSH });
    assert.ok(statSync(path).blocks >= 1024);
    model.step({ ...whole, op: BdevOp.UNMAP });
    assert.ok(statSync(path).blocks < 100, `${statSync(path).blocks} blocks are left`);
    model.verify();
  });
});

test('without fallocate there is no UNMAP, and zeroes are written', () => {
  for (const folder of [onDisk, inMemory]) {
    withFile(folder, 256 * KIB, { fallocate: false }, ({ disk, channel }) => {
      assert.not(disk.info.unmap);
      const model = new DiskModel(channel, memory, pump);
      assert.is(model.run(request(BdevOp.UNMAP, 0, 8)), BdevStatus.NOT_SUPPORTED);
      model.step({ op: BdevOp.WRITE, lba: 0, blocks: 512, fua: false, seed: 1, cuts: [], gap: 0, skip: 0 });
      model.step({ op: BdevOp.WRITE_ZEROES, lba: 1, blocks: 500, fua: true, seed: 1, cuts: [], gap: 0, skip: 0 });
      model.verify();
    });
  }
});

test('a read-only disk', () => {
  withFile(onDisk, 8 * KIB, { readOnly: true }, ({ disk, channel }) => {
    assert.ok(disk.info.readOnly);
    const model = new DiskModel(channel, memory, pump);
    model.verify();
    for (const op of [BdevOp.WRITE, BdevOp.UNMAP, BdevOp.WRITE_ZEROES]) {
      assert.is(model.run(request(op, 0, 1)), BdevStatus.WRITE_PROTECTED);
    }
    assert.is(model.run(request(BdevOp.FLUSH, 0, 0)), BdevStatus.OK);
  });
});

test('one file, one disk', () => {
  const path = newFile(onDisk, 8 * KIB);
  const make = (options: Partial<FileBdevOptions> = {}): FileBdev =>
    createFileBdev({ name: 'x', filename: path, ...options });
  const first = make();
  const before = ourFds();
  for (const options of [{}, { readOnly: true }]) {
    assert.throws(
      () => make(options),
      (e: Error & { code?: string }) => e.code === 'EBUSY' && /locked by another.*share/.test(e.message),
    );
  }
  assert.equal(ourFds(), before);
  const shared = make({ share: true });
  shared.destroy();
  first.destroy();
  const a = make({ readOnly: true });
  const b = make({ readOnly: true });
  assert.throws(() => make(), /locked/);
  a.destroy();
  b.destroy();
  make().destroy();
});

test('says what is wrong with a file and what to do', () => {
  const before = ourFds();
  const small = newFile(onDisk, 511);
  const good = newFile(onDisk, 4096);
  mkdirSync(join(onDisk, 'folder'));
  const rows: [Partial<FileBdevOptions>, string, RegExp][] = [
    [{ filename: join(onDisk, 'none') }, 'ENOENT', /none; create it first .truncate -s/],
    [{ filename: join(onDisk, 'folder') }, 'EINVAL', /directory/],
    [{ filename: '/dev/null' }, 'EINVAL', /neither a regular file nor a block device/],
    [{ filename: '' }, 'EINVAL', /filename/],
    [{ filename: small }, 'EINVAL', /511 bytes hold no block of 512.*truncate/],
    [{ filename: good, blockSize: 8192 }, 'EINVAL', /no block of 8192/],
    [{ filename: good, blockSize: 1000 }, 'EINVAL', /blockSize 1000/],
    [{ filename: good, uuid: 'x' }, 'EINVAL', /uuid/],
    [{ filename: newFile(inMemory, 4096), direct: true }, 'EINVAL', /O_DIRECT|./],
  ];
  for (const [options, code, message] of rows) {
    try {
      createFileBdev({ name: 'Aio0', filename: good, ...options }).destroy();
      if (options.direct !== true) assert.unreachable(JSON.stringify(options));
    } catch (error) {
      assert.is((error as { code?: string }).code, code, String(error));
      assert.match(String(error), message);
    }
  }
  if (process.getuid?.() !== 0) {
    const secret = newFile(onDisk, 4096);
    spawnSync('chmod', ['000', secret]);
    assert.throws(() => createFileBdev({ name: 'a', filename: secret }), /not writable for this user/);
  }
  assert.equal(ourFds(), before);
});

test('a full file system is NO_SPACE', () => {
  const folder = join(onDisk, 'small');
  mkdirSync(folder);
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', folder]).status !== 0) {
    console.log('skipped: tmpfs cannot be mounted here');
    return;
  }
  try {
    for (const engine of kinds) {
      withFile(folder, 1024 * KIB, { engine }, ({ channel, disk }) => {
        const model = new DiskModel(channel, memory, pump);
        assert.is(model.run(request(BdevOp.WRITE, 0, 1500)), BdevStatus.NO_SPACE);
        assert.is(model.run(request(BdevOp.UNMAP, 0, 2048)), BdevStatus.OK);
        assert.is(model.run(request(BdevOp.WRITE, 1000, 100)), BdevStatus.OK);
        assert.equal(disk.stats.snapshot().errorsByStatus, { NO_SPACE: 1 });
      });
    }
  } finally {
    spawnSync('umount', [folder]);
  }
});

test('leaks no descriptors', () => {
  const before = ourFds();
  for (let i = 0; i < 10; i++) {
    withFile(onDisk, 64 * KIB, {}, ({ disk, channel }) => {
      const other = openFileChannel(disk.share(), loop);
      other.close();
      new DiskModel(channel, memory, pump).verify();
    });
  }
  assert.equal(ourFds(), before);
});

test('a block device', () => {
  const path = newFile(onDisk, 4 * 1024 * KIB);
  const made = spawnSync('losetup', ['-f', '--show', path]);
  if (made.status !== 0) {
    console.log('skipped: no loop device can be made here');
    return;
  }
  const device = String(made.stdout).trim();
  try {
    for (const engine of kinds) {
      const disk = createFileBdev({ name: 'Loop', filename: device, engine });
      assert.is(disk.info.numBlocks, 8192);
      assert.throws(() => createFileBdev({ name: 'Loop', filename: device }), /in use|locked/);
      const channel = openFileChannel(disk.share(), loop);
      const model = new DiskModel(channel, memory, pump);
      const step = { lba: 16, blocks: 1000, fua: true, seed: 1, cuts: [3, 700], gap: 0, skip: 0 };
      model.step({ ...step, op: BdevOp.WRITE });
      model.step({ ...step, op: BdevOp.COMPARE, seed: 2 });
      model.step({ ...step, op: BdevOp.WRITE_ZEROES, lba: 24, blocks: 500 });
      model.step({ ...step, op: BdevOp.READ, lba: 0, blocks: 1500 });
      if (disk.info.unmap) {
        model.step({ ...step, op: BdevOp.UNMAP, lba: 600, blocks: 400 });
        model.step({ ...step, op: BdevOp.READ, lba: 0, blocks: 1500 });
      }
      model.step({ ...step, op: BdevOp.UNMAP, lba: 0, blocks: 8192 });
      model.step({ ...step, op: BdevOp.FLUSH });
      channel.close();
      disk.destroy();
    }
  } finally {
    spawnSync('losetup', ['-d', device]);
  }
});

test('engines close with their last file', () => {
  for (const anchor of anchors) anchor.close();
  anchorFile.destroy();
  assert.equal(ourFds(), []);
  loop.close();
});

test.run();
