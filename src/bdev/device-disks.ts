import type { PciHostOptions } from '../pci/host.ts';
import type { DiskChanges } from './attached-devices.ts';
import type { Bdev } from './bdev.ts';
import type { DeviceFamilies } from './device-families.ts';
import { BdevError } from './errors.ts';
import type { NvmeBdev } from './nvme-bdev.ts';
import type { AttachNvme, OpenNvme } from './nvme-disks.ts';
import type { AttachVirtio, OpenVirtio } from './virtio-disks.ts';
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

const FAMILY = { nvme: 'NVMe controller', virtio: 'virtio-scsi adapter' } as const;

/**
 * The disks of devices that the target drives by itself: one object on the main thread. Names are unique over all kinds, as
 * an operator sees them in one list. The drivers are loaded when a device is attached: most targets have none.
 */
export class DeviceDisks {
  private readonly changes: DiskChanges;
  private readonly options: DeviceDisksOptions;
  private families: Promise<DeviceFamilies> | null = null;
  private parts: DeviceFamilies | null = null;

  constructor(changes: DiskChanges, options: DeviceDisksOptions = {}) {
    this.changes = changes;
    this.options = options;
  }

  private async load(): Promise<DeviceFamilies> {
    this.families ??= import('./device-families.ts').then(({ deviceFamilies }) =>
      deviceFamilies(this.changes, this.options),
    );
    this.parts = await this.families;
    return this.parts;
  }

  /** @throws BdevError where no device was ever attached */
  private family<K extends DeviceKind>(kind: K, name: string): DeviceFamilies[K] {
    if (this.parts !== null) return this.parts[kind];
    throw new BdevError('ENODEV', `no ${FAMILY[kind]} is called ${name}; there are none`, 'name');
  }

  /** @throws BdevError */
  async attachNvme(options: AttachNvme): Promise<NvmeBdev[]> {
    const { reactors } = this.options;
    return (await this.load()).nvme.attach(options, reactors);
  }

  /** @throws BdevError */
  async attachVirtio(options: AttachVirtio): Promise<VirtioScsiBdev[]> {
    const { reactors } = this.options;
    // One more than reactors: a scan after a hot-add needs a queue of its own.
    return (await this.load()).virtio.attach(options, reactors && reactors + 1);
  }

  /** Names of the devices attached. */
  names(kind: DeviceKind): string[] {
    return this.parts?.[kind].names ?? [];
  }

  /** Disks of a device: they must be out of use before it is detached. @throws BdevError for an unknown name */
  disksOf(kind: DeviceKind, name: string): readonly Bdev[] {
    return this.family(kind, name).disks(name);
  }

  /** Shut a device down and give it back. @throws BdevError for an unknown name */
  async detach(kind: DeviceKind, name: string): Promise<void> {
    await this.family(kind, name).detach(name);
  }

  /** Reset a device under load: no request is lost. @throws BdevError for an unknown name */
  reset(kind: DeviceKind, name: string): void {
    this.family(kind, name).reset(name);
  }

  /** As bdev_nvme_get_controllers and bdev_virtio_scsi_get_devices show them. @throws BdevError for an unknown name */
  describe(kind: DeviceKind, name?: string): Record<string, unknown>[] {
    return name === undefined ? (this.parts?.[kind].describe() ?? []) : this.family(kind, name).describe(name);
  }

  /** All devices are shut down and given back. */
  async close(): Promise<void> {
    const { parts } = this;
    if (parts === null) return;
    await parts.nvme.close();
    await parts.virtio.close();
    this.parts = null;
    this.families = null;
    parts.host.close();
    parts.loop.close();
  }
}
