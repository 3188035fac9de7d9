import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { logger } from '../sys/log.ts';
import type { PciAccess } from './access.ts';
import type { AccessMode } from './access-mode.ts';
import { requireBdf } from './bdf.ts';
import type { ControlLoop } from './control-loop.ts';
import { type DmaMapper, MapperKind } from './dma-mapper.ts';
import { DmaMemory } from './dma-memory.ts';
import { DmaMemoryRegistry } from './dma-memory-registry.ts';
import { DmaTable } from './dma-table.ts';
import { Guard } from './guard.ts';
import { type PciFunction, SysfsPci } from './sysfs.ts';
import { SysfsAccess } from './sysfs-access.ts';
import { VfioAccess } from './vfio-access.ts';
import { IommufdHome, VfioContainer, type VfioHome } from './vfio-container.ts';
import type { Ioctl } from './vfio-device.ts';

const log = logger('pci');

/**
 * The process's PCI functions and DMA memory: what its devices share. Main thread, one a process.
 */
export interface PciHostOptions {
  /** What stands for /sys and /dev. */
  sysfs?: string;
  dev?: string;
  /** false: small pages even where there are huge ones. */
  hugepages?: boolean;
  /** What stands for the kernel's VFIO. */
  vfio?: { ioctl: Ioctl; mapper: DmaMapper };
}

interface Open {
  readonly access: PciAccess;
  /** Of VFIO's modes. */
  readonly home: VfioHome | null;
  readonly group: string;
}

export class PciHost {
  readonly sysfs: SysfsPci;
  readonly table: DmaTable;
  readonly registry: DmaMemoryRegistry;
  readonly dma: DmaMemory;
  readonly loop: ControlLoop;
  private readonly dev: string;
  private readonly vfio: PciHostOptions['vfio'];
  private readonly guard: Guard;
  private readonly open_ = new Map<string, Open>();
  private readonly homes = new Map<AccessMode, VfioHome>();

  constructor(loop: ControlLoop, options: PciHostOptions = {}) {
    this.loop = loop;
    this.sysfs = new SysfsPci(options.sysfs);
    this.dev = options.dev ?? '/dev';
    this.vfio = options.vfio;
    this.guard = new Guard(options.sysfs);
    this.table = new DmaTable(undefined, options.vfio?.mapper);
    this.registry = new DmaMemoryRegistry(this.table);
    this.dma = new DmaMemory(this.registry, {
      ...(options.hugepages === undefined ? {} : { hugepages: options.hugepages }),
      onArenas: (fds) => this.guard.setMemory(fds),
    });
  }

  /**
   * Take a function.
   * @param mode instead of the one that fits how the function is bound
   * @throws Error that says what stands in the way, and the next step
   */
  open(address: string, mode?: AccessMode): PciAccess {
    const bdf = requireBdf(address);
    if (this.open_.has(bdf)) throw new Error(`${bdf}: this process drives it already`);
    const fn = this.sysfs.read(bdf);
    const chosen = mode ?? chooseMode(fn, this.sysfs, this.dev);
    const open =
      chosen === 'sysfs'
        ? { access: new SysfsAccess(this.sysfs, bdf), home: null, group: '' }
        : this.openVfio(fn, chosen);
    this.open_.set(bdf, open);
    log('%s: %s, %d MSI-X vectors', bdf, chosen, open.access.msixVectors);
    this.tellGuard();
    return open.access;
  }

  private openVfio(fn: PciFunction, mode: AccessMode): Open {
    if (fn.driver !== 'vfio-pci') {
      const what = fn.driver === null ? 'no driver has' : `the kernel driver ${fn.driver} has`;
      throw new Error(`${fn.bdf}: ${what} the device, not vfio-pci; "vvu-target setup bind ${fn.bdf}" binds it`);
    }
    const group = fn.iommuGroup;
    if (group === null && mode !== 'vfio-iommufd') throw new Error(`${fn.bdf}: it is in no IOMMU group`);
    const home = this.home(mode);
    try {
      const device = home.openDevice(
        fn.bdf,
        group ?? '',
        group === null ? [] : this.sysfs.groupMembers(group),
        this.sysfs.vfioCdev(fn.bdf),
      );
      try {
        this.adoptPlace(home, fn.bdf);
        return { access: new VfioAccess(fn, device, mode), home, group: group ?? '' };
      } catch (error) {
        device.fd.close();
        home.closeDevice(group ?? '');
        throw error;
      }
    } catch (error) {
      this.leave(home);
      throw error;
    }
  }

