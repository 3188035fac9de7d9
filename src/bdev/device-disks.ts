import { PciHost, type PciHostOptions } from '../pci/host.ts';
import { EventLoop } from '../sys/event-loop.ts';
import type { Bdev } from './bdev.ts';
import { BdevError } from './errors.ts';
import type { NvmeBdev } from './nvme-bdev.ts';
import { type AttachNvme, type DiskChanges, NvmeDisks } from './nvme-disks.ts';
import { type AttachVirtio, VirtioDisks } from './virtio-disks.ts';
import type { VirtioScsiBdev } from './virtio-scsi-bdev.ts';

export type { AttachNvme, AttachVirtio, DiskChanges };

/**
 * The disks of devices that the target drives by itself: one object on the main thread, made at their first use. Names are
 * unique over all kinds, as an operator sees them in one list.
 */
export class DeviceDisks {
  private readonly changes: DiskChanges;
  private readonly options: PciHostOptions;
  private parts: { loop: EventLoop; host: PciHost; nvme: NvmeDisks; virtio: VirtioDisks } | null = null;

  constructor(changes: DiskChanges, options: PciHostOptions = {}) {
    this.changes = changes;
    this.options = options;
  }

  /** What devices share, for other drivers of this process. */
  get host(): PciHost {
    return this.made.host;
  }

  private get made() {
    if (this.parts === null) {
      const loop = new EventLoop({ spinMicroseconds: 0 });
      loop.attach();
      const host = new PciHost(loop, this.options);
      const nvme = new NvmeDisks(host, loop, this.changes);
      this.parts = { loop, host, nvme, virtio: new VirtioDisks(host, loop, this.changes) };
    }
    return this.parts;
  }

  /** @throws BdevError */
  async attachNvme(options: AttachNvme): Promise<NvmeBdev[]> {
    this.checkName(options.name);
    return this.made.nvme.attach(options);
  }

  /** @throws BdevError */
  async attachVirtio(options: AttachVirtio): Promise<VirtioScsiBdev[]> {
    this.checkName(options.name);
    return this.made.virtio.attach(options);
  }

  private checkName(name: string): void {
    if (this.names.includes(name)) {
      throw new BdevError('EBUSY', `device ${name} exists already; detach it first or choose another name`, 'name');
    }
  }

  /** Names of the devices attached. */
  get names(): string[] {
    return this.parts === null ? [] : [...this.parts.nvme.names, ...this.parts.virtio.names];
  }

  /** The kind that has a device of this name. */
  private kindOf(name: string): NvmeDisks | VirtioDisks {
    const { nvme, virtio } = this.made;
    return virtio.names.includes(name) ? virtio : nvme;
  }

  get nvmeNames(): string[] {
    return this.parts?.nvme.names ?? [];
  }

  get virtioNames(): string[] {
    return this.parts?.virtio.names ?? [];
  }

  /** Disks of a device: they must be out of use before it is detached. @throws BdevError for an unknown name */
  disksOf(name: string): readonly Bdev[] {
    return this.kindOf(name).disks(name);
  }

  /** Shut a device down and give it back. @throws BdevError for an unknown name */
  detach(name: string): Promise<void> {
    return this.kindOf(name).detach(name);
  }

  /** Reset a device under load: no request is lost. @throws BdevError for an unknown name */
  reset(name: string): void {
    this.kindOf(name).reset(name);
  }

  /** As bdev_nvme_get_controllers shows them. @throws BdevError for an unknown name */
  describeNvme(name?: string): Record<string, unknown>[] {
    return name === undefined ? (this.parts?.nvme.describe() ?? []) : this.made.nvme.describe(name);
  }

  /** As bdev_virtio_scsi_get_devices shows them. @throws BdevError for an unknown name */
  describeVirtio(name?: string): Record<string, unknown>[] {
    return name === undefined ? (this.parts?.virtio.describe() ?? []) : this.made.virtio.describe(name);
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
