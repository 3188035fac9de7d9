/** What goes wrong where controllers listen is the operator's to mend: an errno and a next step, never "internal error". */
import { existsSync, mkdirSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { failure, startService } from '../support/service.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('mistakes about sockets');

test('a controller whose socket cannot be', async () => {
  const service = await startService();
  const create = (ctrlr: string) => failure(service.call('vhost_create_scsi_controller', { ctrlr }));
  writeFileSync(join(service.directory, 'file'), 'precious');
  const target = join(tempDir(), 'target');
  symlinkSync(target, join(service.directory, 'link'));
  mkdirSync(join(service.directory, 'folder'));
  for (const [name, code, text] of [
    ['n'.repeat(100), -22, /has \d+ bytes; 1 to 107 are possible; choose another name or a shorter folder \(-S\)/],
    ['file', -17, /file exists and is not a socket; remove it; or choose another/],
    ['link', -17, /link exists and is not a socket/],
    ['folder', -17, /folder exists and is not a socket/],
  ] as const) {
    const { code: got, message } = await create(name);
    assert.is(got, code, message);
    assert.match(message, text);
  }
  assert.is(readlinkSync(join(service.directory, 'link')), target);
  assert.is(existsSync(target), false);
  assert.equal(await service.call('vhost_get_controllers'), []);
  await service.stop();
});

test('the folder of the sockets has gone', async () => {
  const service = await startService({ rpcSocket: join(tempDir(), 'rpc.sock') });
  rmSync(service.directory, { recursive: true });
  const { code, message } = await failure(service.call('vhost_create_scsi_controller', { ctrlr: 'v' }));
  assert.is(code, -2);
  assert.match(message, /controller v can not listen: .*; choose another folder \(-S\)/);
  await service.stop();
});

test.run();
