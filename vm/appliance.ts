/**
 * The appliance VM: the machine whose own PCI functions a target inside it drives. It has Node, the built project under
 * /opt/vvu-target, and by choice a vIOMMU, NVMe and virtio-scsi disks.
 */
import { type ApplianceOptions, applianceImage, projectFiles } from './images.ts';
import { Machine, type MachineOptions } from './machine.ts';
import { kernel } from './packages.ts';
import { PROJECT } from './paths.ts';
import { type QemuKind, qemu } from './qemu.ts';
import { ensureBuilt } from './target-process.ts';
import { vmlinux } from './vmlinux.ts';

export interface ApplianceMachine extends Omit<MachineOptions, 'qemu' | 'kernel'> {
  qemu: QemuKind;
  /** Give the guest an IOMMU, so that VFIO works in its full form (type 1). */
  iommu?: boolean;
  /** Raw images to attach as NVMe controllers with one namespace each; serial numbers NVME0, NVME1 ... */
  nvme?: string[];
  /** Raw images to attach as disks of one virtio-scsi-pci adapter, at targets 0, 1 ... */
  virtioScsi?: string[];
  image?: ApplianceOptions;
  append?: string;
}

/** Where the disks' functions lie: the virtio-scsi adapter, and the first NVMe controller. */
export const HBA = '0000:00:05.0';
export const NVME = '0000:00:06.0';

/** Makes 2 MiB pages available and lists what is there; for the guest's shell. */
export const HUGEPAGES = (count: number) =>
  `echo ${count} >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages && grep -i ^hugepages_ /proc/meminfo`;

/** Fetches and builds what an appliance VM under QEMU 11 needs, so that starting one is quick; returns QEMU's version. */
export async function prepareAppliance(): Promise<string> {
  await ensureBuilt();
  await vmlinux(await kernel());
  await applianceImage();
  return (await qemu('11')).version.join('.');
}

/** Starts an appliance VM; its guest is only about to boot then. */
export async function startAppliance(options: ApplianceMachine): Promise<Machine> {
  const { iommu, nvme = [], virtioScsi = [], image = {}, append, ...rest } = options;
  await ensureBuilt();
  const args = [...(rest.args ?? [])];
  // A virtio device goes around the IOMMU unless it is told not to.
  const behind = iommu ? ',iommu_platform=on,disable-legacy=on' : '';
  if (iommu) args.unshift('-device', 'intel-iommu,intremap=on,aw-bits=48');
  const drive = (id: string, file: string) =>
    args.push('-drive', `if=none,id=${id},file=${file},format=raw,cache=writeback`);
  nvme.forEach((file, i) => {
    drive(`nvme${i}`, file);
    const slot = i === 0 ? `,addr=${NVME.slice(8)}` : '';
    args.push('-device', `nvme,id=nvme-${i},drive=nvme${i},serial=NVME${i}${slot}`);
  });
  if (virtioScsi.length > 0) args.push('-device', `virtio-scsi-pci,id=hba,addr=${HBA.slice(8)}${behind}`);
  virtioScsi.forEach((file, i) => {
    drive(`scsi${i}`, file);
    args.push('-device', `scsi-hd,bus=hba.0,scsi-id=${i},drive=scsi${i}`);
  });
  const initrd = await applianceImage({ ...image, files: { ...projectFiles(PROJECT), ...image.files } });
  const words = [iommu ? 'intel_iommu=on' : '', append ?? ''].join(' ').trim();
  return Machine.start({
    memoryMiB: 1024,
    ...(iommu ? { machine: 'kernel-irqchip=split' } : {}),
    ...rest,
    args,
    qemu: await qemu(options.qemu),
    kernel: { image: await vmlinux(await kernel()), initrd, append: words },
  });
}
