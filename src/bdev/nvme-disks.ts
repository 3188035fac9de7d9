import { type ControllerListener, NvmeController, type NvmeControllerOptions } from '../nvme/controller.ts';
import type { NvmeDevice } from '../nvme/device.ts';
import { PciNvmeDevice } from '../nvme/pci-device.ts';
import type { PciAccess } from '../pci/access.ts';
import { ACCESS_MODES, type AccessMode } from '../pci/access-mode.ts';
import { parseBdf } from '../pci/bdf.ts';
import type { ControlLoop } from '../pci/control-loop.ts';
import type { PciHost } from '../pci/host.ts';
import type { Bdev } from './bdev.ts';
import { BdevError, deviceError } from './errors.ts';
import { NvmeBdev } from './nvme-bdev.ts';
import { checkName } from './options.ts';

/**
 * NVMe controllers by name, on the main thread: attach, detach, and what becomes of their disks meanwhile. Who holds the registry
 * of disks is told by {@link DiskChanges}; a controller is detached when its disks are no longer used.
 */

/** What happens to disks by itself. `device` is the name of the controller or adapter. */
export interface DiskChanges {
  /** A namespace or logical unit appeared on a device that is attached. */
  added(bdev: Bdev, device: string): void;
  /** It has gone, or its device has: end its use, then it is destroyed. */
  removed(bdev: Bdev, device: string): void;
  /** `info.numBlocks` has changed. */
  resized(bdev: Bdev, device: string): void;
  /**
   * The device is lost, its disks were told of before.
   * @param state "removed": nothing is left of it, detach it; "failed": it may be looked at until it is detached
   */
  lost?(device: string, state: 'failed' | 'removed', reason: string): void;
}

/** A controller that was taken, and how it is given back. */
export interface OpenedNvme {
  readonly device: NvmeDevice;
  readonly mode: string;
  release(): void;
}

/** Take the controller at a PCI address. @throws BdevError that says what stands in the way */
export type OpenNvme = (bdf: string, mode?: AccessMode) => OpenedNvme;

export interface AttachNvme {
  /** Name of the controller; disks are NAMEn1, ... */
  name: string;
  /** PCI address. */
  traddr: string;
  /** I/O queue pairs: one a reactor is needed. */
  ioQueues?: number | undefined;
  /** Milliseconds until a command is aborted. */
  timeoutMs?: number | undefined;
  adminTimeoutMs?: number | undefined;
  /** Instead of the access mode that fits how the function is bound. */
  mode?: AccessMode | undefined;
}

interface Attached {
  readonly name: string;
  readonly controller: NvmeController;
  readonly opened: OpenedNvme;
  readonly params: Record<string, unknown>;
  bdevs: NvmeBdev[];
}

export class NvmeDisks {
  private readonly host: PciHost | null;
  private readonly loop: ControlLoop;
  private readonly changes: DiskChanges;
  private readonly open: OpenNvme;
  private readonly attached = new Map<string, Attached>();
  private readonly reserved = new Set<string>();

  /**
   * @param host null in tests, which bring devices of their own
   * @param open in tests, instead of the host
   */
  constructor(host: PciHost | null, loop: ControlLoop, changes: DiskChanges, open?: OpenNvme) {
    this.host = host;
    this.loop = loop;
    this.changes = changes;
    this.open = open ?? ((bdf, mode) => this.openPci(bdf, mode));
  }

  private openPci(bdf: string, mode?: AccessMode): OpenedNvme {
    const { host } = this;
    if (host === null) throw new BdevError('ENOTSUP', 'no PCI here');
    let access: PciAccess;
    try {
      access = host.open(bdf, mode);
    } catch (error) {
      throw deviceError(error, 'EBUSY', 'traddr');
    }
    const release = () => host.release(access);
    try {
      return { device: new PciNvmeDevice(access, host.dma, this.loop), mode: access.mode, release };
    } catch (error) {
      release();
      throw deviceError(error, 'EIO', 'traddr');
    }
  }

  /**
   * @param queues I/O queue pairs where the options name no number
   * @returns one disk a namespace that can be served
   * @throws BdevError that says what stands in the way; the device is then as it was
   */
  async attach(options: AttachNvme, queues?: number): Promise<NvmeBdev[]> {
    const name = checkName(options.name);
    const bdf = parseBdf(options.traddr);
    if (bdf === undefined) {
      throw new BdevError('EINVAL', `traddr "${options.traddr}" is no PCI address: expected 0000:00:06.0`, 'traddr');
    }
    if (options.mode !== undefined && !ACCESS_MODES.includes(options.mode)) {
      throw new BdevError('EINVAL', `mode "${options.mode}": expected one of ${ACCESS_MODES.join(', ')}`, 'mode');
    }
    const params = {
      name,
      trtype: 'PCIe',
      traddr: bdf,
      ...(options.ioQueues === undefined ? {} : { num_io_queues: options.ioQueues }),
      ...(options.timeoutMs === undefined ? {} : { timeout_ms: options.timeoutMs }),
      ...(options.mode === undefined ? {} : { access_mode: options.mode }),
    };
    return this.reserving(name, async () => {
      const opened = this.open(bdf, options.mode);
      try {
        return await this.bringUp(name, opened, { ...options, ioQueues: options.ioQueues ?? queues }, params);
      } catch (error) {
        opened.release();
        throw deviceError(error, 'EIO', 'traddr');
      }
    });
  }

