/**
 * What becomes of the appliance's devices: other block sizes, resets under load, units that change, a device that is pulled out, a target
 * that is killed. The tests build on each other in order.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { assert, suite } from '../support/suite.ts';
import { Appliance, CLI, type Exercised, HBA, NVME, sha256 } from './appliance-disks.ts';
import { ENODATA, withErrors } from './disk-errors.ts';
import type { ServeVerified } from './guest/serve-verify.ts';

/** One namespace of 512 bytes at NVME, one of 4096 in a slot that lets go of it. */
const devices = ([first, second]: readonly string[]) => [
  ...['-device', `nvme,id=ssd,drive=${first},serial=NVME0,addr=6`],
  ...['-device', 'pcie-root-port,id=rp0,chassis=1,slot=1,addr=7'],
  ...['-device', large(second as string)],
];
const large = (drive: string) =>
  `nvme,id=pulled,bus=rp0,drive=${drive},serial=NVME1,logical_block_size=4096,physical_block_size=4096`;
const FIND_LARGE = 'basename $(readlink -f $(dirname $(grep -l NVME1 /sys/class/nvme/nvme*/serial))/device)';

interface Nvme {
  name: string;
  ctrlrs: [{ resets: number; state: string }];
}

interface Adapter {
  virtio: { resets: number; state: string };
  disks: string[];
}

interface Bdev {
  name: string;
  num_blocks: number;
}

