/**
 * Resets of a device while the reactor that uses it sleeps, wakes, or is about to: nothing but interrupts and the main thread's bell wakes it. A
 * request that the next look of {@link ReactorQueue}'s own timer would have to find counts as lost: that timer is far off here.
 */

import type { CommandChannel } from '../../src/bdev/command-channel.ts';
import { openNvmeChannel } from '../../src/bdev/nvme-channel.ts';
import { ScsiEnd } from '../../src/bdev/virtio-scsi/command-ring.ts';
import { type Answer, Commander } from '../../src/bdev/virtio-scsi/commander.ts';
import { ScsiRequestQueue } from '../../src/bdev/virtio-scsi/request-queue.ts';
import type { VirtioScsiBdev } from '../../src/bdev/virtio-scsi-bdev.ts';
import { openVirtioScsiChannel, type VirtioScsiShare } from '../../src/bdev/virtio-scsi-channel.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import { budget, fc } from '../support/property.ts';
import { SleepyLoop } from '../support/sleepy-loop.ts';
import { assert, suite } from '../support/suite.ts';
import type { TestIo } from './disk-rig.ts';
import { NvmeRig } from './nvme-rig.ts';
import { REGION_BYTES, REGIONS, RegionModel, shape } from './region-model.ts';
import { VirtioRig } from './virtio-scsi-rig.ts';

const test = suite('resets while a reactor sleeps');

/** No reset of these devices takes so long, and what looks again by itself does it once a second. Milliseconds. */
const SOON = 250;
/** Milliseconds until a command is late. */
const FAR = 1e9;

const action = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('submit' as const), shape }) },
  // Passes of either thread, and of the device, in any order.
  {
    weight: 16,
    arbitrary: fc.record({ kind: fc.constantFrom('reactor' as const, 'main' as const, 'device' as const) }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('finish' as const), which: fc.nat(50) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('time' as const), ms: fc.integer({ min: 1, max: 40 }) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constantFrom('reset' as const, 'forget' as const) }) },
  // The device ends something when the reactor has looked for the last time, and is about to sleep.
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('late' as const) }) },
);
/** Short ones meet no device that is at work. */
const LONG = { maxLength: 90, size: 'max' } as const;
type Action = typeof action extends fc.Arbitrary<infer T> ? T : never;

/** What submits on the reactor: requests come as a front end's do, with a kick, and are taken in a pass. */
class Submitter {
  readonly waiting: TestIo[] = [];
  private readonly kick = new EventFd();
  private readonly watch: { close(): void };
  private readonly loop: SleepyLoop;
  channel: CommandChannel | undefined;

  constructor(loop: SleepyLoop) {
    this.loop = loop;
    this.watch = loop.watch(this.kick.fd.number, () => this.kick.drain());
    loop.addPoller(this);
  }

  send(io: TestIo): void {
    this.waiting.push(io);
    this.kick.signal();
  }

  poll(): number {
    const now = this.waiting.splice(0);
    for (const io of now) this.channel?.submit(io);
    return now.length;
  }

  arm(): boolean {
    return this.waiting.length > 0;
  }

  disarm(): void {}

  close(): void {
    this.loop.removePoller(this);
    this.watch.close();
    this.kick.close();
  }
}

interface Rig {
  readonly fake: { auto: boolean; pending: unknown[]; finish(at: number): boolean; step(): unknown };
  readonly loop: { now: number; pass(): void };
}

class Run {
  readonly reactor = new SleepyLoop();
  readonly submitter = new Submitter(this.reactor);
  readonly model: RegionModel;
  private readonly rig: NvmeRig | VirtioRig;
  private readonly reset: () => void;
  private resets = 0;
  private forgotten = 0;

  constructor(rig: NvmeRig | VirtioRig, channel: (loop: SleepyLoop) => CommandChannel, reset: () => void) {
    this.rig = rig;
    this.reset = reset;
    this.reactor.now = rig.loop.now;
    this.submitter.channel = channel(this.reactor);
    this.model = new RegionModel(rig, 512, (io) => this.submitter.send(io));
  }

  /** A millisecond of everything, or the main thread's part alone. */
  private async main(): Promise<void> {
    this.rig.loop.pass();
    if (this.rig instanceof VirtioRig) await new Promise((resolve) => setImmediate(resolve));
  }

  private async time(ms: number, done: () => boolean = () => false): Promise<void> {
    for (let i = 0; i < ms && !done(); i++) {
      this.rig.fake.step();
      await this.main();
      this.reactor.pass();
      this.rig.loop.now += 1e6;
      this.reactor.now = this.rig.loop.now;
    }
  }

