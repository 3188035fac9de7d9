/** PRP entries and SGL descriptors, word by word, and what they name for any list of segments. */
import { Memory } from '../../src/memory/memory.ts';
import { SgCursor } from '../../src/memory/sg-cursor.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { PSDT_SGL } from '../../src/nvme/commands.ts';
import { buildPrp, buildSgl } from '../../src/nvme/data-pointer.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('nvme data pointer');

/** Physical address of the guest's memory and of the list pages. */
const GUEST = 0x1_2345_6000;
const LISTS = 0x2_0000_1000;

function place() {
  const lists = new Memory(new ArrayBuffer(8192));
  lists.ioAddress = LISTS;
  return { words: new Uint32Array(32), lists };
}

function guest(bytes = 1 << 20): Memory {
  const memory = new Memory(new ArrayBuffer(bytes));
  memory.ioAddress = GUEST;
  return memory;
}

function list(...segments: [Memory, number, number][]): SgList {
  const sg = new SgList(segments.length + 1);
  for (const [memory, offset, length] of segments) sg.push(memory, offset, length);
  return sg;
}

/** buildPrp from the list's start, with the command at word 16 and the second list page. */
function prp(sg: SgList, bytes: number, granule = 512, from = 0) {
  const p = place();
  const at = new SgCursor();
  at.seek(sg, from);
  const named = buildPrp(p, 16, 4096, sg, at, bytes, granule);
  const pointer = (w: number) => p.words[16 + w] + p.words[17 + w] * 2 ** 32;
  const entry = (i: number) => p.lists.u32[1024 + 2 * i] + p.lists.u32[1025 + 2 * i] * 2 ** 32;
  return { named, prp1: pointer(6), prp2: pointer(8), entry, words: p.words };
}

function sgl(sg: SgList, bytes: number, granule = 512, alignment = 1) {
  const p = place();
  const named = buildSgl(p, 16, 4096, sg, new SgCursor(), bytes, granule, alignment);
  return { named, words: Array.from(p.words.subarray(16)), list: p.lists.u32.subarray(1024) };
}

test('one page: PRP1 alone', () => {
  const r = prp(list([guest(), 0, 4096]), 4096);
  assert.equal([r.named, r.prp1, r.prp2], [4096, GUEST, 0]);
});

test('two pages: PRP2 is the second page', () => {
  const r = prp(list([guest(), 0x800, 4096]), 4096);
  assert.equal([r.named, r.prp1, r.prp2], [4096, GUEST + 0x800, GUEST + 0x1000]);
});

test('three pages: PRP2 is the list', () => {
  const r = prp(list([guest(), 0, 4096 * 3]), 4096 * 3);
  assert.equal([r.named, r.prp1, r.prp2], [12288, GUEST, LISTS + 4096]);
  assert.equal([r.entry(0), r.entry(1)], [GUEST + 0x1000, GUEST + 0x2000]);
});

test('a full list page: 513 pages from the middle of the first', () => {
  const memory = guest(4 << 20);
  const r = prp(list([memory, 0x800, 3 << 20]), 2 << 20);
  assert.is(r.named, 2 << 20);
  assert.is(r.entry(511), GUEST + 512 * 4096);
  assert.is(prp(list([memory, 0x800, 3 << 20]), 3 << 20).named, 2099200, 'no more than the list holds');
});

test('a segment that ends within a page ends the PRPs, also when the next begins a page', () => {
  const m = guest();
  assert.is(prp(list([m, 0, 512], [m, 4096, 4096]), 4608).named, 512);
  assert.is(prp(list([m, 0, 4096], [m, 8192 + 512, 512]), 4608).named, 4096);
  assert.is(prp(list([m, 0, 4096], [m, 12288, 100], [m, 16384, 4096]), 8192).named, 4096, 'whole blocks only');
});

test('dword alignment of the first address, and memory out of reach', () => {
  assert.is(prp(list([guest(), 2, 512]), 512).named, 0);
  assert.is(prp(list([guest(), 4, 512]), 512).named, 512);
  const nowhere = new Memory(new ArrayBuffer(4096));
  assert.is(prp(list([nowhere, 0, 512]), 512).named, 0);
  assert.is(prp(list([guest(), 0, 4096], [nowhere, 0, 4096]), 8192).named, 4096);
});

test('cut to blocks: two pages named of which one block is dropped need no list', () => {
  const m = guest();
  const r = prp(list([m, 0, 8192], [m, 12288, 100]), 12288, 4096);
  assert.equal([r.named, r.prp2], [8192, GUEST + 4096]);
});

test('from the middle of a list', () => {
  const m = guest();
  const r = prp(list([m, 0, 4096], [m, 8192, 4096]), 4096, 512, 4096);
  assert.equal([r.named, r.prp1], [4096, GUEST + 8192]);
});

