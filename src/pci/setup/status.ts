import { PCI_CLASS_NVME, type PciFunction } from '../sysfs.ts';
import { usersOf } from './device-users.ts';
import type { Machine } from './machine.ts';

/** What there is: functions that the target can drive (or all), with driver, IOMMU group and users. */

export interface DeviceStatus {
  readonly bdf: string;
  readonly ids: string;
  readonly kind: string;
  readonly driver: string;
  readonly group: string;
  readonly users: string[];
}

const VIRTIO_VENDOR = 0x1af4;
/** Virtio types (virtio 1.2 §5) that the target drives: its disks, and the ways to a compute VM. */
const VIRTIO_TYPES = new Map([
  [8, 'virtio-scsi'],
  [24, 'virtio-vhost-user or virtio-mem'],
  [43, 'virtio-vhost-user'],
  [61, 'virtio-vhost-user'],
]);

/** The virtio type of a function, or undefined: transitional ids are below 0x1040, and the type is the subsystem's id (§4.1.2). */
export function virtioType(fn: PciFunction): number | undefined {
  if (fn.vendor !== VIRTIO_VENDOR || fn.device < 0x1000 || fn.device > 0x107f) return undefined;
  return fn.device >= 0x1040 ? fn.device - 0x1040 : fn.subsystemDevice;
}

/** undefined for functions that are none of ours */
export function kindOf(fn: PciFunction): string | undefined {
  if (fn.classCode === PCI_CLASS_NVME) return 'NVMe';
  const type = virtioType(fn);
  return type === undefined ? undefined : VIRTIO_TYPES.get(type);
}

export function deviceStatus(machine: Machine, all = false): DeviceStatus[] {
  return machine.pci.list().flatMap((bdf) => {
    const fn = machine.pci.read(bdf);
    const kind = kindOf(fn);
    if (kind === undefined && !all) return [];
    const hex = (n: number) => n.toString(16).padStart(4, '0');
    return [
      {
        bdf,
        ids: `${hex(fn.vendor)}:${hex(fn.device)}`,
        kind: kind ?? `class ${fn.classCode.toString(16).padStart(6, '0')}`,
        driver: fn.driver ?? '-',
        group: fn.iommuGroup ?? '-',
        users: usersOf(machine, bdf).map((u) => u.what),
      },
    ];
  });
}
