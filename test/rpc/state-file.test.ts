/** A configuration that cannot be saved: who changed it is told, the change holds, and it is saved as soon as that works. */
import { existsSync, mkdirSync, readFileSync, renameSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { StateKeeper } from '../../src/rpc/state-keeper.ts';
import { failure, startService } from '../support/service.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('state file');
const disk = (name: string) => ({ name, num_blocks: 8, block_size: 512 });

test('a change that cannot be saved fails and is in effect; the end of the target saves it', async () => {
  const folder = join(tempDir(), 'state');
  const away = `${folder}.away`;
  mkdirSync(folder);
  const stateFile = join(folder, 'state.json');
  const service = await startService({ stateFile });
  renameSync(folder, away);
  const { code, message } = await failure(service.call('bdev_malloc_create', disk('M0')));
  assert.is(code, -2, message);
  assert.match(
    message,
    /could not be saved in .*state\.json: .*; it is in effect, and lost at the next start unless you mend that/,
  );
  assert.is(((await service.call('bdev_get_bdevs')) as unknown[]).length, 1);
  // A call that fails by itself says why it failed.
  assert.match((await failure(service.call('bdev_malloc_create', disk('M0')))).message, /File exists/);
  renameSync(away, folder);
  await service.stop();
  assert.match(readFileSync(stateFile, 'utf8'), /"name": "M0"/);
});

test('the next change that can be saved brings what was not', async () => {
  const folder = join(tempDir(), 'state');
  mkdirSync(folder);
  const stateFile = join(folder, 'state.json');
  const service = await startService({ stateFile });
  renameSync(folder, `${folder}.away`);
  await failure(service.call('bdev_malloc_create', disk('M0')));
  renameSync(`${folder}.away`, folder);
  await service.call('bdev_malloc_create', disk('M1'));
  assert.equal(JSON.parse(readFileSync(stateFile, 'utf8')), await service.call('save_config'));
  await service.stop();
});

test('it is tried again until it works', async () => {
  const folder = join(tempDir(), 'later');
  const path = join(folder, 'state.json');
  const keeper = new StateKeeper(path, () => ({ some: 'thing' }), 5);
  assert.throws(() => keeper.save(), /every 0\.005 s/);
  mkdirSync(folder);
  const limit = performance.now() + 30_000;
  // The timer alone keeps no process alive.
  while (!existsSync(path) && performance.now() < limit) await new Promise((done) => setTimeout(done, 5));
  assert.is(readFileSync(path, 'utf8'), '{\n  "some": "thing"\n}\n');
  keeper.finish();
});

test('a start with a file that cannot be made is refused; one that was there is enough', async () => {
  const folder = tempDir();
  const nowhere = join(folder, 'none', 'state.json');
  await startService({ stateFile: nowhere }).then(
    () => assert.unreachable('it started'),
    (error: Error) =>
      assert.match(error.message, /^--state .*none\/state\.json: ENOENT.*; name a file in a directory of yours/),
  );
  // A folder that stands where the new file is written first: it can be read, and not replaced.
  const stateFile = join(folder, 'state.json');
  writeFileSync(stateFile, '{"subsystems":[{"subsystem":"bdev","config":[]}]}');
  const inTheWay = `${stateFile}.${process.pid}.new`;
  mkdirSync(inTheWay);
  const service = await startService({ stateFile });
  rmdirSync(inTheWay);
  await service.call('bdev_malloc_create', disk('M0'));
  assert.match(readFileSync(stateFile, 'utf8'), /"name": "M0"/);
  await service.stop();
});

test.run();