test('SGL: one descriptor in the command, neighbours merged', () => {
  const m = guest();
  const r = sgl(list([m, 1, 511], [m, 512, 513]), 1024);
  assert.is(r.named, 1024);
  assert.is(r.words[0], PSDT_SGL);
  assert.equal(r.words.slice(6, 10), [(GUEST + 1) % 2 ** 32, 1, 1024, 0]);
});

test('SGL: a segment of descriptors, the last one cut to whole blocks', () => {
  const m = guest();
  const r = sgl(list([m, 0, 512], [m, 1024, 512], [m, 3000, 200]), 2048);
  assert.is(r.named, 1024);
  assert.equal(r.words.slice(6, 10), [(LISTS + 4096) % 2 ** 32, 2, 32, 0x3000_0000]);
  assert.equal(Array.from(r.list.subarray(0, 8)), [GUEST % 2 ** 32, 1, 512, 0, (GUEST + 1024) % 2 ** 32, 1, 512, 0]);
});

test('SGL: 256 descriptors and no more; alignment', () => {
  const m = guest();
  const many = list(...Array.from({ length: 300 }, (_, i) => [m, i * 1024, 512] as [Memory, number, number]));
  assert.is(sgl(many, 300 * 512).named, 256 * 512);
  assert.is(sgl(list([m, 2, 512]), 512, 512, 4).named, 0);
  assert.is(sgl(list([m, 0, 510], [m, 1024, 2]), 512, 512, 4).named, 0);
});

test('whatever the segments: what is named is exactly the bytes of the list', () => {
  const segment = fc.record({
    page: fc.nat(40),
    offset: fc.oneof(fc.constant(0), fc.constantFrom(512, 2048, 4092), fc.nat(4095)),
    length: fc.oneof(fc.constantFrom(4096, 8192, 512), fc.integer({ min: 1, max: 20000 })),
    scattered: fc.boolean(),
  });
  fc.assert(
    fc.property(
      fc.array(segment, { minLength: 1, maxLength: 8 }),
      fc.constantFrom(512, 4096),
      fc.nat(3),
      (segments, granule, skip) => {
        const linear = guest(1 << 18);
        const pages = new Memory(new ArrayBuffer(1 << 18));
        pages.ioPages = Float64Array.from({ length: 64 }, (_, i) => 0x9_0000_0000 + ((i * 37) % 64) * 8192);
        const sg = list(
          ...segments.map(
            (s) => [s.scattered ? pages : linear, s.page * 4096 + s.offset, s.length] as [Memory, number, number],
          ),
        );
        // The physical address of every byte.
        const truth: number[] = [];
        for (const s of segments) {
          for (let i = 0; i < s.length; i++) {
            const at = s.page * 4096 + s.offset + i;
            truth.push(s.scattered ? (pages.ioPages[at >> 12] as number) + (at & 4095) : GUEST + at);
          }
        }
        const from = Math.min(skip * 700, sg.bytes);
        const bytes = Math.floor((sg.bytes - from) / granule) * granule;
        const cursor = new SgCursor();
        cursor.seek(sg, from);
        const p = place();
        const named = buildPrp(p, 0, 4096, sg, cursor, bytes, granule);
        assert.is(named % granule, 0);
        const prp2 = p.words[8] + p.words[9] * 2 ** 32;
        const first = p.words[6] + p.words[7] * 2 ** 32;
        for (let i = 0, page = first, room = 4096 - (first % 4096), entry = 0; i < named; i++, room--) {
          if (room === 0) {
            const left = named - i;
            const isList = entry > 0 || left > 4096;
            page = isList ? p.lists.u32[1024 + 2 * entry] + p.lists.u32[1025 + 2 * entry] * 2 ** 32 : prp2;
            if (isList) assert.is(prp2, LISTS + 4096);
            entry++;
            room = 4096;
            assert.is(page % 4096, 0);
          }
          assert.is(truth[from + i], page + (entry === 0 ? i : 4096 - room), `byte ${i} of ${named}`);
        }
        const s = place();
        const by = buildSgl(s, 0, 4096, sg, cursor, bytes, granule, 1);
        assert.is(by, bytes, 'SGL names everything');
        if (by === 0) return;
        const single = s.words[9] >>> 24 === 0;
        const d = single ? s.words.subarray(6, 10) : s.lists.u32.subarray(1024, 1024 + (s.words[8] as number) / 4);
        let i = from;
        for (let k = 0; k < d.length; k += 4) {
          const address = d[k] + d[k + 1] * 2 ** 32;
          for (let b = 0; b < d[k + 2]; b++) if (truth[i++] !== address + b) assert.unreachable(`SGL byte ${i - 1}`);
        }
        assert.is(i, from + by);
      },
    ),
    budget(150),
  );
});

test.run();
