/** Devices of the target by RPC: taken, shown, served, reset, pulled out, given back; and what is said when that can't be. */
import { join } from 'node:path';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { FakeMachine } from '../pci/fake-machine.ts';
import { FakeDevices, HBA, NVME } from '../support/fake-devices.ts';
import { read10, write10 } from '../support/front-end-scsi.ts';
import { connectGuest, INQUIRY, READ_CAPACITY_10 } from '../support/guest.ts';
import { failure, type RunningService, startService } from '../support/service.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('rpc devices');

interface Bed {
  fakes: FakeDevices;
  target: RunningService;
  call: RunningService['call'];
  refused(method: string, params: Record<string, unknown>, code: number, message: RegExp): Promise<void>;
  until(what: string, done: () => boolean | Promise<boolean>): Promise<void>;
}

/** A target with fake devices, and nothing left of it afterwards. */
async function on(
  work: (bed: Bed) => Promise<void>,
  { singleThread = true, fakes = new FakeDevices() }: { singleThread?: boolean; fakes?: FakeDevices } = {},
): Promise<void> {
  const target = await startService({ singleThread, devices: fakes.options });
  const { call } = target;
  try {
    await work({
      fakes,
      target,
      call,
      refused: async (method, params, code, message) => {
        const got = await failure(call(method, params));
        assert.is(got.code, code, got.message);
        assert.match(got.message, message);
      },
      until: async (what, done) => {
        for (let i = 0; !(await done()); i++) {
          if (i > 5000) assert.unreachable(what);
          await new Promise((resolve) => setTimeout(resolve, 2));
        }
      },
    });
  } finally {
    await target.stop();
    fakes.close();
  }
  assert.equal(fakes.leftovers, []);
}

const names = async (call: Bed['call']) => ((await call('get_bdevs')) as { name: string }[]).map((b) => b.name);
const nvme = { name: 'NVMe1', trtype: 'PCIe', traddr: NVME };

test('old names and new: attach, show, detach', () =>
  on(async ({ call, fakes }) => {
    assert.equal(await call('construct_nvme_bdev', nvme), ['NVMe1n1']);
    assert.equal(await call('construct_virtio_pci_scsi_bdev', { pci_address: HBA, name: 'VirtioScsi0' }), [
      'VirtioScsi0t0',
    ]);
    const bdevs = (await call('get_bdevs')) as Record<string, unknown>[];
    assert.equal(
      bdevs.map((b) => [b.name, b.product_name, b.block_size, b.num_blocks]),
      [
        ['NVMe1n1', 'NVMe disk', 512, 2048],
        ['VirtioScsi0t0', 'Virtio SCSI Disk', 512, 1024],
      ],
    );
    const [controller] = (await call('get_nvme_controllers')) as { name: string; ctrlrs: Record<string, unknown>[] }[];
    assert.is(controller?.name, 'NVMe1');
    assert.is(controller?.ctrlrs[0]?.state, 'enabled');
    assert.equal(controller?.ctrlrs[0]?.trid, { trtype: 'PCIe', traddr: NVME });
    assert.equal(await call('bdev_nvme_get_controllers', { name: 'NVMe1' }), [controller]);
    const [adapter] = (await call('get_virtio_scsi_devs')) as { name: string; disks: string[] }[];
    assert.equal([adapter?.name, adapter?.disks], ['VirtioScsi0', ['VirtioScsi0t0']]);
    assert.is(await call('delete_nvme_controller', { name: 'NVMe1' }), true);
    assert.equal(await names(call), ['VirtioScsi0t0']);
    assert.equal([...fakes.taken], [HBA]);
    assert.is(await call('remove_virtio_bdev', { name: 'VirtioScsi0' }), true);
    assert.equal(await names(call), []);
    assert.equal([...fakes.taken], []);
    assert.equal(await call('bdev_nvme_get_controllers'), []);
    assert.equal(await call('bdev_virtio_scsi_get_devices'), []);
    // And again, by today's names; the end of the target gives them back.
    assert.equal(await call('bdev_nvme_attach_controller', { ...nvme, trtype: 'pcie', prchk_guard: false }), [
      'NVMe1n1',
    ]);
    const virtio = { name: 'V', trtype: 'pci', traddr: HBA, dev_type: 'scsi' };
    assert.equal(await call('construct_virtio_dev', virtio), ['Vt0']);
    assert.is(await call('bdev_virtio_detach_controller', { name: 'V' }), true);
    assert.equal(await call('bdev_virtio_attach_controller', { ...virtio, vq_count: 2, vq_size: 64 }), ['Vt0']);
  }));

test('every namespace is a disk', () =>
  on(
    async ({ call }) => {
      assert.equal(await call('construct_nvme_bdev', nvme), ['NVMe1n1', 'NVMe1n2']);
      const { subsystems } = (await call('save_config')) as { subsystems: { config: unknown[] }[] };
      assert.equal(
        subsystems[0]?.config,
        [{ method: 'bdev_nvme_attach_controller', params: nvme }],
        'one call for both',
      );
    },
    {
      fakes: new FakeDevices({
        namespaces: [
          { blockSize: 512, blocks: 100 },
          { blockSize: 4096, blocks: 50 },
        ],
      }),
    },
  ));

