/** Every method over a real socket: results in SPDK's shapes, and refusals with SPDK's codes that say what to do. */
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { methodTable } from '../../src/rpc/methods/table.ts';
import { failure, startService } from '../support/service.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('rpc methods');
const target = await startService();
const { call } = target;
test.after(() => target.stop());

const UUID = 'a1b2c3d4-0000-4000-8000-00000000000a';
const MIB = 1024 * 1024;

async function refused(method: string, params: Record<string, unknown>, code: number, message: RegExp): Promise<void> {
  const got = await failure(call(method, params));
  assert.is(got.code, code, got.message);
  assert.match(got.message, message);
}

async function bdev(name: string): Promise<Record<string, unknown>> {
  const [object] = (await call('bdev_get_bdevs', { name })) as Record<string, unknown>[];
  return object;
}

// Disks.

test('malloc disk: names, numbers, the object', async () => {
  assert.is(await call('construct_malloc_bdev', { num_blocks: 131072, block_size: 512 }), 'Malloc0');
  assert.is(
    await call('bdev_malloc_create', { num_blocks: 16, block_size: 4096, name: 'M', uuid: UUID.toUpperCase() }),
    'M',
  );
  assert.is(
    await call('bdev_malloc_create', { num_blocks: 16, block_size: 512, physical_block_size: 4096 }),
    'Malloc1',
  );
  assert.equal(await bdev('M'), {
    name: 'M',
    aliases: [UUID],
    product_name: 'Malloc disk',
    block_size: 4096,
    num_blocks: 16,
    uuid: UUID,
    physical_block_size: 4096,
    assigned_rate_limits: { rw_ios_per_sec: 0, rw_mbytes_per_sec: 0, r_mbytes_per_sec: 0, w_mbytes_per_sec: 0 },
    claimed: false,
    claimed_by: [],
    removing: false,
    zoned: false,
    supported_io_types: {
      read: true,
      write: true,
      unmap: true,
      flush: false,
      reset: true,
      write_zeroes: true,
      compare: true,
      compare_and_write: true,
      abort: true,
      nvme_admin: false,
      nvme_io: false,
    },
    driver_specific: { hugepages: false },
  });
  assert.is((await bdev(UUID)).name, 'M', 'found by its UUID');
  assert.is((await bdev('Malloc1')).physical_block_size, 4096);
  assert.equal(
    ((await call('get_bdevs')) as { name: string }[]).map((b) => b.name),
    ['Malloc0', 'M', 'Malloc1'],
  );
});

test('malloc disk: refusals', async () => {
  await refused(
    'bdev_malloc_create',
    { num_blocks: 16, block_size: 512, name: 'M' },
    -17,
    /^File exists: disk M exists already/,
  );
  await refused('bdev_malloc_create', { num_blocks: 16, block_size: 512, name: UUID }, -17, /^File exists/);
  await refused('bdev_malloc_create', { num_blocks: 16, block_size: 512, uuid: UUID }, -17, /M has the UUID/);
  await refused('bdev_malloc_create', { num_blocks: 16 }, -32602, /"block_size" is missing/);
  await refused('bdev_malloc_create', { num_blocks: 0, block_size: 512 }, -32602, /"num_blocks" must be at least 1/);
  await refused(
    'bdev_malloc_create',
    { num_blocks: 16, block_size: 513 },
    -22,
    /^Invalid argument: block_size 513: expected a power of two/,
  );
  await refused(
    'bdev_malloc_create',
    { num_blocks: 16, block_size: 512, name: 'a/b' },
    -32602,
    /"name" must be a name of 1 to 255/,
  );
  await refused(
    'bdev_malloc_create',
    { num_blocks: 2 ** 40, block_size: 4096, name: 'Big' },
    -12,
    /^Cannot allocate memory: .*make it smaller/,
  );
  await refused('bdev_malloc_create', { total_size: 64, block_size: 512 }, -32602, /unknown parameter "total_size"/);
  await refused(
    'bdev_get_bdevs',
    { name: 'Big' },
    -19,
    /^No such device: no disk is called Big; there are Malloc0, M, Malloc1/,
  );
});

test('resize: grows and shrinks, in MiB', async () => {
  assert.is(await call('bdev_malloc_resize', { name: 'M', new_size: 2 }), true);
  assert.is((await bdev('M')).num_blocks, (2 * MIB) / 4096);
  await call('bdev_malloc_resize', { name: 'M', new_size: 0.5 });
  assert.is((await bdev('M')).num_blocks, (0.5 * MIB) / 4096);
  await refused('bdev_malloc_resize', { name: 'M', new_size: -1 }, -32602, /"new_size" must be more than 0/);
  await refused('bdev_malloc_resize', { name: 'M', new_size: 0.0001 }, -22, /num_blocks 0/);
  await refused('bdev_null_resize', { name: 'M', new_size: 1 }, -22, /M is no null disk but of kind malloc/);
});

