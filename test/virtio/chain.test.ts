import type { Memory } from '../../src/memory/memory.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { DeviceRing } from '../../src/virtio/device-ring.ts';
import {
  FakeGuest,
  FakeRing,
  INDIRECT,
  NEXT,
  type RawDesc,
  readable,
  WRITE,
  writable,
} from '../support/fake-driver.ts';
import { assert, suite } from '../support/suite.ts';

/** One test a rule of descriptor chains (virtio 1.2 §2.7.4, §2.7.5). */
const test = suite('descriptor chains');

const out = new SgList(8, 2048);
const into = new SgList(8, 2048);

type Segment = [memory: Memory, offset: number, length: number];

function segments(sg: SgList): Segment[] {
  return Array.from({ length: sg.count }, (_, i) => [sg.memory[i], sg.offset[i], sg.length[i]]);
}

function setup(size = 8, indirect = true, guest = new FakeGuest()) {
  const driver = new FakeRing(guest, size);
  const device = DeviceRing.create(driver.place, { guest: guest.memory, size, eventIdx: false, indirect, base: 0 });
  if (typeof device === 'string') throw new Error(device);
  const read = (head: number): boolean => {
    driver.offer(head);
    assert.is(device.pop(), head);
    return device.readChain(head, out, into);
  };
  const refuse = (head: number, reason: RegExp) => {
    assert.not(read(head));
    assert.match(String(device.broken), reason);
    assert.is(out.count + into.count, 0);
  };
  return { guest, driver, device, read, refuse };
}

const [LOW, NEAR, HIGH] = [0, 1, 2];
const MIB = 0x10_0000;
const HIGH_GPA = 0x1_4000_0000;

test('direct: buffers of several regions, also above 4 GiB', () => {
  const { guest, driver, read } = setup();
  const head = driver.chain([readable(0x2000, 51), writable(MIB + 8, 108), writable(HIGH_GPA + 0x1000, 4096)]);
  assert.ok(read(head));
  assert.equal(segments(out), [[guest.pieces[LOW].memory, 0x2000, 51]]);
  assert.equal(segments(into), [
    [guest.pieces[NEAR].memory, 8, 108],
    [guest.pieces[HIGH].memory, 0x1000, 4096],
  ]);
});

test('a buffer over a border of regions is two segments', () => {
  const { guest, driver, read } = setup();
  assert.ok(read(driver.chain([writable(MIB - 10, 30)])));
  assert.equal(segments(into), [
    [guest.pieces[LOW].memory, MIB - 10, 10],
    [guest.pieces[NEAR].memory, 0, 20],
  ]);
  assert.is(into.bytes, 30);
});

test('indirect: the whole chain in a table', () => {
  const { driver, read } = setup();
  assert.ok(read(driver.chain([readable(0x2000, 51), readable(0x3000, 512), writable(0x4000, 108)], { table: 3 })));
  assert.equal([out.count, out.bytes, into.count, into.bytes], [2, 563, 1, 108]);
});

test('mixed: plain descriptors, then a table (§2.7.5.3.2)', () => {
  const { driver, read } = setup();
  assert.ok(read(driver.chain([readable(0x2000, 1), readable(0x3000, 2), writable(0x4000, 4)], { table: 2 })));
  assert.equal([out.count, out.bytes, into.count, into.bytes], [2, 3, 1, 4]);
});

test('mixed: readable in the table after writable before it is refused', () => {
  const { driver, refuse } = setup();
  refuse(
    driver.chain([writable(0x2000, 1), readable(0x3000, 2)], { table: 1 }),
    /indirect descriptor 0 .*readable after/,
  );
});

test('the WRITE flag of a descriptor that names a table is ignored (§2.7.5.3.2)', () => {
  const { guest, driver, read } = setup();
  const table = guest.alloc(16);
  driver.raw(0, { addr: 0x2000, len: 9, flags: 0, next: 0 }, table);
  driver.raw(3, { addr: table, len: 16, flags: INDIRECT | WRITE, next: 0 });
  assert.ok(read(3));
  assert.equal([out.bytes, into.bytes], [9, 0]);
});

test('a table may have more entries than the chain uses, and in any order', () => {
  const { guest, driver, read } = setup();
  const table = guest.alloc(16 * 5);
  driver.raw(0, { addr: 0x2000, len: 1, flags: NEXT, next: 4 }, table);
  driver.raw(4, { addr: 0x2010, len: 2, flags: NEXT, next: 2 }, table);
  driver.raw(2, { addr: 0x2020, len: 4, flags: WRITE, next: 1 }, table);
  driver.raw(0, { addr: table, len: 80, flags: INDIRECT, next: 0 });
  assert.ok(read(0));
  assert.equal([out.bytes, into.bytes], [3, 4]);
});

