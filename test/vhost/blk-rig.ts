/** A block controller with a disk in plain memory, and front ends for it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BdevInfo } from '../../src/bdev/bdev.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { BlkController } from '../../src/vhost/blk-controller.ts';
import { BlkModel } from '../../src/vhost/blk-model.ts';
import { VhostServer } from '../../src/vhost/server.ts';
import type { Session } from '../../src/vhost/session.ts';
import { MemoryChannel } from '../scsi/support/memory-channel.ts';
import { FrontEnd, type FrontEndOptions, pump, settle } from '../support/front-end.ts';
import { ALL_FEATURES, BLK_PROTOCOL, BlkDriver } from '../support/front-end-blk.ts';
import { SharedGuest } from '../support/front-end-memory.ts';
import { leakedFds, openFds } from '../support/open-fds.ts';

export class BlkRig {
  /** What a handler threw: nothing may. */
  readonly errors: unknown[] = [];
  readonly loop = new EventLoop({ onError: (e) => this.errors.push(e) });
  readonly disk: MemoryChannel;
  readonly controller: BlkController;
  readonly server: VhostServer;
  private readonly folder = mkdtempSync(join(tmpdir(), 'vvu-blk-'));
  private readonly drivers: BlkDriver[] = [];

  constructor(info: Partial<BdevInfo> = {}, readOnly = false) {
    this.disk = new MemoryChannel(info);
    this.controller = new BlkController(this.loop, this.disk, readOnly);
    const path = join(this.folder, 'vhost.blk');
    this.server = new VhostServer({ loop: this.loop, path, model: () => new BlkModel(this.controller) });
  }

  /** A QEMU that has connected; its guest has not started the device. */
  connect(options: Partial<FrontEndOptions> = {}): BlkDriver {
    const guest = options.guest ?? new SharedGuest();
    const { loop } = this;
    const more = { protocol: BLK_PROTOCOL, queues: 2, ...options };
    const frontEnd = new FrontEnd({ loop, path: this.server.path, ...more, guest });
    frontEnd.init();
    const driver = new BlkDriver(frontEnd);
    this.drivers.push(driver);
    return driver;
  }

  boot(options: Partial<FrontEndOptions> = {}, features = ALL_FEATURES): BlkDriver {
    const driver = this.connect(options);
    this.start(driver, features);
    return driver;
  }

  /** The guest's driver starts the device, perhaps again. */
  start(driver: BlkDriver, features = ALL_FEATURES): void {
    const { frontEnd } = driver;
    frontEnd.makeRings(
      Array.from({ length: frontEnd.queues }, (_, i) => i),
      features,
    );
    frontEnd.start(features);
  }

  get session(): Session {
    if (this.server.sessions.size !== 1) throw new Error(`${this.server.sessions.size} sessions`);
    return [...this.server.sessions][0] as Session;
  }

  vring(index: number): Record<string, unknown> {
    const { vrings } = this.session.describe() as { vrings: Record<string, unknown>[] };
    return vrings.find((v) => v['index'] === index) ?? {};
  }

  close(): void {
    for (const { frontEnd } of this.drivers) frontEnd.close();
    for (const driver of this.drivers) driver.closeBackendChannel();
    this.disk.deferred = false;
    this.disk.complete();
    let closed = false;
    this.server.close(() => {
      closed = true;
    });
    pump(this.loop, () => closed, 'the server to close');
    settle(this.loop);
    for (const { frontEnd } of this.drivers) frontEnd.guest.close();
    this.loop.close();
    rmSync(this.folder, { recursive: true, force: true });
    if (this.errors.length > 0) throw this.errors[0];
  }
}

let warm = false;

/** Run a test in a rig, and see that nothing stays open after it. */
export function withBlkRig(run: (rig: BlkRig) => void, info: Partial<BdevInfo> = {}, readOnly = false): () => void {
  return () => {
    if (!warm) new BlkRig().close(); // the first server keeps a descriptor for its whole life
    warm = true;
    const before = openFds();
    const rig = new BlkRig(info, readOnly);
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
    const leaked = leakedFds(before);
    if (leaked.length > 0) throw new Error(`descriptors stayed open: ${leaked.join(', ')}`);
  };
}
