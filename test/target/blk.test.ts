/** Block controllers of a whole target under real front ends: RPC, resize, limits, the disk that goes, two reactors. */
import { appendFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { FrontEnd } from '../support/front-end.ts';
import { ALL_FEATURES, BLK_PROTOCOL, BlkDriver, F, ranges, S, T } from '../support/front-end-blk.ts';
import { SharedGuest } from '../support/front-end-memory.ts';
import { read10 } from '../support/front-end-scsi.ts';
import { connectGuest, TEST_UNIT_READY } from '../support/guest.ts';
import { failure, type RunningService, startService } from '../support/service.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('target with block controllers');
const MIB = 2 ** 20;

interface BlkGuest {
  driver: BlkDriver;
  close(): void;
}

function attach(service: RunningService, name = 'blk.0'): BlkGuest {
  const loop = new EventLoop();
  const guest = new SharedGuest();
  const path = join(service.directory, name);
  const frontEnd = new FrontEnd({ loop, path, guest, protocol: BLK_PROTOCOL, queues: 2 });
  frontEnd.init();
  const driver = new BlkDriver(frontEnd);
  driver.openBackendChannel();
  frontEnd.makeRings([0, 1], ALL_FEATURES);
  frontEnd.start(ALL_FEATURES);
  return {
    driver,
    close() {
      driver.closeBackendChannel();
      frontEnd.close();
      guest.close();
      loop.close();
    },
  };
}

async function serve(...controllers: string[]): Promise<RunningService> {
  const service = await startService({ singleThread: false, mask: '0x3' });
  await service.call('bdev_malloc_create', { name: 'M', num_blocks: 8192, block_size: 512 });
  for (const ctrlr of controllers) await service.call('vhost_create_blk_controller', { ctrlr, dev_name: 'M' });
  return service;
}

/** Wait without holding up this process, whose main thread serves the RPCs. */
async function eventually(what: string, holds: () => boolean): Promise<void> {
  for (let i = 0; i < 1000; i++) {
    if (holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`waited for ${what}`);
}

const capacity = (guest: BlkGuest) => Number(guest.driver.config()?.readBigUInt64LE(0));

test('what one guest writes, another reads: one disk by two block controllers and a SCSI one', async () => {
  const service = await serve('blk.0', 'blk.1');
  await service.call('vhost_create_scsi_controller', { ctrlr: 'vhost.0' });
  await service.call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 0, bdev_name: 'M' });
  const shown = (await service.call('vhost_get_controllers')) as { reactor: number; backend_specific: unknown }[];
  assert.equal(
    shown.slice(0, 2).map((c) => [c.reactor, c.backend_specific]),
    [0, 1].map((reactor) => [reactor, { block: { readonly: false, bdev: 'M', transport: 'vhost_user_blk' } }]),
  );
  const [a, b] = [attach(service, 'blk.0'), attach(service, 'blk.1')];
  const scsi = connectGuest(join(service.directory, 'vhost.0'));
  scsi.scsi.ready(0, TEST_UNIT_READY);
  for (let round = 1; round <= 20; round++) {
    const data = new Uint8Array(2048).fill(round);
    assert.is(a.driver.write(round, data).status, S.OK);
    assert.equal(b.driver.read(round, 2048).data, data);
    assert.equal(scsi.scsi.run(0, read10(round, 4), { inLength: 2048 }).data, data);
  }
  const [, , other] = (await service.call('vhost_get_controllers')) as { backend_specific: object }[];
  assert.equal(Object.keys(other.backend_specific), ['scsi']);
  assert.equal(await service.call('vhost_get_inflight'), []);
  const dump = (await service.call('vhost_dump_controller', { ctrlr: 'blk.0' })) as { block: { bdev: string } };
  assert.is(dump.block.bdev, 'M');
  for (const g of [a, b, scsi]) g.close();
  await service.stop();
});

