import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { copyMemory } from '../../src/memory/copy.ts';
import { MAX_MEMORY, type Memory } from '../../src/memory/memory.ts';
import { O, PROT } from '../../src/sys/constants.ts';
import type { SysError } from '../../src/sys/errno.ts';
import { ftruncate, open, pread, pwrite } from '../../src/sys/fd.ts';
import { getLimit, setLimit } from '../../src/sys/limits.ts';
import { adopt, mapAnonymous, mapFile, memfd, OVERHANG, PAGE_SIZE } from '../../src/sys/mapping.ts';
import { startWorker } from '../../src/sys/worker.ts';
import { runChild } from '../support/child.ts';
import { leakedFds, openFds } from '../support/open-fds.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('mapping');
const dir = tempDir();
const GIB = 2 ** 30;

/** The line of /proc/self/maps or the VmFlags of /proc/self/smaps for the area that holds `address`. */
function area(address: number): { name: string; permissions: string; flags: string[]; start: number; end: number } {
  let found: ReturnType<typeof area> | undefined;
  for (const line of readFileSync('/proc/self/smaps', 'utf8').split('\n')) {
    const head = /^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)$/.exec(line);
    if (head !== null) {
      if (found !== undefined) return found;
      const [start, end] = [Number.parseInt(head[1], 16), Number.parseInt(head[2], 16)];
      if (address >= start && address < end) {
        found = { name: head[4], permissions: head[3], flags: [], start, end };
      }
    } else if (found !== undefined && line.startsWith('VmFlags:')) found.flags = line.slice(8).trim().split(' ');
  }
  return found ?? { name: '', permissions: '', flags: [], start: 0, end: 0 };
}

test('a file mapped at any offset is the file', () => {
  const fd = memfd('any', 3 * PAGE_SIZE, { seal: false });
  pwrite(fd, Uint8Array.of(1, 2, 3, 4), PAGE_SIZE + 104);
  const mapping = mapFile(fd, { offset: PAGE_SIZE + 104, size: 200 });
  assert.is(mapping.size, 200);
  const memory = mapping.memoryAt(0, 200);
  assert.equal([...memory.u8.subarray(0, 5)], [1, 2, 3, 4, 0]);
  assert.is(memory.u32[0], 0x04030201);
  mapping.memoryAt(96, 8).u16[1] = 0xbbaa;
  const back = new Uint8Array(4);
  pread(fd, back, PAGE_SIZE + 200);
  assert.equal([...back], [0, 0, 0xaa, 0xbb]);
  mapping.unmap();
  fd.close();
});

test('the descriptor may go first', () => {
  const before = openFds();
  const fd = memfd('gone', PAGE_SIZE);
  const mapping = mapFile(fd, { size: PAGE_SIZE });
  fd.close();
  mapping.memoryAt(0, 64).u32[0] = 5;
  assert.is(mapping.memoryAt(0, 64).u32[0], 5);
  mapping.unmap();
  assert.equal(leakedFds(before), []);
});

test('a file shorter than asked for is refused: touching the rest would be fatal', () => {
  const fd = memfd('short', 2 * PAGE_SIZE);
  for (const [offset, size] of [
    [0, 2 * PAGE_SIZE + 1],
    [PAGE_SIZE, PAGE_SIZE + 1],
    [2 * PAGE_SIZE, 1],
    [2 ** 40, 4096],
  ]) {
    assert.throws(() => mapFile(fd, { offset, size }), /the file has 8192 bytes, fewer than/);
  }
  mapFile(fd, { offset: PAGE_SIZE, size: PAGE_SIZE }).unmap();
  fd.close();
});

test('hostile sizes and offsets are refused', () => {
  const fd = memfd('hostile', PAGE_SIZE);
  for (const [offset, size] of [
    [0, 0],
    [0, -1],
    [-4096, 4096],
    [0, Number.NaN],
    [0.5, 8],
    [0, 2 ** 53],
    [2 ** 53 - 1, 2 ** 53 - 1],
    [2 ** 53, 1],
  ]) {
    assert.throws(() => mapFile(fd, { offset, size }), RangeError);
  }
  fd.close();
  assert.throws(
    () => mapFile(fd, { size: 1 }),
    (e: SysError) => e.code === 'EBADF',
  );
});

