/** A vvu device with a driver on one side and front ends on the other, all in this process. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Lun } from '../../src/scsi/lun.ts';
import { ScsiTarget } from '../../src/scsi/target.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { ScsiController } from '../../src/vhost/scsi-controller.ts';
import { ScsiModel } from '../../src/vhost/scsi-model.ts';
import type { Session } from '../../src/vhost/session.ts';
import type { DeviceAccess } from '../../src/vvu/driver/device-access.ts';
import { VvuPort, type VvuPortOptions } from '../../src/vvu/driver/vvu-port.ts';
import { Relay } from '../../src/vvu/relay/relay.ts';
import type { FakeDma } from '../support/fake-dma.ts';
import { FAKE_WINDOW, FakeStockQemu } from '../support/fake-stock-qemu.ts';
import type { FakeBar } from '../support/fake-vvu-bar.ts';
import { FakeVvuFork, type ForkVariant } from '../support/fake-vvu-fork.ts';
import { FrontEnd, type FrontEndOptions, openFds, pump, settle } from '../support/front-end.ts';
import { type RegionSpec, SharedGuest } from '../support/front-end-memory.ts';
import { ScsiDriver } from '../support/front-end-scsi.ts';
import { MemoryWatch } from '../vhost/rig.ts';
import { SlowDisk } from '../vhost/slow-disk.ts';

/** What the rigs share; `D` is the device. */
export abstract class VvuRig<D extends RigDevice> {
  readonly errors: unknown[] = [];
  readonly loop = new EventLoop({ onError: (e) => this.errors.push(e) });
  readonly folder = mkdtempSync(join(tmpdir(), 'vvu-fork-'));
  readonly path = join(this.folder, 'vhost-user.sock');
  readonly disk = new SlowDisk();
  readonly memory = new MemoryWatch();
  readonly controller: ScsiController;
  abstract readonly device: D;
  /** Expected: what a test provokes on purpose. */
  allowViolations = false;
  private port_: VvuPort | null = null;
  private readonly frontEnds: FrontEnd[] = [];
  private readonly guests: SharedGuest[] = [];

  constructor() {
    this.controller = new ScsiController(this.loop);
    const target = new ScsiTarget();
    target.addLun(new Lun({ channel: this.disk, id: 0, clock: this.loop }));
    this.controller.add(0, target);
  }

  /** The target starts on the device. */
  open(options: Partial<VvuPortOptions> = {}): VvuPort {
    this.port_ = new VvuPort({
      loop: this.loop,
      access: this.device,
      model: () => new ScsiModel(this.controller),
      memoryListener: this.memory,
      ...options,
    });
    return this.port_;
  }

  get port(): VvuPort {
    if (this.port_ === null) throw new Error('no port is open');
    return this.port_;
  }

  get session(): Session {
    const { sessions } = this.port;
    if (sessions.size !== 1) throw new Error(`${sessions.size} sessions`);
    return [...sessions][0] as Session;
  }

  guest(regions?: readonly RegionSpec[]): SharedGuest {
    const guest = new SharedGuest(regions);
    this.guests.push(guest);
    return guest;
  }

  connect(options: Partial<FrontEndOptions> = {}): FrontEnd {
    const guest = options.guest ?? this.guest();
    const frontEnd = new FrontEnd({ loop: this.loop, path: this.path, version: '7.2', ...options, guest });
    this.frontEnds.push(frontEnd);
    return frontEnd;
  }

  boot(options: Partial<FrontEndOptions> = {}): { frontEnd: FrontEnd; driver: ScsiDriver } {
    const frontEnd = this.connect(options);
    frontEnd.init();
    frontEnd.makeRings([0, 1, 2], 0xffff_ffff_ffffn);
    frontEnd.start();
    return { frontEnd, driver: new ScsiDriver(frontEnd) };
  }

  until(condition: () => boolean, what: string): void {
    pump(this.loop, condition, what);
  }

  settle(ms = 60): void {
    const end = performance.now() + ms;
    while (performance.now() < end) this.loop.turn(1);
  }

  /** End the target in order. */
  closePort(): void {
    let closed = false;
    this.port.close(() => {
      closed = true;
    });
    pump(this.loop, () => closed, 'the port to close');
    this.port_ = null;
  }

