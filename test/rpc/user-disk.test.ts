/** A target's disk that is another target's: vhost-user front end and back end of the project against each other. */
import { join } from 'node:path';
import { read10, write10 } from '../support/front-end-scsi.ts';
import { connectGuest, INQUIRY } from '../support/guest.ts';
import { failure, type RunningService, startService } from '../support/service.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('disk of a vhost-user back end');

let back: RunningService;
let front: RunningService;
let socket = '';

test.before(async () => {
  // Reactors of their own: a guest that waits holds up this thread.
  back = await startService({ singleThread: false });
  front = await startService({ singleThread: false });
  socket = join(back.directory, 'vhost.0');
  await back.call('construct_malloc_bdev', { name: 'M', num_blocks: 8192, block_size: 512 });
  await back.call('construct_malloc_bdev', { name: 'Big', num_blocks: 1024, block_size: 4096 });
  await back.call('construct_vhost_scsi_controller', { ctrlr: 'vhost.0' });
  await back.call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 0, bdev_name: 'M' });
  await back.call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 5, bdev_name: 'Big' });
});

test.after(async () => {
  await front.stop();
  await back.stop();
});

const user = () => ({ name: 'U', trtype: 'user', traddr: socket, dev_type: 'scsi' });

async function disks(): Promise<string[]> {
  const bdevs = (await front.call('get_bdevs')) as { name: string; num_blocks: number; block_size: number }[];
  return bdevs.map((b) => `${b.name} ${b.num_blocks} ${b.block_size}`);
}

async function until(what: string, done: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; !(await done()); i++) {
    if (i > 1000) assert.unreachable(`${what}; there are ${await disks()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test('nobody listens: the message says so', async () => {
  const got = await failure(front.call('construct_virtio_dev', { ...user(), traddr: `${socket}.none` }));
  assert.is(got.code, -2);
  assert.match(
    got.message,
    /vhost.0.none: no such file or directory .*: no vhost-user back end listens there; start it/,
  );
  const file = await failure(front.call('construct_virtio_dev', { ...user(), traddr: '/dev/null' }));
  assert.is.not(file.code, 0);
  assert.equal(await front.call('get_virtio_scsi_devs'), []);
});

test('attached: its units are disks, and they are in the configuration', async () => {
  assert.equal(await front.call('construct_virtio_dev', user()), ['Ut0', 'Ut5']);
  assert.equal(await disks(), ['Ut0 8192 512', 'Ut5 1024 4096']);
  const { subsystems } = (await front.call('save_config')) as { subsystems: { config: unknown[] }[] };
  assert.equal(subsystems[0]?.config, [{ method: 'bdev_virtio_attach_controller', params: user() }]);
});

test('a guest of the one sees what a guest of the other wrote', async () => {
  await front.call('construct_vhost_scsi_controller', { ctrlr: 'vhost.1' });
  await front.call('add_vhost_scsi_lun', { ctrlr: 'vhost.1', scsi_target_num: 3, bdev_name: 'Ut0' });
  const near = connectGuest(join(front.directory, 'vhost.1'));
  const far = connectGuest(socket);
  const product = near.scsi.ready(3, INQUIRY, { inLength: 96 }).data.subarray(16, 32);
  assert.is(Buffer.from(product).toString().trim(), 'Virtio SCSI Disk');
  far.scsi.ready(0, [0, 0, 0, 0, 0, 0]);
  for (let i = 0; i < 8; i++) {
    const blocks = [1, 8, 64, 127][i % 4] as number;
    const out = new Uint8Array(blocks * 512).map((_, k) => k * 3 + i);
    assert.is(near.scsi.ready(3, write10(i * 130, blocks), { out, cut: i % 2 ? 1000 : 4096 }).status, 0);
    for (const [guest, target] of [
      [far, 0],
      [near, 3],
    ] as const) {
      const { status, data } = guest.scsi.run(target, read10(i * 130, blocks), { inLength: blocks * 512 });
      assert.is(status, 0);
      assert.ok(Buffer.compare(data, out) === 0, `${blocks} blocks, target ${target}`);
    }
  }
  near.close();
  far.close();
  const [stats] = ((await front.call('bdev_get_iostat', { name: 'Ut0' })) as { bdevs: Record<string, number>[] }).bdevs;
  assert.is(stats?.num_bounced_ops, (stats?.num_read_ops ?? 0) + (stats?.num_write_ops ?? 0), 'all by a copy');
});

test('a reset is a new connection; then it goes on', async () => {
  await front.call('bdev_virtio_reset_controller', { name: 'U' });
  await until('reset', async () => {
    const [shown] = (await front.call('get_virtio_scsi_devs')) as { virtio: { resets: number; state: string } }[];
    return shown?.virtio.resets === 1 && shown.virtio.state === 'ready';
  });
  const near = connectGuest(join(front.directory, 'vhost.1'));
  assert.is(near.scsi.ready(3, read10(0, 1), { inLength: 512 }).status, 0);
  near.close();
});

test('units that grow, go and come', async () => {
  await back.call('bdev_malloc_resize', { name: 'Big', new_size: 8 });
  await until('its new size', async () => (await disks()).includes('Ut5 2048 4096'));
  await back.call('remove_vhost_scsi_target', { ctrlr: 'vhost.0', scsi_target_num: 5 });
  await until('one disk', async () => (await disks()).length === 1);
  await back.call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 6, bdev_name: 'Big' });
  await until('another disk', async () => (await disks()).includes('Ut6 2048 4096'));
});

test('the back end goes: its disks do, and the name is free', async () => {
  await back.stop();
  await until('no disks', async () => (await disks()).length === 0);
  await until('given back', async () => ((await front.call('get_virtio_scsi_devs')) as unknown[]).length === 0);
  back = await startService({ singleThread: false, directory: back.directory });
  await back.call('construct_malloc_bdev', { name: 'M', num_blocks: 8192, block_size: 512 });
  await back.call('construct_vhost_scsi_controller', { ctrlr: 'vhost.0' });
  await back.call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 0, bdev_name: 'M' });
  assert.equal(await front.call('construct_virtio_user_scsi_bdev', { path: socket, name: 'U' }), ['Ut0']);
  assert.is(await front.call('remove_virtio_bdev', { name: 'U' }), true);
});

test.run();
