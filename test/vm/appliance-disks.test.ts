/**
 * The appliance's own disks, NVMe and virtio-scsi together: through VFIO with a vIOMMU, and through sysfs alone. Bound by `setup`, written and
 * verified by the target's drivers, and compared with the images from outside.
 */
import { assert, suite } from '../support/suite.ts';
import { type Appliance, appliance, CLI, sha256 } from './appliance-disks.ts';

const test = suite('appliance disks');

for (const [name, options, mode] of [
  ['VFIO type 1, huge pages', { iommu: true }, 'vfio'],
  ['sysfs, pinned small pages', { hugepages: 0 }, 'sysfs'],
] as const) {
  test(name, async () => {
    let a: Appliance | undefined;
    try {
      a = await appliance({ ...options, virtioScsi: ['scsi0.img'] });
      const [nvme] = await a.addresses('0x010802');
      const [hba] = await a.addresses('0x010000');
      console.log(await a.vm.run(`${CLI} setup bind ${nvme} ${hba}`, 600));
      const result = await a.exercise({ attach: [{ nvme }, { virtio: hba }] });
      console.log(JSON.stringify({ ...result, attached: undefined, after: undefined }));
      assert.is(result.error, undefined);
      assert.equal(
        result.disks.map((d) => `${d.name} ${d.product} ${d.blockSize} ${d.numBlocks}`),
        ['NVMe0n1 NVMe disk 512 32768', 'VirtioScsi1t0 Virtio SCSI Disk 512 32768'],
      );
      for (const [i, disk] of result.disks.entries()) {
        assert.equal(disk.wrong, []);
        assert.equal(Object.keys(disk.counts), ['OK']);
        assert.is(sha256(a.images[i] as string), disk.sha256, `${disk.name}: the image holds what was written`);
      }
      const [shown] = result.attached as [{ ctrlrs: [{ access_mode: string }] }];
      assert.is(shown.ctrlrs[0].access_mode, mode);
      console.log(await a.vm.run(`${CLI} setup reset ${nvme} ${hba}; ls /dev/nvme0n1`, 600));
    } finally {
      await a?.close();
    }
  });
}

test.run();
