/** What save_config writes makes the same target again, whatever was called before; and a bad file says where it is bad. */
import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { methodTable } from '../../src/rpc/methods/table.ts';
import { FakeDevices, HBA, NVME } from '../support/fake-devices.ts';
import { failure, type RunningService, startService as startPlain } from '../support/service.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('configuration');
const folder = tempDir();
const file = join(folder, 'disk.img');
writeFileSync(file, '');
truncateSync(file, 4 << 20);

/** A target with devices of its own. */
async function startService(options: Parameters<typeof startPlain>[0] = {}): Promise<RunningService> {
  const fakes = new FakeDevices();
  const leave = () => {
    fakes.close();
    assert.equal(fakes.leftovers, []);
  };
  try {
    const service = await startPlain({ devices: fakes.options, ...options });
    return { ...service, stop: () => service.stop().then(leave) };
  } catch (error) {
    leave();
    throw error;
  }
}

type Config = { subsystems: { subsystem: string; config: { method: string; params?: Record<string, unknown> }[] }[] };
type Step = [method: string, params: Record<string, unknown>];

/** One call after the other; every method that changes the configuration is in here. */
const STEPS: Step[] = [
  ['bdev_malloc_create', { name: 'M0', num_blocks: 2048, block_size: 512 }],
  ['bdev_malloc_create', { num_blocks: 256, block_size: 4096, uuid: 'a1b2c3d4-0000-4000-8000-00000000000a' }],
  ['bdev_malloc_create', { name: 'M1', num_blocks: 2048, block_size: 512, physical_block_size: 4096 }],
  ['bdev_malloc_resize', { name: 'M0', new_size: 3 }],
  ['bdev_null_create', { name: 'N0', num_blocks: 2048, block_size: 512, physical_block_size: 4096 }],
  ['bdev_null_create', { name: 'N1', num_blocks: 2048, block_size: 4096 }],
  ['bdev_null_resize', { name: 'N1', new_size: 1 }],
  ['bdev_aio_create', { name: 'A0', filename: file, share: true }],
  [
    'bdev_aio_create',
    { name: 'A1', filename: file, block_size: 4096, readonly: true, share: true, fallocate: false, direct: false },
  ],
  ['bdev_aio_rescan', { name: 'A0' }],
  ['bdev_nvme_attach_controller', { name: 'NVMe1', trtype: 'PCIe', traddr: NVME, num_io_queues: 2, timeout_ms: 60000 }],
  ['bdev_nvme_detach_controller', { name: 'NVMe1' }],
  ['construct_nvme_bdev', { name: 'NVMe2', trtype: 'pcie', traddr: NVME }],
  ['bdev_set_qos_limit', { name: 'NVMe2n1', rw_ios_per_sec: 5000 }],
  ['construct_virtio_pci_scsi_bdev', { pci_address: HBA, name: 'VirtioScsi0' }],
  ['bdev_virtio_detach_controller', { name: 'VirtioScsi0' }],
  [
    'bdev_virtio_attach_controller',
    { name: 'V', trtype: 'pci', traddr: HBA, dev_type: 'scsi', vq_count: 3, vq_size: 64, timeout_ms: 1000 },
  ],
  ['vhost_create_scsi_controller', { ctrlr: 'vhost.0', cpumask: '0x1' }],
  ['vhost_create_scsi_controller', { ctrlr: 'vhost.1' }],
  ['vhost_create_scsi_controller', { ctrlr: 'late', delay: true, cpumask: '[0]' }],
  ['vhost_create_scsi_controller', { ctrlr: 'later', delay: true }],
  ['vhost_start_scsi_controller', { ctrlr: 'later' }],
  ['vhost_scsi_controller_add_target', { ctrlr: 'vhost.0', scsi_target_num: 5, bdev_name: 'M0' }],
  ['vhost_scsi_controller_add_target', { ctrlr: 'vhost.0', scsi_target_num: -1, bdev_name: 'A1' }],
  ['add_vhost_scsi_lun', { ctrlr: 'vhost.1', scsi_target_num: 3, bdev_name: 'M0' }],
  ['add_vhost_scsi_lun', { ctrlr: 'late', scsi_target_num: 7, bdev_name: 'N1' }],
  ['add_vhost_scsi_lun', { ctrlr: 'late', scsi_target_num: 1, bdev_name: 'NVMe2n1' }],
  ['vhost_controller_set_coalescing', { ctrlr: 'vhost.1', delay_base_us: 5, iops_threshold: 1000 }],
  ['bdev_set_qos_limit', { name: 'M0', rw_ios_per_sec: 20000 }],
  ['vhost_create_blk_controller', { ctrlr: 'blk.0', dev_name: 'M0', cpumask: '0x1' }],
  ['construct_vhost_blk_controller', { ctrlr: 'blk.1', dev_name: 'N1', readonly: true }],
  ['vhost_scsi_controller_remove_target', { ctrlr: 'vhost.1', scsi_target_num: 3 }],
  ['vhost_delete_controller', { ctrlr: 'vhost.1' }],
  // A block controller whose disk is gone is not saved: it could not be made again.
  ['vhost_delete_controller', { ctrlr: 'blk.1' }],
  ['bdev_null_delete', { name: 'N1' }],
  ['bdev_malloc_delete', { name: 'M1' }],
  ['bdev_aio_delete', { name: 'A0' }],
];

