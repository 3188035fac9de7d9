import type { Bdev } from './bdev.ts';
import { BdevError, deviceError } from './errors.ts';

/**
 * Devices by name, on the main thread: what the families of devices have in common. Who holds the registry of disks is told by
 * {@link DiskChanges}; a device is detached when its disks are no longer used.
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

/** Names that devices have, over all families: an operator sees them in one list. */
export class DeviceNames {
  private readonly taken = new Set<string>();

  /** @throws BdevError when a device has it, or is about to */
  take(name: string): void {
    if (this.taken.has(name)) {
      throw new BdevError('EBUSY', `device ${name} exists already; detach it first or choose another name`, 'name');
    }
    this.taken.add(name);
  }

  give(name: string): void {
    this.taken.delete(name);
  }
}

/** A device with its disks. */
export interface Attached<D extends Bdev> {
  readonly name: string;
  /** As the operator gave them. */
  readonly params: Record<string, unknown>;
  readonly bdevs: D[];
  /** Only once it was started; its disks must not be used any more. */
  shutdown(): Promise<void>;
  /** Give back what the driver stands on. */
  release(): void;
}

export abstract class AttachedDevices<D extends Bdev, E extends Attached<D>> {
  protected readonly changes: DiskChanges;
  protected readonly attached = new Map<string, E>();
  /** Devices that are being detached. */
  private readonly leaving = new Set<Promise<void>>();
  private readonly family: string;
  private readonly taken: DeviceNames;

  /** @param family what an operator calls one of them */
  constructor(family: string, changes: DiskChanges, names: DeviceNames) {
    this.family = family;
    this.changes = changes;
    this.taken = names;
  }

  /** Attach a device under a name that is no other's meanwhile. @throws BdevError; the name is free again then */
  protected async named(name: string, attach: () => Promise<D[]>): Promise<D[]> {
    this.taken.take(name);
    try {
      return await attach();
    } catch (error) {
      this.taken.give(name);
      throw error;
    }
  }

  /** Make what drives a device that was taken. @throws BdevError; the device is given back then */
  protected driverOf<T>({ release }: { release(): void }, make: () => T): T {
    try {
      return make();
    } catch (error) {
      release();
      throw deviceError(error, 'EIO', 'traddr');
    }
  }

  /**
   * Start a device and find its disks. Where that fails it is given back.
   * @throws BdevError that says what stands in the way
   */
  protected async bringUp(entry: E, start: () => Promise<void>, find: () => D[] | Promise<D[]>): Promise<D[]> {
    try {
      await start();
      try {
        entry.bdevs.push(...(await find()));
      } catch (error) {
        await entry.shutdown();
        throw error;
      }
    } catch (error) {
      entry.release();
      throw deviceError(error, 'EIO', 'traddr');
    }
    this.attached.set(entry.name, entry);
    return [...entry.bdevs];
  }

  /** @throws BdevError when there is no such device */
  protected get(name: string): E {
    const entry = this.attached.get(name);
    if (entry !== undefined) return entry;
    const names = this.names.join(', ');
    throw new BdevError(
      'ENODEV',
      `no ${this.family} is called ${name}; ${names === '' ? 'there are none' : `there are ${names}`}`,
      'name',
    );
  }

  /** All, or the one of this name. @throws BdevError when there is no such device */
  protected some(name: string | undefined): E[] {
    return name === undefined ? [...this.attached.values()] : [this.get(name)];
  }

  get names(): string[] {
    return [...this.attached.keys()];
  }

  /** @throws BdevError when there is no such device */
  disks(name: string): readonly D[] {
    return this.get(name).bdevs;
  }

  /** Shut it down and give the device back. Its disks must not be used any more. @throws BdevError when there is no such device */
  async detach(name: string): Promise<void> {
    const entry = this.get(name);
    this.attached.delete(name);
    const gone = this.letGo(entry);
    this.leaving.add(gone);
    try {
      await gone;
    } finally {
      this.leaving.delete(gone);
    }
  }

  private async letGo(entry: E): Promise<void> {
    try {
      await entry.shutdown();
    } finally {
      entry.release();
      this.taken.give(entry.name);
    }
  }

  protected diskCame(entry: E, bdev: D): void {
    entry.bdevs.push(bdev);
    this.changes.added(bdev, entry.name);
  }

  protected diskWent(entry: E, bdev: D): void {
    entry.bdevs.splice(entry.bdevs.indexOf(bdev), 1);
    this.changes.removed(bdev, entry.name);
  }

  /** Its channels end everything by themselves; the disks go. The device stays in the list, lost, until it is detached. */
  protected lost(name: string, state: 'failed' | 'removed', reason: string): void {
    const entry = this.attached.get(name);
    if (entry === undefined) return; // it is being detached
    for (const bdev of entry.bdevs.splice(0)) this.changes.removed(bdev, name);
    this.changes.lost?.(name, state, reason);
  }

  /** All are detached, also those whose detaching is under way. @throws the first failure; the others are detached all the same */
  async close(): Promise<void> {
    const under = [...this.leaving];
    const ends = await Promise.allSettled(this.names.map((name) => this.detach(name)));
    await Promise.allSettled(under); // their failures are told to who detaches them
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
  }
}

/** @param refused why what is there is not served @param nothing what there is not, when nothing was refused */
export function nothingToServe(device: string, refused: readonly string[], nothing: string): BdevError {
  return new BdevError(
    'ENODEV',
    `${device}: nothing to serve: ${refused.length > 0 ? refused.join('; ') : nothing}`,
    'traddr',
  );
}
