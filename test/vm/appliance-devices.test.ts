/**
 * What becomes of the appliance's devices: other block sizes, resets under load, a device that is pulled out, a target that is killed. Through
 * VFIO with a vIOMMU, and through sysfs alone. The tests of a boot build on each other in order.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { assert, suite } from '../support/suite.ts';
import { Appliance, type Exercised, HBA, NVME, sha256 } from './appliance-disks.ts';
import type { ServeVerified } from './guest/serve-verify.ts';

const test = suite('appliance devices');

/** One namespace of 512 bytes at NVME, one of 4096 in a slot that lets go of it. */
const devices = ([first, second]: readonly string[]) => [
  ...['-device', `nvme,id=ssd,drive=${first},serial=NVME0,addr=6`],
  ...['-device', 'pcie-root-port,id=rp0,chassis=1,slot=1,addr=7'],
  ...['-device', large(second as string)],
];
const large = (drive: string) =>
  `nvme,id=pulled,bus=rp0,drive=${drive},serial=NVME1,logical_block_size=4096,physical_block_size=4096`;

interface Nvme {
  name: string;
  ctrlrs: [{ resets: number; state: string; reason: string; access_mode: string }];
}

interface Adapter {
  virtio: { resets: number; state: string };
  disks: string[];
}

function allGood(run: ServeVerified): void {
  console.log(JSON.stringify(run));
  assert.is(run.lost, 0);
  for (const t of run.targets) {
    assert.equal(t.wrong, [], t.product);
    assert.equal(Object.keys(t.ends), ['GOOD'], t.product);
  }
}