test('null disk', async () => {
  assert.is(await call('construct_null_bdev', { name: 'N', num_blocks: 2048, block_size: 512 }), 'N');
  assert.is((await bdev('N')).product_name, 'Null disk');
  await call('bdev_null_resize', { name: 'N', new_size: 4 });
  assert.is((await bdev('N')).num_blocks, 8192);
  await refused('bdev_null_create', { num_blocks: 2048, block_size: 512 }, -32602, /"name" is missing/);
  await refused('bdev_malloc_delete', { name: 'N' }, -22, /no malloc disk/);
  assert.is(await call('delete_null_bdev', { name: 'N' }), true);
  await refused('bdev_null_delete', { name: 'N' }, -19, /^No such device/);
});

const file = join(target.directory, 'disk.img');

test('file disk', async () => {
  writeFileSync(file, '');
  truncateSync(file, 8 * MIB);
  assert.is(await call('construct_aio_bdev', { name: 'A', filename: file, block_size: 512 }), 'A');
  const object = await bdev('A');
  assert.is(object.product_name, 'AIO disk');
  assert.is(object.num_blocks, 16384);
  truncateSync(file, 16 * MIB);
  assert.is(await call('bdev_aio_rescan', { name: 'A' }), true);
  assert.is((await bdev('A')).num_blocks, 32768);
  await refused(
    'bdev_aio_create',
    { name: 'B', filename: `${file}.none` },
    -2,
    /^No such file or directory: .*disk.img.none/,
  );
  await refused('bdev_aio_create', { name: 'B', filename: target.directory }, -22, /./);
  await refused('bdev_aio_create', { name: 'B', filename: file }, -16, /./);
  await refused('bdev_aio_delete', { name: 'M' }, -22, /M is no aio disk/);
  assert.is(await call('bdev_aio_create', { name: 'B', filename: file, share: true, readonly: true }), 'B');
  assert.is(((await bdev('B')).supported_io_types as { write: boolean }).write, false);
  await call('delete_aio_bdev', { name: 'B' });
});

test('bdev_get_bdevs waits for a disk that is about to come', async () => {
  const waiting = call('bdev_get_bdevs', { name: 'Late', timeout: 5000 });
  await target.service.target.bdevs.create('Late', async () => {
    const { createNullBdev } = await import('../../src/bdev/null-bdev.ts');
    return createNullBdev({ name: 'Late', numBlocks: 8 });
  });
  assert.is(((await waiting) as { name: string }[])[0].name, 'Late');
  await call('bdev_null_delete', { name: 'Late' });
});

test('iostat', async () => {
  const all = (await call('get_bdevs_iostat')) as {
    tick_rate: number;
    ticks: number;
    bdevs: Record<string, unknown>[];
  };
  assert.is(all.tick_rate, 1e9);
  assert.ok(Number.isInteger(all.ticks));
  assert.equal(
    all.bdevs.map((b) => b.name),
    ['Malloc0', 'M', 'Malloc1', 'A'],
  );
  for (const word of [
    'bytes_read',
    'num_read_ops',
    'bytes_written',
    'num_write_ops',
    'bytes_unmapped',
    'num_unmap_ops',
    'read_latency_ticks',
    'write_latency_ticks',
    'unmap_latency_ticks',
  ]) {
    assert.is(all.bdevs[0][word], 0, word);
  }
  const some = (await call('bdev_get_iostat', { names: ['A', 'M'], reset_mode: 'all' })) as typeof all;
  assert.equal(
    some.bdevs.map((b) => b.name),
    ['A', 'M'],
  );
  assert.is(await call('bdev_reset_iostat', { name: 'A' }), true);
  await refused('bdev_get_iostat', { name: 'Z' }, -19, /^No such device/);
  await refused('bdev_get_iostat', { names: ['A'], per_channel: true }, -95, /a disk's counters are kept as one sum/);
  await call('bdev_get_iostat', { names: ['A'], per_channel: false });
  await refused('bdev_get_iostat', { reset_mode: 'some' }, -32602, /"reset_mode" must be one of all, maxmin, none/);
});

// Controllers.

test('controller and targets: old and new names, their results, the object', async () => {
  assert.is(await call('construct_vhost_scsi_controller', { ctrlr: 'vhost.0', cpumask: '0x1' }), true);
  assert.is(await call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 2, bdev_name: 'Malloc0' }), true);
  assert.is(
    await call('vhost_scsi_controller_add_target', { ctrlr: 'vhost.0', scsi_target_num: -1, bdev_name: 'A' }),
    0,
  );
  assert.is(await call('vhost_create_scsi_controller', { ctrlr: 'vhost.1' }), true);
  assert.is(
    await call('vhost_scsi_controller_add_target', { ctrlr: 'vhost.1', scsi_target_num: 7, bdev_name: UUID }),
    7,
  );
  const [first, second] = (await call('get_vhost_controllers')) as Record<string, unknown>[];
  assert.equal(first, {
    ctrlr: 'vhost.0',
    cpumask: '0x1',
    delay_base_us: 0,
    iops_threshold: 60000,
    socket: join(target.directory, 'vhost.0'),
    started: true,
    reactor: 0,
    sessions: [],
    backend_specific: {
      scsi: [
        { scsi_dev_num: 0, id: 1, target_name: 'Target 0', luns: [{ id: 0, bdev_name: 'A' }] },
        { scsi_dev_num: 2, id: 0, target_name: 'Target 2', luns: [{ id: 0, bdev_name: 'Malloc0' }] },
      ],
    },
  });
  assert.is(second.ctrlr, 'vhost.1');
  assert.equal(await call('vhost_get_controllers', { name: 'vhost.1' }), [second]);
  assert.equal(await call('get_scsi_devices'), [
    { id: 1, device_name: 'Target 0' },
    { id: 0, device_name: 'Target 2' },
    { id: 2, device_name: 'Target 7' },
  ]);
  assert.equal((await bdev('Malloc0')).claimed_by, ['vhost.0 target 2']);
  assert.is((await bdev('Malloc0')).claimed, true);
});

