import { Memory } from '../../src/memory/memory.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { DeviceRing, RING_BROKEN, RING_EMPTY } from '../../src/virtio/device-ring.ts';
import { FakeGuest, FakeRing, INDIRECT, NEXT, type RawDesc, WRITE } from '../support/fake-driver.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { REASONS, type RefBuffer, referenceChain } from './reference-chain.ts';

/**
 * A hostile, "mostly valid" driver. After each step of the device:
 * 1. nothing was thrown, and the step ended;
 * 2. the device saw what the naive reference sees: the same head, the same buffers or the same broken rule;
 * 3. no byte changed but those the step may write: a used element, used.idx, the wish for kicks, writable buffers.
 * At the end each accepted head was completed once, or the ring is broken with a reason.
 */
const test = suite('hostile ring');

const REGIONS = [
  { gpa: 0x1000, size: 0x1000 },
  { gpa: 0x2000, size: 0x1000 }, // the ring's; a border to cross lies at 0x2000
  { gpa: 0x1_4000_0000, size: 0x800 },
];
const TABLES = 0x1100; // where descriptors point for tables: 8 of 16 descriptors, the last ones under data
const TABLE_BYTES = 0x100;

// ---- what the driver does

const goodAddr = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0x1800, max: 0x1f80 }) },
  { weight: 3, arbitrary: fc.integer({ min: 0x1_4000_0000, max: 0x1_4000_0780 }) },
  { weight: 2, arbitrary: fc.integer({ min: 0x1f81, max: 0x1fff }) }, // crosses into the ring's region
);
const badAddr = fc.oneof(
  fc.constantFrom<number | bigint>(0, 0xfff, 0x2fff, 0x3000, 0x1_4000_07ff, 0x1_4000_0800, 0x4000_1800),
  fc.constantFrom(1n << 52n, (1n << 52n) - 1n, (1n << 64n) - 1n, (1n << 63n) + 0x1800n, (1n << 32n) + 0x1800n),
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
);
const addr: fc.Arbitrary<number | bigint> = fc.oneof(
  { weight: 400, arbitrary: goodAddr },
  { weight: 1, arbitrary: badAddr },
);
const len = fc.oneof(
  { weight: 300, arbitrary: fc.integer({ min: 1, max: 0x60 }) },
  { weight: 40, arbitrary: fc.constant(0) },
  { weight: 1, arbitrary: fc.constantFrom(0x1000, 0x1001, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff) },
);
const index = fc.oneof({ weight: 30, arbitrary: fc.nat(15) }, { weight: 1, arbitrary: fc.nat(0xffff) });

interface ChainSpec {
  out: [number | bigint, number][];
  into: [number | bigint, number][];
  /** How many of the last buffers go to a table; more than there are: all. */
  table: number;
  tableAt: number | bigint;
  start: number;
  /** Change one field of one descriptor (direct ones first). */
  corrupt: { which: number; desc: Partial<RawDesc> } | null;
}

const buffers = (max: number) => fc.array(fc.tuple(addr, len), { maxLength: max });
const chain: fc.Arbitrary<ChainSpec> = fc.record({
  out: buffers(4),
  into: buffers(4),
  table: fc.oneof(fc.constant(0), fc.constantFrom(1, 2, 3, 8)),
  tableAt: fc.oneof(
    { weight: 80, arbitrary: fc.nat(7).map((k) => TABLES + k * TABLE_BYTES) },
    { weight: 20, arbitrary: fc.nat(0x7f).map((k) => TABLES + k) },
    { weight: 10, arbitrary: fc.integer({ min: 0x1fa1, max: 0x1fff }) }, // into the ring itself
    { weight: 1, arbitrary: badAddr },
  ),
  start: fc.nat(15),
  corrupt: fc.oneof(
    { weight: 30, arbitrary: fc.constant(null) },
    {
      weight: 1,
      arbitrary: fc.record({
        which: fc.nat(8),
        desc: fc.oneof(
          fc.record({ next: index }),
          fc.record({ flags: fc.nat(7) }),
          fc.record({ flags: fc.nat(0xffff) }),
          fc.record({ len }),
          fc.record({ len: fc.constantFrom(1, 8, 15, 17, 24, 0x4000, 0x4010, 0xffff_fff0) }),
          fc.record({ addr: badAddr }),
        ),
      }),
    },
  ),
});