test('mapping asks that the file cannot shrink', () => {
  const fd = memfd('unsealed', PAGE_SIZE, { seal: false });
  const mapping = mapFile(fd, { size: PAGE_SIZE });
  assert.is(mapping.sealed, true);
  assert.throws(
    () => ftruncate(fd, 0),
    (e: SysError) => e.code === 'EPERM',
  );
  mapping.unmap();
  fd.close();
  const file = open(join(dir, 'file'), O.RDWR | O.CREAT);
  ftruncate(file, PAGE_SIZE);
  const open1 = mapFile(file, { size: PAGE_SIZE });
  assert.is(open1.sealed, false); // and says so where it cannot have that
  open1.unmap();
  file.close();
});

test('windows: bounds, alignment, the same Memory for the same place', () => {
  const mapping = mapAnonymous(PAGE_SIZE);
  const memory = mapping.memoryAt(8, 16);
  assert.is(mapping.memoryAt(8, 16), memory);
  assert.is(memory.length, 16);
  assert.is(memory.address % PAGE_SIZE, 8);
  for (const [offset, bytes] of [
    [0, PAGE_SIZE + 1],
    [PAGE_SIZE, 1],
    [-8, 8],
    [0, 0],
    [0, -8],
    [4, 8],
    [Number.NaN, 8],
  ]) {
    assert.throws(() => mapping.memoryAt(offset, bytes), RangeError);
  }
  mapping.unmap();
  assert.throws(() => mapping.memoryAt(0, 8), RangeError);
});

test('a mapping larger than any view is cut into windows', () => {
  const size = 6 * 2 ** 30 + PAGE_SIZE;
  const fd = memfd('large', size);
  const mapping = mapFile(fd, { size });
  assert.throws(() => mapping.memoryAt(0, MAX_MEMORY + 8), RangeError);
  const far = mapping.memoryAt(size - PAGE_SIZE, PAGE_SIZE);
  far.u32[1] = 77;
  const back = new Uint32Array(1);
  pread(fd, new Uint8Array(back.buffer), size - PAGE_SIZE + 4);
  assert.is(back[0], 77);
  const whole = mapping.memoryAt(2 ** 30, MAX_MEMORY);
  whole.u8[MAX_MEMORY - 1] = 3;
  assert.is(mapping.memoryAt(2 ** 30 + MAX_MEMORY - 8, 8).u8[7], 3);
  // windowAt reaches over the edge as far as the mapping and MAX_MEMORY go.
  assert.is(mapping.windowAt(0, 2 ** 30).length, 2 ** 30 + OVERHANG);
  assert.is(mapping.windowAt(0, PAGE_SIZE).length, PAGE_SIZE + OVERHANG);
  assert.is(mapping.windowAt(6 * 2 ** 30, PAGE_SIZE).length, PAGE_SIZE);
  mapping.unmap();
  fd.close();
});

test('copyMemory uses the C library between mapped memories, typed arrays elsewhere', () => {
  const mapping = mapAnonymous(2 * PAGE_SIZE);
  const [a, b] = [mapping.memoryAt(0, PAGE_SIZE), mapping.memoryAt(PAGE_SIZE, PAGE_SIZE)];
  a.u8.forEach((_, i) => {
    a.u8[i] = i & 0xff;
  });
  copyMemory(b, 100, a, 1000, 3000);
  assert.equal(b.u8.slice(100, 3100), a.u8.slice(1000, 4000));
  assert.is(b.u8[99] | b.u8[3100], 0);
  mapping.unmap();
  assert.throws(() => copyMemory(b, 0, a, 0, 64), RangeError);
});

test('protection, core dumps and locking', () => {
  const fd = memfd('flags', PAGE_SIZE, { seal: false });
  const address = (memory: Memory) => memory.address;
  const readOnly = mapFile(fd, { size: PAGE_SIZE, prot: PROT.READ });
  const at = address(readOnly.memoryAt(0, 8));
  assert.is(area(at).permissions, 'r--s');
  assert.ok(area(at).flags.includes('dd')); // VM_DONTDUMP
  readOnly.unmap();
  const dumped = mapFile(fd, { size: PAGE_SIZE, dontDump: false });
  assert.not.ok(area(address(dumped.memoryAt(0, 8))).flags.includes('dd'));
  dumped.unmap();
  const locked = mapAnonymous(PAGE_SIZE);
  locked.lock();
  assert.ok(area(address(locked.memoryAt(0, 8))).flags.includes('lo')); // VM_LOCKED
  locked.unmap();
  fd.close();
});

