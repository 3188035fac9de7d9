/** A controller with a disk, and front ends for it: what the tests of this folder share. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BdevChannel } from '../../src/bdev/bdev.ts';
import { createMallocBdev, type MallocBdev } from '../../src/bdev/malloc-bdev.ts';
import { openMallocChannel } from '../../src/bdev/malloc-channel.ts';
import { Lun } from '../../src/scsi/lun.ts';
import { ScsiTarget } from '../../src/scsi/target.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { ScsiController } from '../../src/vhost/scsi-controller.ts';
import { ScsiModel } from '../../src/vhost/scsi-model.ts';
import { VhostServer } from '../../src/vhost/server.ts';
import type { Session } from '../../src/vhost/session.ts';
import { FrontEnd, type FrontEndOptions, openFds, pump, settle } from '../support/front-end.ts';
import { type RegionSpec, SharedGuest } from '../support/front-end-memory.ts';
import { ScsiDriver } from '../support/front-end-scsi.ts';
import { SlowDisk } from './slow-disk.ts';

/** Counters of memory told to devices: every piece that came must go. */
export class MemoryWatch {
  readonly present = new Set<object>();
  added = 0;
  memoryAdded(memory: object): void {
    this.added++;
    this.present.add(memory);
  }
  memoryRemoved(memory: object): void {
    if (!this.present.delete(memory)) throw new Error('a memory was removed that was not there');
  }
}

export class Rig {
  /** What a handler threw: nothing may. */
  readonly errors: unknown[] = [];
  readonly loop = new EventLoop({ onError: (e) => this.errors.push(e) });
  readonly folder = mkdtempSync(join(tmpdir(), 'vvu-vhost-'));
  readonly path = join(this.folder, 'vhost.0');
  readonly disk = new SlowDisk();
  readonly memory = new MemoryWatch();
  readonly controller: ScsiController;
  readonly server: VhostServer;
  private readonly mallocs: MallocBdev[] = [];
  private readonly frontEnds: FrontEnd[] = [];
  private readonly guests: SharedGuest[] = [];

  constructor() {
    this.controller = new ScsiController(this.loop);
    this.controller.add(0, this.target());
    const { loop, path, memory } = this;
    this.server = new VhostServer({ loop, path, model: () => new ScsiModel(this.controller), memoryListener: memory });
  }

  /** One more target: a memory disk of 1 MiB. */
  addMalloc(number: number): void {
    const disk = createMallocBdev({ name: 'Malloc0', numBlocks: 2048 });
    this.mallocs.push(disk);
    this.controller.add(number, this.target(openMallocChannel(disk.share())));
  }

  target(disk: BdevChannel = this.disk): ScsiTarget {
    const target = new ScsiTarget();
    target.addLun(new Lun({ channel: disk, id: 0, clock: this.loop }));
    return target;
  }

  guest(regions?: readonly RegionSpec[]): SharedGuest {
    const guest = new SharedGuest(regions);
    this.guests.push(guest);
    return guest;
  }

  connect(options: Partial<FrontEndOptions> = {}): FrontEnd {
    const guest = options.guest ?? this.guest();
    const frontEnd = new FrontEnd({ loop: this.loop, path: this.path, ...options, guest });
    this.frontEnds.push(frontEnd);
    return frontEnd;
  }

  /** A front end whose Linux is up: all three queues run. */
  boot(
    options: Partial<FrontEndOptions> = {},
    features = 0xffff_ffff_ffffn,
  ): { frontEnd: FrontEnd; driver: ScsiDriver } {
    const frontEnd = this.connect(options);
    frontEnd.init();
    frontEnd.makeRings([0, 1, 2], features);
    frontEnd.start();
    return { frontEnd, driver: new ScsiDriver(frontEnd) };
  }

  /** The only session. */
  get session(): Session {
    if (this.server.sessions.size !== 1) throw new Error(`${this.server.sessions.size} sessions`);
    return [...this.server.sessions][0] as Session;
  }

  /** A vring as RPC shows it. */
  vring(index: number, session = this.session): Record<string, unknown> {
    const { vrings } = session.describe() as { vrings: Record<string, unknown>[] };
    return vrings.find((v) => v['index'] === index) ?? {};
  }

  /** The session ends by itself; why. */
  waitEnd(): string {
    const before = this.server.ends.length;
    const known = this.server.ends.at(-1);
    pump(this.loop, () => this.server.ends.length > before || this.server.ends.at(-1) !== known, 'the session to end');
    const end = this.server.ends.at(-1);
    return `${end?.reason}`;
  }

  waitClosed(sessions = 0): void {
    pump(this.loop, () => this.server.sessions.size === sessions, 'sessions to end');
  }

  close(): void {
    for (const f of this.frontEnds) f.close();
    this.disk.hold = false;
    this.disk.release();
    let closed = false;
    this.server.close(() => {
      closed = true;
    });
    pump(this.loop, () => closed, 'the server to close');
    settle(this.loop);
    for (const m of this.mallocs) m.destroy();
    for (const g of this.guests) g.close();
    this.loop.close();
    rmSync(this.folder, { recursive: true, force: true });
    if (this.errors.length > 0) throw this.errors[0];
    if (this.memory.present.size > 0)
      throw new Error(`${this.memory.present.size} pieces of memory were never removed`);
  }
}

/** Run a test in a rig, and see that nothing stays open after it. */
export function withRig(run: (rig: Rig) => void): () => void {
  return () => {
    warmUp();
    const before = openFds();
    const rig = new Rig();
    let failed = true;
    try {
      run(rig);
      failed = false;
    } finally {
      try {
        rig.close();
      } catch (error) {
        // biome-ignore lint/correctness/noUnsafeFinally: only when the test itself has passed
        if (!failed) throw error;
      }
    }
    // The loader closes sockets of its own at any time: fewer says nothing.
    const after = openFds();
    if (after > before) throw new Error(`${after - before} descriptors stayed open`);
  };
}

let warm = false;

/** The first server keeps a descriptor back for its whole life (src/sys/socket.ts): have it before counting. */
function warmUp(): void {
  if (warm) return;
  warm = true;
  new Rig().close();
}
