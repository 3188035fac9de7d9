/**
 * Sequences of requests, completions in any order, errors, forgotten commands, forged completions, resets and aborts against a
 * controller in plain memory. Whatever happens: each request ends exactly once, a request that ended well did what it
 * says, the device touched nothing it was not given, and everything can be taken down.
 */
import { BdevOp } from '../../src/bdev/bdev.ts';
import { NvmeStatus } from '../../src/nvme/status.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { bytesOf, fillList, type Placement, pattern, type TestIo } from './disk-rig.ts';
import { NvmeRig } from './nvme-rig.ts';

const test = suite('nvme fuzz');

/** Each region of the disk has one request at a time, so its content is known. */
const REGIONS = 24;
const REGION_BYTES = 0x4_0000;
const OPS = [BdevOp.READ, BdevOp.WRITE, BdevOp.FLUSH, BdevOp.UNMAP, BdevOp.WRITE_ZEROES, BdevOp.COMPARE];

const shape = fc.record({
  region: fc.nat(REGIONS - 1),
  op: fc.constantFrom(...OPS),
  blocks: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 64 })),
  placement: fc.constantFrom<Placement>('linear', 'pages', 'unreachable'),
  offset: fc.oneof(fc.constant(0), fc.constant(4096), fc.nat(5000)),
  gap: fc.oneof(fc.constant(0), fc.constant(4096), fc.nat(700)),
  cuts: fc.array(fc.oneof(fc.constant(4096), fc.integer({ min: 1, max: 9000 })), { maxLength: 6 }),
  seed: fc.nat(1e6),
  fua: fc.boolean(),
});
type Shape = typeof shape extends fc.Arbitrary<infer T> ? T : never;

const action = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('submit' as const), shape }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('finish' as const), which: fc.nat(200) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('pass' as const), ms: fc.integer({ min: 1, max: 30 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('fault' as const),
      status: fc.constantFrom<number>(...Object.values(NvmeStatus).filter((s) => s !== 0), -1),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('forge' as const),
      cid: fc.integer({ min: 0, max: 40 }),
      sqid: fc.integer({ min: 0, max: 3 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constantFrom('abort' as const, 'reset' as const, 'fatal' as const, 'event' as const),
    }),
  },
);

interface Running {
  io: TestIo;
  shape: Shape;
  data: Uint8Array;
  checked: boolean;
}

class Run {
  readonly rig: NvmeRig;
  readonly running: Running[] = [];
  /** What each region must hold; null when a failed write leaves it open. */
  private readonly model: (Uint8Array | null)[];
  private readonly busy = new Set<number>();
  private readonly blockSize: number;
  private faults: number[] = [];
  /** Forged completions can end a command that the device has not done: contents are not checked after one. */
  forged = false;

  constructor(blockSize: number, options: { sgls: number; oncs: number; mdts: number; entries: number }) {
    this.blockSize = blockSize;
    this.rig = new NvmeRig(
      { namespaces: [{ blockSize, blocks: (REGIONS * REGION_BYTES) / blockSize }], ...options },
      { entries: options.entries, bounceBuffers: 2, timeoutMs: 400, adminTimeoutMs: 2000 },
    );
    this.rig.open();
    this.rig.fake.auto = false;
    this.rig.fake.fault = (c) => (c.sqid === 1 ? this.faults.shift() : undefined);
    this.model = Array.from({ length: REGIONS }, () => new Uint8Array(REGION_BYTES));
  }

  get channel() {
    return this.rig.channels[0] as NonNullable<(typeof this.rig.channels)[0]>;
  }

  submit(s: Shape): void {
    if (this.busy.has(s.region)) return;
    const bytes = s.blocks * this.blockSize;
    const lengths: number[] = [];
    let left = bytes;
    for (const cut of s.cuts) {
      const n = Math.min(cut, left);
      if (n > 0) lengths.push(n);
      left -= n;
    }
    if (left > 0) lengths.push(left);
    const memory = this.rig.guest(s.offset + bytes + lengths.length * s.gap, s.placement);
    const sg = this.rig.list(memory, lengths, s.offset, s.gap);
    const data = pattern(bytes, s.seed);
    const held = this.model[s.region];
    if (s.op === BdevOp.COMPARE && held != null && s.seed % 2 === 0) data.set(held.subarray(0, bytes));
    fillList(sg, 0, data);
    const io = this.rig.io(s.op, (s.region * REGION_BYTES) / this.blockSize, s.op === BdevOp.FLUSH ? 0 : s.blocks, sg);
    io.fua = s.fua;
    const running = { io, shape: s, data, checked: false };
    this.running.push(running);
    this.busy.add(s.region);
    this.channel.submit(io);
    this.check();
  }

