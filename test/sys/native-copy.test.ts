import { once } from 'node:events';
import { copyMemory } from '../../src/memory/copy.ts';
import type { Memory } from '../../src/memory/memory.ts';
import { type Mapping, mapAnonymous, mapFile, memfd, PAGE_SIZE } from '../../src/sys/mapping.ts';
import { WIDE_RANGE } from '../../src/sys/native-copy.ts';
import { startWorker } from '../../src/sys/worker.ts';
import { runChild } from '../support/child.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('native copy');
const MIB = 2 ** 20;
const GIB = 2 ** 30;
const large = (size: number) => mapAnonymous(size, { noReserve: true });
const inWideRange = (memory: Memory) =>
  WIDE_RANGE !== null && memory.address >= WIDE_RANGE.from && memory.address + memory.length <= WIDE_RANGE.to;

/** Bytes of every value, and such as are no number when taken for a float: none of them may change on its way. */
function fill(memory: Memory, at: number, bytes: number): void {
  for (let i = 0; i < bytes; i++) memory.u8[at + i] = (i * 7 + (i >> 8)) & 0xff;
  const signalling = [0x01, 0, 0, 0, 0, 0, 0xf0, 0x7f]; // a signalling NaN
  for (let i = 0; i < Math.min(bytes, 64); i++) memory.u8[at + i] = i < 32 ? signalling[i & 7] : 0xff;
}

/** Copy once and look at every byte, and at those beside the copy. */
function check(dst: Memory, to: number, src: Memory, from: number, bytes: number): void {
  const first = Math.max(0, to - 16);
  const last = Math.min(dst.length, to + bytes + 16);
  dst.u8.fill(0xaa, first, last);
  fill(src, from, bytes);
  copyMemory(dst, to, src, from, bytes);
  assert.is(Buffer.compare(dst.u8.subarray(to, to + bytes), src.u8.subarray(from, from + bytes)), 0, `${to} ${from}`);
  for (let i = first; i < to; i++) assert.is(dst.u8[i], 0xaa, `before ${to}`);
  for (let i = to + bytes; i < last; i++) assert.is(dst.u8[i], 0xaa, `behind ${to}+${bytes}`);
}

/** Within one memory, in both directions. */
function overlapping(memory: Memory): void {
  fill(memory, 1000, 8192);
  const before = memory.u8.slice(1000, 9192);
  copyMemory(memory, 2000, memory, 1000, 8192);
  assert.is(Buffer.compare(memory.u8.subarray(2000, 10192), before), 0);
  copyMemory(memory, 1936, memory, 2000, 8192);
  assert.is(Buffer.compare(memory.u8.subarray(1936, 10128), before), 0);
}

// First, while nothing else lies there: places with views over them come back when those are collected.
test('a place that was given back serves again', () => {
  if (WIDE_RANGE === null) return;
  const address = (m: Mapping) => m.share().address;
  const first = large(GIB);
  const place = address(first);
  assert.ok(place >= WIDE_RANGE.from && place < WIDE_RANGE.to);
  first.unmap(); // nobody looked into it: at once
  const file = memfd('again', GIB);
  const second = mapFile(file, { size: GIB });
  assert.is(address(second), place);
  second.unmap();
  file.close();
});

test('every byte between memories of all sizes, at the edges, aligned and not', () => {
  const mappings = [MIB, 800 * MIB, GIB, 6 * GIB].map(large);
  const memories = mappings.map((m) => m.memoryAt(0, Math.min(m.size, GIB)));
  if (WIDE_RANGE !== null) assert.equal(memories.map(inWideRange), [false, true, true, false]);
  for (const dst of memories) {
    overlapping(dst);
    for (const src of memories) {
      for (const bytes of [64, 72, 100, 512, 4096, 4097, 131072]) {
        for (const [to, from] of [
          [0, 300_000],
          [dst.length - bytes, 8],
          [16, src.length - bytes],
          [5, 300_001],
          [8, 300_004],
        ]) {
          if (dst !== src || Math.abs(to - from) >= bytes) check(dst, to, src, from, bytes);
        }
      }
    }
  }
  for (const m of mappings) m.unmap();
});

