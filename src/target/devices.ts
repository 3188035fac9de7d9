import type { Bdev } from '../bdev/bdev.ts';
import {
  type AttachNvme,
  type AttachVirtio,
  DeviceDisks,
  type DeviceDisksOptions,
  type DeviceKind,
} from '../bdev/device-disks.ts';
import { logger } from '../sys/log.ts';
import type { BdevEntry, BdevRegistry } from './bdev-registry.ts';
import { TargetError } from './errors.ts';

const log = logger('target');

/** What the target does for its devices. */
export interface DiskKeeper {
  readonly bdevs: BdevRegistry;
  /** End all use of a disk, then drop it. */
  removeBdev(entry: BdevEntry): Promise<void>;
  /** Its size has changed: tell the reactors. */
  announceSize(entry: BdevEntry): Promise<void>;
}

/**
 * Devices that the target drives by itself, and their disks in the registry. One rule: a device is given back when no reactor
 * has a channel to any of its disks, never before.
 */
export class TargetDevices {
  private readonly keeper: DiskKeeper;
  private readonly disks: DeviceDisks;
  private readonly detaching = new Set<string>();
  private readonly attaching = new Set<Promise<unknown>>();
  private closing = false;
  /** Disks on their way out. */
  private readonly leaving = new Map<Bdev, { device: string; gone: Promise<void> }>();

  constructor(keeper: DiskKeeper, options: DeviceDisksOptions) {
    this.keeper = keeper;
    this.disks = new DeviceDisks(
      {
        added: (bdev, device) => this.added(bdev, device),
        removed: (bdev, device) => void this.takeOut(bdev, device),
        resized: (bdev) => this.resized(bdev),
        lost: (device, state, reason) => {
          log.warn(`${device}: its disks have gone: ${reason}`);
          if (state === 'removed') void this.giveBack(device);
        },
      },
      options,
    );
  }

  /** @returns names of its disks @throws BdevError, TargetError EEXIST; the device is then as it was */
  attachNvme(options: AttachNvme): Promise<string[]> {
    return this.attach('nvme', options.name, () => this.disks.attachNvme(options));
  }

  /** As {@link attachNvme}. */
  attachVirtio(options: AttachVirtio): Promise<string[]> {
    return this.attach('virtio', options.name, () => this.disks.attachVirtio(options));
  }

  private async attach(kind: DeviceKind, device: string, take: () => Promise<readonly Bdev[]>): Promise<string[]> {
    if (this.closing) throw new TargetError('EBUSY', 'the target is shutting down');
    const work = take().then((bdevs) => this.enter(kind, device, bdevs));
    this.attaching.add(work);
    try {
      return await work;
    } finally {
      this.attaching.delete(work);
    }
  }

  private async enter(kind: DeviceKind, device: string, bdevs: readonly Bdev[]): Promise<string[]> {
    const entered: BdevEntry[] = [];
    try {
      for (const bdev of bdevs) entered.push(this.keeper.bdevs.enter(bdev));
      return entered.map(({ bdev }) => bdev.info.name);
    } catch (error) {
      this.detaching.add(device);
      for (const entry of entered) await this.keeper.removeBdev(entry);
      await this.disks.detach(kind, device);
      this.detaching.delete(device);
      throw error;
    }
  }

  /** Take its disks from all that use them, shut it down, give it back. @throws BdevError ENODEV, TargetError EBUSY */
  async detach(kind: DeviceKind, device: string): Promise<void> {
    const bdevs = this.disks.disksOf(kind, device);
    if (this.detaching.has(device)) throw new TargetError('EBUSY', `device ${device} is being detached`);
    this.detaching.add(device);
    try {
      for (const bdev of [...bdevs]) void this.takeOut(bdev, device);
      await this.allOut(device);
      await this.disks.detach(kind, device);
    } finally {
      this.detaching.delete(device);
    }
  }

  /** Reset it under load: requests in flight are sent again. @throws BdevError ENODEV */
  reset(kind: DeviceKind, device: string): void {
    this.disks.reset(kind, device);
  }

  /** @throws BdevError ENODEV */
  describe(kind: DeviceKind, device?: string): Record<string, unknown>[] {
    return this.disks.describe(kind, device);
  }

  /** No reactor has a channel any more. */
  async close(): Promise<void> {
    this.closing = true;
    await Promise.allSettled(this.attaching);
    await this.disks.close();
  }

  private added(bdev: Bdev, device: string): void {
    if (this.detaching.has(device)) return;
    try {
      this.keeper.bdevs.enter(bdev);
      log('%s: new disk %s', device, bdev.info.name);
    } catch (error) {
      log.warn(`${device}: a new disk cannot be served: ${(error as Error).message}`);
    }
  }

  private resized(bdev: Bdev): void {
    const entry = this.entryOf(bdev);
    if (entry !== undefined && !entry.removing) void this.keeper.announceSize(entry).catch(() => {}); // the target ends
  }

  private entryOf(bdev: Bdev): BdevEntry | undefined {
    const entry = this.keeper.bdevs.find(bdev.info.name);
    return entry?.bdev === bdev ? entry : undefined;
  }

  private takeOut(bdev: Bdev, device: string): Promise<void> {
    const entry = this.entryOf(bdev);
    if (entry === undefined || this.leaving.has(bdev)) return Promise.resolve();
    const gone = this.keeper
      .removeBdev(entry)
      .catch((error: Error) => log.warn(`disk ${bdev.info.name}: ${error.message}`))
      .finally(() => this.leaving.delete(bdev));
    this.leaving.set(bdev, { device, gone });
    return gone;
  }

  private async allOut(device: string): Promise<void> {
    await Promise.all([...this.leaving.values()].filter((l) => l.device === device).map((l) => l.gone));
  }

  /** A device that was pulled out: the host waits for us to let go of it. */
  private async giveBack(device: string): Promise<void> {
    if (this.detaching.has(device)) return;
    const kind = this.disks.names('nvme').includes(device) ? 'nvme' : 'virtio';
    await this.detach(kind, device).catch((error: Error) => log.warn(`${device}: ${error.message}`));
  }
}
