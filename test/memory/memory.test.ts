import { copyMemory, useNativeCopy } from '../../src/memory/copy.ts';
import { MAX_MEMORY, Memory, NO_MEMORY } from '../../src/memory/memory.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { defineStruct, formatStruct } from '../../src/memory/struct-table.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('memory');

function filled(bytes: number, from = 0): Memory {
  const m = new Memory(new ArrayBuffer(bytes));
  for (let i = 0; i < bytes; i++) m.u8[i] = from + i;
  return m;
}

test('views are little-endian words of the same bytes', () => {
  const m = filled(16);
  assert.is(m.u16[1], 0x0302);
  assert.is(m.u32[1], 0x0706_0504);
});

test('unaligned and oversized memory is refused', () => {
  assert.throws(() => new Memory(new ArrayBuffer(16), 4), /multiple of 8/);
  assert.throws(() => new Memory(new ArrayBuffer(8), 0, MAX_MEMORY + 1), /more than/);
});

test('revoked memory has no bytes', () => {
  const m = filled(16);
  m.revoke();
  m.u32[0] = 1;
  assert.is(m.length, 0);
  assert.is(m.u8[0], undefined);
  assert.throws(() => copyMemory(m, 0, filled(8), 0, 1), RangeError);
});

test('unopened memory has a length and no bytes; revoked before, it never gets any', () => {
  const make = () => ({ buffer: new ArrayBuffer(32), byteOffset: 8 });
  const m = Memory.unopened(16, 4096, make);
  m.u8[0] = 1;
  assert.equal([m.length, m.address, m.u8.length], [16, 4096, 0]);
  m.open();
  m.u8[0] = 1;
  const { u8 } = m;
  m.open();
  assert.is(m.u8, u8);
  assert.equal([m.u8.length, m.u16[0], m.u32.length], [16, 1, 4]);
  const gone = Memory.unopened(16, 4096, make);
  gone.revoke();
  gone.open();
  assert.equal([gone.length, gone.u8.length], [0, 0]);
  assert.throws(() => Memory.unopened(MAX_MEMORY + 1, 0, make), /more than/);
});

for (const bytes of [0, 1, 63, 64, 200]) {
  test(`copies ${bytes} bytes and not one more`, () => {
    const src = filled(256);
    const dst = new Memory(new ArrayBuffer(256));
    copyMemory(dst, 16, src, 32, bytes);
    for (let i = 0; i < 256; i++) assert.is(dst.u8[i], i >= 16 && i < 16 + bytes ? i + 16 : 0);
  });
}

test('a copy outside either side is a bug of ours', () => {
  const a = filled(64);
  for (const [d, s, n] of [
    [0, 0, 65],
    [1, 0, 64],
    [0, 1, 64],
    [-1, 0, 4],
    [0, -1, 4],
    [0, 0, -1],
    [Number.NaN, 0, 1],
  ]) {
    assert.throws(() => copyMemory(a, d, a, s, n), RangeError);
  }
});

test('the native copy gets memories with addresses, and no others', () => {
  const calls: unknown[][] = [];
  useNativeCopy((...args) => calls.push(args));
  try {
    const a = new Memory(new ArrayBuffer(128), 0, 128, 0x10000);
    const b = new Memory(new ArrayBuffer(128), 0, 128, 0x20000);
    copyMemory(a, 8, b, 16, 100);
    copyMemory(a, 0, filled(128), 0, 128); // a plain buffer: typed arrays do it
    assert.is(calls.length, 1);
    const [d, dOff, s, sOff, n] = calls[0];
    assert.ok(d === a && s === b);
    assert.equal([dOff, sOff, n], [8, 16, 100]);
    assert.is(a.u8[127], 127);
  } finally {
    useNativeCopy(undefined);
  }
});

test('gather and scatter follow the segments', () => {
  const m = filled(64);
  const sg = new SgList(4);
  sg.push(m, 10, 3);
  sg.push(m, 40, 2);
  sg.push(m, 0, 4);
  assert.is(sg.bytes, 9);
  const copy = new Memory(new ArrayBuffer(16));
  assert.is(sg.gather(2, copy, 1, 5), 5);
  assert.equal([...copy.u8.slice(0, 8)], [0, 12, 40, 41, 0, 1, 0, 0]);
  assert.is(sg.gather(8, copy, 0, 16), 1); // the list ends
  assert.is(sg.gather(9, copy, 0, 16), 0);
  assert.is(sg.scatter(2, filled(8, 100), 0, 8), 7);
  assert.equal([m.u8[11], m.u8[12], m.u8[40], m.u8[41], m.u8[42]], [11, 100, 101, 102, 42]);
  assert.equal([...m.u8.slice(0, 5)], [103, 104, 105, 106, 4]);
});

test('a list grows to its limit and not beyond', () => {
  const sg = new SgList(1, 20);
  const m = filled(8);
  for (let i = 0; i < 20; i++) {
    assert.not(sg.full);
    assert.ok(sg.push(m, i & 7, 1));
  }
  assert.ok(sg.full);
  assert.not(sg.push(m, 0, 1));
  assert.is(sg.count, 20);
  assert.is(sg.bytes, 20);
  assert.equal([...sg.offset.slice(0, 3)], [0, 1, 2]); // kept through the growth
  sg.forget();
  assert.is(sg.count, 0);
  assert.ok(sg.memory.every((x) => x === NO_MEMORY));
});

test('a structure table must cover its bytes', () => {
  assert.throws(() => defineStruct('s', 'x', 4, { a: [0, 'u16'], b: [4, 'u16'] }), /s\.b .*offset 4, expected 2/);
  assert.throws(() => defineStruct('s', 'x', 8, { a: [0, 'u32'] }), /cover 4 bytes of 8/);
  assert.throws(() => defineStruct('s', 'x', 8, { a: [0, 'bytes'] }), /no length/);
});

test('a structure prints by its fields', () => {
  const s = defineStruct('s', 'x', 18, {
    a: [0, 'u8'],
    b: [1, 'u8'],
    c: [2, 'u16'],
    d: [4, 'u32'],
    e: [8, 'u64'],
    f: [16, 'bytes', 2],
  });
  const bytes = Uint8Array.from({ length: 19 }, (_, i) => i);
  assert.is(
    formatStruct(s, new DataView(bytes.buffer), 1),
    's{a=0x1 b=0x2 c=0x403 d=0x8070605 e=0x100f0e0d0c0b0a09 f=1112}',
  );
});

test.run();
