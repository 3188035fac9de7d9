/**
 * The same for the virtio-scsi initiator: requests, completions in any order, SCSI answers of every kind, forgotten commands, rings that
 * lie, resets, aborts, events.
 */
import { featureMask, VirtioFeature } from '../../src/virtio/features.ts';
import { budget, fc } from '../support/property.ts';
import { suite } from '../support/suite.ts';
import type { Fault } from './fake-virtio-scsi.ts';
import { REGION_BYTES, REGIONS, RegionModel, shape } from './region-model.ts';
import { VirtioRig } from './virtio-scsi-rig.ts';

const test = suite('virtio-scsi fuzz');

const fault: fc.Arbitrary<Fault> = fc.oneof(
  fc.constant<Fault>('forget'),
  fc.record({ response: fc.integer({ min: 1, max: 12 }) }),
  fc.record({
    status: fc.constantFrom(2, 2, 2, 8, 0x18, 0x28, 0x40, 0x77),
    sense: fc.tuple(fc.nat(15), fc.constantFrom(0, 0x11, 0x20, 0x25, 0x29, 0x2a), fc.constantFrom(0, 9)),
  }),
);

const action = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('submit' as const), shape }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('finish' as const), which: fc.nat(200) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('pass' as const), ms: fc.integer({ min: 1, max: 30 }) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('fault' as const), fault }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('scribble' as const), by: fc.integer({ min: 1, max: 0xffff }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constantFrom('abort' as const, 'reset' as const, 'sick' as const, 'event' as const),
    }),
  },
);
type Action = typeof action extends fc.Arbitrary<infer T> ? T : never;

interface Options {
  indirect: boolean;
  eventIdx: boolean;
  queueSize: number;
  segMax: number;
  vectors: number;
  /** Its rings may lie: then contents are not looked at. */
  lies: boolean;
}

class Run {
  readonly rig: VirtioRig;
  readonly model: RegionModel;
  private faults: Fault[] = [];

  private readonly lies: boolean;

  private constructor(rig: VirtioRig, lies: boolean) {
    this.rig = rig;
    this.lies = lies;
    const channel = rig.open();
    this.model = new RegionModel(rig, 512, (io) => channel.submit(io));
    rig.fake.auto = false;
    // Only what moves data: a scan that is lied to would take the disk away, which has its own test.
    rig.fake.fault = (cdb) =>
      [0x88, 0x8a, 0x35, 0x42, 0x93].includes(cdb[0] as number) ? this.faults.shift() : undefined;
  }

  static async start({ indirect, eventIdx, queueSize, segMax, vectors, lies }: Options): Promise<Run> {
    const bits = [VirtioFeature.VERSION_1];
    const features = featureMask(
      ...bits,
      ...(indirect ? [VirtioFeature.INDIRECT_DESC] : []),
      ...(eventIdx ? [VirtioFeature.EVENT_IDX] : []),
    );
    const rig = await VirtioRig.with(
      (fake) => fake.addDisk(0, 0, { numBlocks: (REGIONS * REGION_BYTES) / 512, writeCache: true }),
      { features, queueSize, segMax, vectors, maxTarget: 1 },
      { timeoutMs: 400 },
    );
    return new Run(rig, lies);
  }

  async act(a: Action): Promise<void> {
    const { fake, disks, channels } = this.rig;
    switch (a.kind) {
      case 'submit':
        this.model.submit(a.shape);
        break;
      case 'finish':
        if (fake.pending.length > 0) fake.finish(a.which % fake.pending.length);
        break;
      case 'pass':
        await this.rig.time(a.ms);
        break;
      case 'fault':
        // A short answer that says GOOD is a lie we cannot see through; the others are errors.
        this.faults.push(a.fault);
        break;
      case 'scribble': {
        const ring = fake.queues.get(2)?.ring as unknown as { used16: Uint16Array; usedIdx: number } | undefined;
        if (ring === undefined || !this.lies) break;
        this.model.lied = true;
        ring.used16[ring.usedIdx] += a.by;
        break;
      }
      case 'abort':
        channels[0]?.reset();
        break;
      case 'reset':
        if (disks.names.length > 0) disks.reset('V');
        break;
      case 'sick':
        if (fake.state === 'ok') fake.state = 'needs reset';
        break;
      case 'event':
        fake.event(3, 0, 0, 0x092a);
    }
    this.model.check();
  }

  async end(gone: boolean): Promise<void> {
    this.faults = [];
    this.rig.fake.auto = true;
    await this.rig.settle(this.model.ios);
    const channel = this.rig.fake.channels.get('0/0') as { disk: Uint8Array };
    this.model.finish(gone ? undefined : channel.disk);
    await this.rig.until(() => this.rig.channels.every((c) => c.queue.pair.inFlight === 0), 5000);
    await this.rig.stop();
  }
}

const options = fc.record({
  indirect: fc.boolean(),
  eventIdx: fc.boolean(),
  queueSize: fc.constantFrom(8, 32, 128),
  segMax: fc.constantFrom(1, 4, 126),
  vectors: fc.constantFrom(0, 8),
  lies: fc.constantFrom(false, false, true),
});

test('any sequence of requests, completions, errors and resets', async () => {
  await fc.assert(
    fc.asyncProperty(options, fc.array(action, { maxLength: 60 }), async (o, actions) => {
      const run = await Run.start(o);
      for (const a of actions) await run.act(a);
      await run.end(false);
    }),
    budget(40) as fc.Parameters<[Options, Action[]]>,
  );
});

test('pulled out at any moment', async () => {
  await fc.assert(
    fc.asyncProperty(options, fc.array(action, { maxLength: 40 }), async (o, actions) => {
      const run = await Run.start(o);
      for (const a of actions) await run.act(a);
      run.rig.fake.pull();
      await run.end(true);
    }),
    budget(20) as fc.Parameters<[Options, Action[]]>,
  );
});

test.run();
