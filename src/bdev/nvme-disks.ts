import { type ControllerListener, NvmeController, type NvmeControllerOptions } from '../nvme/controller.ts';
import type { NvmeDevice } from '../nvme/device.ts';
import { PciNvmeDevice } from '../nvme/pci-device.ts';
import type { AccessMode } from '../pci/access-mode.ts';
import type { ControlLoop } from '../pci/control-loop.ts';
import type { PciHost } from '../pci/host.ts';
import { type Attached, AttachedDevices, DeviceNames, type DiskChanges, nothingToServe } from './attached-devices.ts';
import { NvmeBdev } from './nvme-bdev.ts';
import { checkName } from './options.ts';
import { checkPciPlace, takeFunction } from './pci-function.ts';

/** NVMe controllers by name, on the main thread: attach, detach, and what becomes of their disks meanwhile. */

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

interface Controller extends Attached<NvmeBdev> {
  readonly controller: NvmeController;
  readonly mode: string;
}

export class NvmeDisks extends AttachedDevices<NvmeBdev, Controller> {
  private readonly host: PciHost | null;
  private readonly loop: ControlLoop;
  private readonly open: OpenNvme;

  /**
   * @param host null in tests, which bring devices of their own
   * @param open in tests, instead of the host
   * @param names shared with the other families
   */
  constructor(
    host: PciHost | null,
    loop: ControlLoop,
    changes: DiskChanges,
    open?: OpenNvme,
    names: DeviceNames = new DeviceNames(),
  ) {
    super('NVMe controller', changes, names);
    this.host = host;
    this.loop = loop;
    this.open = open ?? ((bdf, mode) => this.openPci(bdf, mode));
  }

  private openPci(bdf: string, mode?: AccessMode): OpenedNvme {
    const taken = takeFunction(
      this.host,
      bdf,
      mode,
      'EIO',
      (access, { dma }) => new PciNvmeDevice(access, dma, this.loop),
    );
    return { device: taken.driver, mode: taken.mode, release: taken.release };
  }

  /**
   * @param queues I/O queue pairs where the options name no number
   * @returns one disk a namespace that can be served
   * @throws BdevError that says what stands in the way; the device is then as it was
   */
  async attach(options: AttachNvme, queues?: number): Promise<NvmeBdev[]> {
    const name = checkName(options.name);
    return this.named(name, async () => {
      const bdf = checkPciPlace(options, '0000:00:06.0');
      const params = {
        name,
        trtype: 'PCIe',
        traddr: bdf,
        ...(options.ioQueues === undefined ? {} : { num_io_queues: options.ioQueues }),
        ...(options.timeoutMs === undefined ? {} : { timeout_ms: options.timeoutMs }),
        ...(options.mode === undefined ? {} : { access_mode: options.mode }),
      };
      const opened = this.open(bdf, options.mode);
      return this.start(name, opened, { ...options, ioQueues: options.ioQueues ?? queues }, params);
    });
  }

  /** The same for a device that is no PCI function. */
  attachDevice(name: string, device: NvmeDevice, options: Partial<AttachNvme> = {}): Promise<NvmeBdev[]> {
    const opened = { device, mode: 'none', release: () => {} };
    return this.named(name, () => this.start(name, opened, options, { name }));
  }

  private start(
    name: string,
    opened: OpenedNvme,
    options: Partial<AttachNvme>,
    params: Record<string, unknown>,
  ): Promise<NvmeBdev[]> {
    const listener: ControllerListener = {
      namespacesChanged: () => this.compare(name),
      lost: (lost, reason) => this.lost(name, lost.state === 'removed' ? 'removed' : 'failed', reason),
    };
    const { device, mode, release } = opened;
    const controller = this.driverOf(
      opened,
      () => new NvmeController(device, this.loop, listener, controllerOptions(options)),
    );
    const shutdown = () => new Promise<void>((resolve) => controller.shutdown(resolve));
    const entry: Controller = { name, controller, mode, params, bdevs: [], shutdown, release };
    const start = () =>
      new Promise<void>((resolve, reject) => {
        controller.start((error) => (error === null ? resolve() : reject(error)));
      });
    return this.bringUp(entry, start, () => {
      const { namespaces, refused } = controller;
      if (namespaces.length === 0) throw nothingToServe(device.name, refused, 'it has no namespaces');
      return namespaces.map((namespace) => new NvmeBdev(this.partsOf(entry), namespace));
    });
  }

  private partsOf({ name, controller, params }: Controller) {
    return { controllerName: name, controller, params, dmaTable: this.host?.table.shared ?? null };
  }

  /** Reset a controller under load. @throws BdevError */
  reset(name: string): void {
    this.get(name).controller.reset('asked by the operator');
  }

  /** As bdev_nvme_get_controllers shows them. @throws BdevError */
  describe(name?: string): Record<string, unknown>[] {
    return this.some(name).map(({ name: called, controller, mode, bdevs }) => ({
      name: called,
      ctrlrs: [
        {
          ...controller.dump(),
          state: controller.state === 'ready' ? 'enabled' : controller.state,
          trid: { trtype: 'PCIe', traddr: controller.name },
          cntlid: 0,
          access_mode: mode,
          namespaces: bdevs.map((b) => b.info.name),
        },
      ],
    }));
  }

  /** What the controller says now against the disks there are. */
  private compare(name: string): void {
    const entry = this.attached.get(name);
    if (entry === undefined) return;
    const { controller } = entry;
    for (const bdev of [...entry.bdevs]) {
      if (!controller.namespaces.some((namespace) => bdev.is(namespace))) this.diskWent(entry, bdev);
      else if (bdev.rescan()) this.changes.resized(bdev, name);
    }
    for (const namespace of controller.namespaces) {
      if (entry.bdevs.some((bdev) => bdev.nsid === namespace.nsid)) continue;
      this.diskCame(entry, new NvmeBdev(this.partsOf(entry), namespace));
    }
  }
}

function controllerOptions(options: Partial<AttachNvme>): NvmeControllerOptions {
  return {
    ...(options.ioQueues === undefined ? {} : { ioQueues: options.ioQueues }),
    ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
    ...(options.adminTimeoutMs === undefined ? {} : { adminTimeoutMs: options.adminTimeoutMs }),
  };
}