async function describe(service: RunningService): Promise<unknown> {
  // Places differ, and devices are numbered as they come.
  const plain = (key: string, value: unknown) => (key === 'socket' || key === 'id' ? undefined : value);
  return {
    // Saved with the block size that was found, so that a device that changed its own is noticed.
    bdevs: JSON.parse(
      JSON.stringify(await service.call('bdev_get_bdevs')).replaceAll(/"block_size_override":\w+,?/g, ''),
    ),
    controllers: JSON.parse(JSON.stringify(await service.call('vhost_get_controllers'), plain)),
    config: await service.call('save_config'),
  };
}

test('every method that changes the configuration is among the steps', () => {
  const covered = new Set(STEPS.map(([name]) => methodTable.get(name)?.names[0]));
  covered.add('add_vhost_scsi_lun').add('load_config').add('construct_virtio_user_scsi_bdev');
  const missing = methodTable.rows
    .filter((row) => row.changesConfig && !covered.has(row.names[0]))
    .map((row) => row.names[0]);
  assert.equal(missing, []);
});

test('after each step: save, load elsewhere, and nothing differs', async () => {
  const here = await startService();
  for (const [method, params] of STEPS) {
    await here.call(method, params);
    const there = await startService();
    await there.call('load_config', (await here.call('save_config')) as Config);
    assert.equal(await describe(there), await describe(here), `after ${method}`);
    await there.stop();
  }
  await here.stop();
});

test("SPDK's way: subsystem by subsystem", async () => {
  const here = await startService();
  for (const [method, params] of STEPS) await here.call(method, params);
  const { subsystems } = (await here.call('save_config')) as Config;
  const listed = (await here.call('framework_get_subsystems')) as { subsystem: string }[];
  assert.equal(
    listed.map((s) => s.subsystem),
    subsystems.map((s) => s.subsystem),
  );
  for (const { subsystem, config } of subsystems) {
    assert.equal(await here.call('framework_get_config', { name: subsystem }), config);
  }
  await here.stop();
});

test('a configuration as SPDK writes it: null lists, other subsystems without calls, old names', async () => {
  const service = await startService();
  await service.call('load_config', {
    subsystems: [
      { subsystem: 'accel', config: null },
      {
        subsystem: 'bdev',
        config: [
          { method: 'construct_malloc_bdev', params: { num_blocks: 8, block_size: 512, name: 'M' } },
          { method: 'bdev_wait_for_examine' },
        ],
      },
      {
        subsystem: 'vhost',
        config: [
          { method: 'construct_vhost_scsi_controller', params: { ctrlr: 'c' } },
          { method: 'add_vhost_scsi_lun', params: { ctrlr: 'c', scsi_target_num: 0, bdev_name: 'M' } },
        ],
      },
    ],
  });
  assert.ok(existsSync(join(service.directory, 'c')), 'and its controllers listen');
  await service.stop();
});