type Action =
  | { do: 'offer'; chain: ChainSpec; head: number | null }
  | { do: 'again' }
  | { do: 'avail'; move: number }
  | { do: 'scribble'; at: number; bytes: number[] }
  | { do: 'event'; value: number }
  | { do: 'serve' | 'publish' | 'arm' | 'suppress' | 'remap' }
  | { do: 'complete'; which: number; written: number };

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 300,
    arbitrary: fc.record({
      do: fc.constant('offer' as const),
      chain,
      head: fc.oneof({ weight: 60, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: index }),
    }),
  },
  { weight: 300, arbitrary: fc.record({ do: fc.constant('serve' as const) }) },
  {
    weight: 250,
    arbitrary: fc.record({ do: fc.constant('complete' as const), which: fc.nat(15), written: fc.nat(0xffff_ffff) }),
  },
  { weight: 120, arbitrary: fc.record({ do: fc.constant('publish' as const) }) },
  { weight: 60, arbitrary: fc.record({ do: fc.constantFrom('arm', 'suppress', 'remap') }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('again' as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('avail' as const), move: fc.constantFrom(-1, 1, 2, 17, 0x8000) }),
  },
  { weight: 30, arbitrary: fc.record({ do: fc.constant('event' as const), value: fc.nat(0xffff) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('scribble' as const),
      at: fc.nat(0x27ff),
      bytes: fc.array(fc.nat(255), { minLength: 1, maxLength: 8 }),
    }),
  },
);

interface Options {
  size: number;
  base: number;
  eventIdx: boolean;
  indirect: boolean;
  jumpIsIdle: boolean;
}

const options: fc.Arbitrary<Options> = fc.record({
  size: fc.constantFrom(1, 2, 8, 16),
  base: fc.constantFrom(0, 7, 65530, 65535),
  eventIdx: fc.boolean(),
  indirect: fc.oneof({ weight: 6, arbitrary: fc.constant(true) }, { weight: 1, arbitrary: fc.constant(false) }),
  jumpIsIdle: fc.boolean(),
});

// ---- the world

interface Held {
  head: number;
  into: RefBuffer[];
  list: SgList;
}

const SOURCE = new Memory(new ArrayBuffer(0x1_0000));
SOURCE.u8.fill(0x5a);

class World {
  readonly guest = new FakeGuest(REGIONS);
  readonly ring: FakeRing;
  readonly device: DeviceRing;
  private readonly o: Options;
  private readonly out = new SgList(4, 64);
  // What the device may know: its own indexes, naively.
  private next: number;
  private known: number;
  private pushed = 0;
  /** Pushed elements that wait for `publish`: address, head, length. */
  private elements: [number, number, number][] = [];
  private held: Held[] = [];
  /** The driver's side: descriptors it has out with their heads, and heads pushed since the last publication. */
  private busy = new Map<number, number>();
  private returning: number[] = [];
  accepted = 0;
  completed = 0;
  visible = 0;

  constructor(o: Options) {
    this.o = o;
    this.ring = new FakeRing(this.guest, o.size, { eventIdx: o.eventIdx, base: o.base, region: 1 });
    const device = DeviceRing.create(this.ring.place, { ...o, guest: this.guest.memory });
    if (typeof device === 'string') throw new Error(device);
    this.device = device;
    this.next = o.base;
    this.known = o.base;
  }

  step(a: Action): void {
    if (a.do === 'offer') this.offer(a.chain, a.head);
    else if (a.do === 'again') this.ring.offer(this.held[0]?.head ?? 0);
    else if (a.do === 'avail') this.ring.availIdx = (this.ring.availIdx + a.move) & 0xffff;
    else if (a.do === 'scribble') this.scribble(a.at, a.bytes);
    else if (a.do === 'event') this.ring.usedEvent = a.value;
    else if (a.do === 'serve') this.serve();
    else if (a.do === 'complete') this.complete(a.which, a.written);
    else if (a.do === 'publish') this.publish();
    else if (a.do === 'arm') this.arm();
    else if (a.do === 'suppress') this.suppress();
    else this.remap();
  }

  // The driver.

  private offer(spec: ChainSpec, head: number | null): void {
    const all = [
      ...spec.out.map(([at, n]) => ({ addr: at, len: n, write: 0 })),
      ...spec.into.map(([at, n]) => ({ addr: at, len: n, write: WRITE })),
    ];
    if (all.length === 0) return;
    const { size } = this.o;
    const table = Math.min(spec.table, all.length);
    const direct = Math.min(all.length - table, size - (table > 0 ? 1 : 0));
    const count = direct + (table > 0 ? 1 : 0);
    const places = Array.from({ length: size }, (_, k) => (spec.start + k) % size)
      .filter((i) => !this.busy.has(i))
      .slice(0, count);
    if (places.length < count) return; // too few are free: an honest driver waits
    const descs: RawDesc[] = all.slice(0, direct).map((b, k) => {
      const last = k === count - 1;
      return { addr: b.addr, len: b.len, flags: b.write | (last ? 0 : NEXT), next: places[k + 1] ?? 0 };
    });
    if (table > 0) descs.push({ addr: spec.tableAt, len: 16 * table, flags: INDIRECT, next: 0 });
    const inner: RawDesc[] = all.slice(all.length - table).map((b, k) => ({
      addr: b.addr,
      len: b.len,
      flags: b.write | (k === table - 1 ? 0 : NEXT),
      next: k + 1,
    }));
    if (spec.corrupt !== null) {
      const victim = [...descs, ...inner][spec.corrupt.which % (descs.length + inner.length)];
      Object.assign(victim, spec.corrupt.desc);
    }
    descs.forEach((d, k) => {
      this.ring.raw(places[k], d);
    });
    inner.forEach((d, k) => {
      try {
        this.ring.raw(k, d, Number(spec.tableAt));
      } catch {
        // The table does not lie in memory: nothing to write.
      }
    });
    this.ring.availIndex = this.ring.availIdx; // it may have been scribbled over
    if (head === null) for (const i of places) this.busy.set(i, places[0]);
    this.ring.offer(head ?? places[0]);
  }