test('a new size reaches the guests of both kinds, from malloc, null and a file', async () => {
  const service = await serve('blk.0');
  const file = join(tempDir(), 'grows.img');
  writeFileSync(file, '');
  truncateSync(file, MIB);
  await service.call('bdev_aio_create', { name: 'A', filename: file });
  await service.call('bdev_null_create', { name: 'N', num_blocks: 2048, block_size: 512 });
  await service.call('vhost_create_blk_controller', { ctrlr: 'blk.a', dev_name: 'A' });
  await service.call('vhost_create_blk_controller', { ctrlr: 'blk.n', dev_name: 'N' });
  const [m, a, n] = ['blk.0', 'blk.a', 'blk.n'].map((name) => attach(service, name));
  const told = (guest: BlkGuest) => () => guest.driver.backendMessages().length > 0;
  assert.equal([m, a, n].map(capacity), [8192, 2048, 2048]);

  await service.call('bdev_malloc_resize', { name: 'M', new_size: 8 });
  await eventually('the malloc disk to grow', told(m));
  assert.is(capacity(m), 16384);
  assert.is(m.driver.write(16383, new Uint8Array(512).fill(7)).status, S.OK);
  await service.call('bdev_malloc_resize', { name: 'M', new_size: 1 });
  await eventually('the malloc disk to shrink', told(m));
  assert.is(capacity(m), 2048);
  assert.is(m.driver.read(2048, 512).status, S.IOERR);

  appendFileSync(file, Buffer.alloc(MIB));
  assert.is(await service.call('bdev_aio_rescan', { name: 'A' }), true);
  await eventually('the file to grow', told(a));
  assert.is(capacity(a), 4096);
  assert.is(a.driver.read(4095, 512).status, S.OK);
  assert.is(await service.call('bdev_aio_rescan', { name: 'A' }), true);
  assert.equal(a.driver.backendMessages(), [], 'nothing has changed');

  await service.call('bdev_null_resize', { name: 'N', new_size: 4 });
  await eventually('the null disk to grow', told(n));
  assert.is(capacity(n), 8192);
  for (const g of [m, a, n]) g.close();
  await service.stop();
});

test('a file disk: cache, flush, discard, and a read-only view of it', async () => {
  const service = await serve();
  const file = join(tempDir(), 'disk.img');
  writeFileSync(file, Buffer.alloc(MIB, 0xab));
  await service.call('bdev_aio_create', { name: 'A', filename: file });
  await service.call('vhost_create_blk_controller', { ctrlr: 'blk.0', dev_name: 'A' });
  await service.call('vhost_create_blk_controller', { ctrlr: 'blk.ro', dev_name: 'A', readonly: true });
  const [rw, ro] = [attach(service), attach(service, 'blk.ro')];
  assert.ok((rw.driver.frontEnd.offered & (1n << BigInt(F.FLUSH))) !== 0n);
  assert.is(rw.driver.run(T.WRITE_ZEROES, 0, { out: ranges([8, 8]) }).status, S.OK);
  assert.is(rw.driver.run(T.DISCARD, 0, { out: ranges([64, 8], [128, 8]) }).status, S.OK);
  assert.is(rw.driver.run(T.FLUSH, 0).status, S.OK);
  assert.is(rw.driver.setConfig(32, [0]), 0n);
  assert.is(rw.driver.write(16, new Uint8Array(512).fill(1)).status, S.OK);
  const first = (sector: number) => ro.driver.read(sector, 512).data[0];
  assert.equal([7, 8, 15, 16, 17, 64, 71, 72, 128].map(first), [0xab, 0, 0, 1, 0xab, 0, 0, 0xab, 0]);
  assert.is(ro.driver.write(0, new Uint8Array(512)).status, S.IOERR);
  const [, shown] = (await service.call('get_vhost_controllers')) as { backend_specific: { block: object } }[];
  assert.equal(shown.backend_specific.block, { readonly: true, bdev: 'A', transport: 'vhost_user_blk' });
  rw.close();
  ro.close();
  await service.stop();
});