test('refusals say what is wrong', () =>
  on(async ({ call, refused }) => {
    await refused('construct_nvme_bdev', { name: 'N', traddr: NVME }, -32602, /"trtype" is missing: expected a text/);
    await refused(
      'construct_nvme_bdev',
      { ...nvme, trtype: 'TCP' },
      -32602,
      /"trtype" must be PCIe, the only transport there is, not "TCP"/,
    );
    await refused(
      'construct_nvme_bdev',
      { ...nvme, traddr: 'nvme0' },
      -22,
      /traddr "nvme0" is no PCI address: expected 0000:00:06.0/,
    );
    await refused(
      'construct_nvme_bdev',
      { ...nvme, traddr: '0000:00:09.0' },
      -19,
      /^No such device: 0000:00:09.0: no such PCI function/,
    );
    await refused('construct_nvme_bdev', { ...nvme, name: 'a/b' }, -32602, /"name" must be a name of 1 to 200/);
    await refused('delete_nvme_controller', { name: 'N' }, -19, /no NVMe controller is called N; there are none/);
    await refused('remove_virtio_bdev', { name: 'N' }, -19, /no virtio-scsi adapter is called N; there are none/);
    await refused('bdev_nvme_reset_controller', { name: 'N' }, -19, /no NVMe controller is called N/);
    await refused('get_nvme_controllers', { name: 'N' }, -19, /no NVMe controller is called N/);
    await call('construct_nvme_bdev', nvme);
    await refused('construct_nvme_bdev', nvme, -16, /device NVMe1 exists already; detach it first/);
    await refused('construct_nvme_bdev', { ...nvme, name: 'N' }, -16, /this process drives it already/);
    await refused(
      'construct_virtio_pci_scsi_bdev',
      { pci_address: HBA, name: 'NVMe1' },
      -16,
      /device NVMe1 exists already/,
    );
    await refused('bdev_nvme_detach_controller', { name: 'NVMe1', traddr: HBA }, -22, /NVMe1 is at 0000:00:06.0, not/);
    await refused('remove_virtio_bdev', { name: 'NVMe1' }, -19, /no virtio-scsi adapter is called NVMe1/);
    const virtio = { name: 'V', trtype: 'pci', traddr: HBA, dev_type: 'blk' };
    await refused('construct_virtio_dev', virtio, -32602, /"dev_type" must be one of scsi/);
    assert.is(await call('bdev_nvme_detach_controller', { name: 'NVMe1', trtype: 'PCIe', traddr: '00:06.0' }), true);
  }));

test('a device that cannot be taken: the message names the command that mends it', async () => {
  const machine = new FakeMachine();
  machine.addDriver('nvme');
  machine.addFunction(NVME, { driver: 'nvme' });
  machine.addDriver('vfio-pci');
  machine.addFunction(HBA, { vendor: 0x1af4, device: 0x1048, classCode: 0x01_0000, driver: 'vfio-pci' });
  const { call, stop } = await startService({ devices: { sysfs: machine.sys(), dev: machine.dev() } });
  const bound = await failure(call('construct_nvme_bdev', nvme));
  assert.is(bound.code, -16);
  assert.match(
    bound.message,
    /^Device or resource busy: 0000:00:06.0: the kernel driver nvme has the device; "vvu-target setup bind 0000:00:06.0"/,
  );
  const alone = await failure(call('construct_virtio_pci_scsi_bdev', { pci_address: HBA, name: 'V' }));
  assert.is(alone.code, -16);
  assert.match(
    alone.message,
    /bound to vfio-pci, but it is in no IOMMU group: .*"vvu-target doctor 0000:00:05.0" says/,
  );
  const missing = await failure(call('construct_nvme_bdev', { ...nvme, traddr: '0000:01:00.0' }));
  assert.is(missing.code, -19);
  assert.match(missing.message, /no such PCI function .*"vvu-target setup status" lists those/);
  await stop();
});

test('a disk whose name is taken: nothing is left of the attempt', () =>
  on(async ({ call, fakes, refused }) => {
    await call('construct_malloc_bdev', { name: 'NVMe1n1', num_blocks: 8, block_size: 512 });
    await refused('construct_nvme_bdev', nvme, -17, /^File exists: disk NVMe1n1 exists already/);
    assert.equal([...fakes.taken], []);
    assert.equal(await call('get_nvme_controllers'), []);
    await call('delete_malloc_bdev', { name: 'NVMe1n1' });
    assert.equal(await call('construct_nvme_bdev', nvme), ['NVMe1n1']);
  }));

