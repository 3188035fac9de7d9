import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parseBdf } from './bdf.ts';

/**
 * What the kernel says of the machine's PCI functions (/sys/bus/pci). Read only; the root is a parameter, so that
 * tests and tools look at a made-up tree.
 */

/** Memory or I/O range of a BAR as the kernel has placed it (one line of `resource`). */
export interface PciResource {
  /** BAR number. */
  readonly index: number;
  /** Physical address; exact up to 2^53, which no machine reaches. */
  readonly start: number;
  /** Bytes. */
  readonly size: number;
  readonly io: boolean;
  readonly prefetchable: boolean;
  readonly is64: boolean;
}

export interface PciFunction {
  readonly bdf: string;
  readonly vendor: number;
  readonly device: number;
  readonly subsystemVendor: number;
  readonly subsystemDevice: number;
  /** 24 bits: base class, sub-class, programming interface. */
  readonly classCode: number;
  readonly revision: number;
  /** Name of the kernel driver that has it, or null. */
  readonly driver: string | null;
  readonly driverOverride: string | null;
  /** IOMMU group number, or null without an IOMMU (or before VFIO no-IOMMU has made one). */
  readonly iommuGroup: string | null;
  readonly numaNode: number;
  /** BARs with a size. */
  readonly resources: readonly PciResource[];
  /** Folder in sysfs. */
  readonly path: string;
}

const IORESOURCE_IO = 0x100;
const IORESOURCE_PREFETCH = 0x2000;
const IORESOURCE_MEM_64 = 0x10_0000;

export const PCI_CLASS_NVME = 0x01_0802;

function text(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return null;
  }
}

function hex(path: string): number {
  const value = Number(text(path) ?? 'NaN');
  return Number.isNaN(value) ? 0 : value;
}

function linkName(path: string): string | null {
  try {
    return basename(readlinkSync(path));
  } catch {
    return null;
  }
}

/** Lines `start end flags` in hex, one a BAR; lines of no size are left out. */
export function parseResources(content: string): PciResource[] {
  const found: PciResource[] = [];
  content
    .split('\n')
    .slice(0, 6)
    .forEach((line, index) => {
      const [start, end, flags] = line.trim().split(/\s+/).map(Number);
      if (start === undefined || end === undefined || flags === undefined || flags === 0 || end <= start) return;
      found.push({
        index,
        start,
        size: end - start + 1,
        io: (flags & IORESOURCE_IO) !== 0,
        prefetchable: (flags & IORESOURCE_PREFETCH) !== 0,
        is64: (flags & IORESOURCE_MEM_64) !== 0,
      });
    });
  return found;
}

export class SysfsPci {
  readonly root: string;

  /** @param root what stands for `/sys` */
  constructor(root = '/sys') {
    this.root = root;
  }

  /** Folder of a function; it need not exist. */
  pathOf(bdf: string): string {
    return join(this.root, 'bus/pci/devices', bdf);
  }

  /** Addresses of all functions, in order. Empty on a machine without PCI. */
  list(): string[] {
    try {
      return readdirSync(join(this.root, 'bus/pci/devices'))
        .filter((name) => parseBdf(name) === name)
        .sort();
    } catch {
      return [];
    }
  }

  /** @throws Error ENODEV when there is no such function. */
  read(bdf: string): PciFunction {
    const path = this.pathOf(bdf);
    if (!existsSync(path)) {
      const message = `${bdf}: no such PCI function (${path}); "vvu-target setup status" lists those that are there`;
      throw Object.assign(new Error(message), { code: 'ENODEV' });
    }
    const override = text(join(path, 'driver_override'));
    return {
      bdf,
      vendor: hex(join(path, 'vendor')),
      device: hex(join(path, 'device')),
      subsystemVendor: hex(join(path, 'subsystem_vendor')),
      subsystemDevice: hex(join(path, 'subsystem_device')),
      classCode: hex(join(path, 'class')),
      revision: hex(join(path, 'revision')),
      driver: linkName(join(path, 'driver')),
      driverOverride: override === null || override === '' || override === '(null)' ? null : override,
      iommuGroup: linkName(join(path, 'iommu_group')),
      numaNode: Number(text(join(path, 'numa_node')) ?? -1),
      resources: parseResources(text(join(path, 'resource')) ?? ''),
      path,
    };
  }

  /** All functions of an IOMMU group: they can only be taken together. */
  groupMembers(group: string): string[] {
    try {
      return readdirSync(join(this.root, 'kernel/iommu_groups', group, 'devices')).sort();
    } catch {
      return [];
    }
  }

  /** VFIO's character device for the function alone (`vfio-dev/vfioN`, kernels with iommufd), or null. */
  vfioCdev(bdf: string): string | null {
    try {
      return readdirSync(join(this.pathOf(bdf), 'vfio-dev')).find((n) => /^vfio\d+$/.test(n)) ?? null;
    } catch {
      return null;
    }
  }
}
