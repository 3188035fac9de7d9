/**
 * Sequences of requests, completions in any order, errors, forgotten commands, forged completions, resets and aborts against a
 * controller in plain memory. Whatever happens: each request ends exactly once, a request that ended well did what it
 * says, the device touched nothing it was not given, and everything can be taken down.
 */
import { NvmeStatus } from '../../src/nvme/status.ts';
import { budget, fc } from '../support/property.ts';
import { suite } from '../support/suite.ts';
import { NvmeRig } from './nvme-rig.ts';
import { REGION_BYTES, REGIONS, RegionModel, shape } from './region-model.ts';

const test = suite('nvme fuzz');

const ERRORS = Object.values(NvmeStatus).filter((s) => s !== 0);

const action = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('submit' as const), shape }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('finish' as const), which: fc.nat(200) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('pass' as const), ms: fc.integer({ min: 1, max: 30 }) }) },
  // -1: the device forgets the command.
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('fault' as const), status: fc.constantFrom<number>(...ERRORS, -1) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('forge' as const), cid: fc.nat(40), sqid: fc.nat(3) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constantFrom('abort' as const, 'reset' as const, 'fatal' as const, 'event' as const),
    }),
  },
);
type Action = typeof action extends fc.Arbitrary<infer T> ? T : never;

class Run {
  readonly rig: NvmeRig;
  readonly model: RegionModel;
  private faults: number[] = [];
  /** Completions may be forged: then contents are not looked at. */
  private readonly lies: boolean;

  constructor(
    blockSize: number,
    lies: boolean,
    options: { sgls: number; oncs: number; mdts: number; entries: number },
  ) {
    this.lies = lies;
    this.rig = new NvmeRig(
      { namespaces: [{ blockSize, blocks: (REGIONS * REGION_BYTES) / blockSize }], ...options },
      { entries: options.entries, bounceBuffers: 2, timeoutMs: 400, adminTimeoutMs: 2000 },
    );
    const channel = this.rig.open();
    this.model = new RegionModel(this.rig, blockSize, (io) => channel.submit(io));
    this.rig.fake.auto = false;
    this.rig.fake.fault = (c) => (c.sqid === 1 ? this.faults.shift() : undefined);
  }

  act(a: Action): void {
    const { fake, controller, channels } = this.rig;
    switch (a.kind) {
      case 'submit':
        this.model.submit(a.shape);
        break;
      case 'finish':
        if (fake.pending.length > 0) fake.finish(a.which % fake.pending.length);
        break;
      case 'pass':
        this.rig.time(a.ms);
        break;
      case 'fault':
        this.faults.push(a.status);
        break;
      case 'forge':
        if (!this.lies) break;
        this.model.lied = true;
        fake.forge(a.sqid, a.cid, 0, 1);
        break;
      case 'abort':
        channels[0]?.reset();
        break;
      case 'reset':
        controller.reset('fuzz');
        break;
      case 'fatal':
        fake.setFatal();
        break;
      case 'event':
        fake.event(0x04_0002);
    }
    this.model.check();
  }

  end(gone: boolean): void {
    this.faults = [];
    this.rig.fake.auto = true;
    this.rig.settle(this.model.ios);
    this.model.finish(gone ? undefined : this.rig.fake.disks[0]);
    this.rig.stop();
  }
}

test('any sequence of requests, completions, errors and resets', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(512, 4096),
      fc.constantFrom(false, false, true),
      fc.record({
        sgls: fc.constantFrom(0, 1, 2),
        oncs: fc.constantFrom(0x0d, 0x00),
        mdts: fc.constantFrom(0, 2, 5),
        entries: fc.constantFrom(3, 8, 33),
      }),
      fc.array(action, { maxLength: 80 }),
      (blockSize, lies, options, actions) => {
        const run = new Run(blockSize, lies, options);
        for (const a of actions) run.act(a);
        run.end(false);
      },
    ),
    budget(60),
  );
});

test('pulled out at any moment', () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
      const run = new Run(512, true, { sgls: 1, oncs: 0x0d, mdts: 3, entries: 8 });
      for (const a of actions) run.act(a);
      run.rig.fake.pull();
      run.end(true);
    }),
    budget(30),
  );
});

test.run();
