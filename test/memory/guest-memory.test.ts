import { cutWindows, GuestMemory, type Window } from '../../src/memory/guest-memory.ts';
import { Memory } from '../../src/memory/memory.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('guest memory');

const GIB = 0x4000_0000;

function split(address: number): [number, number] {
  return [address % 0x1_0000_0000, Math.floor(address / 0x1_0000_0000)];
}

function segments(sg: SgList): [Memory, number, number][] {
  return Array.from({ length: sg.count }, (_, i) => [sg.memory[i], sg.offset[i], sg.length[i]]);
}

const low = new Memory(new ArrayBuffer(0x2000));
const next = new Memory(new ArrayBuffer(0x1000));
const high = new Memory(new ArrayBuffer(0x3000));
const HIGH = 5 * GIB;
// [0x1000, 0x3000) [0x3000, 0x4000) and 8 KiB from 5 GiB on, which lie at offset 0x1000 of their memory.
const memory = new GuestMemory([
  { gpa: 0x1000, uva: 0x7000_0000, length: 0x2000, memory: low, base: 0 },
  { gpa: 0x3000, uva: 0x9000_0000, length: 0x1000, memory: next, base: 0 },
  { gpa: HIGH, uva: 0xa000_0000, length: 0x2000, memory: high, base: 0x1000 },
]);

function translate(address: number, bytes: number): [Memory, number, number][] | undefined {
  const sg = new SgList(2, 8);
  const [lo, hi] = split(address);
  return memory.translate(lo, hi, bytes, sg) ? segments(sg) : undefined;
}

test('a range within a window is one segment', () => {
  assert.equal(translate(0x1000, 0x2000), [[low, 0, 0x2000]]);
  assert.equal(translate(0x2fff, 1), [[low, 0x1fff, 1]]);
  assert.equal(translate(HIGH + 0x10, 0x20), [[high, 0x1010, 0x20]]);
});

test('a range over a border of windows is two', () => {
  assert.equal(translate(0x2ff0, 0x20), [
    [low, 0x1ff0, 0x10],
    [next, 0, 0x10],
  ]);
});

test('a range goes on over a border of 1 GiB pages, also above 4 GiB', () => {
  for (const border of [GIB, 4 * GIB, 260 * GIB]) {
    const both = new GuestMemory([
      { gpa: border - 0x1000, uva: 0, length: 0x1000, memory: low, base: 0x1000 },
      { gpa: border, uva: 0x1000, length: 0x1000, memory: next, base: 0 },
    ]);
    const sg = new SgList(8);
    const [lo, hi] = split(border - 0x10);
    assert.ok(both.translate(lo, hi, 0x30, sg));
    assert.equal(segments(sg), [
      [low, 0x1ff0, 0x10],
      [next, 0, 0x20],
    ]);
    assert.not(both.translate(lo, hi, 0x1011, sg));
  }
});

test('a byte outside refuses the range', () => {
  assert.is(translate(0xfff, 1), undefined);
  assert.is(translate(0xfff, 0x10), undefined);
  assert.is(translate(0x3ff0, 0x11), undefined); // ends one beyond
  assert.is(translate(0x4000, 1), undefined);
  assert.is(translate(0x1000, 0xffff_ffff), undefined);
  assert.is(translate(HIGH - 1, 2), undefined);
  assert.is(translate(HIGH + 0x1fff, 2), undefined); // the memory goes on, the window does not
});

test('addresses that agree with a window only in their low bits are outside', () => {
  // Same slot of the look-up (page number mod 256), same offset: only the page tells them apart.
  for (const page of [256, 512, 0x10_0000, 0x3f_ff00]) assert.is(translate(page * GIB + 0x1000, 1), undefined);
});

test('addresses from 2^52 on are refused, and a range cannot wrap round 2^64', () => {
  const sg = new SgList(8);
  assert.not(memory.translate(0x1000, 0x10_0000, 1, sg));
  assert.not(memory.translate(0x1000, 0x8000_0000, 1, sg));
  assert.not(memory.translate(0xffff_f000, 0xffff_ffff, 0x3000, sg));
  assert.is(sg.count, 0);
});

test('words may be signed', () => {
  const at3GiB = new GuestMemory([{ gpa: 3 * GIB, uva: 0, length: 0x1000, memory: next, base: 0 }]);
  const sg = new SgList(8);
  assert.ok(at3GiB.translate(0xc000_0010, 0, 4, sg));
  assert.ok(at3GiB.translate(0xc000_0010 | 0, 0, 4, sg));
  assert.equal(segments(sg), [
    [next, 0x10, 4],
    [next, 0x10, 4],
  ]);
  assert.not(at3GiB.translate(0xc000_0010 | 0, -1, 4, sg));
});

test('a full list refuses and says so', () => {
  const sg = new SgList(1);
  assert.not(memory.translate(0x2ff0, 0, 0x20, sg));
  assert.ok(sg.full);
});

test('windowOf finds only ranges in one piece', () => {
  assert.is(memory.windowOf(0x1000, 0, 0x2000), 0);
  assert.is(memory.windowOf(0x2ff0, 0, 0x20), -1);
  assert.is(memory.windowOf(0x4000, 0, 1), -1);
  assert.is(memory.windowOf(0x1000, 0x10_0000, 1), -1);
  const [lo, hi] = split(HIGH + 0x123);
  assert.is(memory.windowOf(lo, hi, 1), 2);
  assert.is(memory.memoryOf(2), high);
  assert.is(memory.offsetIn(2, lo), 0x1123);
});

