/** The whole target under real front ends: reactors on threads, disks that come and go under load, an orderly end. */
import { existsSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pump } from '../support/front-end.ts';
import { read10, write10 } from '../support/front-end-scsi.ts';
import { connectGuest, type Guest, INQUIRY, READ_CAPACITY_10, TEST_UNIT_READY } from '../support/guest.ts';
import { openFds } from '../support/open-fds.ts';
import { failure, type RunningService, startService } from '../support/service.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('target under front ends');
const folder = tempDir();

const OK = 0;
const BAD_TARGET = 3;
const GOOD = 0;
const CHECK_CONDITION = 2;

async function serve(...disks: string[]): Promise<RunningService> {
  const service = await startService({ singleThread: false, mask: '0x3' });
  await service.call('vhost_create_scsi_controller', { ctrlr: 'vhost.0' });
  for (const name of disks) {
    await service.call('bdev_malloc_create', { name, num_blocks: 8192, block_size: 512 });
    await service.call('vhost_scsi_controller_add_target', { ctrlr: 'vhost.0', scsi_target_num: -1, bdev_name: name });
  }
  return service;
}

const guestOf = (service: RunningService, name = 'vhost.0'): Guest => connectGuest(join(service.directory, name));

function fill(byte: number, blocks: number): Uint8Array {
  return new Uint8Array(blocks * 512).fill(byte);
}

/** Text of an INQUIRY: vendor, product, revision. */
function inquiry(guest: Guest, target: number): string {
  const { data, response } = guest.scsi.ready(target, INQUIRY, { inLength: 96 });
  return response === OK ? Buffer.from(data.subarray(8, 36)).toString('latin1') : `response ${response}`;
}

test('a guest sees the strings of each kind of disk, and empty targets as absent', async () => {
  const service = await serve('M');
  const file = join(folder, 'a.img');
  writeFileSync(file, '');
  truncateSync(file, 1 << 20);
  await service.call('bdev_aio_create', { name: 'A', filename: file });
  await service.call('bdev_null_create', { name: 'N', num_blocks: 64, block_size: 512 });
  await service.call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 3, bdev_name: 'A' });
  await service.call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 7, bdev_name: 'N' });
  const guest = guestOf(service);
  assert.is(inquiry(guest, 0), 'INTEL   Malloc disk     0001');
  assert.is(inquiry(guest, 3), 'INTEL   AIO disk        0001');
  assert.is(inquiry(guest, 7), 'INTEL   Null disk       0001');
  for (const absent of [1, 2, 4, 5, 6, 8, 255])
    assert.is(guest.scsi.run(absent, INQUIRY, { inLength: 96 }).response, BAD_TARGET);
  guest.close();
  await service.stop();
});

test('what one controller writes, another reads: one disk on two reactors', async () => {
  const service = await serve('M');
  await service.call('vhost_create_scsi_controller', { ctrlr: 'vhost.1' });
  await service.call('add_vhost_scsi_lun', { ctrlr: 'vhost.1', scsi_target_num: 0, bdev_name: 'M' });
  const controllers = (await service.call('vhost_get_controllers')) as {
    ctrlr: string;
    reactor: number;
    cpumask: string;
  }[];
  assert.equal(
    controllers.map((c) => [c.ctrlr, c.reactor, c.cpumask]),
    [
      ['vhost.0', 0, '0x3'],
      ['vhost.1', 1, '0x3'],
    ],
  );
  const [a, b] = [guestOf(service, 'vhost.0'), guestOf(service, 'vhost.1')];
  for (const g of [a, b]) assert.is(g.scsi.ready(0, TEST_UNIT_READY).status, GOOD);
  for (let round = 1; round <= 20; round++) {
    assert.is(a.scsi.run(0, write10(round, 4), { out: fill(round, 4) }).status, GOOD);
    assert.equal(b.scsi.run(0, read10(round, 4), { inLength: 2048 }).data, fill(round, 4));
  }
  const { bdevs } = (await service.call('bdev_get_iostat', { name: 'M' })) as { bdevs: Record<string, number>[] };
  assert.is(bdevs[0].num_write_ops, 20);
  assert.is(bdevs[0].bytes_written, 20 * 2048);
  assert.is(bdevs[0].bytes_read, 20 * 2048);
  a.close();
  b.close();
  await service.stop();
});