  /** A home without devices is given up: it holds groups that the kernel's drivers may want. */
  private leave(home: VfioHome): void {
    if (!home.idle) return;
    const mine = home.place.kind !== MapperKind.NONE && this.table.place.fd === home.place.fd;
    if (mine) {
      this.registry.unmapAll();
      if (this.table.count > 0) return; // reactors still map for devices that go around the IOMMU
      this.table.setPlace({ kind: MapperKind.NONE, fd: -1, ioas: 0 });
    }
    for (const [mode, at] of this.homes) if (at === home) this.homes.delete(mode);
    home.close();
  }

  private home(mode: AccessMode): VfioHome {
    let home = this.homes.get(mode);
    if (home === undefined) {
      home =
        mode === 'vfio-iommufd'
          ? new IommufdHome(this.dev, this.vfio?.ioctl)
          : new VfioContainer(mode === 'vfio-noiommu', this.dev, this.vfio?.ioctl);
      this.homes.set(mode, home);
    }
    return home;
  }

  /** The first device behind an IOMMU decides where this process's memory is mapped. */
  private adoptPlace(home: VfioHome, bdf: string): void {
    const wanted = home.place;
    const now = this.table.place;
    if (wanted.kind === MapperKind.NONE || now.fd === wanted.fd) return;
    if (now.kind !== MapperKind.NONE)
      throw new Error(`${bdf}: devices through VFIO groups and through iommufd can't be mixed`);
    this.table.setPlace(wanted);
    const reason = this.registry.mapAll();
    if (reason !== null) throw new Error(`${bdf}: ${reason}`);
  }

  /** Give a function back, quiet. */
  release(access: PciAccess): void {
    const open = this.open_.get(access.bdf);
    access.close();
    if (open?.access !== access) return;
    this.open_.delete(access.bdf);
    if (open.home !== null) {
      open.home.closeDevice(open.group);
      this.leave(open.home);
    }
    this.tellGuard();
  }

  private tellGuard(): void {
    const bare = this.functions.filter((a) => a.mode === 'sysfs' || a.mode === 'vfio-noiommu');
    this.guard.setFunctions(bare.map((a) => a.bdf));
  }

  get functions(): readonly PciAccess[] {
    return [...this.open_.values()].map(({ access }) => access);
  }

  /** Functions first, then the memory that they could have touched. */
  close(): void {
    for (const access of this.functions) this.release(access);
    this.dma.close();
    for (const home of this.homes.values()) home.close();
    this.homes.clear();
    this.guard.close();
  }
}

/** The access mode that fits how a function is bound. @throws Error when it is bound to a kernel driver that works with it */
export function chooseMode(fn: PciFunction, sysfs: SysfsPci, dev = '/dev'): AccessMode {
  if (fn.driver !== 'vfio-pci') return 'sysfs'; // which refuses drivers at work by name
  const group = fn.iommuGroup;
  if (group !== null && existsSync(join(dev, 'vfio', `noiommu-${group}`))) return 'vfio-noiommu';
  if (group !== null && existsSync(join(dev, 'vfio', group))) return 'vfio';
  if (sysfs.vfioCdev(fn.bdf) !== null && existsSync(join(dev, 'iommu'))) return 'vfio-iommufd';
  const why =
    group === null
      ? 'it is in no IOMMU group: there is no IOMMU, and VFIO no-IOMMU was off when it was bound'
      : `/dev/vfio/${group} is not there`;
  throw new Error(`${fn.bdf}: bound to vfio-pci, but ${why}; "vvu-target doctor ${fn.bdf}" says more`);
}