  /** The same for a device that is no PCI function. */
  attachDevice(name: string, device: NvmeDevice, options: Partial<AttachNvme> = {}): Promise<NvmeBdev[]> {
    const opened = { device, mode: 'none', release: () => {} };
    return this.reserving(name, () => this.bringUp(name, opened, options, { name }));
  }

  private async reserving<T>(name: string, work: () => Promise<T>): Promise<T> {
    if (this.attached.has(name) || this.reserved.has(name)) {
      throw new BdevError(
        'EBUSY',
        `NVMe controller ${name} exists already; detach it first or choose another name`,
        'name',
      );
    }
    this.reserved.add(name);
    try {
      return await work();
    } finally {
      this.reserved.delete(name);
    }
  }

  private async bringUp(
    name: string,
    opened: OpenedNvme,
    options: Partial<AttachNvme>,
    params: Record<string, unknown>,
  ): Promise<NvmeBdev[]> {
    const { device } = opened;
    const listener: ControllerListener = {
      namespacesChanged: () => this.compare(name),
      lost: (controller, reason) => this.lost(name, controller.state === 'removed' ? 'removed' : 'failed', reason),
    };
    const controller = new NvmeController(device, this.loop, listener, controllerOptions(options));
    await new Promise<void>((resolve, reject) => {
      controller.start((error) => (error === null ? resolve() : reject(error)));
    });
    const entry: Attached = { name, controller, opened, params, bdevs: [] };
    try {
      entry.bdevs = controller.namespaces.map((namespace) => new NvmeBdev(this.partsOf(entry), namespace));
      if (entry.bdevs.length === 0) {
        const why = controller.refused.length > 0 ? controller.refused.join('; ') : 'it has no namespaces';
        throw new BdevError('ENODEV', `${device.name}: nothing to serve: ${why}`, 'traddr');
      }
    } catch (error) {
      await new Promise<void>((resolve) => controller.shutdown(resolve));
      throw error;
    }
    this.attached.set(name, entry);
    return [...entry.bdevs];
  }

  private partsOf({ name, controller, params }: Attached) {
    return { controllerName: name, controller, params, dmaTable: this.host?.table.shared ?? null };
  }

  /** Disks of a controller. @throws BdevError when there is no such controller */
  disks(name: string): readonly NvmeBdev[] {
    return this.get(name).bdevs;
  }

  private get(name: string): Attached {
    const entry = this.attached.get(name);
    if (entry !== undefined) return entry;
    const names = [...this.attached.keys()].join(', ');
    throw new BdevError(
      'ENODEV',
      `no NVMe controller is called ${name}; ${names === '' ? 'there are none' : `there are ${names}`}`,
      'name',
    );
  }

  /** Shut it down and give the device back. Its disks must not be used any more. */
  async detach(name: string): Promise<void> {
    const entry = this.get(name);
    this.attached.delete(name);
    this.reserved.add(name);
    try {
      await new Promise<void>((resolve) => entry.controller.shutdown(resolve));
    } finally {
      entry.opened.release();
      this.reserved.delete(name);
    }
  }

  /** Reset a controller under load. @throws BdevError */
  reset(name: string): void {
    this.get(name).controller.reset('asked by the operator');
  }

  /** As bdev_nvme_get_controllers shows them. @throws BdevError */
  describe(name?: string): Record<string, unknown>[] {
    const wanted = name === undefined ? [...this.attached.values()] : [this.get(name)];
    return wanted.map(({ name: called, controller, opened, bdevs }) => ({
      name: called,
      ctrlrs: [
        {
          ...controller.dump(),
          state: controller.state === 'ready' ? 'enabled' : controller.state,
          trid: { trtype: 'PCIe', traddr: controller.name },
          cntlid: 0,
          access_mode: opened.mode,
          namespaces: bdevs.map((b) => b.info.name),
        },
      ],
    }));
  }

  get names(): string[] {
    return [...this.attached.keys()];
  }

  /** What the controller says now against the disks there are. */
  private compare(name: string): void {
    const entry = this.attached.get(name);
    if (entry === undefined) return;
    const { controller } = entry;
    for (const bdev of [...entry.bdevs]) {
      if (!controller.namespaces.some((namespace) => bdev.is(namespace))) {
        entry.bdevs.splice(entry.bdevs.indexOf(bdev), 1);
        this.changes.removed(bdev, name);
      } else if (bdev.rescan()) this.changes.resized(bdev, name);
    }
    for (const namespace of controller.namespaces) {
      if (entry.bdevs.some((bdev) => bdev.nsid === namespace.nsid)) continue;
      const bdev = new NvmeBdev(this.partsOf(entry), namespace);
      entry.bdevs.push(bdev);
      this.changes.added(bdev, name);
    }
  }

  /** Its channels end everything by themselves; the disks go. The controller stays in the list, lost, until it is detached. */
  private lost(name: string, state: 'failed' | 'removed', reason: string): void {
    const entry = this.attached.get(name);
    if (entry === undefined) return; // it is being detached
    for (const bdev of entry.bdevs.splice(0)) this.changes.removed(bdev, name);
    this.changes.lost?.(name, state, reason);
  }

  async close(): Promise<void> {
    for (const name of this.names) await this.detach(name);
  }
}

function controllerOptions(options: Partial<AttachNvme>): NvmeControllerOptions {
  return {
    ...(options.ioQueues === undefined ? {} : { ioQueues: options.ioQueues }),
    ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
    ...(options.adminTimeoutMs === undefined ? {} : { adminTimeoutMs: options.adminTimeoutMs }),
  };
}
