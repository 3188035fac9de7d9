/**
 * What a 4 KiB request costs in the block-device layer alone, by kind of disk, operation and depth: nanoseconds on the wall, and of
 * CPU, which a busy machine disturbs less.
 *
 * `node --import tsx bench/bdev.ts [SECONDS_A_ROW] [FOLDER_ON_A_DISK]`
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Bdev, type BdevChannel, BdevIo, BdevOp } from '../src/bdev/bdev.ts';
import { createFileBdev, type FileBdevOptions } from '../src/bdev/file-bdev.ts';
import { createMallocBdev } from '../src/bdev/malloc-bdev.ts';
import { createNullBdev } from '../src/bdev/null-bdev.ts';
import { openChannel } from '../src/bdev/open-channel.ts';
import { SgList } from '../src/memory/sg-list.ts';
import { EventLoop } from '../src/sys/event-loop.ts';
import { mapAnonymous } from '../src/sys/mapping.ts';

const SECONDS = Number(process.argv[2] ?? 1);
const FOLDER = process.argv[3] ?? tmpdir();
const ROUNDS = 5;
const BYTES = 4096;
const DISK = 256 * 2 ** 20;
const BLOCKS = DISK / 512;

const loop = new EventLoop();
const guest = mapAnonymous(64 * 2 ** 20, { populate: true }).memoryAt(0, 64 * 2 ** 20);
const shm = mkdtempSync('/dev/shm/vvu-bench-');
const disk = mkdtempSync(join(FOLDER, 'vvu-bench-'));
process.on('exit', () => {
  for (const folder of [shm, disk]) rmSync(folder, { recursive: true, force: true });
});

let seed = 12345;
function random(below: number): number {
  seed ^= seed << 13;
  seed ^= seed >>> 17;
  seed ^= seed << 5;
  return (seed >>> 0) % below;
}

function fileDisk(folder: string, options: Partial<FileBdevOptions>): Bdev {
  const filename = join(folder, `disk${random(1e9)}.img`);
  writeFileSync(filename, '');
  truncateSync(filename, DISK);
  return createFileBdev({ name: 'Aio0', filename, ...options });
}

class Runner {
  pending = 0;
  failed = 0;

  ioDone(io: BdevIo): void {
    this.pending--;
    if (io.status !== 0) this.failed++;
  }

  /** @returns nanoseconds a request: on the wall, and of all this process's threads */
  round(channel: BdevChannel, op: number, ios: BdevIo[], ns: number): [number, number] {
    const before = process.cpuUsage();
    const start = performance.now() * 1e6;
    let done = 0;
    let now = start;
    while (now - start < ns) {
      for (let i = 0; i < 32; i += ios.length) {
        for (let k = 0; k < ios.length; k++) {
          const io = ios[k];
          io.op = op as BdevOp;
          io.lba = random(BLOCKS / 8) * 8;
          io.sg.offset[0] = random(16384) * BYTES;
          this.pending++;
          channel.submit(io);
        }
        while (this.pending > 0) if (channel.poll() === 0) loop.turn(0);
        done += ios.length;
      }
      now = performance.now() * 1e6;
    }
    const { user, system } = process.cpuUsage(before);
    return [(now - start) / done, ((user + system) * 1000) / done];
  }
}

const rows: [string, () => Bdev][] = [
  ['null', () => createNullBdev({ name: 'Null0', numBlocks: BLOCKS })],
  ['malloc', () => createMallocBdev({ name: 'Malloc0', numBlocks: BLOCKS, populate: true })],
  ['file, tmpfs', () => fileDisk(shm, {})],
  ['file, tmpfs, io_uring', () => fileDisk(shm, { engine: 'io_uring' })],
  ['file, page cache, io_uring', () => fileDisk(disk, { direct: false, engine: 'io_uring' })],
  ['file, page cache, threads', () => fileDisk(disk, { direct: false, engine: 'threads' })],
  ['file, O_DIRECT, io_uring', () => fileDisk(disk, { engine: 'io_uring' })],
];

console.log(
  `Node ${process.version}; 4 KiB, random; ns a request, best and median of ${ROUNDS}: wall, then CPU of the process`,
);
for (const [name, create] of rows) {
  const bdev = create();
  const channel = openChannel(bdev.share(), loop);
  const runner = new Runner();
  for (const depth of [1, 32]) {
    const ios = [...Array(depth)].map(() => {
      const io = new BdevIo(runner, new SgList(1));
      io.sg.push(guest, 0, BYTES);
      io.blocks = BYTES / 512;
      return io;
    });
    for (const [label, op] of [
      ['write', BdevOp.WRITE],
      ['read', BdevOp.READ],
    ] as const) {
      runner.round(channel, op, ios, SECONDS * 1e9); // warm up: the compiler, the page cache
      const results = [...Array(ROUNDS)].map(() => runner.round(channel, op, ios, (SECONDS * 1e9) / ROUNDS));
      const column = (i: 0 | 1) => {
        const sorted = results.map((r) => r[i]).sort((x, y) => x - y);
        return [sorted[0], sorted[ROUNDS >> 1]].map((x) => x.toFixed(0).padStart(8)).join('');
      };
      console.log(`${name.padEnd(28)} depth ${String(depth).padStart(2)} ${label.padEnd(5)} ${column(0)} ${column(1)}`);
    }
  }
  if (runner.failed > 0) console.log(`${name}: ${runner.failed} requests failed`);
  channel.close();
  await bdev.destroy();
}
loop.close();
process.exit(0);
