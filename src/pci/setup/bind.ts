import { requireBdf } from '../bdf.ts';
import { usersOf } from './device-users.ts';
import type { Machine } from './machine.ts';

/** Take functions from their kernel drivers, and give them back: driver_override, unbind, probe. */

/** What a function is bound to for the target: VFIO's driver, or none (sysfs mode). */
export type BindDriver = 'vfio-pci' | 'none';

export interface BindResult {
  readonly bdf: string;
  readonly before: string | null;
  readonly after: string | null;
  /** Worth telling. */
  readonly notes: string[];
}

/** A driver name that no driver has: nothing binds the function by itself. */
const NOBODY = 'none';

/** VFIO where the function has an IOMMU group or VFIO can do without one; else no driver at all. */
export function driverFor(machine: Machine, bdf: string): BindDriver {
  if (machine.pci.read(bdf).iommuGroup !== null) return 'vfio-pci';
  return noIommuEnabled(machine) ? 'vfio-pci' : 'none';
}

export function noIommuEnabled(machine: Machine): boolean {
  return machine.text(machine.sys('module/vfio/parameters/enable_unsafe_noiommu_mode')) === 'Y';
}

/** A group that VFIO made up for a function without an IOMMU; it lasts as long as vfio-pci has the function. */
export function isNoIommuGroup(machine: Machine, group: string): boolean {
  return machine.text(machine.sys('kernel/iommu_groups', group, 'name')) === 'vfio-noiommu';
}

export function bind(
  machine: Machine,
  address: string,
  options: { driver?: BindDriver; force?: boolean } = {},
): BindResult {
  const bdf = requireBdf(address);
  const before = machine.pci.read(bdf);
  const notes: string[] = [];
  const blocking = usersOf(machine, bdf).filter((u) => u.blocking);
  if (blocking.length > 0 && options.force !== true) {
    throw new Error(`${bdf} is in use: ${blocking.map((u) => u.what).join('; ')}. Unmount or stop that first`);
  }
  const driver = options.driver ?? driverFor(machine, bdf);
  if (driver === 'vfio-pci') needVfio(machine, bdf);
  if (before.driver === driver || (driver === 'none' && before.driver === null)) {
    return { bdf, before: before.driver, after: before.driver, notes: ['was so already'] };
  }
  override(machine, bdf, driver === 'none' ? NOBODY : driver);
  try {
    unbind(machine, bdf);
    if (driver !== 'none') machine.write(machine.sys('bus/pci/drivers_probe'), bdf);
  } catch (error) {
    throw new Error(`${bdf}: binding to ${driver}: ${(error as Error).message}`, { cause: error });
  }
  const after = machine.pci.read(bdf);
  if (driver !== 'none' && after.driver !== driver) {
    giveBack(machine, bdf);
    throw new Error(
      `${bdf}: ${driver} did not take it (dmesg may say why)${after.iommuGroup === null ? '; there is no IOMMU group: "setup bind --driver none" serves it without VFIO' : ''}`,
    );
  }
  if (driver === 'none') notes.push('no VFIO: the target polls it through sysfs, and nothing confines its DMA');
  notes.push(...groupNotes(machine, bdf));
  return { bdf, before: before.driver, after: after.driver, notes };
}

/** Back to the driver that the kernel picks. */
export function unbindFromTarget(machine: Machine, address: string): BindResult {
  const bdf = requireBdf(address);
  const before = machine.pci.read(bdf);
  giveBack(machine, bdf);
  const after = machine.pci.read(bdf);
  return {
    bdf,
    before: before.driver,
    after: after.driver,
    notes: after.driver === null ? ['no kernel driver wants it'] : [],
  };
}

/** VFIO's driver for the type 1 IOMMU is a module of its own, which nothing loads by itself. */
export const TYPE1_MODULE = 'vfio_iommu_type1';

function needVfio(machine: Machine, bdf: string): void {
  const folder = machine.sys('bus/pci/drivers/vfio-pci');
  const there = () => machine.list(folder).length > 0;
  if (!there()) machine.loadModule('vfio-pci');
  if (machine.pci.read(bdf).iommuGroup !== null && machine.list(machine.sys('module', TYPE1_MODULE)).length === 0) {
    machine.loadModule(TYPE1_MODULE);
  }
  if (there()) return;
  throw new Error(
    `${bdf}: the vfio-pci driver is not there: modprobe vfio-pci, or "setup bind --driver none" to go without VFIO`,
  );
}

function override(machine: Machine, bdf: string, driver: string): void {
  machine.write(machine.sys('bus/pci/devices', bdf, 'driver_override'), `${driver}\n`);
}

function unbind(machine: Machine, bdf: string): void {
  if (machine.pci.read(bdf).driver === null) return;
  machine.write(machine.sys('bus/pci/devices', bdf, 'driver/unbind'), bdf);
}

function giveBack(machine: Machine, bdf: string): void {
  override(machine, bdf, '');
  unbind(machine, bdf);
  machine.write(machine.sys('bus/pci/drivers_probe'), bdf);
}

/** All functions of a group must leave their kernel drivers before VFIO gives any of them out. Bridges don't count. */
function groupNotes(machine: Machine, bdf: string): string[] {
  const others = groupMates(machine, bdf).filter((o) => o.driver !== 'vfio-pci');
  if (others.length === 0) return [];
  return [`its IOMMU group is not viable yet: bind ${others.map((o) => `${o.bdf} (${o.driver})`).join(', ')} too`];
}

/** Functions of the same IOMMU group that a kernel driver has. */
export function groupMates(machine: Machine, bdf: string): { bdf: string; driver: string }[] {
  const group = machine.pci.read(bdf).iommuGroup;
  if (group === null) return [];
  return machine.pci
    .groupMembers(group)
    .filter((other) => other !== bdf)
    .map((other) => machine.pci.read(other))
    .filter((fn) => fn.driver !== null && fn.driver !== 'pcieport' && fn.classCode >> 8 !== 0x0604)
    .map((fn) => ({ bdf: fn.bdf, driver: fn.driver as string }));
}
