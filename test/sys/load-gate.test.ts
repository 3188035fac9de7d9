/** No thread is ended while it loads the FFI, whenever the process ends. */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('load gate');
const root = resolve(import.meta.dirname, '../..');
const at = (file: string) => JSON.stringify(new URL(file, import.meta.url).href);

/** What a process with such a thread prints until its end. */
function run(below: boolean, then: string) {
  const main = join(tempDir(), 'main.mts');
  writeFileSync(
    main,
    `
    import ${at('../../src/sys/load-gate.ts')};
    import { startWorker } from ${at('../../src/sys/worker.ts')};
    const worker = startWorker(new URL(${at('./threads/slow-load.ts')}), { below: ${below} });
    ${then}
  `,
  );
  const options = ['--import', 'tsx', main];
  const { status, stdout, stderr } = spawnSync(process.execPath, options, {
    encoding: 'utf8',
    timeout: 60_000,
    cwd: root,
  });
  assert.equal([status, stderr], [0, '']);
  return stdout;
}

const WHEN_LOADING = `worker.on('message', (m) => { if (m === 'loading') process.exit(0); });`;

test('a process that ends waits for its thread to load', () => {
  assert.is(run(false, WHEN_LOADING), 'loading loaded');
});

test('and for a thread of its thread', () => {
  assert.is(run(true, WHEN_LOADING), 'loading loaded');
});

test('a thread that comes to load when the process ends never begins', () => {
  const pause = 'Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1500)';
  assert.is(run(false, `process.on('exit', () => ${pause}); process.exit(0);`), '');
});

test.run();