  private scribble(at: number, bytes: number[]): void {
    bytes.forEach((b, i) => {
      const offset = at + i;
      if (offset < 0x2000) this.guest.write(0x1000 + offset, [b]);
      else if (offset < 0x2800) this.guest.write(0x1_4000_0000 + offset - 0x2000, [b]);
    });
  }

  // The device, and what may come of each step.

  private serve(): void {
    const { size, indirect, jumpIsIdle } = this.o;
    let wanted = RING_EMPTY;
    const wasBroken = this.device.broken !== null;
    if (wasBroken) wanted = RING_BROKEN;
    else if (this.away) this.known = this.next;
    else {
      if (this.known === this.next) {
        const idx = this.ring.availIdx;
        if (((idx - this.next) & 0xffff) <= size) this.known = idx;
        else if (!jumpIsIdle) wanted = RING_BROKEN;
      }
      if (this.known !== this.next && wanted === RING_EMPTY) {
        wanted = this.guest.u16(this.ring.avail + 4 + 2 * (this.next % size));
        if (wanted >= size || this.held.some((h) => h.head === wanted)) wanted = RING_BROKEN;
      }
    }
    const head = this.writes([], () => this.device.pop());
    assert.is(head, wanted);
    if (head === RING_BROKEN) assert.ok(this.device.broken);
    if (head < 0) return;
    this.next = (this.next + 1) & 0xffff;
    this.accepted++;
    const reference = referenceChain(this.guest, this.ring.desc, size, head, indirect);
    const into = new SgList(4, 64);
    const ok = this.writes([], () => this.device.readChain(head, this.out, into));
    if (typeof reference === 'string') {
      assert.not(ok, `${reference} was accepted`);
      assert.match(String(this.device.broken), REASONS[reference] ?? /no such rule/);
      this.completed++; // dropped with the ring
    } else {
      assert.ok(ok, String(this.device.broken));
      this.same(reference, false, this.out);
      this.same(reference, true, into);
      this.held.push({ head, into: reference.filter((b) => b.write), list: into });
    }
    assert.is(this.device.inFlight, this.held.length);
  }

  /** used.idx as the device has published it. */
  private get visibleIdx(): number {
    return (this.device.usedIndex - this.pushed) & 0xffff;
  }

  /** The ring's memory looks exchanged: only rings with `jumpIsIdle` care. */
  private get away(): boolean {
    return this.o.jumpIsIdle && this.ring.usedIdx !== this.visibleIdx;
  }

  /** The list covers exactly the reference's buffers, byte by byte. */
  private same(reference: RefBuffer[], write: boolean, list: SgList): void {
    const bytes: string[] = [];
    for (let i = 0; i < list.count; i++) {
      const piece = this.guest.pieces.findIndex((p) => p.memory === list.memory[i]);
      assert.ok(list.length[i] > 0 && list.offset[i] >= 0);
      assert.ok(list.offset[i] + list.length[i] <= this.guest.pieces[piece].size);
      for (let k = 0; k < list.length[i]; k++) bytes.push(`${this.guest.pieces[piece].gpa + list.offset[i] + k}`);
    }
    const wanted = reference
      .filter((b) => b.write === write)
      .flatMap((b) => Array.from({ length: b.len }, (_, k) => `${Number(b.addr) + k}`));
    assert.is(bytes.join(), wanted.join());
    assert.is(list.bytes, wanted.length);
  }

