import { mkdirSync, readdirSync, unlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { LunState } from '../scsi/lun-state.ts';
import { restoreReservations, type SavedReservations } from '../scsi/reservation-store.ts';
import { logger } from '../sys/log.ts';
import { TargetError } from './errors.ts';
import { readFileIfThere, writeFileWholeLater } from './state-file.ts';

/**
 * Persistent reservations that outlive the target (APTPL): one file a disk, named by its UUID. A guest is told of success only when
 * the file is on stable storage; what was saved is in force before the disk's first unit exists.
 *
 * Runs on the main thread, so that no reactor waits for a file system. Saves of one disk that arrive while one is being
 * written become one.
 */

const log = logger('target');

interface Job {
  readonly saved: SavedReservations | null;
  readonly sequence: number;
}

interface Disk {
  /** Newest sequence number that was to be saved: what is older never overwrites it. */
  queued: number;
  /** Sequence number of what the file says. */
  written: number;
  next: Job | undefined;
  /** Settles when nothing is left to write. */
  running: Promise<void> | undefined;
  /** Sequence number of the newest state that could not be written. */
  failed: number;
}

export class ReservationFiles {
  readonly directory: string;
  private readonly disks = new Map<string, Disk>();

  /** @throws TargetError when there can be no such directory */
  constructor(directory: string) {
    this.directory = resolve(directory);
    try {
      mkdirSync(this.directory, { recursive: true, mode: 0o700 });
      readdirSync(this.directory);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      throw new TargetError(
        code === 'EACCES' ? 'EACCES' : 'EINVAL',
        `reservations in ${this.directory}: ${message}; name a directory of yours (--reservations)`,
      );
    }
  }

  private path(uuid: string): string {
    if (!/^[0-9a-fA-F-]{36}$/.test(uuid)) throw new TargetError('EINVAL', `reservations of ${uuid}: this is no UUID`);
    return join(this.directory, `${uuid.toLowerCase()}.json`);
  }

  /**
   * What a disk's last life left, into its new state.
   * @throws TargetError when the file cannot be understood: to serve the disk without its reservations would be wrong
   */
  restore(uuid: string, state: LunState): void {
    const path = this.path(uuid);
    let sequence = 0;
    try {
      const text = readFileIfThere(path);
      if (text !== undefined) {
        const saved = JSON.parse(text) as SavedReservations;
        if (!Number.isInteger(saved?.sequence)) throw new Error('it has no sequence number');
        restoreReservations(new LunState(), saved); // all of it, before any of it counts
        restoreReservations(state, saved);
        sequence = saved.sequence;
        log('%d registrants from %s', saved.registrants.length, path);
      }
    } catch (error) {
      throw new TargetError(
        'EINVAL',
        `saved reservations ${path}: ${(error as Error).message}; remove the file if no guest needs them any more`,
      );
    }
    this.disks.set(uuid, { queued: sequence, written: sequence, next: undefined, running: undefined, failed: -1 });
  }

  /** @returns whether this state, or a newer one, is on stable storage */
  async save(uuid: string, saved: SavedReservations | null, sequence: number): Promise<boolean> {
    const disk = this.disks.get(uuid);
    if (disk === undefined) return false;
    if (sequence > disk.queued) {
      disk.queued = sequence;
      disk.next = { saved, sequence };
    }
    while (disk.written < sequence && disk.failed < sequence) {
      disk.running ??= this.write(uuid, disk).finally(() => {
        disk.running = undefined;
      });
      await disk.running;
    }
    return disk.written >= sequence;
  }

  private async write(uuid: string, disk: Disk): Promise<void> {
    const job = disk.next;
    if (job === undefined) return;
    disk.next = undefined;
    try {
      if (job.saved === null) unlinkIfThere(this.path(uuid));
      else await writeFileWholeLater(this.path(uuid), `${JSON.stringify(job.saved)}\n`);
      disk.written = job.sequence;
    } catch (error) {
      disk.failed = job.sequence;
      log.warn(`reservations of ${uuid} could not be saved: ${(error as Error).message}; the guest is told`);
    }
  }
}

function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
