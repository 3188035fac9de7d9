import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Memory } from '../../src/memory/memory.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { DeviceRing } from '../../src/virtio/device-ring.ts';
import { DriverRing, tablesBytes } from '../../src/virtio/driver-ring.ts';
import { IoList } from '../../src/virtio/io-list.ts';
import { FakeGuest, FakeRing } from '../support/fake-driver.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';

/**
 * The two halves against a simple model: random sequences of add, kick, pop, complete out of order, publish, reap,
 * sleep and memory-table change. Data goes both ways and is compared.
 */
const test = suite('ring model');

const KIB = 1024;
const REGIONS = [
  { gpa: 0, size: 64 * KIB },
  { gpa: 64 * KIB, size: 64 * KIB },
  { gpa: 0x1_4000_0000, size: 64 * KIB },
];
const ENTRIES = 6;
const MAX_BUFFERS = 6;
const SLOT = 256; // each buffer of each head has its own bytes; region borders are crossed by the ones at 64 KiB

interface Request {
  /** What the driver wrote for the device to read. */
  sent: Uint8Array;
  /** Guest addresses the device writes to. */
  into: [gpa: number, bytes: number][];
  room: number;
  /** What the device answered. */
  answer: Uint8Array | null;
}

type Action =
  | { do: 'add'; out: number[]; into: number[]; indirect: boolean; seed: number }
  | { do: 'kick' | 'publish' | 'remap' | 'device sleeps' | 'driver sleeps' }
  | { do: 'pop' | 'reap'; count: number }
  | { do: 'complete'; which: number; bytes: number };

const lengths = (max: number) => fc.array(fc.integer({ min: 1, max: SLOT }), { maxLength: max });
const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('add' as const),
      out: lengths(3),
      into: lengths(3),
      indirect: fc.boolean(),
      seed: fc.nat(255),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('kick' as const) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('pop' as const), count: fc.integer({ min: 1, max: 8 }) }) },
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant('complete' as const), which: fc.nat(63), bytes: fc.nat(3 * SLOT) }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('publish' as const) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('reap' as const), count: fc.integer({ min: 1, max: 8 }) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('remap', 'device sleeps', 'driver sleeps') }) },
);

/** Entries old .. new-1 include `event` (mod 2^16): the spec's rule, spelled out. */
function passes(event: number, old: number, now: number): boolean {
  for (let i = old; i !== now; i = (i + 1) & 0xffff) if (i === event) return true;
  return false;
}

class World {
  readonly guest = new FakeGuest(REGIONS);
  readonly ring: FakeRing;
  readonly driver: DriverRing;
  readonly device: DeviceRing;
  readonly size: number;
  readonly eventIdx: boolean;
  private readonly buffers: number;
  private readonly readable = new SgList(1, 64);
  private readonly writable: SgList[];
  private readonly out = new IoList(MAX_BUFFERS);
  private readonly into = new IoList(MAX_BUFFERS);
  private readonly scratch = new Memory(new ArrayBuffer(MAX_BUFFERS * SLOT));
  // The model.
  readonly requests = new Map<number, Request>();
  /** Buffers lent: slot -> head. */
  private readonly slots = new Map<number, number>();
  private added: number[] = [];
  private offered: number[] = [];
  private served: number[] = [];
  private pushed: number[] = [];
  private finished: number[] = [];
  private firstPublish = true;
  total = 0;

  constructor(size: number, eventIdx: boolean, base: number) {
    this.size = size;
    this.eventIdx = eventIdx;
    this.writable = Array.from({ length: size }, () => new SgList(1, 64));
    this.ring = new FakeRing(this.guest, size, { eventIdx, base, region: 2 });
    const at = this.guest.alloc(tablesBytes(size, ENTRIES), 4096, 2);
    const part = this.guest.part(at);
    const tables = { ...part, addressOf: (offset: number) => at + offset - part.offset, entries: ENTRIES };
    const driver = DriverRing.create(this.ring.place, { size, eventIdx, tables, base });
    const options = { guest: this.guest.memory, size, eventIdx, indirect: true, base };
    const device = DeviceRing.create(this.ring.place, options);
    if (typeof driver === 'string' || typeof device === 'string') throw new Error(`${driver} ${device}`);
    this.driver = driver;
    this.device = device;
    // Buffers straddle the border of the first two regions, each head its own.
    this.buffers = 64 * KIB - ((size * MAX_BUFFERS * SLOT) >> 1) - 100;
  }

  step(a: Action): void {
    if (a.do === 'add') this.add(a.out, a.into, a.indirect, a.seed);
    else if (a.do === 'kick') this.kick();
    else if (a.do === 'pop') this.pop(a.count);
    else if (a.do === 'complete') this.complete(a.which, a.bytes);
    else if (a.do === 'publish') this.publish();
    else if (a.do === 'reap') this.reap(a.count);
    else if (a.do === 'remap') this.remap();
    else if (a.do === 'device sleeps') {
      assert.is(this.device.armNotifications(), this.offered.length > 0);
      this.device.suppressNotifications();
    } else {
      assert.is(this.driver.arm(), this.finished.length > 0);
      this.driver.suppress();
    }
  }