for (const [name, options] of [
  ['VFIO', { iommu: true }],
  ['sysfs', {}],
] as const) {
  let a: Appliance;
  let pulled = '';

  test(`${name}: the bdev layer by itself, blocks of 512 and 4096 bytes`, async () => {
    a = await Appliance.boot({ ...options, drives: 2, devices });
    pulled = (
      await a.vm.run('basename $(readlink -f $(dirname $(grep -l NVME1 /sys/class/nvme/nvme*/serial))/device)')
    ).trim();
    console.log(await a.cli('setup status', `setup bind ${HBA} ${NVME} ${pulled}`, 'setup status'));
    const ran = await a.exercise({ attach: [{ nvme: NVME }, { nvme: pulled }, { virtio: HBA }] });
    report(ran);
    for (const [i, file] of [...a.nvme, a.scsi].entries()) {
      assert.is(sha256(file), ran.disks[i]?.sha256, 'the image holds what was written');
    }
  });

  test(`${name}: resets while the bdev layer is at work`, async () => {
    const ran = await a.exercise({
      attach: [{ nvme: NVME }, { virtio: HBA }],
      reset: 300,
      rounds: 150,
      seed: 7,
      learn: true,
    });
    report(ran);
    const [nvme, adapter] = ran.after as unknown as [Nvme, Adapter];
    console.log(`${nvme.ctrlrs[0].resets} resets of the controller, ${adapter.virtio.resets} of the adapter`);
    assert.ok(nvme.ctrlrs[0].resets > 0 && adapter.virtio.resets > 0);
  });

  test(`${name}: a second process is refused`, async () => {
    await a.startTarget();
    await attach();
    const { error } = await a.exercise({ attach: [{ nvme: NVME }] });
    console.log(error);
    assert.match(error ?? '', /another process/);
  });

  test(`${name}: resets under a guest's load lose no request`, async () => {
    const load = await a.verifyMeanwhile({
      targets: [0, 1, 2],
      depths: [16],
      seconds: 20,
      maxBytes: 262144,
      seed: 3,
      learn: true,
    });
    const done = load.result();
    let over = false;
    done.finally(() => {
      over = true;
    });
    for (let i = 0; !over; i++) {
      const line = ['bdev_nvme_reset_controller NVMe1', 'bdev_nvme_reset_controller NVMe2'][i % 2] as string;
      await a.rpc(line, 'bdev_virtio_reset_controller VirtioScsi0');
      await sleep(500);
    }
    allGood(await done);
    const resets = (await a.ask<Nvme[]>('get_nvme_controllers')).map((c) => c.ctrlrs[0]);
    const [{ virtio }] = await a.ask<[Adapter]>('get_virtio_scsi_devs');
    console.log(JSON.stringify([...resets.map((c) => c.resets), virtio.resets]));
    assert.ok(resets.every((c) => c.resets > 0 && c.state === 'enabled') && virtio.resets > 0);
  });

  test(`${name}: the host resizes a disk and takes it away`, async () => {
    await a.vm.qmp.execute('block_resize', { 'node-name': 'scsi0', size: 20 << 20 });
    await until(
      'its new size',
      async () => (await a.ask<[{ num_blocks: number }]>('get_bdevs -b VirtioScsi0t0'))[0].num_blocks === 40960,
    );
    await a.vm.qmp.execute('device_del', { id: 'unit' });
    await until('its end', async () => !(await names()).includes('VirtioScsi0t0'));
    assert.is(await a.vm.qmp.human('device_add scsi-hd,id=unit,bus=hba.0,scsi-id=0,drive=scsi0'), '');
    await until('its return', async () => (await names()).includes('VirtioScsi0t0'));
  });

  if (name === 'VFIO') {
    test('VFIO: a device that is pulled out under load ends in errors, and the target goes on', async () => {
      const load = await a.verifyMeanwhile({ targets: [1], depths: [32], seconds: 120, learn: true, seed: 5 });
      await sleep(5000);
      await a.vm.qmp.execute('device_del', { id: 'pulled' });
      await a.vm.qmp.event((e) => e.event === 'DEVICE_DELETED' && e.data?.['device'] === 'pulled', 120);
      const run = await load.result();
      console.log(JSON.stringify(run));
      assert.is(run.lost, 0, 'every request has ended');
      assert.equal(run.targets[0]?.wrong, []);
      assert.ok(Object.keys(run.targets[0]?.ends ?? {}).some((end) => end !== 'GOOD'));
      assert.not((await names()).includes('NVMe2n1'));
      assert.equal(
        (await a.ask<Nvme[]>('get_nvme_controllers')).map((c) => c.name),
        ['NVMe1'],
      );
      allGood(await a.verify({ targets: [0], depths: [8], mebibytes: 8, learn: true, seed: 6 }));
    });

    test('VFIO: and it can come back', async () => {
      assert.is(await a.vm.qmp.human(`device_add ${large('nvme1')}`), '');
      await a.vm.until(`ls /sys/bus/pci/devices/${pulled}/driver`);
      await a.cli(
        `setup bind ${pulled}`,
        `rpc construct_nvme_bdev -b NVMe2 -t PCIe -a ${pulled}`,
        'rpc add_vhost_scsi_lun vhost.0 1 NVMe2n1',
      );
      allGood(await a.verify({ targets: [1], depths: [8], mebibytes: 8, learn: true, seed: 8 }));
    });
  }

  test(`${name}: kill -9 under load leaves the devices quiet, and another target goes on`, async () => {
    const load = await a.verifyMeanwhile({ targets: [0, 1], depths: [32], seconds: 60, learn: true, seed: 9 });
    await sleep(8000);
    for (const bdf of [NVME, pulled, HBA]) assert.is(await a.busMaster(bdf), true, bdf);
    await a.endTarget('KILL');
    await sleep(3000);
    for (const bdf of [NVME, pulled, HBA]) assert.is(await a.busMaster(bdf), false, bdf);
    await load.result().catch(() => {}); // its target has gone
    await a.startTarget();
    await attach();
    allGood(await a.verify({ targets: [0, 1], depths: [8], mebibytes: 8, learn: true, seed: 10 }));
    assert.is(await a.endTarget('TERM'), 0);
  });

  test(`${name}: given back; a mounted disk is not taken`, async () => {
    console.log(await a.cli(`setup reset ${NVME} ${pulled} ${HBA}`));
    await a.vm.until('ls /dev/nvme0n1 /dev/nvme1n1');
    await a.vm.run(
      `disk=/dev/$(basename /sys/bus/pci/devices/${NVME}/nvme/nvme*/nvme*n1) && mkfs.ext4 -q $disk && mount $disk /mnt`,
    );
    const refused = await a.vm.try(`node /opt/vvu-target/dist/cli/main.js setup bind ${NVME}`, 300);
    console.log(refused.output);
    assert.is(refused.exitCode, 1);
    assert.match(refused.output, /mounted/);
    await a.close();
  });

  const names = async () => (await a.ask<{ name: string }[]>('get_bdevs')).map((b) => b.name);

  const until = async (what: string, done: () => Promise<boolean>) => {
    for (let i = 0; !(await done()); i++) assert.ok(i < 30, what);
  };

  const attach = () =>
    a.rpc(
      'construct_vhost_scsi_controller vhost.0',
      `construct_nvme_bdev -b NVMe1 -t PCIe -a ${NVME}`,
      `construct_nvme_bdev -b NVMe2 -t PCIe -a ${pulled}`,
      `construct_virtio_pci_scsi_bdev ${HBA} VirtioScsi0`,
      'add_vhost_scsi_lun vhost.0 0 NVMe1n1',
      'add_vhost_scsi_lun vhost.0 1 NVMe2n1',
      'add_vhost_scsi_lun vhost.0 2 VirtioScsi0t0',
    );

  test.after(() => a?.close());
}

function report(ran: Exercised): void {
  console.log(JSON.stringify({ ...ran, attached: undefined, after: undefined }));
  assert.is(ran.error, undefined);
  for (const disk of ran.disks) {
    assert.equal(disk.wrong, [], disk.name);
    assert.equal(Object.keys(disk.counts), ['OK'], disk.name);
  }
}

test.run();