test('cpumask places a controller', async () => {
  const service = await serve();
  for (const [ctrlr, cpumask] of [
    ['a', '0x2'],
    ['b', '[1]'],
    ['c', '0x1'],
    ['d', '0xff'],
  ]) {
    await service.call('vhost_create_scsi_controller', { ctrlr, cpumask });
  }
  const controllers = (await service.call('vhost_get_controllers')) as { reactor: number }[];
  assert.equal(
    controllers.map((c) => c.reactor),
    [0, 1, 1, 0, 0],
  );
  await service.stop();
});

test('hot-add and hot-remove: the guest is told, its commands find the disk or find it gone', async () => {
  const service = await serve('M');
  const guest = guestOf(service);
  assert.is(inquiry(guest, 0), 'INTEL   Malloc disk     0001');
  await service.call('bdev_malloc_create', { name: 'H', num_blocks: 2048, block_size: 512 });
  for (let round = 0; round < 5; round++) {
    await service.call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 4, bdev_name: 'H' });
    // TRANSPORT_RESET, RESCAN
    assert.equal(guest.scsi.waitEvent(), { event: 1, lun: [1, 4, 0, 0], reason: 1 });
    assert.is(inquiry(guest, 4), 'INTEL   Malloc disk     0001');
    assert.is(guest.scsi.ready(4, write10(0, 1), { out: fill(round, 1) }).status, GOOD);
    await service.call('remove_vhost_scsi_target', { ctrlr: 'vhost.0', scsi_target_num: 4 });
    // TRANSPORT_RESET, REMOVED
    assert.equal(guest.scsi.waitEvent(), { event: 1, lun: [1, 4, 0, 0], reason: 2 });
    assert.is(guest.scsi.run(4, INQUIRY, { inLength: 96 }).response, BAD_TARGET);
    guest.scsi.giveEventBuffers(2);
  }
  assert.is(inquiry(guest, 0), 'INTEL   Malloc disk     0001', 'the neighbour was never disturbed');
  guest.close();
  await service.stop();
});

test('deleting a disk under load ends every command exactly once, with errors and no crash', async () => {
  const service = await serve('M', 'Other');
  const file = join(folder, 'load.img');
  writeFileSync(file, '');
  truncateSync(file, 4 << 20);
  const guest = guestOf(service);
  for (let round = 0; round < 4; round++) {
    await service.call('bdev_aio_create', { name: 'A', filename: file });
    await service.call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 5, bdev_name: 'A' });
    guest.scsi.waitEvent();
    guest.scsi.giveEventBuffers(2);
    guest.scsi.ready(5, TEST_UNIT_READY);
    const deleted = service.call('bdev_aio_delete', { name: 'A' });
    const results = [];
    for (let i = 0; i < 40; i++) {
      const [disk, other] = [
        guest.scsi.submit(5, write10(i * 8, 8), { out: fill(i, 8), queue: 2 }),
        guest.scsi.submit(1, write10(i, 1), { out: fill(i, 1), queue: 3 }),
      ];
      results.push([disk, other]);
      if (i === 10) await new Promise((resolve) => setTimeout(resolve, round));
      if (i % 8 === 7) for (const pair of results.splice(0)) check(pair);
    }
    for (const pair of results.splice(0)) check(pair);
    await deleted;
    assert.is(guest.scsi.run(5, TEST_UNIT_READY).response, BAD_TARGET);
    guest.scsi.waitEvent();
    guest.scsi.giveEventBuffers(2);
    assert.is(guest.scsi.waiting, 0);
  }

  function check([disk, other]: ReturnType<Guest['scsi']['submit']>[]): void {
    const gone = guest.scsi.wait(disk);
    const ended =
      (gone.response === OK && (gone.status === GOOD || gone.status === CHECK_CONDITION)) ||
      gone.response === BAD_TARGET;
    assert.ok(ended, `response ${gone.response}, status ${gone.status}`);
    assert.is(guest.scsi.wait(other).status, GOOD);
  }
  guest.close();
  await service.stop();
});

