/**
 * The appliance's own disks, NVMe and virtio-scsi together: through VFIO with a vIOMMU, and through sysfs alone. Taken by `setup bind`, attached
 * by the lines of SPDK's guide, served to a guest that verifies them, and compared with the images from outside. Without huge pages
 * the drivers get no two pages in a row: what they need must not hang on how a machine's memory lies.
 */
import { assert, suite } from '../support/suite.ts';
import { Appliance, HBA, NVME, SINGLE_PAGES, sha256 } from './appliance-disks.ts';

const test = suite('appliance disks');

const COMPACT = `for i in 1 2 3 4 5; do echo 1 >/proc/sys/vm/compact_memory; sleep 1; done
grep -E 'compact_isolated|pgmigrate_success' /proc/vmstat`;

interface Bdev {
  name: string;
  product_name: string;
  block_size: number;
  num_blocks: number;
}

interface Stat {
  name: string;
  num_read_ops: number;
  num_write_ops: number;
  num_bounced_ops: number;
}

for (const [name, options, mode, bound] of [
  ['VFIO type 1, huge pages', { iommu: true }, 'vfio', 'vfio-pci'],
  ['sysfs, pinned small pages', { hugepages: 0 }, 'sysfs', 'no driver'],
] as const) {
  test(name, async () => {
    const a = await Appliance.boot(options);
    try {
      const said = await a.cli('setup status', `setup bind ${HBA} ${NVME}`, `doctor ${HBA} ${NVME}`);
      console.log(said);
      assert.match(said, /0000:00:06\.0 +1b36:0010 +NVMe.* nvme /);
      assert.match(said, new RegExp(`^${NVME}: nvme -> ${bound}`, 'm'));
      assert.match(said, new RegExp(`^${HBA}: .* -> ${bound}`, 'm'));
      assert.not.match(said, /missing/);

      await a.startTarget('', '', mode === 'sysfs' ? SINGLE_PAGES : '');
      console.log(await a.log());
      const attached = await a.rpc(
        'construct_vhost_scsi_controller --cpumask 0x1 vhost.0',
        `construct_virtio_pci_scsi_bdev ${HBA} VirtioScsi0`,
        `construct_nvme_bdev -b NVMe1 -t PCIe -a ${NVME}`,
        'construct_malloc_bdev 16 512 -b Malloc0',
        'add_vhost_scsi_lun vhost.0 0 VirtioScsi0t0',
        'add_vhost_scsi_lun vhost.0 1 NVMe1n1',
        'add_vhost_scsi_lun vhost.0 2 Malloc0',
      );
      assert.equal(attached.trim().split('\n'), ['VirtioScsi0t0', 'NVMe1n1', 'Malloc0']);
      assert.equal(
        (await a.ask<Bdev[]>('get_bdevs')).map((b) => `${b.name} ${b.product_name} ${b.block_size} ${b.num_blocks}`),
        ['VirtioScsi0t0 Virtio SCSI Disk 512 32768', 'NVMe1n1 NVMe disk 512 32768', 'Malloc0 Malloc disk 512 32768'],
      );
      const verifying = await a.verifyMeanwhile({ targets: [0, 1, 2], depths: [1, 8, 64], mebibytes: 8 });
      // What the devices reach by physical address must not be moved, as unevictable pages else may be.
      if (mode === 'sysfs') console.log(await a.vm.run(COMPACT));
      const run = await verifying.result();
      console.log(JSON.stringify(run));
      assert.is(run.lost, 0);
      for (const t of run.targets) {
        assert.equal(t.wrong, [], t.product);
        assert.equal(Object.keys(t.ends), ['GOOD'], t.product);
      }
      assert.equal(
        run.targets.map((t) => t.product),
        ['Virtio SCSI Disk', 'NVMe disk', 'Malloc disk'],
      );
      assert.is(sha256(a.scsi), run.targets[0]?.sha256, 'the image holds what was written');
      assert.is(sha256(a.nvme[0] as string), run.targets[1]?.sha256, 'the image holds what was written');

      // The devices reach the guest's memory: what is copied is what their commands can't name.
      const [stats, [controller]] = (await a.calls('get_bdevs_iostat', 'get_nvme_controllers')) as [
        { bdevs: Stat[] },
        [{ ctrlrs: [{ access_mode: string; interrupts: boolean; queues: [{ entries: number }] }] }],
      ];
      assert.is(controller.ctrlrs[0].access_mode, mode);
      assert.is(controller.ctrlrs[0].interrupts, mode === 'vfio');
      assert.is(controller.ctrlrs[0].queues[0].entries, mode === 'vfio' ? 128 : 64, 'a page holds 64');
      for (const s of stats.bdevs) {
        const all = s.num_read_ops + s.num_write_ops;
        console.log(`${s.name}: ${all} reads and writes, ${s.num_bounced_ops} bounced`);
        assert.ok(s.num_bounced_ops < all / 2, s.name);
      }

      assert.is(await a.endTarget('INT'), 0);
      assert.is(await a.busMaster(NVME), false);
      assert.is(await a.busMaster(HBA), false);
      console.log(await a.cli(`setup reset ${NVME} ${HBA}`));
      await a.vm.until('ls /dev/nvme0n1');
    } catch (error) {
      (error as Error).message += `\n--- target\n${await a.log().catch(() => '')}`;
      throw error;
    } finally {
      await a.close();
    }
  });
}

test.run();
