import { DriverRing, type DriverRingOptions, tablesBytes } from '../../src/virtio/driver-ring.ts';
import { IoList } from '../../src/virtio/io-list.ts';
import { FakeGuest, FakeRing } from '../support/fake-driver.ts';
import { assert, suite } from '../support/suite.ts';
import { referenceChain } from './reference-chain.ts';

/** The driver half: what it writes, and a device that answers nonsense. */
const test = suite('driver ring');

function setup(size = 8, options: Partial<DriverRingOptions> & { entries?: number } = {}) {
  const { entries, ...rest } = options;
  const guest = new FakeGuest();
  // The fake ring lends its places; what is written there is the driver ring's.
  const ring = new FakeRing(guest, size, { eventIdx: rest.eventIdx ?? false });
  let tables = {};
  if (entries !== undefined) {
    const at = guest.alloc(tablesBytes(size, entries), 4096, 2); // above 4 GiB
    const part = guest.part(at);
    tables = { tables: { ...part, addressOf: (offset: number) => at + offset - part.offset, entries } };
  }
  const driver = DriverRing.create(ring.place, { size, eventIdx: false, ...rest, ...tables });
  if (typeof driver === 'string') throw new Error(driver);
  const out = new IoList(16);
  const into = new IoList(16);
  const add = (readable: number, writable: number, indirect = false): number => {
    out.reset();
    into.reset();
    for (let i = 0; i < readable; i++) out.push(0x2000 + i, 0, 10 + i);
    for (let i = 0; i < writable; i++) into.pushAddress(0x1_4000_0000 + i, 20 + i);
    return driver.add(out, into, indirect);
  };
  /** The device's side by hand. */
  const use = (id: number, len: number, idx = (ring.usedIdx + 1) & 0xffff) => {
    const at = ring.used + 4 + 8 * (ring.usedIdx % size);
    guest.u32(at, id);
    guest.u32(at + 4, len);
    guest.u16(ring.used + 2, idx);
  };
  return { guest, ring, driver, add, use };
}

const wanted = (readable: number, writable: number) => [
  ...Array.from({ length: readable }, (_, i) => ({ addr: BigInt(0x2000 + i), len: 10 + i, write: false })),
  ...Array.from({ length: writable }, (_, i) => ({ addr: 0x1_4000_0000n + BigInt(i), len: 20 + i, write: true })),
];

for (const indirect of [false, true]) {
  test(`writes chains a device can read (${indirect ? 'indirect' : 'direct'})`, () => {
    const { guest, ring, driver, add } = setup(8, { entries: 6 });
    for (const [r, w] of [
      [1, 0],
      [0, 1],
      [2, 3],
    ]) {
      const head = add(r, w, indirect);
      assert.ok(head >= 0);
      assert.equal(referenceChain(guest, ring.desc, 8, head, true), wanted(r, w));
      assert.is((guest.u16(ring.desc + 16 * head + 12) & 4) !== 0, indirect);
    }
    assert.is(driver.inFlight, 3);
    assert.is(driver.free, indirect ? 5 : 1);
    assert.is(ring.availIdx, 0); // not yet published
    assert.ok(driver.publish());
    assert.is(ring.availIdx, 3);
    assert.not(driver.publish());
  });
}

test('a chain too long for its table goes direct', () => {
  const { guest, ring, add, driver } = setup(8, { entries: 2 });
  const head = add(2, 1, true);
  assert.equal(referenceChain(guest, ring.desc, 8, head, false), wanted(2, 1));
  assert.is(driver.free, 5);
});

test('refuses what does not fit and takes it when there is room again', () => {
  const { add, use, driver } = setup(4);
  const a = add(2, 1);
  assert.is(add(1, 1), -1);
  const b = add(0, 1);
  assert.is(driver.free, 0);
  assert.is(add(1, 0), -1);
  driver.publish();
  use(b, 20);
  assert.is(driver.poll(), b);
  assert.is(driver.usedLength, 20);
  use(a, 0);
  assert.is(driver.poll(), a);
  assert.is(driver.poll(), -1);
  assert.is(driver.free, 4);
  assert.ok(add(2, 2) >= 0);
});