test('more large memory than there is room at good places: everything is mapped, and copied rightly', () => {
  const mappings = Array.from({ length: 6 }, () => large(GIB));
  const memories = mappings.map((m) => m.memoryAt(0, GIB));
  if (WIDE_RANGE !== null) {
    assert.ok(memories.some(inWideRange));
    assert.not.ok(memories.every(inWideRange));
    // Transparent huge pages want such places.
    for (const m of memories) if (inWideRange(m)) assert.is(m.address % (2 * MIB), 0);
  }
  for (const [i, dst] of memories.entries()) {
    const src = memories[(i + 1) % memories.length];
    for (const bytes of [64, 4096]) {
      check(dst, 0, src, GIB - bytes, bytes);
      check(dst, GIB - bytes, src, 0, bytes);
    }
  }
  for (const m of mappings) m.unmap();
});

test('memory that nobody has opened has no views, and is copied all the same', () => {
  for (const size of [MIB, GIB, 6 * GIB]) {
    const [a, b] = [large(size), large(size)];
    fill(a.memoryAt(0, PAGE_SIZE), 0, PAGE_SIZE);
    const [from, to] = [a.windowAt(0, 2 * PAGE_SIZE), b.windowAt(0, 2 * PAGE_SIZE)];
    assert.is(from.u8.length + to.u8.length, 0);
    copyMemory(to, PAGE_SIZE, from, 0, PAGE_SIZE);
    const there = b.memoryAt(PAGE_SIZE, PAGE_SIZE).u8;
    assert.is(Buffer.compare(there, a.memoryAt(0, PAGE_SIZE).u8), 0);
    a.unmap();
    b.unmap();
  }
});

test("a revoked memory is refused, and a view kept over its place reads zeroes and is nobody else's", () => {
  const gone = large(GIB);
  const memory = gone.memoryAt(0, GIB);
  const kept = memory.u32;
  kept[5] = 42;
  const { range } = gone.share();
  gone.unmap();
  const other = large(GIB);
  const theirs = other.memoryAt(0, GIB);
  assert.ok(theirs.address + GIB <= range.start || theirs.address >= range.start + range.length, 'no place for two');
  assert.throws(() => copyMemory(theirs, 0, memory, 0, 64), RangeError);
  assert.throws(() => copyMemory(memory, 0, theirs, 0, 64), RangeError);
  assert.is(kept[5], 0);
  kept[5] = 7;
  assert.is(theirs.u32[5], 0);
  other.unmap();
});

test('threads that map, copy and give back at the same time never get the same place', async () => {
  const workers = [1, 2, 3].map((tag) =>
    startWorker(new URL('./threads/large.ts', import.meta.url), { tag, rounds: 20, size: 800 * MIB }),
  );
  const found = await Promise.all(workers.map(async (w) => (await once(w, 'message'))[0]));
  assert.equal(
    found,
    [1, 2, 3].map((tag) => ({ tag, wrong: 0 })),
  );
  await Promise.all(workers.map((w) => w.terminate()));
});

for (const [what, size] of [
  ['small', MIB],
  ['large', GIB],
] as const) {
  test(`${what} memory: a copy leaves nothing on the heap`, () => {
    const child = runChild(
      `
      import { getHeapSpaceStatistics } from 'node:v8';
      import { copyMemory } from '<root>/src/memory/copy.ts';
      import { mapAnonymous } from '<root>/src/sys/mapping.ts';
      const [a, b] = [0, 1].map(() => mapAnonymous(${size}, { noReserve: true }).memoryAt(0, ${size}));
      const inUse = () => getHeapSpaceStatistics().reduce((sum, space) => sum + space.space_used_size, 0);
      const run = (n) => { for (let i = 0; i < n; i++) copyMemory(a, (i & 63) * 512, b, 65536 + (i & 63) * 512, 512); };
      for (let i = 0; i < 10; i++) { run(100_000); await new Promise((r) => setTimeout(r, 10)); }
      gc(); gc();
      const before = inUse();
      run(1_000_000);
      console.log(inUse() - before);
    `,
      ['--expose-gc', '--min-semi-space-size=64'],
    );
    assert.is(child.end, 0, child.stderr);
    // Two heap numbers a copy were 32 MB.
    assert.ok(Number(child.stdout) < 2_000_000, `${child.stdout} bytes for a million copies`);
  });
}

test.run();