test('locking beyond the limit says which limit', () => {
  if (process.getuid?.() === 0) return; // root has CAP_IPC_LOCK, which knows no limit
  const before = getLimit('MEMLOCK');
  setLimit('MEMLOCK', { soft: 0, hard: before.hard });
  const mapping = mapAnonymous(PAGE_SIZE);
  assert.throws(() => mapping.lock(), /memlock limit/);
  mapping.unmap();
  setLimit('MEMLOCK', before);
});

test('huge pages: given, or refused with what to do', () => {
  const free = Number(/HugePages_Free:\s+(\d+)/.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
  const wanted = 0x20_0000 * (free + 3);
  assert.throws(() => mapAnonymous(wanted, { hugepages: true }), /huge pages? .*(hugepages|huge page)/);
  assert.throws(() => mapAnonymous(4096, { hugepages: 3000 }), /not a power of two/);
  if (free > 0) {
    const mapping = mapAnonymous(5000, { hugepages: true });
    assert.is(mapping.size, 5000);
    assert.is(mapping.memoryAt(0, 8).address % 0x20_0000, 0);
    mapping.unmap();
  }
});

test('unmap revokes every Memory, and a view kept beside it reads zeroes', () => {
  const fd = memfd('stale', 4 * PAGE_SIZE);
  const mapping = mapFile(fd, { size: 4 * PAGE_SIZE });
  const [a, b] = [mapping.memoryAt(0, PAGE_SIZE), mapping.memoryAt(PAGE_SIZE, 64)];
  const kept = a.u32;
  kept[3] = 42;
  mapping.unmap();
  for (const memory of [a, b]) {
    assert.equal([memory.length, memory.u8.length, memory.u16.length, memory.u32.length], [0, 0, 0, 0]);
  }
  assert.is(kept[3], 0);
  kept[3] = 1; // lost, and harmless
  const back = new Uint8Array(16);
  pread(fd, back, 0);
  assert.is(back[12], 42); // the file never saw the late write
  const { name, flags } = area(a.address);
  assert.is(name, '');
  assert.ok(flags.includes('dd') && flags.includes('nr')); // not dumped, nothing reserved
  mapping.unmap();
  assert.is(kept[3], 1);
  assert.is(mapping.unmapped, true);
  fd.close();
});

test('without any view the addresses go back at once', () => {
  const fd = memfd('plain', PAGE_SIZE);
  const mapping = mapFile(fd, { size: PAGE_SIZE });
  const { range } = mapping.share();
  assert.match(area(range.start).name, /memfd:plain/);
  mapping.unmap();
  assert.not.match(area(range.start).name, /memfd:plain/);
  fd.close();
});

test('late reads and writes of every kind do not end the process', () => {
  const child = runChild(`
    import { mapAnonymous, mapFile, memfd } from '<root>/src/sys/mapping.ts';
    import { copyMemory } from '<root>/src/memory/copy.ts';
    const fd = memfd('x', 1 << 20);
    for (const mapping of [mapFile(fd, { size: 1 << 20 }), mapAnonymous(1 << 20)]) {
      const memory = mapping.memoryAt(0, 1 << 20);
      const { u8, u16, u32 } = memory;
      const buffer = u8.buffer;
      u8.fill(255);
      mapping.unmap();
      if (u8.some((x) => x !== 0)) throw new Error('not zero');
      u8.fill(1);
      Atomics.add(u32, 5, 1);
      new DataView(buffer).setUint32(8, 1);
      Buffer.from(buffer).toString('hex');
      u16.slice();
      const other = mapAnonymous(4096).memoryAt(0, 4096);
      let refused = 0;
      try { copyMemory(other, 0, memory, 0, 4096); } catch (e) { refused++; }
      if (refused !== 1 || memory.u32[0] !== undefined) throw new Error('alive');
    }
    console.log('fine');
  `);
  assert.equal([child.end, child.stdout.trim(), child.stderr], [0, 'fine', '']);
});

test('the addresses go back when the last view is collected, and only then', () => {
  const child = runChild(
    `
    import { mapAnonymous } from '<root>/src/sys/mapping.ts';
    import { readFileSync } from 'node:fs';
    const VmSize = () => Number(/VmSize:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024;
    const settle = async () => { for (let i = 0; i < 20; i++) { gc(); await new Promise((r) => setTimeout(r, 5)); } };
    const SIZE = 2 ** 30, ROUNDS = 100;
    // Not in this scope: its locals would keep the views alive.
    const round = (keep) => {
      const mapping = mapAnonymous(SIZE, { noReserve: true });
      const view = mapping.memoryAt(0, SIZE).u32;
      mapping.memoryAt(8, 8);
      mapping.unmap();
      return keep ? view : undefined;
    };
    await settle();
    const before = VmSize();
    let kept = round(true);
    for (let i = 1; i < ROUNDS; i++) round(false);
    await settle();
    const oneLeft = VmSize() - before;
    kept[100] = 7;
    if (kept[100] !== 7) throw new Error('the kept view is not memory');
    kept = undefined;
    await settle();
    const noneLeft = VmSize() - before;
    const near = (a, b) => Math.abs(a - b) < SIZE / 2;
    console.log(near(oneLeft, SIZE), near(noneLeft, 0), oneLeft / SIZE, noneLeft / SIZE);
  `,
    ['--expose-gc'],
  );
  assert.is(child.end, 0, child.stderr);
  assert.match(child.stdout, /^true true /);
});

test('another thread adopts the mapping, and outlives it', async () => {
  const mapping = mapAnonymous(2 * PAGE_SIZE);
  const memory = mapping.memoryAt(0, PAGE_SIZE);
  memory.u32[0] = 123;
  const worker = startWorker(new URL('./threads/mapping.ts', import.meta.url), mapping.share());
  const [first] = await once(worker, 'message');
  assert.equal(first, { first: 123, length: PAGE_SIZE });
  assert.is(memory.u32[1], 1);
  mapping.unmap(); // the thread does not know yet
  worker.postMessage('look');
  const [second] = await once(worker, 'message');
  assert.equal(second, { stale: 0, refused: 'RangeError: memoryAt: the owner has unmapped this', length: 0 });
  await once(worker, 'exit');
});

test('an adopted mapping is not the owner: its unmap leaves the memory alone', () => {
  const mapping = mapAnonymous(PAGE_SIZE);
  const memory = mapping.memoryAt(0, 64);
  const other = adopt(structuredClone(mapping.share()));
  const theirs = other.memoryAt(0, 64);
  theirs.u32[0] = 9;
  other.unmap();
  assert.is(theirs.length, 0);
  assert.is(memory.u32[0], 9);
  const third = adopt(mapping.share());
  assert.is(third.unmapped, false);
  mapping.unmap();
  assert.is(third.unmapped, true);
  assert.throws(() => mapping.share(), RangeError);
  assert.throws(() => other.memoryAt(0, 64), RangeError);
});

test('a mapping of many GiB: each window is its own place, few buffers under all', () => {
  const size = 13 * GIB;
  const fd = memfd('many', size);
  const mapping = mapFile(fd, { size });
  const windows = Array.from({ length: 13 }, (_, i) => mapping.windowAt(i * GIB, GIB));
  assert.equal(new Set(windows.map((w) => w.u8.length)), new Set([0]), 'no view before it is wanted');
  for (const w of windows) w.open();
  windows.forEach((w, i) => {
    w.u32[GIB / 4 - 1] = 1000 + i;
  });
  windows.forEach((w, i) => {
    assert.is(mapping.memoryAt(i * GIB + GIB - 8, 8).u32[1], 1000 + i);
    const over = i < 12 ? OVERHANG : 0;
    assert.is(w.length, GIB + over);
    windows[i].u32[0] = i;
    if (i > 0) assert.is(windows[i - 1].u32[GIB / 4], i); // the overhang
  });
  assert.is(new Set(windows.map((w) => w.u8.buffer)).size, 5);
  assert.throws(() => mapping.memoryAt(size - 8, 16), RangeError);
  mapping.unmap();
  assert.is(windows[12].length, 0);
  fd.close();
});

test.run();
