import { PciHost, type PciHostOptions } from '../pci/host.ts';
import { EventLoop } from '../sys/event-loop.ts';
import type { Bdev } from './bdev.ts';
import { BdevError } from './errors.ts';
import type { NvmeBdev } from './nvme-bdev.ts';
import { type AttachNvme, type DiskChanges, NvmeDisks, type OpenNvme } from './nvme-disks.ts';
import { type AttachVirtio, type OpenVirtio, VirtioDisks } from './virtio-disks.ts';
import type { VirtioScsiBdev } from './virtio-scsi-bdev.ts';

export type { AttachNvme, AttachVirtio, DiskChanges };

/** The two families of devices: NVMe controllers and virtio-scsi adapters. */
export type DeviceKind = 'nvme' | 'virtio';

export interface DeviceDisksOptions extends PciHostOptions {
  /** Reactors that may use a device: it gets so many queues where the operator names no number. */
  reactors?: number;
  /** In tests: where devices come from. */
  openNvme?: OpenNvme;
  openVirtio?: OpenVirtio;
}

interface Parts {
  readonly loop: EventLoop;
  readonly host: PciHost;
  readonly nvme: NvmeDisks;
  readonly virtio: VirtioDisks;
}

/**
 * The disks of devices that the target drives by itself: one object on the main thread, made at their first use. Names are
 * unique over all kinds, as an operator sees them in one list.
 */
export class DeviceDisks {
  private readonly changes: DiskChanges;
  private readonly options: DeviceDisksOptions;
  private readonly attaching = new Set<string>();
  private parts: Parts | null = null;

  constructor(changes: DiskChanges, options: DeviceDisksOptions = {}) {
    this.changes = changes;
    this.options = options;
  }

  /** What devices share, for other drivers of this process. */
  get host(): PciHost {
    return this.made.host;
  }

  private get made(): Parts {
    if (this.parts === null) {
      const loop = new EventLoop({ spinMicroseconds: 0 });
      loop.attach();
      const host = new PciHost(loop, this.options);
      const { openNvme, openVirtio } = this.options;
      // Devices of a test reach no physical memory.
      const nvme = new NvmeDisks(openNvme === undefined ? host : null, loop, this.changes, openNvme);
      const virtio = new VirtioDisks(openVirtio === undefined ? host : null, loop, this.changes, openVirtio);
      this.parts = { loop, host, nvme, virtio };
    }
    return this.parts;
  }

  /** @throws BdevError */
  attachNvme(options: AttachNvme): Promise<NvmeBdev[]> {
    const { reactors } = this.options;
    return this.alone(options.name, () => this.made.nvme.attach(options, reactors));
  }

  /** @throws BdevError */
  attachVirtio(options: AttachVirtio): Promise<VirtioScsiBdev[]> {
    const { reactors } = this.options;
    // One more than reactors: a scan after a hot-add needs a queue of its own.
    return this.alone(options.name, () => this.made.virtio.attach(options, reactors && reactors + 1));
  }

  private async alone<T>(name: string, attach: () => Promise<T>): Promise<T> {
    if (this.attaching.has(name) || this.names('nvme').includes(name) || this.names('virtio').includes(name)) {
      throw new BdevError('EBUSY', `device ${name} exists already; detach it first or choose another name`, 'name');
    }
    this.attaching.add(name);
    try {
      return await attach();
    } finally {
      this.attaching.delete(name);
    }
  }

  /** Names of the devices attached. */
  names(kind: DeviceKind): string[] {
    return this.parts?.[kind].names ?? [];
  }

  /** Disks of a device: they must be out of use before it is detached. @throws BdevError for an unknown name */
  disksOf(kind: DeviceKind, name: string): readonly Bdev[] {
    return this.made[kind].disks(name);
  }

  /** Shut a device down and give it back. @throws BdevError for an unknown name */
  detach(kind: DeviceKind, name: string): Promise<void> {
    return this.made[kind].detach(name);
  }

  /** Reset a device under load: no request is lost. @throws BdevError for an unknown name */
  reset(kind: DeviceKind, name: string): void {
    this.made[kind].reset(name);
  }

  /** As bdev_nvme_get_controllers and bdev_virtio_scsi_get_devices show them. @throws BdevError for an unknown name */
  describe(kind: DeviceKind, name?: string): Record<string, unknown>[] {
    return name === undefined ? (this.parts?.[kind].describe() ?? []) : this.made[kind].describe(name);
  }

  /** All devices are shut down and given back. */
  async close(): Promise<void> {
    const { parts } = this;
    if (parts === null) return;
    await parts.nvme.close();
    await parts.virtio.close();
    this.parts = null;
    parts.host.close();
    parts.loop.close();
  }
}
