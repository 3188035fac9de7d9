/** Persistent reservations that outlive the target, through a guest's eyes. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { LunState } from '../../src/scsi/lun-state.ts';
import type { SavedReservations } from '../../src/scsi/reservation-store.ts';
import { ReservationFiles } from '../../src/target/reservation-files.ts';
import { connectGuest, type Guest, TEST_UNIT_READY } from '../support/guest.ts';
import { failure, type RunningService, startService } from '../support/service.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('reservations over restarts');
const root = tempDir();
const UUID = '0b0e7d3c-2f63-4b8a-9d0a-4f6f7c1d2e3f';
const GOOD = 0;
const CONFLICT = 0x18;
const EXCLUSIVE_ACCESS = 3;

const prOut = (action: number, type = 0) => [0x5f, action, type, 0, 0, 0, 0, 0, 24, 0];
const prIn = (action: number) => [0x5e, action, 0, 0, 0, 0, 0, 0, 64, 0];

/** RESERVATION KEY, SERVICE ACTION RESERVATION KEY, APTPL. */
function list(key: number, actionKey: number, aptpl = true): Uint8Array {
  const bytes = Buffer.alloc(24);
  bytes.writeUInt32BE(key, 4);
  bytes.writeUInt32BE(actionKey, 12);
  bytes[20] = aptpl ? 1 : 0;
  return bytes;
}

/** The target's main thread is ours: let it run while the guest waits. */
async function run(guest: Guest, cdb: readonly number[], options = {}): Promise<{ status: number; data: Uint8Array }> {
  for (let i = 0; ; i++) {
    const pending = guest.scsi.submit(0, cdb, options);
    const end = performance.now() + 20_000;
    while (pending.answer === null) {
      if (performance.now() > end) throw new Error('no answer');
      await new Promise((resolve) => setTimeout(resolve, 2));
      guest.scsi.collect();
    }
    const { status, sense } = pending.answer as { status: number; sense: Uint8Array };
    if (status !== 2 || (sense[2] & 0xf) !== 6 || i === 8) return pending.answer;
  }
}

async function serve(
  reservations: string | undefined,
  mask = '0x1',
  controllers = ['a', 'b'],
): Promise<RunningService> {
  const service = await startService({ singleThread: false, mask, reservations });
  await service.call('bdev_malloc_create', { name: 'M', num_blocks: 64, block_size: 512, uuid: UUID });
  for (const ctrlr of controllers) {
    await service.call('vhost_create_scsi_controller', { ctrlr });
    await service.call('add_vhost_scsi_lun', { ctrlr, scsi_target_num: 0, bdev_name: 'M' });
  }
  return service;
}

for (const mask of ['0x1', '0x3']) {
  test(`a reservation with APTPL is there after a restart, and its holder is known (CPUs ${mask})`, async () => {
    const folder = join(root, `aptpl-${mask}`);
    let service = await serve(folder, mask);
    let [a, b] = ['a', 'b'].map((name) => connectGuest(join(service.directory, name)));
    assert.is((await run(a, prOut(0), { out: list(0, 0xaaaa) })).status, GOOD);
    assert.is((await run(b, prOut(0), { out: list(0, 0xbbbb) })).status, GOOD);
    assert.is((await run(a, prOut(1, EXCLUSIVE_ACCESS), { out: list(0xaaaa, 0) })).status, GOOD);
    assert.is((await run(b, [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], { inLength: 512 })).status, CONFLICT);
    a.close();
    b.close();
    await service.stop();
    assert.equal(readdirSync(folder), [`${UUID}.json`]);

    // In another order, and without a controller that there was: names count.
    service = await serve(folder, mask, ['b', 'c', 'a']);
    [a, b] = ['a', 'b'].map((name) => connectGuest(join(service.directory, name)));
    const c = connectGuest(join(service.directory, 'c'));
    const read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    assert.is((await run(a, read, { inLength: 512 })).status, GOOD);
    assert.is((await run(b, read, { inLength: 512 })).status, CONFLICT);
    assert.is((await run(c, read, { inLength: 512 })).status, CONFLICT);
    const keys = Buffer.from((await run(b, prIn(0), { inLength: 64 })).data);
    assert.equal([keys.readUInt32BE(4), keys.readUInt32BE(12), keys.readUInt32BE(20)], [16, 0xaaaa, 0xbbbb]);
    // A registration without APTPL ends the persistence, and CLEAR the reservation.
    assert.is((await run(a, prOut(6), { out: list(0, 0xaaaa, false) })).status, GOOD);
    assert.equal(readdirSync(folder), []);
    for (const guest of [a, b, c]) guest.close();
    await service.stop();
  });
}

