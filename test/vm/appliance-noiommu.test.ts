/**
 * VFIO without an IOMMU: what doctor says of a kernel that leaves it out, as Debian's do, and of one that has it; and there both disks,
 * driven with interrupts through vfio-pci. The module is built first, from the kernel's source (some 250 MiB to fetch, once).
 */
import { noIommuModules } from '../../vm/noiommu-module.ts';
import { assert, suite } from '../support/suite.ts';
import { Appliance, HBA, NVME, sha256 } from './appliance-disks.ts';

const test = suite('appliance disks, VFIO no-IOMMU');
const PARAMETER = '/sys/module/vfio/parameters/enable_unsafe_noiommu_mode';

async function withAppliance(modules: Record<string, string>, body: (a: Appliance) => Promise<void>): Promise<void> {
  const a = await Appliance.boot({ image: { modules } });
  try {
    await body(a);
  } catch (error) {
    (error as Error).message += `\n--- target\n${await a.log().catch(() => '')}`;
    throw error;
  } finally {
    await a.close();
  }
}

test('a kernel without the option: doctor says so, and setup leaves the functions to sysfs', () =>
  withAppliance({}, async (a) => {
    assert.match(
      await a.cli('doctor'),
      /VFIO is not loaded, which would show[^\n]*no-IOMMU[^\n]*\n\s+-> modprobe vfio-pci/,
    );
    await a.vm.run('modprobe vfio-pci');
    const said = await a.cli('doctor', `setup bind ${NVME}`, `doctor ${NVME}`);
    console.log(said);
    assert.match(said, /note {5}this kernel has no VFIO no-IOMMU \(CONFIG_VFIO_NOIOMMU, which Debian leaves out\)/);
    assert.match(said, /no VFIO: the target polls it through sysfs/);
    assert.match(said, /can be attached: polled through sysfs/);
    // Against advice: the driver does not take it, and the function goes back to the kernel's.
    const refusal = await a.cli(`setup reset ${NVME}`, `setup bind --driver vfio-pci ${NVME}`).then(
      () => 'it was bound',
      (error: Error) => error.message,
    );
    assert.match(refusal, /vfio-pci did not take it[^\n]*--driver none/);
    await a.vm.until('ls /dev/nvme0n1');
  }));

test('a kernel with it: doctor leads there, setup binds vfio-pci, and the disks hold what is written', async () =>
  withAppliance(await noIommuModules(), async (a) => {
    await a.vm.run('modprobe vfio-pci');
    const off = await a.cli('doctor');
    assert.match(off, /note {5}VFIO no-IOMMU is off; without it devices are polled through sysfs/);
    const fix = new RegExp(`-> (echo 1 > ${PARAMETER})`).exec(off)?.[1];
    assert.ok(fix, off);
    await a.vm.run(fix as string);

    const said = await a.cli(`setup bind ${HBA} ${NVME}`, `doctor ${HBA} ${NVME}`);
    console.log(said);
    assert.match(said, /ok {7}VFIO no-IOMMU is on: devices are driven with interrupts/);
    assert.match(said, new RegExp(`^${NVME}: nvme -> vfio-pci`, 'm'));
    assert.match(said, `${NVME} can be attached: in mode vfio-noiommu`);
    assert.match(said, `${HBA} can be attached: in mode vfio-noiommu`);
    assert.not.match(said, /missing|iommu_platform/);

    await a.startTarget();
    await a.rpc(
      'construct_vhost_scsi_controller --cpumask 0x1 vhost.0',
      `construct_virtio_pci_scsi_bdev ${HBA} VirtioScsi0`,
      `construct_nvme_bdev -b NVMe1 -t PCIe -a ${NVME}`,
      'add_vhost_scsi_lun vhost.0 0 VirtioScsi0t0',
      'add_vhost_scsi_lun vhost.0 1 NVMe1n1',
    );
    const [controller] =
      await a.ask<[{ ctrlrs: [{ access_mode: string; interrupts: boolean }] }]>('get_nvme_controllers');
    assert.is(controller.ctrlrs[0].access_mode, 'vfio-noiommu');
    assert.is(controller.ctrlrs[0].interrupts, true);

    const run = await a.verify({ targets: [0, 1], depths: [1, 8, 64], mebibytes: 16 });
    console.log(JSON.stringify(run));
    assert.is(run.lost, 0);
    for (const t of run.targets) {
      assert.equal(t.wrong, [], t.product);
      assert.equal(Object.keys(t.ends), ['GOOD'], t.product);
    }
    assert.is(sha256(a.scsi), run.targets[0]?.sha256, 'the image holds what was written');
    assert.is(sha256(a.nvme[0] as string), run.targets[1]?.sha256, 'the image holds what was written');

    assert.is(await a.endTarget('INT'), 0);
    assert.is(await a.busMaster(NVME), false);
    assert.is(await a.busMaster(HBA), false);
    await a.cli(`setup reset ${NVME} ${HBA}`);
    await a.vm.until('ls /dev/nvme0n1');
  }));

test.run();