test('resize: CAPACITY DATA HAS CHANGED, the event, and the new size', async () => {
  const service = await serve('M');
  const guest = guestOf(service);
  const lastLba = () => Buffer.from(guest.scsi.ready(0, READ_CAPACITY_10, { inLength: 8 }).data).readUInt32BE(0);
  assert.is(lastLba(), 8191);
  guest.scsi.ready(0, TEST_UNIT_READY);
  await service.call('bdev_malloc_resize', { name: 'M', new_size: 8 });
  // PARAM_CHANGE with additional sense 2Ah/09h
  assert.equal(guest.scsi.waitEvent(), { event: 3, lun: [1, 0, 0, 0], reason: 0x092a });
  const told = guest.scsi.run(0, TEST_UNIT_READY);
  assert.is(told.status, CHECK_CONDITION);
  assert.equal([told.sense[2] & 15, told.sense[12], told.sense[13]], [6, 0x2a, 0x09]);
  assert.is(lastLba(), 16383);
  assert.is(guest.scsi.run(0, write10(16383, 1), { out: fill(7, 1) }).status, GOOD);
  guest.close();
  await service.stop();
});

test('rate limits: set while requests run, kept to on all reactors, lifted again', async () => {
  const service = await serve('M');
  const guest = guestOf(service);
  guest.scsi.ready(0, TEST_UNIT_READY);
  const burst = () => {
    const pending = Array.from({ length: 40 }, (_, i) => guest.scsi.submit(0, read10(i, 1), { inLength: 512 }));
    for (const p of pending) assert.is(guest.scsi.wait(p).status, GOOD);
  };
  const throttled = async () =>
    ((await service.call('bdev_get_iostat', { name: 'M' })) as { bdevs: { num_throttled_ops: number }[] }).bdevs[0]
      .num_throttled_ops;
  burst();
  assert.is(await throttled(), 0);
  await service.call('bdev_set_qos_limit', { name: 'M', rw_ios_per_sec: 1000 });
  await service.call('bdev_set_qos_limit', { name: 'M', r_mbytes_per_sec: 1 });
  burst();
  const waited = await throttled();
  assert.ok(waited > 0);
  const [disk] = (await service.call('bdev_get_bdevs')) as { assigned_rate_limits: unknown }[];
  assert.equal(disk.assigned_rate_limits, {
    rw_ios_per_sec: 1000,
    rw_mbytes_per_sec: 0,
    r_mbytes_per_sec: 1,
    w_mbytes_per_sec: 0,
  });
  await service.call('set_bdev_qos_limit', { name: 'M', rw_ios_per_sec: 0, r_mbytes_per_sec: 0 });
  burst();
  assert.is(await throttled(), waited);
  assert.is((await failure(service.call('bdev_set_qos_limit', { name: 'M' }))).code, -22);
  // A channel that opens later finds the limits.
  await service.call('bdev_set_qos_limit', { name: 'M', rw_ios_per_sec: 1000 });
  await service.call('vhost_scsi_controller_remove_target', { ctrlr: 'vhost.0', scsi_target_num: 0 });
  await service.call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 0, bdev_name: 'M' });
  guest.scsi.ready(0, TEST_UNIT_READY);
  burst();
  assert.ok((await throttled()) > waited);
  guest.close();
  await service.stop();
});