  async act(a: Action): Promise<void> {
    const { fake } = this.rig as Rig;
    switch (a.kind) {
      case 'submit':
        this.model.submit(a.shape);
        break;
      case 'reactor':
        this.reactor.pass();
        break;
      case 'main':
        await this.main();
        break;
      case 'device':
        fake.step();
        break;
      case 'finish':
        if (fake.pending.length > 0) fake.finish(a.which % fake.pending.length);
        break;
      case 'time':
        await this.time(a.ms);
        break;
      case 'reset':
        // A command that many resets have met ends as aborted; that is no matter of sleep.
        if (this.resets++ < 2) this.reset();
        break;
      case 'forget':
        this.forgotten += fake.pending.splice(0, 1).length;
        break;
      case 'late':
        this.reactor.aboutToSleep = () => {
          fake.step();
          fake.finish(0);
        };
    }
    this.model.check();
  }

  async end(disk: () => Uint8Array | undefined): Promise<void> {
    const { ios } = this.model;
    const { fake } = this.rig;
    if (this.forgotten > 0 || ios.length % 2 === 0) {
      // What the device has now it ends only after a reset, and so wakes nobody before; what it has forgotten it never would.
      await this.time(SOON);
      const { resets } = fake;
      this.reset();
      await this.time(SOON, () => fake.resets > resets);
    }
    fake.auto = true;
    await this.time(SOON, () => ios.every((io) => io.ends > 0));
    const results = ios.map((io) => io.result);
    assert.not(results.includes('pending'), `asleep ${this.reactor.asleep}, ${results.join(' ')}`);
    assert.ok(
      results.every((r) => r === 'OK' || r === 'MISCOMPARE'),
      results.join(' '),
    );
    this.model.finish(disk());
    // The reactor goes to sleep again, with nothing to do.
    await this.time(SOON);
    assert.ok(this.reactor.asleep && this.reactor.sleeps > 0, 'it sleeps');
    this.submitter.channel?.close();
    this.submitter.close();
    assert.ok(this.reactor.idle || this.rig instanceof VirtioRig);
    this.reactor.close();
  }
}

test('an NVMe controller', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(3, 8, 33),
      fc.constantFrom(2, 5),
      fc.array(action, LONG),
      async (entries, mdts, actions) => {
        const rig = new NvmeRig(
          { namespaces: [{ blockSize: 512, blocks: (REGIONS * REGION_BYTES) / 512 }], vectors: 4, mdts },
          { entries, bounceBuffers: 2, timeoutMs: FAR },
        );
        assert.ok(rig.controller.usesInterrupts);
        const run = new Run(
          rig,
          (loop) => openNvmeChannel(rig.share(), loop),
          () => rig.controller.reset('test'),
        );
        rig.fake.auto = false;
        for (const a of actions) await run.act(a);
        await run.end(() => rig.fake.disks[0]);
        rig.stop();
      },
    ),
    budget(60) as fc.Parameters<[number, number, Action[]]>,
  );
});

test('a virtio-scsi adapter', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(action, LONG), async (actions) => {
      const rig = await VirtioRig.with(
        (fake) => fake.addDisk(0, 0, { numBlocks: (REGIONS * REGION_BYTES) / 512, writeCache: true }),
        { queueSize: 32, segMax: 4, vectors: 8, maxTarget: 1 },
        { timeoutMs: FAR },
      );
      // A reset takes longer than a reactor looks about before it sleeps again.
      const reset = rig.fake.reset.bind(rig.fake);
      rig.fake.reset = async () => {
        for (let ms = 0; ms < 5; ms++) await new Promise((resolve) => setImmediate(resolve));
        await reset();
      };
      const run = new Run(
        rig,
        (loop) => openVirtioScsiChannel((rig.bdevs[0] as VirtioScsiBdev).share(), loop),
        () => rig.disks.reset('V'),
      );
      rig.fake.auto = false;
      for (const a of actions) await run.act(a);
      await run.end(() => (rig.fake.channels.get('0/0') as { disk: Uint8Array }).disk);
      await rig.stop();
    }),
    budget(40) as fc.Parameters<[Action[]]>,
  );
});

test('who waits in a promise for the device to come back has his command sent then', async () => {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0), { vectors: 8 }, { timeoutMs: FAR });
  const reactor = new SleepyLoop();
  const { adapter } = (rig.bdevs[0] as VirtioScsiBdev).share().data as VirtioScsiShare;
  const commander = new Commander(ScsiRequestQueue.open({ ...adapter, key: 'promises' }, reactor));
  const time = async (done: () => boolean) => {
    for (let i = 0; i < SOON && !done(); i++) {
      await rig.time(1);
      reactor.now = rig.loop.now;
      reactor.pass();
    }
  };
  await time(() => reactor.asleep);
  rig.disks.reset('V');
  reactor.pass(); // lets go of the queue
  let answer: Answer | undefined;
  commander
    .send(0, 0, (cdb, at) => cdb.fill(0, at, at + 6))
    .then((a) => {
      answer = a;
    });
  await time(() => answer !== undefined);
  assert.is(answer?.status, ScsiEnd.GOOD);
  commander.close();
  reactor.close();
  await rig.stop();
});

test.run();