test('rate limits hold a block device too, set while it runs', async () => {
  const service = await serve('blk.0');
  const guest = attach(service);
  const burst = async () => {
    const all = Array.from({ length: 40 }, () => guest.driver.submit(T.IN, 0, { inLength: 512 }));
    for (const p of all) assert.is(guest.driver.wait(p).status, S.OK);
    const { bdevs } = (await service.call('bdev_get_iostat', { name: 'M' })) as { bdevs: Record<string, number>[] };
    return bdevs[0].num_throttled_ops;
  };
  assert.is(await burst(), 0);
  await service.call('bdev_set_qos_limit', { name: 'M', rw_ios_per_sec: 1000 });
  const throttled = await burst();
  assert.ok(throttled > 0, `${throttled}`);
  await service.call('bdev_set_qos_limit', { name: 'M', rw_ios_per_sec: 0 });
  assert.is(await burst(), throttled);
  guest.close();
  await service.stop();
});

test('the disk is deleted under a guest: requests fail, the controller stays and can be removed', async () => {
  const service = await serve('blk.0');
  const guest = attach(service);
  assert.is(guest.driver.read(0, 512).status, S.OK);
  await service.call('bdev_malloc_delete', { name: 'M' });
  assert.is(guest.driver.read(0, 512).status, S.IOERR);
  const [shown] = (await service.call('vhost_get_controllers')) as { backend_specific: { block: object } }[];
  assert.equal(shown.backend_specific.block, { readonly: false, bdev: null, transport: 'vhost_user_blk' });
  const { subsystems } = (await service.call('save_config')) as { subsystems: { config: unknown[] }[] };
  assert.equal(
    subsystems.map((s) => s.config),
    [[], []],
  );
  assert.is((await failure(service.call('vhost_delete_controller', { ctrlr: 'blk.0' }))).code, -16);
  // Another disk of its name is another disk.
  await service.call('bdev_malloc_create', { name: 'M', num_blocks: 64, block_size: 512 });
  assert.is(guest.driver.read(0, 512).status, S.IOERR);
  guest.close();
  for (
    let i = 0;
    i < 200 && (await failure(service.call('vhost_delete_controller', { ctrlr: 'blk.0' }))).code !== 0;
    i++
  )
    await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(await service.call('vhost_get_controllers'), []);
  await service.call('bdev_malloc_delete', { name: 'M' });
  await service.stop();
});

test('controllers come and go; a disk in use is claimed; refusals say what to do', async () => {
  const service = await serve('blk.0');
  const refused = async (method: string, params: Record<string, unknown>, code: number, words: RegExp) => {
    const { code: got, message } = await failure(service.call(method, params));
    assert.match(message, words);
    assert.is(got, code, message);
  };
  const [disk] = (await service.call('bdev_get_bdevs')) as { claimed_by: string[] }[];
  assert.equal(disk.claimed_by, ['blk.0']);
  await refused('vhost_create_blk_controller', { ctrlr: 'x', dev_name: 'none' }, -19, /no disk is called none/);
  await refused('vhost_create_blk_controller', { ctrlr: 'blk.0', dev_name: 'M' }, -17, /exists already/);
  await refused('vhost_create_blk_controller', { ctrlr: 'x' }, -32602, /"dev_name" is missing/);
  await refused('vhost_create_blk_controller', { ctrlr: 'x', dev_name: 'M', cpumask: '0x8' }, -22, /CPU mask 0x8/);
  const add = { ctrlr: 'blk.0', scsi_target_num: 0, bdev_name: 'M' };
  await refused('vhost_scsi_controller_add_target', add, -22, /blk.0 is a block controller: it has one disk/);
  await refused('vhost_scsi_controller_remove_target', { ctrlr: 'blk.0', scsi_target_num: 0 }, -19, /no target 0/);
  // A socket that cannot be had gives everything back.
  await refused('vhost_create_blk_controller', { ctrlr: 'rpc.sock', dev_name: 'M' }, -98, /./);
  assert.equal(((await service.call('bdev_get_bdevs')) as { claimed_by: string[] }[])[0].claimed_by, ['blk.0']);
  await service.call('remove_vhost_controller', { ctrlr: 'blk.0' });
  assert.equal(((await service.call('bdev_get_bdevs')) as { claimed_by: string[] }[])[0].claimed_by, []);
  await service.stop();
});

test.run();
