/** rpc.py's argument forms, word by word, against what is sent. */
import { parseCall } from '../../src/cli/actions/rpc.ts';
import { parseSize } from '../../src/cli/options.ts';
import { qemuCommand } from '../../src/cli/qemu-command.ts';
import { describeParams } from '../../src/rpc/describe.ts';
import { methodTable } from '../../src/rpc/methods/table.ts';
import { parseParams } from '../../src/rpc/params.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('rpc command line');

const UUID = 'a1b2c3d4-0000-4000-8000-00000000000a';
const good: [line: string, params: Record<string, unknown> | undefined][] = [
  // As SPDK's guide for virtio-vhost-user types them.
  ['construct_malloc_bdev 64 512 -b Malloc0', { num_blocks: 131072, block_size: 512, name: 'Malloc0' }],
  ['construct_vhost_scsi_controller --cpumask 0x1 vhost.0', { ctrlr: 'vhost.0', cpumask: '0x1' }],
  ['construct_virtio_pci_scsi_bdev 0000:00:05.0 VirtioScsi0', { pci_address: '0000:00:05.0', name: 'VirtioScsi0' }],
  ['construct_nvme_bdev -b NVMe1 -t PCIe -a 0000:00:06.0', { name: 'NVMe1', trtype: 'PCIe', traddr: '0000:00:06.0' }],
  ['add_vhost_scsi_lun vhost.0 2 Malloc0', { ctrlr: 'vhost.0', scsi_target_num: 2, bdev_name: 'Malloc0' }],
  ['remove_vhost_scsi_target vhost.0 2', { ctrlr: 'vhost.0', scsi_target_num: 2 }],
  ['remove_vhost_controller vhost.0', { ctrlr: 'vhost.0' }],
  // Others of rpc.py, old and new.
  [
    `bdev_malloc_create -b M -u ${UUID} -p 4096 0.5 512`,
    { num_blocks: 1024, block_size: 512, name: 'M', uuid: UUID, physical_block_size: 4096 },
  ],
  ['bdev_malloc_create --name M 64 4096', { num_blocks: 16384, block_size: 4096, name: 'M' }],
  ['delete_malloc_bdev Malloc0', { name: 'Malloc0' }],
  ['bdev_malloc_resize Malloc0 128', { name: 'Malloc0', new_size: 128 }],
  ['construct_null_bdev Null0 1 512', { name: 'Null0', num_blocks: 2048, block_size: 512 }],
  [`bdev_null_create -u ${UUID} Null0 8 4096`, { name: 'Null0', num_blocks: 2048, block_size: 4096, uuid: UUID }],
  ['bdev_null_resize Null0 2', { name: 'Null0', new_size: 2 }],
  ['construct_aio_bdev /tmp/disk.img Aio0 512', { filename: '/tmp/disk.img', name: 'Aio0', block_size: 512 }],
  ['bdev_aio_create disk.img Aio0', { filename: 'disk.img', name: 'Aio0' }],
  [
    'bdev_aio_create -r --no-fallocate disk.img Aio0 4096',
    { filename: 'disk.img', name: 'Aio0', block_size: 4096, readonly: true, fallocate: false },
  ],
  ['bdev_aio_rescan Aio0', { name: 'Aio0' }],
  ['get_bdevs', {}],
  ['get_bdevs -b Malloc0', { name: 'Malloc0' }],
  ['bdev_get_bdevs --name Malloc0 -t 2000', { name: 'Malloc0', timeout: 2000 }],
  ['bdev_get_iostat -b Malloc0', { name: 'Malloc0' }],
  [
    'bdev_set_qos_limit M --rw_ios_per_sec 1000 --r-mbytes-per-sec 10',
    { name: 'M', rw_ios_per_sec: 1000, r_mbytes_per_sec: 10 },
  ],
  ['bdev_get_iostat --names A,B --reset-mode all', { names: ['A', 'B'], reset_mode: 'all' }],
  [
    'bdev_nvme_attach_controller -b N -t pcie -a 06:00.0 --num-io-queues 2',
    { name: 'N', trtype: 'pcie', traddr: '06:00.0', num_io_queues: 2 },
  ],
  ['delete_nvme_controller NVMe1', { name: 'NVMe1' }],
  ['bdev_nvme_detach_controller NVMe1', { name: 'NVMe1' }],
  ['get_nvme_controllers', {}],
  ['bdev_nvme_get_controllers -n NVMe1', { name: 'NVMe1' }],
  ['bdev_nvme_reset_controller NVMe1', { name: 'NVMe1' }],
  [
    'construct_virtio_dev -t pci -a 0000:00:05.0 -d scsi V',
    { name: 'V', trtype: 'pci', traddr: '0000:00:05.0', dev_type: 'scsi' },
  ],
  [
    'bdev_virtio_attach_controller --trtype pci --traddr 0000:00:05.0 --dev-type scsi --vq-count 2 --vq-size 64 V',
    { name: 'V', trtype: 'pci', traddr: '0000:00:05.0', dev_type: 'scsi', vq_count: 2, vq_size: 64 },
  ],
  [
    'bdev_virtio_attach_controller -t user -a /run/vhost.0 -d scsi U',
    { name: 'U', trtype: 'user', traddr: '/run/vhost.0', dev_type: 'scsi' },
  ],
  ['construct_virtio_user_scsi_bdev /run/vhost.0 U --vq-count 2', { path: '/run/vhost.0', name: 'U', vq_count: 2 }],
  ['remove_virtio_bdev V', { name: 'V' }],
  ['bdev_virtio_detach_controller V', { name: 'V' }],
  ['get_virtio_scsi_devs', {}],
  ['vhost_create_scsi_controller --cpumask [0,1] --delay c', { ctrlr: 'c', cpumask: '[0,1]', delay: true }],
  [
    'vhost_scsi_controller_add_target vhost.0 -1 Malloc0',
    { ctrlr: 'vhost.0', scsi_target_num: -1, bdev_name: 'Malloc0' },
  ],
  ['vhost_create_blk_controller blk.0 Malloc0', { ctrlr: 'blk.0', dev_name: 'Malloc0' }],
  [
    'construct_vhost_blk_controller --cpumask 0x1 -r blk.0 Malloc0',
    { ctrlr: 'blk.0', dev_name: 'Malloc0', cpumask: '0x1', readonly: true },
  ],
  ['vhost_get_controllers -n vhost.0', { name: 'vhost.0' }],
  ['set_vhost_controller_coalescing vhost.0 10 60000', { ctrlr: 'vhost.0', delay_base_us: 10, iops_threshold: 60000 }],
  ['vhost_get_inflight --older-than-ms 500', { older_than_ms: 500 }],
  ['get_rpc_methods -c', { current: true }],
  ['kill_instance SIGTERM', { sig_name: 'SIGTERM' }],
  ['spdk_kill_instance 15', { sig_name: 15 }],
  ['log_set_flag vhost', { flag: 'vhost' }],
  ['framework_get_config bdev', { name: 'bdev' }],
  ['save_config', {}],
  [
    'bdev_null_create --json {"name":"N","num_blocks":8,"block_size":512}',
    { name: 'N', num_blocks: 8, block_size: 512 },
  ],
  ['some_method_of_another_target', undefined],
  ['some_method_of_another_target --json {"a":1}', { a: 1 }],
];

