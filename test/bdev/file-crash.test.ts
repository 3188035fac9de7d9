/** A program that dies in the middle of writing: what it was told is written is there, and its disk can be opened again at once. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createFileBdev } from '../../src/bdev/file-bdev.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('file disk of a killed program');
const dir = tempDir();

test('keeps every write that ended, and its lock ends with it', async () => {
  const path = join(dir, 'disk.img');
  writeFileSync(path, '');
  truncateSync(path, 512 * 1024);
  for (let round = 1; round <= 3; round++) {
    const child = spawn(
      process.execPath,
      ['--import', 'tsx', join(import.meta.dirname, 'crash-writer.ts'), path, String(round)],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += chunk;
      if (output.split('\n').length > 40) child.kill('SIGKILL');
    });
    await once(child, 'exit');
    // Throws when the lock were still there.
    createFileBdev({ name: 'a', filename: path }).destroy();
    const contents = readFileSync(path);
    const lbas = output.split('\n').slice(0, -1).map(Number);
    assert.ok(lbas.length >= 40, output);
    for (const lba of lbas) {
      const block = contents.subarray(lba * 512, lba * 512 + 512);
      assert.ok(
        block.every((b) => b === ((lba + round) & 0xff)),
        `block ${lba} of round ${round}`,
      );
    }
  }
});

test.run();