  private add(out: number[], into: number[], indirect: boolean, seed: number): void {
    if (out.length + into.length === 0) return;
    // The head is known only afterwards, so buffers are lent by request number; one round of `size` is in flight.
    const slot = this.total % this.size;
    if (this.slots.has(slot)) return;
    let gpa = this.buffers + slot * MAX_BUFFERS * SLOT;
    this.out.reset();
    this.into.reset();
    const sent: number[] = [];
    for (const bytes of out) {
      const data = Array.from({ length: bytes }, (_, i) => (seed + i) & 0xff);
      this.guest.write(gpa, data);
      sent.push(...data);
      this.out.pushAddress(gpa, bytes);
      gpa += SLOT;
    }
    const places: [number, number][] = [];
    for (const bytes of into) {
      this.into.pushAddress(gpa, bytes);
      places.push([gpa, bytes]);
      gpa += SLOT;
    }
    const head = this.driver.add(this.out, this.into, indirect);
    const needs = indirect ? 1 : out.length + into.length;
    if (head < 0) {
      assert.ok(this.driver.free < needs);
      return;
    }
    assert.not(this.requests.has(head));
    const room = into.reduce((a, b) => a + b, 0);
    this.requests.set(head, { sent: Uint8Array.from(sent), into: places, room, answer: null });
    this.slots.set(slot, head);
    this.added.push(head);
    this.total++;
  }

  private kick(): void {
    const old = this.ring.availIdx;
    const kick = this.driver.publish();
    const now = this.ring.availIdx;
    assert.is((now - old) & 0xffff, this.added.length);
    if (this.added.length === 0) assert.not(kick);
    else if (this.eventIdx) assert.is(kick, passes(this.ring.availEvent, old, now));
    else assert.is(kick, this.ring.usedFlags === 0);
    this.offered.push(...this.added);
    this.added = [];
  }

  private pop(count: number): void {
    for (let n = 0; n < count; n++) {
      const head = this.device.pop();
      assert.is(head, this.offered.shift() ?? -1);
      if (head < 0) return;
      this.served.push(head);
      assert.ok(this.device.readChain(head, this.readable, this.writable[head]), String(this.device.broken));
      const request = this.requests.get(head);
      assert.ok(request);
      assert.is(this.readable.bytes, request?.sent.length);
      assert.is(this.writable[head].bytes, request?.room);
      this.readable.gather(0, this.scratch, 0, this.readable.bytes);
      assert.equal(this.scratch.u8.slice(0, this.readable.bytes), request?.sent);
    }
  }

  private complete(which: number, bytes: number): void {
    if (this.served.length === 0) return;
    const [head] = this.served.splice(which % this.served.length, 1);
    const request = this.requests.get(head);
    if (request === undefined) throw new Error('the model lost a request');
    // Through the lists; `reap` looks at the guest's own addresses.
    const length = Math.min(bytes, request.room);
    const answer = Uint8Array.from({ length }, (_, i) => (head * 31 + i) & 0xff);
    this.scratch.u8.set(answer);
    assert.is(this.writable[head].scatter(0, this.scratch, 0, length), length);
    request.answer = answer;
    this.device.push(head, length);
    this.pushed.push(head);
  }

  private publish(): void {
    const old = this.ring.usedIdx;
    const usedEvent = this.guest.u16(this.ring.avail + 4 + 2 * this.size);
    const call = this.device.publish();
    const now = this.ring.usedIdx;
    assert.is((now - old) & 0xffff, this.pushed.length);
    if (this.pushed.length === 0) assert.not(call);
    else if (!this.eventIdx) assert.is(call, this.guest.u16(this.ring.avail) === 0);
    else assert.is(call, this.firstPublish || passes(usedEvent, old, now));
    if (this.pushed.length > 0) this.firstPublish = false;
    this.finished.push(...this.pushed);
    this.pushed = [];
  }

  private reap(count: number): void {
    for (let n = 0; n < count; n++) {
      const head = this.driver.poll();
      assert.is(head, this.finished.shift() ?? -1);
      if (head < 0) return;
      const request = this.requests.get(head);
      assert.is(this.driver.usedLength, request?.answer?.length);
      const got = request?.into.flatMap(([gpa, bytes]) => [...this.guest.read(gpa, bytes)]) ?? [];
      assert.equal(Uint8Array.from(got.slice(0, this.driver.usedLength)), request?.answer);
      this.requests.delete(head);
      for (const [slot, h] of this.slots) if (h === head) this.slots.delete(slot);
    }
  }

  /** The same bytes through new mappings, as after SET_MEM_TABLE. */
  private remap(): void {
    const again = new Map<Memory, Memory>();
    const fresh = (m: Memory) => {
      if (!again.has(m)) again.set(m, new Memory(m.u8.buffer));
      return again.get(m) as Memory;
    };
    const windows = this.guest.memory.windows.map((w) => ({ ...w, memory: fresh(w.memory) }));
    const { desc, avail, used } = this.ring.place;
    this.device.replaceMemory(
      {
        desc: { ...desc, memory: fresh(desc.memory) },
        avail: { ...avail, memory: fresh(avail.memory) },
        used: { ...used, memory: fresh(used.memory) },
      },
      new GuestMemory(windows),
    );
  }

  /** Let everything come home; nothing may be left. */
  finish(): void {
    this.kick();
    this.pop(this.size + 1);
    while (this.served.length > 0) this.complete(0, 1000);
    this.publish();
    this.reap(this.size + 1);
    assert.is(this.requests.size, 0);
    assert.is(this.driver.free, this.size);
    assert.equal([this.driver.inFlight, this.device.inFlight], [0, 0]);
    assert.equal([this.driver.broken, this.device.broken], [null, null]);
    assert.is(this.device.chains, this.total);
  }
}

test('both halves agree with the model', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(1, 2, 4, 16),
      fc.boolean(),
      fc.constantFrom(0, 65500, 65535),
      fc.array(action, { maxLength: 200, size: 'max' }),
      (size, eventIdx, base, actions) => {
        const world = new World(size, eventIdx, base);
        for (const a of actions) world.step(a);
        world.finish();
      },
    ),
    budget(6000),
  );
});

test.run();
