/** Threads from the sources (under tsx, or by Node's own type stripping) and from the build. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { startWorker } from '../../src/sys/worker.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('worker');
const root = resolve(import.meta.dirname, '../..');
const echo = new URL('./threads/echo.ts', import.meta.url);

test('a thread runs from its TypeScript source', async () => {
  const worker = startWorker(echo, { text: 'hello' });
  const [message] = await once(worker, 'message');
  assert.equal(message, { text: 'hello', rang: true, file: echo.href });
  const [code] = await once(worker, 'exit');
  assert.is(code, 0);
});

test('its failure is an error event with the line of the source', async () => {
  const worker = startWorker(echo, { text: 'throw' });
  const [error] = (await once(worker, 'error')) as [Error];
  assert.is(error.message, 'thrown in the thread');
  assert.match(String(error.stack), /echo\.ts:12/);
});

test('a source that does not exist is an error event too', async () => {
  const worker = startWorker(new URL('./threads/absent.ts', import.meta.url), {});
  const [error] = (await once(worker, 'error')) as [NodeJS.ErrnoException];
  assert.match(String(error.code), /MODULE_NOT_FOUND/);
});

test('views of a large guest do not make it collect garbage again and again', async () => {
  const worker = startWorker(new URL('./threads/views.ts', import.meta.url), { gib: 256 });
  const [collections] = (await once(worker, 'message')) as [number];
  await once(worker, 'exit');
  // 86 views of 4 GiB: with the usual limit of the heap one each.
  assert.ok(collections <= 20, `${collections} collections`);
});

test('profiling and memory options of the process do not hinder a thread', () => {
  const main = join(tempDir(), 'main.mts');
  writeFileSync(
    main,
    `
    import { startWorker } from '${new URL('../../src/sys/worker.ts', import.meta.url)}';
    const worker = startWorker(new URL('${echo}'), { text: 'with options' });
    worker.on('message', (m) => console.log(m.text, m.rang));
  `,
  );
  const options = ['--expose-gc', '--max-old-space-size=200', '--enable-source-maps', '--import', 'tsx', main];
  const run = spawnSync(process.execPath, options, { encoding: 'utf8', timeout: 30_000, cwd: root });
  assert.equal([run.stdout, run.stderr], ['with options true\n', '']);
});

test('the build needs no TypeScript', () => {
  const out = tempDir();
  const tsc = join(root, 'node_modules/.bin/tsc');
  const options = '--target es2023 --module nodenext --rewriteRelativeImportExtensions --skipLibCheck --types node';
  const files = ['src/sys/worker.ts', 'test/sys/threads/echo.ts'].map((file) => join(root, file));
  const built = spawnSync(
    tsc,
    [...options.split(' '), '--rootDir', root, '--outDir', out, '--ignoreConfig', ...files],
    {
      encoding: 'utf8',
      cwd: root,
    },
  );
  assert.is(built.status, 0, built.stdout);
  writeFileSync(join(out, 'package.json'), '{ "type": "module" }');
  symlinkSync(join(root, 'node_modules'), join(out, 'node_modules'));
  const at = pathToFileURL(`${out}/`).href;
  writeFileSync(
    join(out, 'main.js'),
    `
    import { startWorker } from './src/sys/worker.js';
    const worker = startWorker(new URL('./test/sys/threads/echo.ts', import.meta.url), { text: 'built' });
    worker.on('message', (m) => console.log(m.text, m.rang, m.file));
  `,
  );
  const run = spawnSync(process.execPath, [join(out, 'main.js')], { encoding: 'utf8', timeout: 30_000 });
  assert.equal([run.stdout, run.stderr], [`built true ${at}test/sys/threads/echo.js\n`, '']);
});

test.run();