  private complete(which: number, written: number): void {
    if (this.held.length === 0) return;
    const [{ head, into, list }] = this.held.splice(which % this.held.length, 1);
    // The data first, as a device model would; then the element.
    const ranges = into.map((b): [number, number] => [Number(b.addr), b.len]);
    this.writes(ranges, () => list.scatter(0, SOURCE, 0, list.bytes));
    const broken = this.device.broken !== null;
    const at = this.ring.used + 4 + 8 * (this.device.usedIndex % this.o.size);
    // A ring whose memory may be exchanged writes its elements when it publishes them.
    const later = this.o.jumpIsIdle;
    this.writes(broken || later ? [] : [[at, 8]], () => this.device.push(head, written));
    if (!broken) {
      // A driver that offers a head again before it is back loses the element of the first time.
      if (later) this.elements = [...this.elements.filter(([place]) => place !== at), [at, head, written]];
      else assert.equal([this.guest.u32(at), this.guest.u32(at + 4)], [head, written]);
      this.pushed++;
      this.returning.push(head);
    }
    this.completed++;
    assert.is(this.device.inFlight, this.held.length);
  }

  private publish(): void {
    const broken = this.device.broken !== null;
    if (!broken && this.away) {
      assert.not(this.writes([], () => this.device.publish()));
      return;
    }
    const elements = this.elements.map(([at]): [number, number] => [at, 8]);
    const call = this.writes(broken ? [] : [[this.ring.used + 2, 2], ...elements], () => this.device.publish());
    if (broken || this.pushed === 0) assert.not(call);
    else assert.is(this.ring.usedIdx, this.device.usedIndex);
    if (!broken) {
      for (const [at, head, written] of this.elements) {
        assert.equal([this.guest.u32(at), this.guest.u32(at + 4)], [head, written]);
      }
      this.elements = [];
      this.visible += this.pushed;
      this.pushed = 0;
      for (const [i, head] of this.busy) if (this.returning.includes(head)) this.busy.delete(i);
      this.returning = [];
    }
  }

  private arm(): void {
    const broken = this.device.broken !== null;
    const at = this.o.eventIdx ? this.ring.used + 4 + 8 * this.o.size : this.ring.used;
    const quiet = broken || this.away;
    const work = this.writes(quiet ? [] : [[at, 2]], () => this.device.armNotifications());
    if (quiet) {
      assert.not(work);
      return;
    }
    assert.is(this.guest.u16(at), this.o.eventIdx ? this.next : 0);
    const ahead = (this.ring.availIdx - this.next) & 0xffff;
    assert.is(work, ahead !== 0 && !(this.o.jumpIsIdle && ahead > this.o.size));
  }

  private suppress(): void {
    const quiet = this.device.broken !== null || this.o.eventIdx || this.away;
    this.writes(quiet ? [] : [[this.ring.used, 2]], () => this.device.suppressNotifications());
  }

  private remap(): void {
    this.writes([], () => this.device.replaceMemory(this.ring.place, this.guest.table()));
    if (this.device.broken === null) this.known = this.next; // what the old memory said is forgotten
  }

  /** Run a step of the device and see that it changed nothing but these guest ranges. */
  private writes<T>(ranges: [number, number][], fn: () => T): T {
    const before = this.guest.pieces.map((p) => p.memory.u8.slice());
    const result = fn();
    this.guest.pieces.forEach((p, i) => {
      const after = p.memory.u8;
      if (Buffer.compare(before[i], after) === 0) return;
      for (let k = 0; k < p.size; k++) {
        if (before[i][k] === after[k]) continue;
        const gpa = p.gpa + k;
        const allowed = ranges.some(([from, n]) => gpa >= from && gpa < from + n);
        assert.ok(allowed, `byte 0x${gpa.toString(16)} was written`);
      }
    });
    return result;
  }

  finish(): void {
    while (this.held.length > 0) this.complete(0, 0);
    if (this.away) this.guest.write(this.ring.used + 2, [this.visibleIdx & 0xff, this.visibleIdx >> 8]); // it comes back
    this.publish();
    assert.is(this.completed, this.accepted);
    assert.is(this.device.inFlight, 0);
    if (this.device.broken === null) assert.is(this.visible, this.accepted);
    else assert.ok(this.device.broken.length > 10);
    JSON.stringify(this.device.dump());
  }
}

test('whatever the driver writes, the ring obeys its invariants', () => {
  const seen = { chains: 0, broken: new Map<string, number>() };
  fc.assert(
    fc.property(options, fc.array(action, { maxLength: 150, size: 'max' }), (o, actions) => {
      const world = new World(o);
      for (const a of actions) world.step(a);
      world.finish();
      seen.chains += world.accepted;
      const reason = world.device.broken?.replaceAll(/\(.*\)|[0-9]+/g, '') ?? 'none';
      seen.broken.set(reason, (seen.broken.get(reason) ?? 0) + 1);
    }),
    budget(8000),
  );
  if (process.env['FC_SHOW'] !== undefined) console.log(seen);
  // The generator must keep hitting both sides, or the invariants are empty words.
  assert.ok((seen.broken.get('none') ?? 0) > 0);
  assert.ok(seen.broken.size > 5);
});

test.run();