test('controller: refusals', async () => {
  const add = (num: number, name = 'M', ctrlr = 'vhost.0') => ({ ctrlr, scsi_target_num: num, bdev_name: name });
  await refused(
    'vhost_create_scsi_controller',
    { ctrlr: 'vhost.0' },
    -17,
    /^File exists: controller vhost.0 exists already/,
  );
  await refused('vhost_create_scsi_controller', { ctrlr: '../x' }, -32602, /"ctrlr" must be a file name/);
  await refused('vhost_create_scsi_controller', { ctrlr: '..' }, -32602, /"ctrlr" must be a file name/);
  await refused('vhost_create_scsi_controller', { ctrlr: 'rpc.sock' }, -98, /./);
  await refused(
    'vhost_create_scsi_controller',
    { ctrlr: 'c', cpumask: 'zz' },
    -22,
    /CPU mask "zz": not a hexadecimal number; write 0x3/,
  );
  await refused(
    'vhost_create_scsi_controller',
    { ctrlr: 'c', cpumask: '0x8000' },
    -22,
    /no reactor runs on these CPUs; the target was started with 0x1/,
  );
  await refused(
    'add_vhost_scsi_lun',
    add(2),
    -17,
    /^File exists: target 2 of vhost.0 serves Malloc0 already; .*free: 1, 3, 4, 5, 6, 7/,
  );
  await refused('add_vhost_scsi_lun', add(8), -22, /^Invalid argument: target 8 of vhost.0: numbers are 0 to 7/);
  await refused('add_vhost_scsi_lun', add(-2), -22, /numbers are 0 to 7/);
  await refused('add_vhost_scsi_lun', add(1, 'none'), -19, /no disk is called none/);
  await refused(
    'add_vhost_scsi_lun',
    add(1, 'M', 'none'),
    -19,
    /no controller is called none; there are vhost.0, vhost.1/,
  );
  await refused(
    'remove_vhost_scsi_target',
    { ctrlr: 'vhost.0', scsi_target_num: 5 },
    -19,
    /vhost.0 has no target 5; it has 0, 2/,
  );
  await refused('remove_vhost_scsi_target', { ctrlr: 'vhost.0', scsi_target_num: 9 }, -22, /0 to 7/);
  await refused(
    'remove_vhost_controller',
    { ctrlr: 'vhost.0' },
    -16,
    /^Device or resource busy: controller vhost.0 has target 0, 2/,
  );
  await refused('vhost_get_controllers', { name: 'none' }, -19, /no controller is called none/);
});

test('all targets taken', async () => {
  for (let i = 0; i < 7; i++) {
    assert.is(
      await call('vhost_scsi_controller_add_target', { ctrlr: 'vhost.1', scsi_target_num: -1, bdev_name: 'M' }),
      i,
    );
  }
  await refused(
    'vhost_scsi_controller_add_target',
    { ctrlr: 'vhost.1', scsi_target_num: -1, bdev_name: 'M' },
    -28,
    /all its 8 targets/,
  );
  for (let i = 0; i < 7; i++)
    await call('vhost_scsi_controller_remove_target', { ctrlr: 'vhost.1', scsi_target_num: i });
});

