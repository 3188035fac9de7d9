/** NVMe in the appliance: through VFIO with a vIOMMU, and through sysfs alone. */
import { assert, suite } from '../support/suite.ts';
import { type Appliance, appliance, CLI, sha256 } from './appliance-disks.ts';

const test = suite('appliance nvme');

for (const [name, options, mode] of [
  ['VFIO type 1, huge pages', { iommu: true, vfio: 'modprobe vfio-pci' }, 'vfio'],
  ['sysfs, pinned small pages', { hugepages: 0 }, 'sysfs'],
] as const) {
  test(name, async () => {
    let a: Appliance | undefined;
    try {
      a = await appliance(options);
      const [bdf] = await a.addresses('0x010802');
      console.log(await a.vm.run(`${CLI} setup bind ${bdf}`, 600));
      const result = await a.exercise({ attach: [{ nvme: bdf }] });
      console.log(JSON.stringify({ ...result, attached: undefined, after: undefined }));
      assert.is(result.error, undefined);
      const [disk] = result.disks;
      assert.equal(disk?.wrong, []);
      assert.equal(Object.keys(disk?.counts ?? {}), ['OK']);
      const [shown] = result.attached as [{ ctrlrs: [{ access_mode: string }] }];
      assert.is(shown.ctrlrs[0].access_mode, mode);
      assert.is(sha256(a.images[0] as string), disk?.sha256, 'the image holds what was written');
      console.log(await a.vm.run(`${CLI} setup reset ${bdf}; ls /dev/nvme0n1`, 600));
    } finally {
      await a?.close();
    }
  });
}

test.run();
