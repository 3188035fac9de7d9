/** One disk, several threads at once, each with its own channel. */
import { once } from 'node:events';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Bdev } from '../../src/bdev/bdev.ts';
import { createFileBdev } from '../../src/bdev/file-bdev.ts';
import { createMallocBdev } from '../../src/bdev/malloc-bdev.ts';
import { ioUringUnavailable } from '../../src/sys/io-uring.ts';
import type { EngineKind } from '../../src/sys/shared-engine.ts';
import { startWorker } from '../../src/sys/worker.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('a disk on several reactors');
const path = join(tempDir(), 'disk.img');
const BLOCKS = 400;
const THREADS = 3;

async function run(disk: Bdev): Promise<void> {
  const wrong = await Promise.all(
    [...Array(THREADS).keys()].map(async (i) => {
      const data = { share: disk.share(), first: i * BLOCKS, blocks: BLOCKS, fill: i + 1 };
      const worker = startWorker(new URL('./reactor-thread.ts', import.meta.url), data);
      // Both may come in one go, so both are waited for from the start.
      const [[message]] = await Promise.all([once(worker, 'message'), once(worker, 'exit')]);
      return message as number;
    }),
  );
  assert.equal(wrong, Array(THREADS).fill(0));
  const { read, write } = disk.stats.snapshot();
  assert.equal([read.count, write.count], [THREADS * BLOCKS, THREADS * BLOCKS]);
  await disk.destroy();
}

test('malloc', () => run(createMallocBdev({ name: 'Malloc0', numBlocks: BLOCKS * THREADS })));

const engines: EngineKind[] = ['inline', 'threads'];
if (ioUringUnavailable() === null) engines.push('io_uring');
for (const engine of engines) {
  test(`file, ${engine}`, async () => {
    writeFileSync(path, '');
    truncateSync(path, BLOCKS * THREADS * 512);
    await run(createFileBdev({ name: 'Aio0', filename: path, engine }));
    const contents = readFileSync(path);
    for (let i = 0; i < THREADS; i++) {
      assert.ok(contents.subarray(i * BLOCKS * 512, (i + 1) * BLOCKS * 512).every((b) => b === i + 1));
    }
  });
}

test.run();