for (const shift of [1, 2, 3, 4, 8, 12]) {
  test(`a table at an address ${shift} beyond a multiple of 16`, () => {
    const { guest, driver, read } = setup();
    const tableAt = guest.alloc(64) + shift;
    assert.ok(read(driver.chain([readable(0x2000, 7), writable(0x3000, 9)], { table: 2, tableAt })));
    assert.equal([out.bytes, into.bytes], [7, 9]);
  });
}

test('a table over a border of regions, also cut within a descriptor', () => {
  for (const before of [16, 8, 7, 1]) {
    const { driver, read } = setup();
    const tableAt = MIB - before;
    assert.ok(
      read(driver.chain([readable(0x2000, 7), writable(0x3000, 9), writable(0x4000, 1)], { table: 3, tableAt })),
    );
    assert.equal([out.bytes, into.bytes], [7, 10]);
  }
});

test('chains of the whole ring, and tables of 1024 behind a ring of 8', () => {
  const whole = setup(64);
  assert.ok(whole.read(whole.driver.chain(Array.from({ length: 64 }, (_, i) => readable(0x2000 + i, 1)))));
  assert.is(out.count, 64);
  const table = setup(8);
  const buffers = Array.from({ length: 1024 }, (_, i) => writable(0x8000 + i, 1));
  assert.ok(table.read(table.driver.chain(buffers, { table: 1024 })));
  assert.is(into.count, 1024);
  assert.is(into.offset[1023], 0x8000 + 1023);
});

test('buffers of no bytes are skipped wherever they point', () => {
  const { driver, read } = setup();
  const nowhere = 0xffff_ffff_ffff_ffffn;
  assert.ok(read(driver.chain([readable(nowhere, 0), readable(0x2000, 4), writable(nowhere, 0), writable(0x3000, 8)])));
  assert.equal([out.count, out.bytes, into.count, into.bytes], [1, 4, 1, 8]);
});

test('a chain of nothing but empty buffers is an empty chain', () => {
  const { driver, read } = setup();
  assert.ok(read(driver.chain([readable(0, 0), writable(0, 0)])));
  assert.equal([out.count, into.count], [0, 0]);
});

test('flags the spec does not know are ignored', () => {
  const { driver, read } = setup();
  driver.raw(0, { addr: 0x2000, len: 4, flags: 0xfff8 | NEXT, next: 1 });
  driver.raw(1, { addr: 0x3000, len: 8, flags: 0x8080 | WRITE, next: 0xffff });
  assert.ok(read(0));
  assert.equal([out.bytes, into.bytes], [4, 8]);
});

test('next is looked at only with NEXT', () => {
  const { driver, read } = setup();
  driver.raw(0, { addr: 0x2000, len: 4, flags: 0, next: 0xffff });
  assert.ok(read(0));
});

test('2^32 bytes are allowed in total, one more is not (§2.7.5.2)', () => {
  const guest = new FakeGuest([
    { gpa: 0, size: MIB },
    { gpa: 4 * MIB, size: 4 * MIB },
  ]);
  // No memory here is that large: the same 4 MiB again and again.
  const big = Array.from({ length: 1024 }, () => readable(4 * MIB, 4 * MIB));
  const whole = setup(8, true, guest);
  assert.ok(whole.read(whole.driver.chain(big, { table: 1024 })));
  assert.is(out.bytes, 2 ** 32);
  const more = setup(8, true, guest);
  more.refuse(
    more.driver.chain([readable(0x2000, 1), ...big], { table: 1024 }),
    /has 4294967297 bytes, more than 2\^32/,
  );
});