test('descriptors are never lent twice, in a thousand chains of mixed lengths', () => {
  const { guest, ring, driver, add, use } = setup(16, { entries: 4 });
  const busy = new Map<number, [number, number]>();
  for (let i = 0; i < 1000; i++) {
    const [r, w] = [1 + (i % 3), (i * 7) % 4];
    const head = add(r, w, i % 5 === 0);
    if (head >= 0) {
      assert.not(busy.has(head));
      busy.set(head, [r, w]);
    }
    for (const [h, [hr, hw]] of busy) assert.equal(referenceChain(guest, ring.desc, 16, h, true), wanted(hr, hw));
    driver.publish();
    if (head < 0 || i % 3 === 0) {
      const id = [...busy.keys()][i % busy.size];
      use(id, 0);
      assert.is(driver.poll(), id);
      busy.delete(id);
    }
  }
  assert.is(driver.inFlight, busy.size);
});

test('an empty chain is a bug of ours', () => {
  const { add } = setup();
  assert.throws(() => add(0, 0), /needs a buffer/);
});

test('a kick is wanted by used.flags without EVENT_IDX', () => {
  const { guest, ring, driver, add } = setup();
  guest.u16(ring.used, 1);
  add(1, 0);
  assert.not(driver.publish());
  guest.u16(ring.used, 0);
  add(1, 0);
  assert.ok(driver.publish());
});

for (const [event, kick] of [
  [0, true],
  [1, true],
  [2, false],
  [65535, false],
] as const) {
  test(`entries 0 and 1 published, avail_event ${event}: ${kick ? 'kick' : 'no kick'}`, () => {
    const { guest, ring, driver, add } = setup(8, { eventIdx: true });
    guest.u16(ring.used + 4 + 8 * 8, event);
    add(1, 0);
    add(1, 0);
    assert.is(driver.publish(), kick);
  });
}

test('arming names the next used entry and tells of one that is there', () => {
  for (const eventIdx of [false, true]) {
    const { guest, ring, driver, add, use } = setup(8, { eventIdx });
    const event = () => guest.u16(ring.avail + 4 + 2 * 8);
    driver.suppress();
    if (eventIdx) assert.is(event(), 0xffff);
    else assert.is(guest.u16(ring.avail), 1);
    const head = add(1, 0);
    driver.publish();
    assert.not(driver.arm());
    assert.is(eventIdx ? event() : guest.u16(ring.avail), 0);
    use(head, 0);
    assert.ok(driver.arm());
    driver.poll();
    assert.not(driver.arm());
    if (eventIdx) assert.is(event(), 1);
  }
});

test('used.idx wraps', () => {
  const { driver, add, use } = setup(2);
  for (let i = 0; i < 65536 + 10; i++) {
    const head = add(1, 1);
    driver.publish();
    use(head, 7);
    if (driver.poll() !== head) throw new Error(`at ${i}: ${driver.broken}`);
  }
  assert.is(driver.free, 2);
});

test('a length beyond the buffers is cut and counted', () => {
  const { driver, add, use } = setup();
  const head = add(1, 1);
  driver.publish();
  use(head, 21);
  assert.is(driver.poll(), head);
  assert.equal([driver.usedLength, driver.overlong, driver.broken], [20, 1, null]);
});

const LIES: readonly [string, (s: ReturnType<typeof setup>, head: number) => void, RegExp][] = [
  ['an id beyond the queue', (s) => s.use(8, 0), /names head 8, queue size is 8/],
  ['an id of 2^32 - 1', (s) => s.use(0xffff_ffff, 0), /names head 4294967295/],
  ['an id that is not in flight', (s, head) => s.use(head + 1, 0), /names head 1, which is not in flight/],
  [
    'used.idx beyond what is in flight',
    (s, head) => s.use(head, 0, 2),
    /used.idx 2 is 2 ahead of 0, 1 chains are in flight/,
  ],
  ['used.idx that goes back', (s, head) => s.use(head, 0, 65535), /65535 ahead/],
];
for (const [name, lie, reason] of LIES) {
  test(`a device that gives ${name} is not believed any more`, () => {
    const s = setup();
    const head = s.add(1, 1);
    s.driver.publish();
    lie(s, head);
    assert.is(s.driver.poll(), -2);
    assert.match(String(s.driver.broken), reason);
    assert.is(s.driver.poll(), -2);
    assert.is(s.add(1, 1), -1);
    assert.not(s.driver.publish());
    assert.not(s.driver.arm());
    assert.is(s.driver.inFlight, 1);
  });
}