test('without a directory APTPL is refused', async () => {
  const service = await serve(undefined);
  const a = connectGuest(join(service.directory, 'a'));
  assert.is((await run(a, TEST_UNIT_READY)).status, GOOD);
  assert.is((await run(a, prOut(0), { out: list(0, 1) })).status, 2);
  assert.is((await run(a, prOut(0), { out: list(0, 1, false) })).status, GOOD);
  a.close();
  await service.stop();
});

test('a file that makes no sense: the disk is not served, and the operator hears why', async () => {
  const folder = join(root, 'bad');
  mkdirSync(folder);
  for (const text of [
    '',
    '{',
    '7',
    'null',
    '{"registrants":[],"type":0}',
    '{"registrants":[{}]}',
    '{"sequence":1,"type":3,"registrants":[{"initiator":"x"}]}',
  ]) {
    writeFileSync(join(folder, `${UUID}.json`), text);
    const service = await startService({ reservations: folder });
    await service.call('bdev_malloc_create', { name: 'M', num_blocks: 64, block_size: 512, uuid: UUID });
    await service.call('vhost_create_scsi_controller', { ctrlr: 'v' });
    const add = { ctrlr: 'v', scsi_target_num: 0, bdev_name: 'M' };
    const { code, message } = await failure(service.call('add_vhost_scsi_lun', add));
    assert.is(code, -22, text);
    assert.match(message, /saved reservations .*0b0e7d3c.*json: .*; remove the file/);
    rmSync(join(folder, `${UUID}.json`));
    await service.call('add_vhost_scsi_lun', add);
    await service.stop();
  }
});

test('a guest is not told of success when the file cannot be written; the one before stays whole', async () => {
  const folder = join(root, 'gone');
  const service = await serve(folder);
  const a = connectGuest(join(service.directory, 'a'));
  assert.is((await run(a, prOut(0), { out: list(0, 0xaaaa) })).status, GOOD);
  rmSync(folder, { recursive: true });
  assert.is((await run(a, prOut(1, EXCLUSIVE_ACCESS), { out: list(0xaaaa, 0) })).status, 2);
  mkdirSync(folder);
  assert.is((await run(a, prOut(1, EXCLUSIVE_ACCESS), { out: list(0xaaaa, 0) })).status, GOOD);
  const saved = JSON.parse(readFileSync(join(folder, `${UUID}.json`), 'utf8')) as SavedReservations;
  assert.is(saved.type, EXCLUSIVE_ACCESS);
  a.close();
  await service.stop();
});

test('saves that arrive out of order: the newest stays', async () => {
  const files = new ReservationFiles(join(root, 'order'));
  files.restore(UUID, new LunState());
  const at = (sequence: number): SavedReservations => ({ sequence, type: 0, registrants: [] });
  const saves = [2, 5, 4, 1, 3].map((n) => files.save(UUID, at(n), n));
  assert.equal(await Promise.all(saves), [true, true, true, true, true]);
  const sequence = () => JSON.parse(readFileSync(join(files.directory, `${UUID}.json`), 'utf8')).sequence;
  assert.is(sequence(), 5);
  assert.is(await files.save(UUID, at(4), 4), true);
  assert.is(sequence(), 5);
  assert.is(await files.save(UUID, null, 6), true);
  assert.equal(readdirSync(files.directory), []);
});

test('a directory that cannot be', async () => {
  const path = join(root, 'file');
  writeFileSync(path, '');
  assert.match(
    await startService({ reservations: path }).then(
      () => '',
      (error: Error) => error.message,
    ),
    /reservations in .*file: .*--reservations/,
  );
});

test.run();