test('a window is opened when the first address in it is found, and not before', () => {
  const opened: number[] = [];
  const unopened = (gpa: number, make?: () => never): Window => {
    const buffer = new ArrayBuffer(0x1000);
    const memory = Memory.unopened(0x1000, 0, () => {
      opened.push(gpa);
      make?.();
      return { buffer, byteOffset: 0 };
    });
    return { gpa, uva: gpa + GIB, length: 0x1000, memory, base: 0 };
  };
  const sg = new SgList(8);
  const refuse = () => {
    throw new RangeError('no views are left');
  };
  const lazy = new GuestMemory([0x1000, 0x2000, 0x3000, 0x4000].map((gpa) => unopened(gpa)));
  assert.is(lazy.translate(0x5000, 0, 1, sg), false);
  assert.equal(opened, []);
  assert.ok(lazy.translate(0x2ff0, 0, 0x20, sg));
  assert.equal(opened, [0x2000, 0x3000]);
  assert.equal([sg.memory[0].u8.length, sg.memory[1].u32.length], [0x1000, 0x400]);
  assert.is(lazy.windowOfUser(0x1000 + GIB, 0x10)?.memory.u16.length, 0x800);
  assert.is(lazy.windowOfUser(0x1000 + GIB, 0x1001), undefined);
  assert.is(lazy.whole(0x1000, 0, 8)?.memory, lazy.memoryOf(0));
  assert.equal(opened, [0x2000, 0x3000, 0x1000], 'once each');
  // One that cannot be opened is not there.
  const none = new GuestMemory([unopened(0x8000, refuse)]);
  assert.is(none.translate(0x8000, 0, 8, sg), false);
  assert.is(none.whole(0x8000, 0, 8), null);
  assert.is(none.windowOfUser(0x8000 + GIB, 8), undefined);
});

test('windowOfUser takes front-end addresses and wants one piece', () => {
  assert.is(memory.windowOfUser(0x7000_0000, 0x2000)?.memory, low);
  assert.is(memory.windowOfUser(0x7000_0000, 0x2001), undefined);
  assert.is(memory.windowOfUser(0x9000_0fff, 1)?.memory, next);
  assert.is(memory.windowOfUser(0x9000_1000, 1), undefined);
});

test('a region is cut at each GiB of the guest address', () => {
  const asked: [number, number][] = [];
  const windows = cutWindows(3 * GIB - 0x2000, 0x1000, GIB + 0x3000, (offset, bytes) => {
    asked.push([offset, bytes]);
    return low;
  });
  assert.equal(
    windows.map((w) => [w.gpa, w.uva, w.length]),
    [
      [3 * GIB - 0x2000, 0x1000, 0x2000],
      [3 * GIB, 0x3000, GIB],
      [4 * GIB, 0x3000 + GIB, 0x1000],
    ],
  );
  assert.equal(asked, [
    [0, 0x2000],
    [0x2000, GIB],
    [GIB + 0x2000, 0x1000],
  ]);
});

test('a window over a page border is a bug of ours', () => {
  assert.throws(() => new GuestMemory([{ gpa: GIB - 1, uva: 0, length: 2, memory: low, base: 0 }]), /1 GiB page/);
});

test('agrees with a naive byte-by-byte table', () => {
  // Small windows in few pages, many of them in one slot; compared byte for byte.
  const window = fc.record({
    page: fc.constantFrom(0, 1, 4, 256, 257),
    at: fc.nat(40),
    length: fc.integer({ min: 1, max: 16 }),
  });
  fc.assert(
    fc.property(
      fc.array(window, { maxLength: 12 }),
      fc.constantFrom(0, 1, 4, 256, 257, 300),
      fc.nat(48),
      fc.integer({ min: 1, max: 40 }),
      (shapes, page, at, bytes) => {
        const windows: Window[] = [];
        const owner = new Map<number, [Memory, number]>();
        for (const shape of shapes) {
          const gpa = shape.page * GIB + shape.at;
          const m = new Memory(new ArrayBuffer(shape.length));
          const addresses = Array.from({ length: shape.length }, (_, i) => gpa + i);
          if (addresses.some((a) => owner.has(a))) continue; // no overlaps: the caller's promise
          addresses.forEach((a, i) => {
            owner.set(a, [m, i]);
          });
          windows.push({ gpa, uva: gpa, length: shape.length, memory: m, base: 0 });
        }
        const sg = new SgList(64);
        const from = page * GIB + at;
        const [lo, hi] = split(from);
        const ok = new GuestMemory(windows).translate(lo, hi, bytes, sg);
        const wanted = Array.from({ length: bytes }, (_, i) => owner.get(from + i));
        assert.is(ok, !wanted.includes(undefined));
        if (ok) {
          const got = segments(sg).flatMap(([m, o, n]) => Array.from({ length: n }, (_, i) => [m, o + i]));
          assert.equal(got, wanted);
        }
      },
    ),
    budget(2000),
  );
});

test.run();
