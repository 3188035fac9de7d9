/**
 * VFIO without an IOMMU: what doctor says of a kernel that leaves it out, as Debian's do, and of one that has it; and there both disks,
 * driven with interrupts through vfio-pci. The module is built first, from the kernel's source (some 250 MiB to fetch, once).
 */
import { noIommuModules } from '../../vm/noiommu-module.ts';
import { assert, suite } from '../support/suite.ts';
import { Appliance, CLI, HBA, NVME, sha256 } from './appliance-disks.ts';

const test = suite('appliance disks, VFIO no-IOMMU');
const PARAMETER = '/sys/module/vfio/parameters/enable_unsafe_noiommu_mode';

async function withAppliance(modules: Record<string, string>, body: (a: Appliance) => Promise<void>): Promise<void> {
  const a = await Appliance.boot({ image: { modules } });
  try {
    await body(a);
  } finally {
    await a.close();
  }
}

/** What doctor prints; it ends with 1 where something is missing. */
async function doctor(a: Appliance, ...bdfs: string[]): Promise<string> {
  const { output } = await a.vm.try(`${CLI} doctor ${bdfs.join(' ')}`, 300);
  return output;
}

test('a kernel without the option: doctor says so, and setup leaves the functions to sysfs', () =>
  withAppliance({}, async (a) => {
    const nvme = NVME;
    assert.match(await doctor(a), /VFIO is not loaded, which would show[^\n]*no-IOMMU[^\n]*\n\s+-> modprobe vfio-pci/);
    await a.vm.run('modprobe vfio-pci');
    const said = await doctor(a);
    console.log(said);
    assert.match(said, /note {5}this kernel has no VFIO no-IOMMU \(CONFIG_VFIO_NOIOMMU, which Debian leaves out\)/);
    const bound = await a.vm.run(`${CLI} setup bind ${nvme}`, 300);
    assert.match(bound, /no VFIO: the target polls it through sysfs/);
    assert.match(await doctor(a, nvme), /can be attached: polled through sysfs/);
    // Against advice: the driver does not take it, and the function goes back to the kernel's.
    const forced = await a.vm.try(`${CLI} setup reset ${nvme}; ${CLI} setup bind --driver vfio-pci ${nvme}`, 300);
    assert.match(forced.output, /vfio-pci did not take it[^\n]*--driver none/);
    assert.is(forced.exitCode, 1);
    await a.vm.until('ls /dev/nvme0n1');
  }));

test('a kernel with it: doctor leads there, setup binds vfio-pci, and the disks hold what is written', async () =>
  withAppliance(await noIommuModules(), async (a) => {
    const [nvme, hba] = [NVME, HBA];
    await a.vm.run('modprobe vfio-pci');
    const off = await doctor(a);
    assert.match(off, /note {5}VFIO no-IOMMU is off; without it devices are polled through sysfs/);
    const fix = new RegExp(`-> (echo 1 > ${PARAMETER})`).exec(off)?.[1];
    assert.ok(fix, off);
    await a.vm.run(fix as string);
    assert.match(await doctor(a), /ok {7}VFIO no-IOMMU is on: devices are driven with interrupts/);

    console.log(await a.vm.run(`${CLI} setup bind ${nvme} ${hba}; ls /dev/vfio`, 600));
    const said = await doctor(a, nvme, hba);
    console.log(said);
    assert.match(said, `${nvme} can be attached: in mode vfio-noiommu`);
    assert.match(said, `${hba} can be attached: in mode vfio-noiommu`);
    assert.not.match(said, 'iommu_platform');

    const result = await a.exercise({ attach: [{ nvme }, { virtio: hba }] });
    console.log(JSON.stringify({ ...result, after: undefined }));
    assert.is(result.error, undefined);
    assert.equal(
      result.disks.map((d) => `${d.name} ${d.product} ${d.blockSize} ${d.numBlocks}`),
      ['NVMe0n1 NVMe disk 512 32768', 'VirtioScsi1t0 Virtio SCSI Disk 512 32768'],
    );
    const images = [...a.nvme, a.scsi];
    for (const [i, disk] of result.disks.entries()) {
      assert.equal(disk.wrong, []);
      assert.equal(Object.keys(disk.counts), ['OK']);
      assert.is(sha256(images[i] as string), disk.sha256, `${disk.name}: the image holds what was written`);
    }
    const [shown, adapter] = result.attached as [
      { ctrlrs: [{ access_mode: string; interrupts: boolean }] },
      { virtio: { interrupts: boolean } },
    ];
    assert.is(shown.ctrlrs[0].access_mode, 'vfio-noiommu');
    // Of the modes without an IOMMU only this one has interrupts.
    assert.ok(shown.ctrlrs[0].interrupts && adapter.virtio.interrupts);
    // Given back: the kernel's driver works with it.
    await a.vm.run(`${CLI} setup reset ${nvme} ${hba}`, 600);
    await a.vm.until('ls /dev/nvme0n1');
  }));

test.run();