function split(line: string): [string, string[]] {
  const [name, ...words] = line.split(' ');
  return [name, words];
}

for (const [line, params] of good) {
  test(line, () => {
    const [name, words] = split(line);
    assert.equal(parseCall(name, words)?.params, params);
    const row = methodTable.get(name);
    if (row !== undefined) parseParams(row, name, params); // and the target takes it
  });
}

const bad: [line: string, message: RegExp][] = [
  [
    'construct_malloc_bdev',
    /^rpc construct_malloc_bdev: missing required argument 'total_size'; see `vvu-target rpc construct_malloc_bdev --help`$/,
  ],
  ['construct_malloc_bdev 64', /missing required argument 'block_size'/],
  ['construct_malloc_bdev big 512', /'big' is invalid for argument 'total_size'\. a number is expected/],
  ['construct_malloc_bdev 64 512 Malloc0', /too many arguments/],
  ['construct_malloc_bdev 64 512 --nam M', /unknown option '--nam'.*Did you mean --name/s],
  ['add_vhost_scsi_lun vhost.0 two Malloc0', /'two' is invalid/],
  ['construct_maloc_bdev 64 512', /no method is called construct_maloc_bdev; did you mean construct_malloc_bdev\?/],
  ['zzzzz 1', /`vvu-target rpc rpc_get_methods` lists them/],
  ['bdev_null_create --json {', /--json is no JSON/],
  ['bdev_null_create --json [1]', /--json must hold an object/],
  ['load_config -j /no/such/file', /\/no\/such\/file/],
];
for (const [line, message] of bad) {
  test(`refused: ${line}`, () => {
    const [name, words] = split(line);
    assert.throws(() => parseCall(name, words), message);
  });
}

test('every method has a form that takes each of its parameters', () => {
  for (const row of methodTable.rows) {
    if (row.names[0] === 'load_config') continue;
    const params = describeParams(row);
    const words: string[] = [];
    for (const p of params) if (p.type === '') throw new Error(`${row.names[0]}: ${p.name} has no type`);
    // With nothing given, either it is complete or it names what is missing.
    try {
      parseCall(row.names[0], words);
      assert.is(params.filter((p) => p.required).length, 0, row.names[0]);
    } catch (error) {
      assert.match((error as Error).message, /missing required argument|required option/, row.names[0]);
    }
  }
});

test('sizes', () => {
  assert.is(parseSize('64M'), 64 * 2 ** 20);
  assert.is(parseSize('1.5G'), 1.5 * 2 ** 30);
  assert.is(parseSize('512'), 512);
  assert.is(parseSize('1000'), 512);
  assert.is(parseSize('2 TiB'), 2 * 2 ** 40);
  for (const text of ['', '0', 'M', '-1M', '64X', '1e3', '100'])
    assert.throws(() => parseSize(text), /expected a size|too few for a disk/);
});

test('the QEMU command line survives any path', () => {
  const command = qemuCommand("/tmp/a b,c'd/vhost.0");
  assert.match(command, /-chardev 'socket,id=chr-vhost\.0,path=\/tmp\/a b,,c'\\''d\/vhost\.0'/);
  assert.match(command, /share=on/);
});

test.run();