test('served to a guest: written, read, counted as bounced, taken away', () =>
  on(
    async ({ call, fakes, target, until }) => {
      await call('construct_nvme_bdev', nvme);
      await call('construct_virtio_pci_scsi_bdev', { pci_address: HBA, name: 'VirtioScsi0' });
      await call('construct_vhost_scsi_controller', { ctrlr: 'vhost.0' });
      await call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 0, bdev_name: 'VirtioScsi0t0' });
      await call('add_vhost_scsi_lun', { ctrlr: 'vhost.0', scsi_target_num: 1, bdev_name: 'NVMe1n1' });
      const loop = new EventLoop();
      fakes.stepWith(loop);
      const guest = connectGuest(join(target.directory, 'vhost.0'), { loop });
      const product = (num: number) =>
        Buffer.from(guest.scsi.ready(num, INQUIRY, { inLength: 96 }).data.subarray(16, 32))
          .toString()
          .trim();
      assert.equal([product(0), product(1)], ['Virtio SCSI Disk', 'NVMe disk']);
      for (const num of [0, 1]) {
        guest.scsi.ready(num, READ_CAPACITY_10, { inLength: 8 });
        const out = new Uint8Array(8 * 512).map((_, i) => i * 7 + num);
        assert.is(guest.scsi.run(num, write10(3, 8), { out }).status, 0);
        const back = guest.scsi.run(num, read10(3, 8), { inLength: 8 * 512 });
        assert.is(back.status, 0);
        assert.ok(Buffer.compare(back.data, out) === 0, `target ${num}: what was written`);
      }
      assert.equal(fakes.nvme.disks[0]?.subarray(3 * 512, 3 * 512 + 4), Uint8Array.of(1, 8, 15, 22));
      // Fake devices can't reach the guest's memory.
      const { bdevs } = (await call('bdev_get_iostat')) as { bdevs: Record<string, number>[] };
      for (const stats of bdevs) {
        assert.is(stats.num_bounced_ops, 2, `${stats.name}`);
        assert.is(stats.bytes_bounced, 2 * 8 * 512);
      }
      // A device goes: its target does, the other stays.
      const gone = call('delete_nvme_controller', { name: 'NVMe1' });
      await gone;
      assert.is(guest.scsi.run(1, read10(0, 1), { inLength: 512 }).response, 3, 'no such target any more');
      assert.is(guest.scsi.run(0, read10(3, 1), { inLength: 512 }).status, 0);
      // The other is pulled out.
      fakes.hba.pull();
      await until('the adapter is given back', () => !fakes.taken.has(HBA));
      assert.equal(await names(call), []);
      assert.equal(await call('get_virtio_scsi_devs'), []);
      assert.is(guest.scsi.run(0, read10(0, 1), { inLength: 512 }).response, 3);
      guest.close();
    },
    { singleThread: false },
  ));

test('pulled out while nobody uses it: the disks go, the name is free again', () =>
  on(async ({ call, fakes, until }) => {
    await call('construct_nvme_bdev', nvme);
    fakes.nvme.pull();
    await until('the disk has gone', async () => (await names(call)).length === 0);
    await until('it is given back', () => fakes.taken.size === 0);
    assert.equal(await call('get_nvme_controllers'), []);
  }));

test('a device that cannot be reset: its disks go, it says why until it is detached', () =>
  on(async ({ call, fakes, until, refused }) => {
    await call('construct_virtio_pci_scsi_bdev', { pci_address: HBA, name: 'VirtioScsi0' });
    fakes.hba.failingResets = 1000;
    await call('bdev_virtio_reset_controller', { name: 'VirtioScsi0' });
    await until('the disk has gone', async () => (await names(call)).length === 0);
    const [shown] = (await call('get_virtio_scsi_devs')) as { virtio: { state: string; reason: string } }[];
    assert.is(shown?.virtio.state, 'failed');
    assert.match(shown?.virtio.reason ?? '', /reset did not end/);
    await refused('construct_virtio_pci_scsi_bdev', { pci_address: HBA, name: 'VirtioScsi0' }, -16, /exists already/);
    fakes.hba.failingResets = 0;
    assert.is(await call('remove_virtio_bdev', { name: 'VirtioScsi0' }), true);
    assert.equal(await call('construct_virtio_pci_scsi_bdev', { pci_address: HBA, name: 'VirtioScsi0' }), [
      'VirtioScsi0t0',
    ]);
  }));

test('reset: both kinds', () =>
  on(async ({ call, fakes, until }) => {
    await call('construct_nvme_bdev', nvme);
    await call('construct_virtio_pci_scsi_bdev', { pci_address: HBA, name: 'VirtioScsi0' });
    const resets = fakes.hba.resets;
    assert.is(await call('bdev_nvme_reset_controller', { name: 'NVMe1' }), true);
    assert.is(await call('bdev_virtio_reset_controller', { name: 'VirtioScsi0' }), true);
    await until('the adapter was reset', () => fakes.hba.resets > resets);
    await until('the controller was reset', async () => {
      const [shown] = (await call('get_nvme_controllers')) as { ctrlrs: [{ resets: number; state: string }] }[];
      return shown?.ctrlrs[0].resets === 1 && shown.ctrlrs[0].state === 'enabled';
    });
    assert.equal(await names(call), ['NVMe1n1', 'VirtioScsi0t0']);
  }));

test.run();