test('coalescing is kept, shown, and reaches the sessions', async () => {
  assert.is(
    await call('set_vhost_controller_coalescing', { ctrlr: 'vhost.0', delay_base_us: 10, iops_threshold: 50000 }),
    true,
  );
  const [object] = (await call('vhost_get_controllers', { name: 'vhost.0' })) as Record<string, unknown>[];
  assert.is(object.delay_base_us, 10);
  assert.is(object.iops_threshold, 50000);
  const dump = (await call('vhost_dump_controller', { ctrlr: 'vhost.0' })) as Record<string, unknown>;
  assert.equal(dump.coalescing, { delay_us: 10, iops_threshold: 50000 });
  await refused(
    'vhost_controller_set_coalescing',
    { ctrlr: 'vhost.0', delay_base_us: -1, iops_threshold: 0 },
    -32602,
    /at least 0/,
  );
});

test('a delayed controller listens when it is told to', async () => {
  await call('vhost_create_scsi_controller', { ctrlr: 'late', delay: true });
  const started = async () =>
    ((await call('vhost_get_controllers', { name: 'late' })) as { started: boolean }[])[0].started;
  assert.is(await started(), false);
  assert.is(await call('vhost_start_scsi_controller', { ctrlr: 'late' }), true);
  assert.is(await started(), true);
  await refused('vhost_start_scsi_controller', { ctrlr: 'late' }, -17, /listens already/);
  await call('vhost_delete_controller', { ctrlr: 'late' });
});

test('a disk that is deleted takes its targets with it; then the controller can go', async () => {
  assert.is(await call('delete_malloc_bdev', { name: 'Malloc0' }), true);
  assert.is(await call('remove_vhost_scsi_target', { ctrlr: 'vhost.0', scsi_target_num: 0 }), true);
  assert.is(await call('remove_vhost_controller', { ctrlr: 'vhost.0' }), true);
  await call('bdev_malloc_delete', { name: 'M' });
  await call('vhost_delete_controller', { ctrlr: 'vhost.1' });
  assert.equal(await call('get_vhost_controllers'), []);
  assert.equal(await call('get_scsi_devices'), []);
});

test('nothing in flight, nothing to dump', async () => {
  assert.equal(await call('vhost_get_inflight'), []);
  await call('vhost_create_scsi_controller', { ctrlr: 'd' });
  const dump = (await call('vhost_dump_controller', { ctrlr: 'd' })) as { sessions: unknown[] };
  assert.equal(dump.sessions, []);
  await call('vhost_delete_controller', { ctrlr: 'd' });
});

// The process.

test('methods, version, states', async () => {
  const all = (await call('get_rpc_methods')) as string[];
  for (const name of ['construct_malloc_bdev', 'bdev_malloc_create', 'add_vhost_scsi_lun', 'save_config'])
    assert.ok(all.includes(name), name);
  const modern = (await call('rpc_get_methods', { include_aliases: false, current: true })) as string[];
  assert.not(modern.includes('construct_malloc_bdev'));
  assert.not(modern.includes('framework_start_init'), 'only before the start');
  assert.ok(all.includes('framework_start_init'));
  assert.is(await call('framework_wait_init'), true);
  await refused('framework_start_init', {}, -1, /may only be called before the framework is initialized/);
  await refused('get_scsi_devices', { x: 1 }, -32602, /unknown parameter "x" \(the method has none\)/);
  await refused('spdk_kill_instance', { sig_name: 'SIGFOO' }, -32602, /"sig_name" must be one of SIGINT/);
  await refused('spdk_kill_instance', { sig_name: 99 }, -22, /signal 99/);
});

test('reactors', async () => {
  const result = (await call('framework_get_reactors')) as {
    pid: number;
    tick_rate: number;
    reactors: Record<string, unknown>[];
  };
  assert.is(result.pid, process.pid);
  assert.is(result.reactors.length, 1);
  assert.ok((result.reactors[0].busy as number) > 0);
  const stats = (await call('thread_get_stats')) as { threads: { name: string }[] };
  assert.is(stats.threads[0].name, 'reactor_0');
});

test('log flags', async () => {
  const flags = (await call('log_get_flags')) as Record<string, boolean>;
  assert.ok('vhost' in flags && 'rpc' in flags);
  assert.is(await call('log_set_flag', { flag: 'reactor' }), true);
  assert.is(((await call('log_get_flags')) as typeof flags).reactor, true);
  assert.is(await call('log_clear_flag', { flag: 'all' }), true);
  assert.ok(Object.values((await call('log_get_flags')) as typeof flags).every((on) => !on));
  await refused('log_set_flag', { flag: 'nonsense' }, -22, /no layer is called nonsense; there are /);
});

test('every method refuses an unknown parameter by its name', async () => {
  for (const row of methodTable.rows) {
    for (const name of row.names) {
      const got = await failure(call(name, { no_such_parameter: 1 }));
      assert.is(got.code, -32602, `${name}: ${got.message}`);
      assert.match(got.message, /no_such_parameter/);
    }
  }
});

test.run();