/** @param mode VFIO with a vIOMMU, or sysfs alone */
export function applianceDevices(mode: 'vfio' | 'sysfs'): void {
  const suiteOf = suite(`appliance devices, ${mode}`);
  let a: Appliance;
  /** Address of the one that is pulled out. */
  let pulled = '';
  let broken = false;

  /** A failure is told at once, and ends the story. */
  const test = (name: string, work: () => Promise<void>) =>
    suiteOf(name, async () => {
      assert.not(broken, 'an earlier step failed');
      console.log(`\n# ${name}`);
      try {
        await work();
      } catch (error) {
        broken = true;
        const log = await a?.log().catch(() => '');
        console.log(`${(error as Error).stack}\n--- target\n${log}`);
        throw error;
      }
    });
  suiteOf.after(() => a?.close());

  const bdevs = async () => (await a.calls('get_bdevs'))[0] as Bdev[];
  const names = async () => (await bdevs()).map((b) => b.name);
  /** Of each device, which must be at work. */
  const resets = async () => {
    const [controllers, adapters] = (await a.calls('get_nvme_controllers', 'get_virtio_scsi_devs')) as [
      Nvme[],
      Adapter[],
    ];
    assert.ok(controllers.every((c) => c.ctrlrs[0].state === 'enabled'));
    assert.ok(adapters.every((x) => x.virtio.state === 'ready'));
    return [...controllers.map((c) => c.ctrlrs[0].resets), ...adapters.map((x) => x.virtio.resets)];
  };
  const until = async (what: string, done: () => Promise<boolean>) => {
    for (let i = 0; !(await done()); i++) assert.ok(i < 30, what);
  };
  const attach = () =>
    a.calls(
      'construct_vhost_scsi_controller vhost.0',
      `construct_nvme_bdev -b NVMe1 -t PCIe -a ${NVME}`,
      `construct_nvme_bdev -b NVMe2 -t PCIe -a ${pulled}`,
      `construct_virtio_pci_scsi_bdev ${HBA} VirtioScsi0`,
      'add_vhost_scsi_lun vhost.0 0 NVMe1n1',
      'add_vhost_scsi_lun vhost.0 1 NVMe2n1',
      'add_vhost_scsi_lun vhost.0 2 VirtioScsi0t0',
    );

  test('the bdev layer by itself, blocks of 512 and 4096 bytes', async () => {
    a = await Appliance.boot({ ...(mode === 'vfio' ? { iommu: true } : {}), drives: 2, devices });
    pulled = (await a.vm.run(FIND_LARGE)).trim();
    console.log(await a.cli(`setup bind ${HBA} ${NVME} ${pulled}`, 'setup status'));
    const ran = await a.exercise({ attach: [{ nvme: NVME }, { nvme: pulled }, { virtio: HBA }] });
    report(ran);
    assert.equal(
      ran.disks.map((d) => `${d.name} ${d.blockSize}`),
      ['NVMe0n1 512', 'NVMe1n1 4096', 'VirtioScsi2t0 512'],
    );
    for (const [i, file] of [...a.nvme, a.scsi].entries()) {
      assert.is(sha256(file), ran.disks[i]?.sha256, 'the image holds what was written');
      assert.ok((ran.disks[i]?.bounced ?? 0) > 0, 'memory that the device does not know is copied, and counted');
    }
  });

  test('resets while the bdev layer is at work', async () => {
    const ran = await a.exercise({
      attach: [{ nvme: NVME }, { virtio: HBA }],
      reset: 300,
      rounds: 100,
      seed: 7,
      learn: true,
    });
    report(ran);
    const [nvme, adapter] = ran.after as unknown as [Nvme, Adapter];
    console.log(`${nvme.ctrlrs[0].resets} resets of the controller, ${adapter.virtio.resets} of the adapter`);
    assert.ok(nvme.ctrlrs[0].resets > 0 && adapter.virtio.resets > 0);
  });

  test('a second process is refused', async () => {
    await a.startTarget();
    await attach();
    const { error } = await a.exercise({ attach: [{ nvme: NVME }] });
    console.log(error);
    assert.match(error ?? '', /another process/);
  });

  test("resets under a guest's load lose no request", async () => {
    const load = await a.verifyMeanwhile({
      targets: [0, 1, 2],
      depths: [16],
      seconds: 15,
      maxBytes: 262144,
      seed: 3,
      learn: true,
    });
    await a.callsFor(
      45,
      'bdev_nvme_reset_controller NVMe1',
      'bdev_nvme_reset_controller NVMe2',
      'bdev_virtio_reset_controller VirtioScsi0',
    );
    allGood(await load.result());
    const done = await resets();
    console.log(`resets: ${done}`);
    assert.ok(done.length === 3 && done.every((n) => n > 3));
  });

  test('an error of the medium is sense data for who asked, and nothing for others; later it is read', async () => {
    const before = JSON.stringify(await resets());
    const all = { targets: [0, 1, 2], depths: [8], mebibytes: 2, learn: true };
    const always = await withErrors(
      a.vm.qmp,
      { nvme0: { iotype: 'read' }, scsi0: { iotype: 'read', errno: ENODATA } },
      () => a.verify({ ...all, seed: 11 }),
    );
    const once = await withErrors(
      a.vm.qmp,
      {
        nvme0: { iotype: 'write', once: true },
        nvme1: { iotype: 'read', once: true },
        scsi0: { iotype: 'write', once: true },
      },
      () => a.verify({ ...all, seed: 12 }),
    );
    for (const run of [always, once]) {
      console.log(JSON.stringify(run));
      assert.is(run.lost, 0);
      for (const t of run.targets) {
        assert.equal(t.wrong, [], t.product);
        assert.ok((t.ends['GOOD'] ?? 0) > 0, 'other requests pass');
      }
    }
    const errors = (run: ServeVerified) => run.targets.map((t) => Object.keys(t.ends).filter((end) => end !== 'GOOD'));
    assert.equal(errors(always), [['sense 3/11/0'], [], ['sense 3/11/0']]);
    assert.equal(errors(once), [['sense 3/c/0'], ['sense 3/11/0'], ['sense b/0/0']]);
    assert.ok(
      once.targets.every((t, i) => t.ends[errors(once)[i]?.[0] as string] === 1),
      'each fails once',
    );
    allGood(await a.verify({ ...all, seed: 13 }));
    assert.is(JSON.stringify(await resets()), before, 'no device is reset for that');
  });

  test("a guest that claims terabytes has its disks served, and fills nobody's memory", async () => {
    const free = async () => Number(await a.vm.run("awk '/^MemAvailable/ { print $2 }' /proc/meminfo")) / 1024;
    const before = await free();
    const load = await a.verifyMeanwhile({
      targets: [0, 2],
      depths: [8],
      seconds: 5,
      learn: true,
      seed: 14,
      gibibytesMore: 3072,
    });
    let least = before;
    const watch = setInterval(async () => {
      least = Math.min(least, await free());
    }, 3000);
    const run = await load.result().finally(() => clearInterval(watch));
    allGood(run);
    console.log(`${Math.round(before)} MiB available before, ${Math.round(least)} at the least`);
    // Of 1280 MiB. The guest itself takes some 200.
    assert.ok(least > 320, 'a quarter is left');
    allGood(await a.verify({ targets: [0, 1, 2], depths: [8], mebibytes: 2, learn: true, seed: 15 }));
  });

  test('the host resizes a disk, takes it away, and brings it back', async () => {
    await a.vm.qmp.execute('block_resize', { 'node-name': 'scsi0', size: 20 << 20 });
    await until('its new size', async () => (await bdevs()).some((b) => b.num_blocks === 40960));
    await a.vm.qmp.execute('device_del', { id: 'unit' });
    await until('its end', async () => !(await names()).includes('VirtioScsi0t0'));
    assert.is(await a.vm.qmp.human('device_add scsi-hd,id=unit,bus=hba.0,scsi-id=0,drive=scsi0'), '');
    await until('its return', async () => (await names()).includes('VirtioScsi0t0'));
  });

  // In sysfs mode the mapping goes with the device, and the process with the mapping (docs/appliance-disks.md).
  if (mode === 'vfio') {
    test('a device that is pulled out under load ends in errors, and the target goes on', async () => {
      const writes = async () => {
        const [stat] = await a.calls('bdev_get_iostat -b NVMe2n1');
        return (stat as { bdevs: [{ num_write_ops: number }] }).bdevs[0].num_write_ops;
      };
      const before = await writes();
      const load = await a.verifyMeanwhile({ targets: [1], depths: [32], seconds: 300, learn: true, seed: 5 });
      await until('a load', async () => (await writes()) > before + 100);
      await a.vm.qmp.execute('device_del', { id: 'pulled' });
      await a.vm.qmp.event((e) => e.event === 'DEVICE_DELETED' && e.data?.['device'] === 'pulled', 240);
      const run = await load.result();
      console.log(JSON.stringify(run));
      assert.is(run.lost, 0, 'every request has ended');
      assert.equal(run.targets[0]?.wrong, []);
      const ends = Object.keys(run.targets[0]?.ends ?? {});
      assert.ok(ends.includes('GOOD') && ends.some((end) => end !== 'GOOD'), 'it was at work');
      assert.not((await names()).includes('NVMe2n1'));
      assert.equal(
        ((await a.calls('get_nvme_controllers'))[0] as Nvme[]).map((c) => c.name),
        ['NVMe1'],
      );
      allGood(await a.verify({ targets: [0], depths: [8], mebibytes: 4, learn: true, seed: 6 }));
    });

    test('and it can come back', async () => {
      assert.is(await a.vm.qmp.human(`device_add ${large('nvme1')}`), '');
      await a.vm.until(`ls /sys/bus/pci/devices/${pulled}/driver`, 240);
      await a.cli(`setup bind ${pulled}`);
      await a.calls(`construct_nvme_bdev -b NVMe2 -t PCIe -a ${pulled}`, 'add_vhost_scsi_lun vhost.0 1 NVMe2n1');
      allGood(await a.verify({ targets: [1], depths: [8], mebibytes: 4, learn: true, seed: 8 }));
    });
  }

  test('kill -9 under load leaves the devices quiet, and another target goes on', async () => {
    const load = await a.verifyMeanwhile({ targets: [0, 1], depths: [32], seconds: 300, learn: true, seed: 9 });
    await sleep(10_000);
    for (const bdf of [NVME, pulled, HBA]) assert.is(await a.busMaster(bdf), true, bdf);
    await a.endTarget('KILL');
    for (const bdf of [NVME, pulled, HBA]) {
      for (let i = 0; await a.busMaster(bdf); i++) {
        assert.ok(i < 30, `${bdf} may still write to memory`);
        await sleep(500);
      }
    }
    await load.result().catch(() => {}); // its target has gone
    await a.startTarget();
    await attach();
    allGood(await a.verify({ targets: [0, 1], depths: [8], mebibytes: 4, learn: true, seed: 10 }));
    assert.is(await a.endTarget('TERM'), 0);
    for (const bdf of [NVME, pulled, HBA]) assert.is(await a.busMaster(bdf), false, bdf);
  });

  test('given back; a mounted disk is not taken', async () => {
    console.log(await a.cli(`setup reset ${NVME} ${pulled} ${HBA}`));
    await a.vm.until('ls /dev/nvme0n1 /dev/nvme1n1');
    await a.vm.run(
      `disk=/dev/$(basename /sys/bus/pci/devices/${NVME}/nvme/nvme*/nvme*n1) && mkfs.ext4 -q $disk && mount $disk /mnt`,
    );
    const refused = await a.vm.try(`${CLI} setup bind ${NVME}; ${CLI} doctor ${NVME}`, 300);
    console.log(refused.output);
    assert.is(refused.exitCode, 1);
    assert.match(refused.output, /is in use: .*mounted/);
  });

  suiteOf.run();
}

function allGood(run: ServeVerified): void {
  console.log(JSON.stringify(run));
  assert.is(run.lost, 0);
  for (const t of run.targets) {
    assert.equal(t.wrong, [], t.product);
    assert.equal(Object.keys(t.ends), ['GOOD'], t.product);
  }
}

function report(ran: Exercised): void {
  console.log(JSON.stringify({ ...ran, attached: undefined, after: undefined }));
  assert.is(ran.error, undefined);
  for (const disk of ran.disks) {
    assert.equal(disk.wrong, [], disk.name);
    assert.equal(Object.keys(disk.counts), ['OK'], disk.name);
  }
}