// What breaks a ring: descriptors 0.. of the ring, [table descriptors], reason.
const T = 0x8000; // where tables lie
const d = (addr: number | bigint, len: number, flags = 0, next = 0): RawDesc => ({ addr, len, flags, next });
const BAD: readonly [string, RawDesc[], RawDesc[], RegExp][] = [
  [
    'next beyond the ring',
    [d(0x2000, 4, NEXT, 8)],
    [],
    /descriptor 0 \(addr 0x2000 len 4 flags NEXT next 8\) leads out of its table of 8/,
  ],
  ['next 65535', [d(0x2000, 4, NEXT, 65535)], [], /next 65535\) leads out/],
  ['a descriptor that follows itself', [d(0x2000, 4, NEXT, 0)], [], /number 8 of the chain and goes on: a loop/],
  ['a loop of two', [d(0x2000, 4, NEXT, 1), d(0x2000, 4, NEXT, 0)], [], /a loop/],
  ['a loop of empty buffers', [d(0, 0, NEXT, 0)], [], /a loop/],
  ['readable after writable', [d(0x2000, 4, NEXT | WRITE, 1), d(0x2000, 4)], [], /descriptor 1 .* readable after/],
  ['readable after an empty writable', [d(0x2000, 0, NEXT | WRITE, 1), d(0x2000, 4)], [], /readable after/],
  [
    'a buffer outside memory',
    [d(2 * MIB, 1)],
    [],
    /descriptor 0 \(addr 0x200000 .* does not lie in the front end's memory/,
  ],
  ['a buffer that ends outside', [d(2 * MIB - 4, 5)], [], /does not lie/],
  ['a buffer from below a region', [d(HIGH_GPA - 4, 8)], [], /does not lie/],
  ['a buffer of 4 GiB - 1', [d(0x2000, 0xffff_ffff)], [], /len 4294967295/],
  ['an address that wraps round 2^64', [d(0xffff_ffff_ffff_f000n, 0x2000)], [], /addr 0xfffffffffffff000/],
  ['an address of 2^52', [d(1n << 52n, 1)], [], /does not lie/],
  ['an address that is right in its low word only', [d(0x7_0000_2000n, 1)], [], /does not lie/],
  ['a table with NEXT', [d(T, 16, INDIRECT | NEXT, 1), d(0x2000, 4)], [d(0x2000, 4)], /INDIRECT and has NEXT/],
  ['a table of no bytes', [d(T, 0, INDIRECT)], [], /length is not n \* 16/],
  ['a table of 15 bytes', [d(T, 15, INDIRECT)], [], /length is not n \* 16/],
  ['a table of 17 bytes', [d(T, 17, INDIRECT)], [d(0x2000, 4)], /length is not n \* 16/],
  ['a table of 1025', [d(T, 16 * 1025, INDIRECT)], [d(0x2000, 4)], /more than 1024 descriptors/],
  ['a table of 2^32 - 16 bytes', [d(T, 0xffff_fff0, INDIRECT)], [d(0x2000, 4)], /more than 1024 descriptors/],
  ['a table outside memory', [d(0x5000_0000, 16, INDIRECT)], [], /table that does not lie/],
  ['a table that ends outside', [d(2 * MIB - 16, 32, INDIRECT)], [], /table that does not lie/],
  ['a table beyond 2^52', [d(1n << 60n, 16, INDIRECT)], [], /table that does not lie/],
  [
    'a table in a table',
    [d(T, 16, INDIRECT)],
    [d(T, 16, INDIRECT)],
    /indirect descriptor 0 .* inside an indirect table/,
  ],
  [
    'a table as the second entry of a table',
    [d(T, 32, INDIRECT)],
    [d(0x2000, 1, NEXT, 1), d(T, 16, INDIRECT)],
    /inside an indirect/,
  ],
  ['next beyond the table', [d(T, 16, INDIRECT)], [d(0x2000, 4, NEXT, 1)], /leads out of its table of 1/],
  [
    'a loop in a table',
    [d(T, 32, INDIRECT)],
    [d(0x2000, 4, NEXT, 1), d(0x2000, 4, NEXT, 0)],
    /number 2 of the chain and goes on: a loop/,
  ],
  [
    'readable after writable in a table',
    [d(T, 32, INDIRECT)],
    [d(0x2000, 4, WRITE | NEXT, 1), d(0x2000, 4)],
    /readable after/,
  ],
  ['a table after a loop-long chain', [d(1, 1, NEXT, 1), d(1, 1, NEXT, 0)], [], /a loop/],
];
for (const [name, direct, table, reason] of BAD) {
  test(`refuses ${name}`, () => {
    const { driver, refuse } = setup();
    direct.forEach((raw, i) => {
      driver.raw(i, raw);
    });
    table.forEach((raw, i) => {
      driver.raw(i, raw, T);
    });
    refuse(0, reason);
  });
}

test('refuses a table that was not negotiated', () => {
  const { driver, refuse } = setup(8, false);
  refuse(driver.chain([readable(0x2000, 4)], { table: 1 }), /not negotiated/);
});

test('refuses one segment too many for the list, and says which limit it was', () => {
  const { driver, device } = setup(8);
  const head = driver.chain([readable(0x2000, 4), readable(0x3000, 4), readable(0x4000, 4)]);
  driver.offer(head);
  device.pop();
  assert.not(device.readChain(head, new SgList(2), into));
  assert.match(String(device.broken), /descriptor 2 .* one segment too many/);
});

test.run();
