import { PciHost, type PciHostOptions } from '../pci/host.ts';
import { EventLoop } from '../sys/event-loop.ts';
import type { Bdev } from './bdev.ts';
import { BdevError } from './errors.ts';
import type { NvmeBdev } from './nvme-bdev.ts';
import { type AttachNvme, type DiskChanges, NvmeDisks } from './nvme-disks.ts';

export type { AttachNvme, DiskChanges };

/**
 * The disks of devices that the target drives by itself: one object on the main thread, made at their first use. Names are
 * unique over all kinds, as an operator sees them in one list.
 */
export class DeviceDisks {
  private readonly changes: DiskChanges;
  private readonly options: PciHostOptions;
  private parts: { loop: EventLoop; host: PciHost; nvme: NvmeDisks } | null = null;

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
      this.parts = { loop, host, nvme: new NvmeDisks(host, loop, this.changes) };
    }
    return this.parts;
  }

  /** @throws BdevError */
  async attachNvme(options: AttachNvme): Promise<NvmeBdev[]> {
    this.checkName(options.name);
    return this.made.nvme.attach(options);
  }

  private checkName(name: string): void {
    if (this.names.includes(name)) {
      throw new BdevError('EBUSY', `device ${name} exists already; detach it first or choose another name`, 'name');
    }
  }

  /** Names of the devices attached. */
  get names(): string[] {
    return this.parts?.nvme.names ?? [];
  }

  /** Disks of a device: they must be out of use before it is detached. @throws BdevError for an unknown name */
  disksOf(name: string): readonly Bdev[] {
    return this.made.nvme.disks(name);
  }

  /** Shut a device down and give it back. @throws BdevError for an unknown name */
  detach(name: string): Promise<void> {
    return this.made.nvme.detach(name);
  }

  /** Reset a device under load: no request is lost. @throws BdevError for an unknown name */
  reset(name: string): void {
    this.made.nvme.reset(name);
  }

  describe(): Record<string, unknown>[] {
    return this.parts?.nvme.describe() ?? [];
  }

  /** All devices are shut down and given back. */
  async close(): Promise<void> {
    const { parts } = this;
    this.parts = null;
    if (parts === null) return;
    await parts.nvme.close();
    parts.host.close();
    parts.loop.close();
  }
}