test('a connected controller is not removed; the socket goes with the controller', async () => {
  const service = await serve('M');
  const path = join(service.directory, 'vhost.0');
  const guest = guestOf(service);
  const targets = await failure(service.call('vhost_delete_controller', { ctrlr: 'vhost.0' }));
  assert.is(targets.code, -16);
  await service.call('vhost_scsi_controller_remove_target', { ctrlr: 'vhost.0', scsi_target_num: 0 });
  const busy = await failure(service.call('vhost_delete_controller', { ctrlr: 'vhost.0' }));
  assert.is(busy.code, -16);
  assert.match(busy.message, /has a front end connected/);
  guest.close();
  for (let i = 0; i < 100 && existsSync(path); i++) {
    await failure(service.call('vhost_delete_controller', { ctrlr: 'vhost.0' }));
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.not(existsSync(path));
  await service.stop();
});

test('RPC shows the session: features, vrings; and why a ring is broken', async () => {
  const service = await serve('M');
  const guest = guestOf(service);
  guest.scsi.ready(0, TEST_UNIT_READY);
  type Session = { features: string[]; vrings: { index: number; state: string; broken?: string }[] };
  const session = async () =>
    ((await service.call('vhost_get_controllers')) as { sessions: Session[] }[])[0].sessions[0];
  assert.ok((await session()).features.includes('HOTPLUG'));
  assert.equal(
    (await session()).vrings.map((v) => v.state),
    ['running', 'running', 'running', 'running'],
  );
  const ring = guest.frontEnd.ring(2);
  // An available index far beyond the ring's size: no driver does that.
  const avail = guest.guest.u16(ring.avail + 2);
  guest.guest.u16(ring.avail + 2, (avail + 1000) & 0xffff);
  ring.kick.signal();
  let broken: string | undefined;
  for (let i = 0; i < 100 && broken === undefined; i++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    broken = (await session()).vrings[2].broken;
  }
  assert.match(broken ?? 'not broken', /avail/);
  assert.is(guest.scsi.run(0, TEST_UNIT_READY, { queue: 3 }).status, GOOD, 'the other queue goes on');
  const dump = (await service.call('vhost_dump_controller', { ctrlr: 'vhost.0' })) as { targets: { bdev: string }[] };
  assert.is(dump.targets[0].bdev, 'M');
  guest.close();
  await service.stop();
});

test('the end under load: commands finish, sockets are removed, nothing stays open', async () => {
  const before = openFds().length;
  for (let round = 0; round < 2; round++) {
    const service = await serve('M', 'Other');
    const paths = [join(service.directory, 'vhost.0'), service.rpcSocket];
    for (const path of paths) assert.ok(statSync(path).isSocket());
    const guest = guestOf(service);
    guest.scsi.ready(0, TEST_UNIT_READY);
    for (let i = 0; i < 32; i++) guest.scsi.submit(0, write10(i, 1), { out: fill(i, 1) });
    await service.stop();
    for (const path of paths) assert.not(existsSync(path), path);
    pump(guest.frontEnd.loop, () => guest.frontEnd.hungUp, 'the target to hang up');
    guest.close();
  }
  assert.ok(openFds().length <= before, `${openFds().length} descriptors, ${before} before`);
});

test('a guest that goes away in the middle leaves nothing behind', async () => {
  const service = await serve('M');
  for (let round = 0; round < 10; round++) {
    const guest = guestOf(service);
    guest.scsi.ready(0, TEST_UNIT_READY);
    for (let i = 0; i < 16; i++) guest.scsi.submit(0, write10(i, 1), { out: fill(i, 1) });
    guest.close();
  }
  let sessions: unknown[] = [0];
  for (let i = 0; i < 100 && sessions.length > 0; i++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    sessions = ((await service.call('vhost_get_controllers')) as { sessions: unknown[] }[])[0].sessions;
  }
  assert.equal(sessions, []);
  assert.equal(await service.call('vhost_get_inflight'), []);
  await service.stop();
});

test.run();
