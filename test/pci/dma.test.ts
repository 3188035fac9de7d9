/** The table of DMA mappings, the registry over it, and the driver's own DMA memory. */
import { statSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { IO_PAGE, ioAddressOf, ioRunBytes } from '../../src/memory/io-address.ts';
import { Memory } from '../../src/memory/memory.ts';
import { adoptDma } from '../../src/pci/dma.ts';
import { DmaAllowance, MACHINE, type Surroundings } from '../../src/pci/dma-allowance.ts';
import { type DmaMapper, MapperKind } from '../../src/pci/dma-mapper.ts';
import { DmaMemory } from '../../src/pci/dma-memory.ts';
import { DmaMemoryRegistry, runsOf } from '../../src/pci/dma-memory-registry.ts';
import { DmaTable } from '../../src/pci/dma-table.ts';
import { ERRNO } from '../../src/sys/errno.ts';
import { mapFile, memfd } from '../../src/sys/mapping.ts';
import { absentBytes, machineRam } from '../../src/sys/ram.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('pci dma');
const isRoot = process.geteuid?.() === 0;

/** The kernel's side: refuses overlapping maps and unmaps that are not exactly one map, as type 1 version 2 does. */
class FakeMapper implements DmaMapper {
  readonly maps = new Map<number, number>();
  calls = 0;
  /** Fail the call with this number. */
  failAt = -1;

  map(_place: unknown, _memory: Memory, offset: number, iova: number, bytes: number): number {
    assert.ok(offset >= 0);
    if (this.calls++ === this.failAt) return -ERRNO.ENOSPC;
    for (const [start, length] of this.maps) if (iova < start + length && start < iova + bytes) return -ERRNO.EEXIST;
    this.maps.set(iova, bytes);
    return 0;
  }

  unmap(_place: unknown, iova: number, bytes: number): number {
    assert.is(this.maps.get(iova), bytes, 'unmapped as it was mapped');
    this.maps.delete(iova);
    return 0;
  }

  covers(from: number, to: number): boolean {
    for (let at = from; at < to; ) {
      const hit = [...this.maps].find(([start, length]) => at >= start && at < start + length);
      if (hit === undefined) return false;
      at = hit[0] + hit[1];
    }
    return true;
  }
}

const TYPE1 = { kind: MapperKind.TYPE1, fd: 3, ioas: 0 };
const ANY = new Memory(new ArrayBuffer(8));

test('the same range twice is mapped once, and unmapped after the second', () => {
  const mapper = new FakeMapper();
  const table = new DmaTable(undefined, mapper);
  table.setPlace(TYPE1);
  assert.is(table.add(ANY, 0, 0x1000, 0x4000), null);
  assert.is(table.add(ANY, 0, 0x1000, 0x4000), null);
  assert.is(mapper.calls, 1);
  table.remove(0x1000, 0x4000);
  assert.is(mapper.maps.size, 1);
  table.remove(0x1000, 0x4000);
  assert.is(mapper.maps.size, 0);
  assert.is(table.count, 0);
});

test('a refusal changes nothing and says what to do', () => {
  const mapper = new FakeMapper();
  const table = new DmaTable(undefined, mapper);
  table.setPlace(TYPE1);
  table.add(ANY, 0, 0x2000, 0x1000);
  mapper.failAt = 2;
  assert.match(table.add(ANY, 0, 0x1000, 0x3000) ?? '', /mapping 4096 bytes at 0x3000 for DMA: ENOSPC.*huge pages/);
  assert.equal([...mapper.maps], [[0x2000, 0x1000]]);
  table.remove(0x2000, 0x1000);
  assert.is(table.count, 0);
});

test('any registrations, overlapping as they like: everything registered is mapped, and nothing else in the end', () => {
  const range = fc.tuple(fc.nat(60), fc.integer({ min: 1, max: 20 }));
  fc.assert(
    fc.property(fc.array(fc.oneof(range, fc.nat(100)), { maxLength: 40 }), (steps) => {
      const mapper = new FakeMapper();
      const table = new DmaTable(undefined, mapper);
      table.setPlace(TYPE1);
      const live: [number, number][] = [];
      const drop = (i: number) => {
        const [[start, bytes]] = live.splice(i, 1) as [[number, number]];
        table.remove(start, bytes);
      };
      for (const step of steps) {
        if (typeof step === 'number') {
          if (live.length > 0) drop(step % live.length);
        } else {
          const [start, bytes] = [step[0] * 4096, step[1] * 4096];
          assert.is(table.add(ANY, 0, start, bytes), null);
          live.push([start, bytes]);
        }
        for (const [start, bytes] of live) assert.ok(mapper.covers(start, start + bytes), 'registered is mapped');
        assert.is(table.count, mapper.maps.size);
      }
      while (live.length > 0) drop(0);
      assert.is(mapper.maps.size, 0);
    }),
    budget(200),
  );
});

test('threads at once: the table stays whole', async () => {
  const table = new DmaTable();
  const code = `
    const { workerData } = require('node:worker_threads');
    import(workerData.url).then(({ DmaTable }) => {
      const table = new DmaTable(workerData.shared, { map: () => 0, unmap: () => 0 });
      for (let i = 0; i < 2000; i++) {
        const at = ((i * 7919 + workerData.seed) % 64) * 4096;
        if (table.add({}, 0, at, 3 * 4096) !== null) throw new Error('add');
        table.remove(at, 3 * 4096);
      }
    }).catch((error) => { process.nextTick(() => { throw error; }); });`;
  table.setPlace(TYPE1);
  const url = new URL('../../src/pci/dma-table.ts', import.meta.url).href;
  const register = `import(${JSON.stringify(import.meta.resolve('tsx/esm/api'))}).then(({ register }) => { register(); ${code} });`;
  await Promise.all(
    [1, 2].map(
      (seed) =>
        new Promise<void>((resolve, reject) => {
          const worker = new Worker(register, { eval: true, workerData: { url, shared: table.shared, seed } });
          worker.on('error', reject);
          worker.on('exit', (status) => (status === 0 ? resolve() : reject(new Error(`exit ${status}`))));
        }),
    ),
  );
  assert.is(table.count, 0);
});

test('physical pieces of a list of pages', () => {
  const pages = Float64Array.of(0x8000, 0x9000, 0x3000, 0x4000, 0x5000, 0xf000);
  assert.equal(runsOf(pages, 6 * 4096), [
    [0x8000, 0x2000],
    [0x3000, 0x3000],
    [0xf000, 0x1000],
  ]);
});

test('I/O addresses of memory in one piece, in pages, and out of reach', () => {
  const memory = new Memory(new ArrayBuffer(16384));
  assert.is(ioAddressOf(memory, 5), -1);
  assert.is(ioRunBytes(memory, 5, 10), 0);
  memory.ioPages = Float64Array.of(2 ** 40, 2 ** 40 + 4096, 0x3000, -1);
  assert.is(ioAddressOf(memory, 4096 + 7), 2 ** 40 + 4103);
  assert.is(ioRunBytes(memory, 100, 16000), 8192 - 100);
  assert.is(ioRunBytes(memory, 8192, 8192), 4096);
  assert.is(ioAddressOf(memory, 12288), -1);
  memory.ioAddress = 2 ** 41;
  assert.is(ioAddressOf(memory, 4096 + 7), 2 ** 41 + 4103);
});

/** Says where each page of a new arena lies. */
class MadeUpRegistry {
  known = 0;
  private readonly placeOf: (page: number) => number;

  constructor(placeOf: (page: number) => number) {
    this.placeOf = placeOf;
  }

  add(memory: Memory): string | null {
    this.known++;
    memory.ioPages = Float64Array.from({ length: memory.length / IO_PAGE }, (_, i) => this.placeOf(i) * IO_PAGE);
    return null;
  }

  remove(): void {
    this.known--;
  }
}

function madeUpMemory(placeOf: (page: number) => number) {
  const registry = new MadeUpRegistry(placeOf);
  let arenas = 0;
  const onArenas = (fds: readonly unknown[]) => {
    arenas = fds.length;
  };
  const dma = new DmaMemory(registry as unknown as DmaMemoryRegistry, { hugepages: false, onArenas });
  return { dma, registry, arenas: () => arenas };
}

test('every second physical page: pages are had, longer pieces are refused and leave nothing behind', () => {
  const { dma, registry, arenas } = madeUpMemory((page) => 2 * page + 1);
  const held = [];
  for (let i = 0; i < 10; i++) {
    assert.throws(() => dma.allocate(2 * IO_PAGE, true), /no 8192 bytes of DMA memory in one physical piece/);
    held.push(dma.allocate(1, true), dma.allocate(57344, false));
  }
  assert.is(arenas(), 1);
  assert.is(registry.known, 1);
  const pages = held.flatMap(({ memory }) =>
    Array.from({ length: memory.length / IO_PAGE }, (_, i) => ioAddressOf(memory, i * IO_PAGE)),
  );
  assert.is(new Set(pages).size, 10 * 15);
  assert.ok(pages.every((p) => p % (2 * IO_PAGE) === IO_PAGE));
  for (const buffer of held) buffer.free();
  dma.close();
  assert.is(registry.known, 0);
});

test('physical pieces of three pages: found behind what is taken, and never across a gap', () => {
  const { dma, arenas } = madeUpMemory((page) => page + Math.floor(page / 3));
  const firsts = [];
  for (const pages of [1, 2, 3, 2, 1, 3]) {
    const { memory } = dma.allocate(pages * IO_PAGE, true);
    assert.ok(memory.ioAddress > 0 || firsts.length === 0);
    firsts.push(memory.ioAddress / IO_PAGE);
  }
  // Pieces begin at 0, 4, 8, 12 ...: 1 + 2, 3, 2 + 1, 3.
  assert.equal(firsts, [0, 1, 4, 8, 10, 12]);
  assert.throws(() => dma.allocate(4 * IO_PAGE, true), /one physical piece/);
  assert.is(arenas(), 1);
  dma.close();
});

/** A machine whose memory goes as it is pinned, and a clock. */
class FakeMachine implements Surroundings {
  readonly total: number;
  available: number;
  huge = false;
  resident = false;
  /** Milliseconds to pin a GiB. */
  pinMs = 100;
  time = 5000;
  pinned = 0;
  looks = 0;

  constructor(gibibytes: number, availableGibibytes: number) {
    this.total = gibibytes * 2 ** 30;
    this.available = availableGibibytes * 2 ** 30;
  }

  ram() {
    return { total: this.total, available: this.available };
  }
  absent(memory: Memory) {
    this.looks++;
    this.time += 30;
    return this.resident ? 0 : memory.length;
  }
  inHugePages() {
    return this.huge;
  }
  now() {
    return this.time;
  }

  /** What pinning does to it. */
  readonly pin = (memory: Memory): null => {
    if (!this.resident && !this.huge) this.available -= memory.length;
    this.time += (this.pinMs * memory.length) / 2 ** 30;
    this.pinned += memory.length;
    return null;
  };
}

/** A GiB that nobody looks into. */
const GIBIBYTE = Memory.unopened(2 ** 30, 2 ** 40, () => ({ buffer: new ArrayBuffer(0), byteOffset: 0 }));

test('4 TiB of holes: a quarter of the machine stays available, and a reactor is held up for seconds', () => {
  fc.assert(
    fc.property(
      fc.record({
        total: fc.integer({ min: 1, max: 2000 }),
        part: fc.double({ min: 0, max: 1, noNaN: true }),
        pinMs: fc.integer({ min: 1, max: 8000 }),
        resident: fc.boolean(),
        huge: fc.boolean(),
      }),
      ({ total, part, pinMs, resident, huge }) => {
        const machine = new FakeMachine(total, total * part);
        Object.assign(machine, { pinMs, resident, huge });
        const before = machine.available;
        const allowance = new DmaAllowance(machine);
        const start = machine.time;
        const said = new Set<string | null>();
        for (let i = 0; i < 4096; i++) said.add(allowance.spend(GIBIBYTE, () => machine.pin(GIBIBYTE)));
        assert.ok(machine.available >= Math.min(before, machine.total / 4), 'it is available');
        assert.ok(machine.time - start <= 5100 + 2 * pinMs, `held up for ${machine.time - start} ms`);
        if (!resident) assert.ok(machine.looks <= 2, 'what is refused once is not looked at again and again');
        if (machine.pinned < 4096 * 2 ** 30)
          assert.ok([...said].some((why) => /less than a quarter|held up this reactor/.test(why ?? '')));
      },
    ),
    budget(60),
  );
});

test('what is there already, and huge pages, are pinned on a full machine', () => {
  for (const way of ['resident', 'huge'] as const) {
    const machine = new FakeMachine(64, 2);
    const allowance = new DmaAllowance(machine);
    assert.match(allowance.spend(GIBIBYTE, () => 'not called') ?? '', /less than a quarter .* 65536 MiB .* 2048 MiB/);
    machine[way] = true;
    machine.time += 100;
    for (let i = 0; i < 32; i++)
      assert.is(
        allowance.spend(GIBIBYTE, () => machine.pin(GIBIBYTE)),
        null,
      );
  }
});

test('a VM that comes later has time of its own; one after the other does not hold up a reactor for good', () => {
  const machine = new FakeMachine(4000, 4000);
  machine.pinMs = 1000;
  const allowance = new DmaAllowance(machine);
  const many = () => {
    let n = 0;
    while (n < 4096 && allowance.spend(GIBIBYTE, () => machine.pin(GIBIBYTE)) === null) n++;
    return n;
  };
  assert.is(many(), 5);
  assert.is(many(), 0);
  machine.time += 20_000;
  assert.is(many(), 1);
  machine.time += 1e6;
  assert.is(many(), 5);
});

test('holes of a file are not filled to learn that there are too many', () => {
  const fd = memfd('sparse', 4 * 2 ** 40);
  const mapping = mapFile(fd, { size: 4 * 2 ** 40 });
  const registry = new DmaMemoryRegistry(
    new DmaTable(),
    new DmaAllowance({ ...MACHINE, ram: () => ({ total: 2 ** 32, available: 2 ** 31 - 1 }) }),
  );
  const windows = Array.from({ length: 8 }, (_, i) => mapping.windowAt(i * 2 ** 39, 2 ** 30));
  for (const memory of windows) {
    assert.is(absentBytes(memory), memory.length);
    assert.ok(absentBytes(memory, 4096) < 2 ** 26, 'no more is counted than needed');
    assert.match(registry.offer(memory) ?? '', /less than a quarter of this machine's 4096 MiB of memory/);
    assert.is(memory.ioAddress, -1);
    registry.remove(memory);
  }
  assert.is(registry.size, 0);
  const page = mapping.memoryAt(3 * 2 ** 30 + 4096, 4096);
  assert.is(absentBytes(page), 4096);
  page.u8[0] = 1;
  assert.is(absentBytes(page), 0);
  assert.is(absentBytes(mapping.memoryAt(3 * 2 ** 30, 3 * 4096)), 2 * 4096);
  assert.is(statSync(`/proc/self/fd/${fd.number}`).blocks, 8, 'one page');
  mapping.unmap();
  fd.close();
});

test("the machine's memory", () => {
  const ram = machineRam();
  assert.ok(ram !== null && ram.total > 2 ** 26 && ram.available > 0 && ram.available <= ram.total);
  assert.is(machineRam('/nowhere'), null);
  assert.is(machineRam('/proc/self/comm'), null);
});

if (isRoot) {
  test('memory of a file: pinned where it lies, mapped by pieces, taken back', () => {
    const fd = memfd('test', 64 * 4096);
    const mapping = mapFile(fd, { size: 64 * 4096 });
    const memory = mapping.memoryAt(0, 64 * 4096);
    const mapper = new FakeMapper();
    const table = new DmaTable(undefined, mapper);
    table.setPlace(TYPE1);
    const registry = new DmaMemoryRegistry(table);
    assert.is(registry.add(memory), null);
    assert.is(registry.add(memory), null);
    const sum = [...mapper.maps.values()].reduce((a, b) => a + b, 0);
    assert.is(sum, 64 * 4096, 'all of it is mapped');
    for (let at = 0; at < memory.length; at += IO_PAGE) {
      const address = ioAddressOf(memory, at);
      assert.ok(address > 0 && address % IO_PAGE === 0 && mapper.covers(address, address + IO_PAGE));
    }
    registry.remove(memory);
    assert.ok(mapper.maps.size > 0);
    registry.remove(memory);
    assert.is(mapper.maps.size, 0);
    assert.is(ioAddressOf(memory, 0), -1);
    mapping.unmap();
    fd.close();
  });

  test('who was refused memory that another user then got keeps it reachable: it uses the same addresses', () => {
    const fd = memfd('test', 64 * 4096);
    const mapping = mapFile(fd, { size: 64 * 4096 });
    const memory = mapping.memoryAt(0, 64 * 4096);
    const machine = new FakeMachine(64, 2);
    const mapper = new FakeMapper();
    const table = new DmaTable(undefined, mapper);
    table.setPlace(TYPE1);
    const registry = new DmaMemoryRegistry(table, new DmaAllowance(machine));
    assert.match(registry.offer(memory) ?? '', /less than a quarter/);
    assert.is(ioAddressOf(memory, 0), -1);
    machine.resident = true;
    machine.time += 1000;
    assert.is(registry.offer(memory), null);
    assert.ok(ioAddressOf(memory, 0) > 0);
    registry.remove(memory);
    assert.ok(ioAddressOf(memory, 0) > 0 && mapper.maps.size > 0, 'commands of the first may be in flight');
    registry.remove(memory);
    assert.is(ioAddressOf(memory, 0), -1);
    assert.is(mapper.maps.size, 0);
    assert.is(registry.size, 0);
    mapping.unmap();
    fd.close();
  });

  test('memory that came before the first device behind an IOMMU is mapped with it', () => {
    const mapper = new FakeMapper();
    const table = new DmaTable(undefined, mapper);
    const registry = new DmaMemoryRegistry(table);
    const dma = new DmaMemory(registry, { hugepages: false });
    const buffer = dma.allocate(8192, false);
    assert.is(mapper.maps.size, 0, 'without an IOMMU nothing is mapped');
    table.setPlace(TYPE1);
    assert.is(registry.mapAll(), null);
    const address = ioAddressOf(buffer.memory, 4096);
    assert.ok(mapper.covers(address, address + 4096));
    buffer.free();
    dma.close();
    assert.is(mapper.maps.size, 0);
  });

  test('DMA memory: zeroed, apart, shared with other threads, given back', () => {
    let arenas = 0;
    const registry = new DmaMemoryRegistry(new DmaTable());
    const dma = new DmaMemory(registry, { hugepages: false, onArenas: (fds) => (arenas = fds.length) });
    const pieces = Array.from({ length: 40 }, (_, i) => dma.allocate(1 + i * 1000, false));
    assert.is(arenas, 1);
    const seen = new Set<number>();
    pieces.forEach(({ memory }, i) => {
      assert.is(memory.length % IO_PAGE, 0);
      assert.ok(memory.u8.every((b) => b === 0));
      memory.u8.fill(i + 1);
      for (let at = 0; at < memory.length; at += IO_PAGE) {
        const address = ioAddressOf(memory, at);
        assert.not(seen.has(address), 'no page is given out twice');
        seen.add(address);
      }
    });
    for (const [i, { memory }] of pieces.entries()) assert.ok(memory.u8.every((b) => b === i + 1));
    const page = dma.allocate(4096, true);
    assert.ok(page.memory.ioAddress > 0, 'one page is always one piece');
    page.memory.u32[0] = 42;
    const other = adoptDma(structuredClone(page.share()));
    assert.is(other.u32[0], 42);
    assert.is(ioAddressOf(other, 8), ioAddressOf(page.memory, 8));
    other.u32[1] = 43;
    assert.is(page.memory.u32[1], 43);
    const big = dma.allocate(6 << 20, false);
    assert.is(arenas, 2, 'a second arena');
    for (const piece of [...pieces, page, big]) piece.free();
    page.free();
    assert.ok(dma.idle);
    const again = dma.allocate(4096, true);
    assert.ok(
      again.memory.u8.every((b) => b === 0),
      'zeroed again',
    );
    again.free();
    dma.close();
    assert.is(registry.size, 0);
  });

  test('a contiguous piece that is not there', () => {
    const dma = new DmaMemory(new DmaMemoryRegistry(new DmaTable()), { hugepages: false });
    assert.throws(() => dma.allocate(64 << 20, true), /one physical piece.*setup hugepages/);
    dma.close();
  });
}

test.run();