  /** Look at what has ended. */
  check(): void {
    for (const r of this.running) {
      assert.ok(r.io.ends <= 1, 'ended once');
      if (r.io.ends === 0 || r.checked) continue;
      r.checked = true;
      this.busy.delete(r.shape.region);
      this.judge(r);
    }
  }

  private judge({ io, shape: s, data }: Running): void {
    const held = this.model[s.region];
    const bytes = data.length;
    const zero = new Uint8Array(bytes);
    switch (s.op) {
      case BdevOp.READ:
        if (io.result === 'OK' && held != null && !this.forged) {
          assert.is(Buffer.compare(bytesOf(io.sg, 0, bytes), held.subarray(0, bytes)), 0, 'read what is there');
        }
        return;
      case BdevOp.COMPARE: {
        if (held == null || this.forged) return;
        const same = Buffer.compare(data, held.subarray(0, bytes)) === 0;
        if (io.result === 'OK') assert.ok(same, 'equal');
        if (io.result !== 'MISCOMPARE') return;
        const place = data.findIndex((b, i) => b !== held[i]);
        assert.ok(same || io.miscompareOffset === place, `differs at ${place}, told ${io.miscompareOffset}`);
        return;
      }
      case BdevOp.WRITE:
      case BdevOp.UNMAP:
      case BdevOp.WRITE_ZEROES:
        if (io.result !== 'OK' || this.forged) this.model[s.region] = null;
        else held?.set(s.op === BdevOp.WRITE ? data : zero);
    }
  }

  act(a: typeof action extends fc.Arbitrary<infer T> ? T : never): void {
    const { fake, controller } = this.rig;
    switch (a.kind) {
      case 'submit':
        this.submit(a.shape);
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
        this.forged = true;
        fake.forge(a.sqid, a.cid, 0, 1);
        break;
      case 'abort':
        this.channel.reset();
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
    this.check();
  }

  end(): void {
    this.faults = [];
    this.rig.fake.auto = true;
    this.rig.settle(this.running.map((r) => r.io));
    this.check();
    assert.ok(
      this.running.every((r) => r.io.ends === 1),
      'every request has ended',
    );
    assert.is(this.channel.inFlight, 0);
    const disk = this.rig.fake.disks[0] as Uint8Array;
    this.model.forEach((held, region) => {
      if (held === null || this.forged) return;
      const real = disk.subarray(region * REGION_BYTES, region * REGION_BYTES + held.length);
      assert.is(Buffer.compare(real, held), 0, `region ${region} holds what was written`);
    });
    this.rig.stop();
  }
}

test('any sequence of requests, completions, errors and resets', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(512, 4096),
      fc.record({
        sgls: fc.constantFrom(0, 1, 2),
        oncs: fc.constantFrom(0x0d, 0x00),
        mdts: fc.constantFrom(0, 2, 5),
        entries: fc.constantFrom(3, 8, 33),
      }),
      fc.array(action, { maxLength: 80 }),
      (blockSize, options, actions) => {
        const run = new Run(blockSize, options);
        for (const a of actions) run.act(a);
        run.end();
      },
    ),
    budget(60),
  );
});

test('pulled out at any moment', () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
      const run = new Run(512, { sgls: 1, oncs: 0x0d, mdts: 3, entries: 8 });
      for (const a of actions) run.act(a);
      run.rig.fake.pull();
      run.rig.settle(run.running.map((r) => r.io));
      run.check();
      assert.ok(
        run.running.every((r) => r.io.ends === 1),
        'every request has ended',
      );
      run.rig.stop();
    }),
    budget(30),
  );
});

test.run();