const malloc = { method: 'bdev_malloc_create', params: { num_blocks: 8, block_size: 512, name: 'M' } };
const bad: [config: unknown, code: number, message: RegExp][] = [
  [{}, -32602, /"subsystems" is missing/],
  [{ subsystems: {} }, -32602, /"subsystems" must be an array/],
  [
    { subsystems: [{ subsystem: 'bdev', config: [{ params: {} }] }] },
    -32602,
    /subsystems.\[0\].config.\[0\].method" is missing/,
  ],
  [
    { subsystems: [{ subsystem: 'bdev', config: [malloc, { method: 'bdev_malloc_creat' }] }] },
    -32602,
    /entry 1 \(bdev_malloc_creat\): no such method; did you mean bdev_malloc_create/,
  ],
  [
    { subsystems: [{ subsystem: 'bdev', config: [malloc, { method: 'bdev_null_create', params: { name: 'N' } }] }] },
    -32602,
    /entry 1 \(bdev_null_create\): .*"num_blocks" is missing/,
  ],
  [
    { subsystems: [{ subsystem: 'x', config: [{ method: 'load_config', params: { subsystems: [] } }] }] },
    -32602,
    /has no place in a configuration/,
  ],
  [
    { subsystems: [{ subsystem: 'x', config: [{ method: 'framework_start_init' }] }] },
    -32602,
    /has no place in a configuration/,
  ],
  [
    { subsystems: [{ subsystem: 'x', config: [{ method: 'spdk_kill_instance', params: { sig_name: 'SIGTERM' } }] }] },
    -32602,
    /has no place in a configuration/,
  ],
];
for (const [config, code, message] of bad) {
  test(`refused before anything is made: ${JSON.stringify(config).slice(0, 90)}`, async () => {
    const service = await startService();
    const got = await failure(service.call('load_config', config as Config));
    assert.is(got.code, code);
    assert.match(got.message, message);
    assert.equal(await service.call('bdev_get_bdevs'), []);
    await service.stop();
  });
}

test('a failure in the middle says where; what was made stays, its controllers do not listen', async () => {
  const service = await startService();
  const config = {
    subsystems: [
      {
        subsystem: 'vhost',
        config: [{ method: 'vhost_create_scsi_controller', params: { ctrlr: 'c' } }, malloc, malloc],
      },
    ],
  };
  const got = await failure(service.call('load_config', config));
  assert.is(got.code, -17);
  assert.match(got.message, /^configuration, subsystem "vhost", entry 2 \(bdev_malloc_create\): File exists: disk M/);
  const [c] = (await service.call('vhost_get_controllers')) as { started: boolean }[];
  assert.is(c.started, false);
  assert.not(existsSync(join(service.directory, 'c')));
  await service.call('vhost_start_scsi_controller', { ctrlr: 'c' });
  await service.stop();
});

test('a file at the start: -c', async () => {
  const path = join(folder, 'config.json');
  writeFileSync(path, JSON.stringify({ subsystems: [{ subsystem: 'bdev', config: [malloc] }] }));
  const service = await startService({ config: path });
  assert.is(((await service.call('bdev_get_bdevs')) as unknown[]).length, 1);
  await service.stop();
  writeFileSync(path, '{"subsystems": [');
  assert.match((await failure(startService({ config: path }))).message, /config.json is no JSON: /);
  writeFileSync(path, '{"subsystems": [{"subsystem": "bdev", "config": [{"method": "x"}]}]}');
  assert.match(
    (await failure(startService({ config: path }))).message,
    /config.json: configuration, subsystem "bdev", entry 0 \(x\): no such method|config.json: .*entry 0/,
  );
  assert.match((await failure(startService({ config: join(folder, 'none') }))).message, /there is no such file/);
});

test('with --wait-for-rpc nothing is made before framework_start_init, which loads the file', async () => {
  const path = join(folder, 'wait.json');
  writeFileSync(path, JSON.stringify({ subsystems: [{ subsystem: 'bdev', config: [malloc] }] }));
  const service = await startService({ config: path, waitForRpc: true });
  assert.match((await failure(service.call('bdev_get_bdevs'))).message, /call framework_start_init first/);
  const waited = service.call('spdk_get_version');
  await waited;
  assert.is(await service.call('framework_start_init'), true);
  assert.is(((await service.call('bdev_get_bdevs')) as unknown[]).length, 1);
  await service.stop();
});

test('a state file follows every change, and is what the next start makes', async () => {
  const path = join(folder, 'state.json');
  const first = await startService({ stateFile: path });
  assert.equal(JSON.parse(readFileSync(path, 'utf8')), await first.call('save_config'));
  for (const [method, params] of STEPS) {
    await first.call(method, params);
    assert.equal(JSON.parse(readFileSync(path, 'utf8')), await first.call('save_config'), `after ${method}`);
  }
  await failure(first.call('bdev_malloc_create', { name: 'M0', num_blocks: 8, block_size: 512 }));
  const before = await describe(first);
  await first.stop();
  const second = await startService({ stateFile: path, config: join(folder, 'not-read') });
  assert.equal(await describe(second), before);
  await second.stop();
});

test.run();
