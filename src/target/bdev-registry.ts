import type { Bdev, BdevShare } from '../bdev/bdev.ts';
import type { QosLimiter } from '../bdev/qos.ts';
import { TargetError } from './errors.ts';

/**
 * The disks of the target, by name (a disk's UUID is its alias). An entry counts its users, so that a disk's resources
 * are released only when no reactor has a channel to it any more.
 */

export interface BdevEntry {
  readonly bdev: Bdev;
  /** Who uses it: "vhost.0 target 2". */
  readonly users: Set<string>;
  /** Set while it goes away: no new users. */
  removing: boolean;
  /** Rate limits that were set, and what keeps to them; undefined until the first are set. */
  limits?: RateLimits;
  limiter?: QosLimiter;
}

/** Per second; 0 means unlimited. SPDK's words. */
export interface RateLimits {
  rw_ios_per_sec: number;
  rw_mbytes_per_sec: number;
  r_mbytes_per_sec: number;
  w_mbytes_per_sec: number;
}

/** What a reactor needs to open or update its channel. */
export function shareOf({ bdev, limiter }: BdevEntry): BdevShare {
  return { ...bdev.share(), qos: limiter?.shared };
}

export class BdevRegistry {
  private readonly entries = new Map<string, BdevEntry>();
  private readonly reserved = new Set<string>();

  /**
   * Make a disk and enter it under its name. The name is taken from the start, so two makers at once can not collide.
   * @param make creates the disk; what it throws, `create` throws
   */
  async create(name: string, make: () => Bdev | Promise<Bdev>): Promise<BdevEntry> {
    this.checkFree(name);
    this.reserved.add(name);
    try {
      const bdev = await make();
      try {
        this.checkTwin(bdev);
      } catch (error) {
        await bdev.destroy();
        throw error;
      }
      return this.keep(bdev);
    } finally {
      this.reserved.delete(name);
    }
  }

  /** Enter a disk that is there already, of a device. @throws TargetError EEXIST for its name or UUID */
  enter(bdev: Bdev): BdevEntry {
    this.checkFree(bdev.info.name);
    this.checkTwin(bdev);
    return this.keep(bdev);
  }

  private keep(bdev: Bdev): BdevEntry {
    const entry: BdevEntry = { bdev, users: new Set(), removing: false };
    this.entries.set(bdev.info.name, entry);
    return entry;
  }

  private checkTwin({ info }: Bdev): void {
    const twin = this.find(info.uuid);
    if (twin === undefined) return;
    throw new TargetError('EEXIST', `disk ${info.name}: ${twin.bdev.info.name} has the UUID ${info.uuid} already`);
  }

  private checkFree(name: string): void {
    if (this.reserved.has(name) || this.find(name) !== undefined) {
      throw new TargetError('EEXIST', `disk ${name} exists already; delete it first or choose another name`);
    }
  }

  /** The first of `prefix0`, `prefix1`, … that is free. */
  freeName(prefix: string): string {
    for (let i = 0; ; i++) {
      const name = `${prefix}${i}`;
      if (!this.reserved.has(name) && !this.entries.has(name)) return name;
    }
  }

  /** By name or UUID. */
  find(nameOrUuid: string): BdevEntry | undefined {
    const entry = this.entries.get(nameOrUuid);
    if (entry !== undefined) return entry;
    const uuid = nameOrUuid.toLowerCase();
    for (const candidate of this.entries.values()) if (candidate.bdev.info.uuid === uuid) return candidate;
    return undefined;
  }

  /** @throws TargetError ENODEV */
  get(nameOrUuid: string): BdevEntry {
    const entry = this.find(nameOrUuid);
    if (entry !== undefined) return entry;
    const names = [...this.entries.keys()];
    const known = names.length === 0 ? 'there are none' : `there are ${names.slice(0, 20).join(', ')}`;
    throw new TargetError('ENODEV', `no disk is called ${nameOrUuid}; ${known}`);
  }

  /** A disk of the kind a method is about. @throws TargetError ENODEV or EINVAL */
  getKind(name: string, kind: string): BdevEntry {
    const entry = this.get(name);
    if (entry.bdev.kind !== kind) {
      throw new TargetError(
        'EINVAL',
        `${name} is no ${kind} disk but of kind ${entry.bdev.kind}; use the method of that kind`,
      );
    }
    return entry;
  }

  /** In the order of their creation. */
  all(): BdevEntry[] {
    return [...this.entries.values()];
  }

  /** Note a user. @throws TargetError EBUSY when the disk is going away. */
  claim(entry: BdevEntry, user: string): void {
    if (entry.removing) throw new TargetError('EBUSY', `disk ${entry.bdev.info.name} is being removed`);
    entry.users.add(user);
  }

  release(entry: BdevEntry, user: string): void {
    entry.users.delete(user);
  }

  /** Drop the entry and release the disk. The caller has ended all use. */
  async remove(entry: BdevEntry): Promise<void> {
    this.entries.delete(entry.bdev.info.name);
    await entry.bdev.destroy();
  }
}