  /** kill -9 of the target: nothing is said to anybody. */
  killPort(): void {
    const port = this.port;
    this.loop.removePoller(port);
    port.device.queues.send = () => {};
    this.device.driverDied();
    // The process's descriptors and mappings go with it.
    (port as unknown as { watches: { close(): void }[] }).watches.forEach((w) => {
      w.close();
    });
    (port as unknown as { events: { close(): void }[] }).events.forEach((e) => {
      e.close();
    });
    for (const session of port.sessions) session.end('killed');
    settle(this.loop);
    this.port_ = null;
  }

  /** What stands between the device and the world, if anything. */
  protected closeMore(): void {}

  close(): void {
    this.disk.hold = false;
    this.disk.release();
    if (this.port_ !== null) this.closePort();
    for (const f of this.frontEnds) f.close();
    settle(this.loop);
    const { violations, aborts } = this.device;
    const wild = this.device.dma.violations;
    const parts = this.device.bar.parts;
    this.closeMore();
    this.device.destroy();
    settle(this.loop);
    for (const g of this.guests) g.close();
    this.loop.close();
    rmSync(this.folder, { recursive: true, force: true });
    if (this.errors.length > 0) throw this.errors[0];
    if (wild.length > 0) throw new Error(`wild DMA: ${wild.join('; ')}`);
    if (aborts.length > 0) throw new Error(`the fork's QEMU would have aborted: ${aborts.join('; ')}`);
    if (!this.allowViolations && violations.length > 0) throw new Error(violations.join('; '));
    if (this.memory.present.size > 0) throw new Error(`${this.memory.present.size} pieces of memory stayed`);
    if (parts > 0) throw new Error(`${parts} parts of the BAR stayed mapped`);
  }
}

export interface RigDevice extends DeviceAccess {
  readonly violations: string[];
  readonly aborts: string[];
  readonly dma: FakeDma;
  readonly bar: FakeBar;
  driverDied(): void;
  destroy(): void;
}

export class ForkRig extends VvuRig<FakeVvuFork> {
  readonly device: FakeVvuFork;

  constructor(variant: ForkVariant) {
    super();
    this.device = new FakeVvuFork(this.loop, this.path, variant);
  }
}

/** A stock QEMU with a relay before it. */
export class StockRig extends VvuRig<FakeStockQemu> {
  readonly device: FakeStockQemu;
  readonly relay: Relay;
  readonly told: string[] = [];

  constructor(vrings = 4) {
    super();
    const appliance = join(this.folder, 'appliance.sock');
    this.relay = new Relay({
      loop: this.loop,
      compute: this.path,
      appliance,
      vrings,
      windowBytes: FAKE_WINDOW,
      tell: (line) => this.told.push(line),
    });
    this.device = new FakeStockQemu(this.loop, appliance, vrings);
    settle(this.loop);
  }

  /** As a QEMU with `reconnect-ms`: while there is no driver there is no socket. */
  override connect(options: Partial<FrontEndOptions> = {}): FrontEnd {
    this.until(() => existsSync(this.path), 'the socket for compute VMs');
    return super.connect(options);
  }

  protected override closeMore(): void {
    let closed = false;
    this.relay.close(() => {
      closed = true;
    });
    pump(this.loop, () => closed, 'the relay to close');
  }
}

let warm = false;

/** Run a test on a fork's device, and see that nothing stays open after it. */
export function onFork(variant: ForkVariant, run: (rig: ForkRig) => void): () => void {
  return inRig(() => new ForkRig(variant), run);
}

/** Run a test through a relay. */
export function onStock(run: (rig: StockRig) => void): () => void {
  return inRig(() => new StockRig(), run);
}

function inRig<R extends { close(): void }>(make: () => R, run: (rig: R) => void): () => void {
  return () => {
    if (!warm) {
      warm = true;
      new ForkRig('A').close();
    }
    const before = openFds();
    const rig = make();
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
    const after = openFds();
    // The loader closes some of its own when it likes.
    if (after > before) throw new Error(`${after - before} descriptors stayed open`);
  };
}