test('the same id twice in one batch', () => {
  const { driver, add, use } = setup();
  const head = add(1, 0);
  add(1, 0);
  driver.publish();
  use(head, 0);
  use(head, 0);
  assert.is(driver.poll(), head);
  assert.is(driver.poll(), -2);
});

test('chains not yet published cannot be used', () => {
  const { driver, add, use } = setup();
  use(add(1, 0), 0);
  assert.is(driver.poll(), -2);
  assert.match(String(driver.broken), /0 chains are in flight/);
});

test('places and tables that do not fit are reasons', () => {
  const guest = new FakeGuest();
  const { place } = new FakeRing(guest, 8);
  const { memory } = guest.part(0);
  assert.match(String(DriverRing.create(place, { size: 3, eventIdx: false })), /power of two/);
  const tables = { memory, offset: memory.length - 4096, addressOf: (offset: number) => offset, entries: 256 };
  for (const wrong of [{}, { offset: 16, entries: 1 }, { offset: 0, entries: 0 }, { offset: 0, entries: 257 }]) {
    assert.match(
      String(DriverRing.create(place, { size: 8, eventIdx: false, tables: { ...tables, ...wrong } })),
      /tables at offset .* do not fit/,
    );
  }
});

test('tables may lie across a 4 GiB border of the I/O address', () => {
  const guest = new FakeGuest();
  const ring = new FakeRing(guest, 4);
  const { memory, offset } = guest.part(guest.alloc(4096, 4096));
  const tables = { memory, offset, addressOf: (at: number) => 8 * 2 ** 32 - 0x80 + at - offset, entries: 4 };
  const driver = DriverRing.create(ring.place, { size: 4, eventIdx: false, tables });
  if (typeof driver === 'string') throw new Error(driver);
  const list = new IoList(1);
  list.push(0x2000, 0, 1);
  for (let i = 0; i < 4; i++) assert.is(driver.add(list, new IoList(1), true), i);
  const addr = (i: number) => [guest.u32(ring.desc + 16 * i), guest.u32(ring.desc + 16 * i + 4)];
  assert.equal([0, 1, 2, 3].map(addr), [
    [0xffff_ff80, 7],
    [0xffff_ffc0, 7],
    [0, 8],
    [0x40, 8],
  ]);
});

test('a table lies within a page, wherever the pages are', () => {
  const guest = new FakeGuest();
  const ring = new FakeRing(guest, 8);
  const part = guest.part(guest.alloc(tablesBytes(8, 100), 4096));
  // Two of 100 descriptors a page; the pages in the opposite order and with gaps.
  const addressOf = (at: number) => 2 ** 33 - 0x2000 * ((at - part.offset) >> 12) + (at & 0xfff);
  const driver = DriverRing.create(ring.place, {
    size: 8,
    eventIdx: false,
    tables: { ...part, addressOf, entries: 100 },
  });
  if (typeof driver === 'string') throw new Error(driver);
  const list = new IoList(100);
  for (let i = 0; i < 100; i++) list.push(0x1000 * i, 0, 1 + i);
  for (let i = 0; i < 8; i++) {
    assert.is(driver.add(list, new IoList(1), true), i);
    const address = guest.u32(ring.desc + 16 * i) + guest.u32(ring.desc + 16 * i + 4) * 2 ** 32;
    assert.is(address, 2 ** 33 - 0x2000 * (i >> 1) + (i % 2) * 1600);
    const table = part.memory.u32.subarray((part.offset + (i >> 1) * 4096 + (i % 2) * 1600) >> 2);
    for (let k = 0; k < 100; k++) assert.equal([table[4 * k], table[4 * k + 2]], [0x1000 * k, 1 + k]);
  }
});

test('a list takes words signed or unsigned, and no more than its capacity', () => {
  const list = new IoList(2);
  assert.ok(list.push(-1, -1, 5));
  assert.ok(list.pushAddress(0x12_3456_789a, 6));
  assert.not(list.push(0, 0, 1));
  assert.equal([list.lo[0], list.hi[0], list.lo[1], list.hi[1]], [0xffff_ffff, 0xffff_ffff, 0x3456_789a, 0x12]);
  assert.equal([list.count, list.bytes], [2, 11]);
});

test('dump survives JSON', () => {
  const { driver, add } = setup();
  add(1, 1);
  const dump = driver.dump();
  assert.equal(JSON.parse(JSON.stringify(dump)), dump);
  assert.is(dump['in_flight'], 1);
});

test.run();
