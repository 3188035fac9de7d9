/** The rings themselves, and the same requests through each I/O engine. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Memory } from '../../src/memory/memory.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import { FALLOC_FL, O } from '../../src/sys/constants.ts';
import { ERRNO } from '../../src/sys/errno.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { type Fd, open } from '../../src/sys/fd.ts';
import { InlineEngine } from '../../src/sys/inline-io.ts';
import { type IoEngine, PENDING, tagOf } from '../../src/sys/io-engine.ts';
import { IORING_OP, IoUring, ioUringUnavailable } from '../../src/sys/io-uring.ts';
import { IoUringEngine } from '../../src/sys/io-uring-engine.ts';
import { IovecTable, MAX_IOVECS, NOT_ALIGNED } from '../../src/sys/iovec-table.ts';
import { mapAnonymous } from '../../src/sys/mapping.ts';
import { preferredEngine } from '../../src/sys/shared-engine.ts';
import { ThreadPoolEngine } from '../../src/sys/thread-pool-io.ts';
import { leakedFds, openFds } from '../support/open-fds.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('file I/O engines');
const dir = tempDir();
const unavailable = ioUringUnavailable();
if (unavailable !== null) console.log(`without io_uring: ${unavailable}`);

class Seen {
  readonly results: [number, number][] = [];

  ioComplete(slot: number, result: number): void {
    this.results.push([slot, result]);
  }

  completion(userData: number, result: number): void {
    this.results.push([userData, result]);
  }
}

function until(loop: EventLoop, done: () => boolean): void {
  const end = Date.now() + 20_000;
  while (!done()) {
    loop.turn(10);
    if (Date.now() > end) throw new Error('nothing came back');
  }
}

function segment(memory: Memory, offset: number, bytes: number, sg = new SgList(4, 4096)): SgList {
  sg.push(memory, offset, bytes);
  return sg;
}

if (unavailable === null) {
  test('a ring carries user data there and back, round and round', () => {
    const ring = new IoUring(8, 16);
    const seen = new Seen();
    let expected = 0;
    for (let round = 0; round < 50; round++) {
      const n = 1 + (round % 8);
      for (let i = 0; i < n; i++) ring.put(IORING_OP.NOP, 0, -1, 0, 0, 0, 0, expected + i);
      assert.is(ring.room, 8 - n);
      assert.is(ring.submit(), 0);
      assert.is(ring.waiting, 0);
      assert.is(ring.reap(seen), n);
      expected += n;
    }
    assert.equal(
      seen.results.map(([data]) => data),
      [...Array(expected).keys()],
    );
    assert.ok(seen.results.every(([, result]) => result === 0));
    assert.is(ring.reap(seen), 0);
    ring.close();
    ring.close();
  });

  test('more completions than the ring holds are not lost', () => {
    const ring = new IoUring(8, 16);
    const seen = new Seen();
    for (let i = 0; i < 80; i++) {
      ring.put(IORING_OP.NOP, 0, -1, 0, 0, 0, 0, i);
      if (ring.room === 0) assert.is(ring.submit(), 0);
    }
    for (let i = 0; i < 50 && seen.results.length < 80; i++) ring.reap(seen);
    assert.equal(
      seen.results.map(([data]) => data),
      [...Array(80).keys()],
    );
    ring.close();
  });

  test('an entry that cannot be done completes with its error', () => {
    const ring = new IoUring(8, 16);
    const seen = new Seen();
    ring.put(IORING_OP.READV, 0, -1, 0, 0, 0, 0, 7);
    ring.put(200, 0, -1, 0, 0, 0, 0, 8);
    ring.put(IORING_OP.NOP, 0, -1, 0, 0, 0, 0, 9);
    for (let i = 0; i < 5 && seen.results.length < 3; i++) {
      ring.submit();
      ring.reap(seen);
    }
    assert.equal(
      seen.results.sort((a, b) => a[0] - b[0]),
      [
        [7, -ERRNO.EBADF],
        [8, -ERRNO.EINVAL],
        [9, 0],
      ],
    );
    ring.close();
  });

  test('what was not submitted can be taken back', () => {
    const ring = new IoUring(8, 16);
    const seen = new Seen();
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < 5; i++) ring.put(IORING_OP.NOP, 0, -1, 0, 0, 0, 0, i);
      const back: number[] = [];
      ring.dropUnsubmitted((data) => back.push(data));
      assert.equal(back, [0, 1, 2, 3, 4]);
      ring.put(IORING_OP.NOP, 0, -1, 0, 0, 0, 0, 42 + round);
      ring.submit();
      ring.reap(seen);
    }
    assert.equal(seen.results, [
      [42, 0],
      [43, 0],
      [44, 0],
    ]);
    ring.close();
  });

  test('armed means the eventfd or the answer true', () => {
    const ring = new IoUring(8, 16);
    const seen = new Seen();
    assert.is(ring.arm(), false);
    ring.put(IORING_OP.NOP, 0, -1, 0, 0, 0, 0, 1);
    assert.is(ring.arm(), true, 'something is not submitted');
    ring.submit();
    assert.is(ring.eventFd.drain(), true);
    assert.is(ring.arm(), true, 'a completion waits');
    ring.reap(seen);
    ring.disarm();
    ring.put(IORING_OP.NOP, 0, -1, 0, 0, 0, 0, 1);
    ring.submit();
    assert.is(ring.eventFd.drain(), false, 'not rung while we poll');
    ring.reap(seen);
    ring.close();
  });

  test('a handler that throws or closes the ring loses nothing twice', () => {
    const ring = new IoUring(8, 16);
    for (let i = 0; i < 4; i++) ring.put(IORING_OP.NOP, 0, -1, 0, 0, 0, 0, i);
    ring.submit();
    const got: number[] = [];
    const handler = {
      completion(data: number) {
        got.push(data);
        if (data === 1) throw new Error('handler');
        if (data === 2) ring.close();
      },
    };
    assert.throws(() => ring.reap(handler), /handler/);
    ring.reap(handler);
    assert.equal(got, [0, 1, 2]);
  });

  test('closing gives everything back', () => {
    const before = openFds();
    for (let i = 0; i < 20; i++) new IoUring(8, 16).close();
    assert.equal(leakedFds(before), []);
  });
}

test('iovecs: neighbours become one, misaligned and unmapped ones are refused', () => {
  const mapping = mapAnonymous(0x1_0000);
  const memory = mapping.memoryAt(0, 0x1_0000);
  const table = new IovecTable(2);
  const sg = new SgList(8, 8);
  segment(memory, 0, 4096, sg);
  segment(memory, 4096, 4096, sg);
  segment(memory, 16384, 512, sg);
  assert.is(table.fill(1, sg, 0, 8704, 511, 511), 2);
  assert.is(table.bytes[1], 8704);
  assert.is(table.fill(1, sg, 100, 200, 0, 0), 1);
  assert.is(table.fill(1, sg, 100, 200, 511, 0), NOT_ALIGNED);
  assert.is(table.fill(1, sg, 0, 200, 511, 511), NOT_ALIGNED);
  assert.is(table.fill(1, segment(new Memory(new ArrayBuffer(512)), 0, 512), 0, 512, 0, 0), NOT_ALIGNED);
  mapping.unmap();
  assert.is(table.fill(1, sg, 0, 512, 0, 0), NOT_ALIGNED, 'revoked');
  table.close();
});

test('iovecs: a long list is named as far as the kernel takes it', () => {
  const mapping = mapAnonymous(0x20_0000);
  const memory = mapping.memoryAt(0, 0x20_0000);
  const table = new IovecTable(1);
  const sg = new SgList(8, 4096);
  for (let i = 0; i < MAX_IOVECS + 10; i++) segment(memory, i * 1024, 512, sg);
  assert.is(table.fill(0, sg, 0, sg.bytes, 0, 0), MAX_IOVECS);
  assert.is(table.bytes[0], MAX_IOVECS * 512);
  assert.is(table.fill(0, sg, MAX_IOVECS * 512, sg.bytes - MAX_IOVECS * 512, 0, 0), 10);
  table.fillRepeated(0, memory, 2 ** 40);
  assert.is(table.count[0], 1024);
  mapping.unmap();
  table.close();
});

const ENGINES: [string, (loop: EventLoop) => IoEngine][] = [
  ['inline', (loop) => new InlineEngine(loop)],
  ['threads', (loop) => new ThreadPoolEngine(loop, 2)],
];
if (unavailable === null) ENGINES.unshift(['io_uring', (loop) => new IoUringEngine(loop)]);

for (const [name, create] of ENGINES) {
  const path = join(dir, name);

  /** Runs one request and gives its result. */
  function rig(
    body: (engine: IoEngine, fd: Fd, run: (call: (tag: number) => number) => number, loop: EventLoop) => void,
  ): void {
    writeFileSync(path, '');
    truncateSync(path, 0x10_0000);
    const fds = openFds();
    const fd = open(path, O.RDWR);
    const loop = new EventLoop();
    const engine = create(loop);
    const seen = new Seen();
    const port = engine.attach(seen);
    let slot = 0;
    try {
      body(
        engine,
        fd,
        (call) => {
          slot = (slot + 1) % 4;
          const result = call(tagOf(port, slot));
          if (result !== PENDING) return result;
          until(loop, () => seen.results.length > 0);
          const [from, value] = seen.results.pop() as [number, number];
          assert.is(from, slot);
          return value;
        },
        loop,
      );
    } finally {
      engine.detach(port);
      engine.close();
      loop.close();
      fd.close();
    }
    // Threads have descriptors of their own to be closed when they end; those of the engine itself must be gone.
    if (name !== 'threads') assert.equal(openFds(), fds);
  }

  test(`${name}: reads what it wrote, from and to scattered memory`, () => {
    rig((engine, fd, run) => {
      const file = engine.addFile(fd.number);
      const table = new IovecTable(4);
      const mapping = mapAnonymous(0x4_0000);
      const memory = mapping.memoryAt(0, 0x4_0000);
      memory.u8.forEach((_, i) => {
        memory.u8[i] = i * 7 + (i >> 8);
      });
      const out = segment(memory, 10, 100);
      segment(memory, 5000, 3000, out);
      const back = segment(memory, 0x2_0001, 3100);
      const position = 0x8_0123;
      const write = (dsync: boolean) => (tag: number) => {
        table.fill(tag & 3, out, 0, 3100, 0, 0);
        table.position[tag & 3] = position;
        return engine.writev(tag, file, table, dsync);
      };
      const read = (from: number, at: number, bytes: number) => (tag: number) => {
        table.fill(tag & 3, back, 0, bytes, 0, 0);
        table.position[tag & 3] = at;
        return engine.readv(tag, from, table);
      };
      assert.is(run(write(false)), 3100);
      assert.is(run(write(true)), 3100);
      assert.is(
        run((tag) => engine.fdatasync(tag, file)),
        0,
      );
      assert.is(run(read(file, position, 3100)), 3100);
      const expected = Buffer.concat([memory.u8.subarray(10, 110), memory.u8.subarray(5000, 8000)]);
      assert.is(Buffer.compare(memory.u8.subarray(0x2_0001, 0x2_0001 + 3100), expected), 0);
      assert.is(Buffer.compare(readFileSync(path).subarray(position, position + 3100), expected), 0);

      assert.is(
        run((tag) => engine.fallocate(tag, file, FALLOC_FL.PUNCH_HOLE | FALLOC_FL.KEEP_SIZE, position, 100)),
        0,
      );
      assert.ok(
        readFileSync(path)
          .subarray(position, position + 100)
          .every((b) => b === 0),
      );
      assert.is(run(read(file, 0x10_0000, 10)), 0, 'end');
      assert.is(
        run((tag) => engine.later(tag)),
        -ERRNO.EAGAIN,
      );
      assert.is(
        run((tag) => engine.fallocate(tag, file, 0x7000, 0, 10)),
        -ERRNO.EOPNOTSUPP,
      );
      assert.ok(
        [-ERRNO.EOPNOTSUPP, -ERRNO.ENOTTY, -ERRNO.EINVAL].includes(run((tag) => engine.discard(tag, file, 0, 512))),
      );
      engine.removeFile(file);
      assert.is(run(read(9999, 0, 10)), -ERRNO.EBADF);
      table.close();
      mapping.unmap();
    });
  });

  test(`${name}: many requests at once, each ends once, also from sleep`, () => {
    rig((engine, fd, _run, loop) => {
      const SLOTS = 1500;
      const file = engine.addFile(fd.number);
      const table = new IovecTable(SLOTS);
      const mapping = mapAnonymous(SLOTS * 512);
      const memory = mapping.memoryAt(0, SLOTS * 512);
      const seen = new Seen();
      const port = engine.attach(seen);
      for (let round = 0; round < 2; round++) {
        let begun = 0;
        seen.results.length = 0;
        for (let slot = 0; slot < SLOTS; slot++) {
          table.fill(slot, segment(memory, slot * 512, 512), 0, 512, 0, 0);
          table.position[slot] = slot * 512;
          if (round === 0) memory.u8.fill(slot + 1, slot * 512, slot * 512 + 512);
          const tag = tagOf(port, slot);
          const result = round === 0 ? engine.writev(tag, file, table, false) : engine.readv(tag, file, table);
          if (result !== PENDING) seen.results.push([slot, result]);
          begun++;
        }
        // Those that found no room come back with EAGAIN, and are tried again.
        const ended = new Set<number>();
        until(loop, () => {
          for (const [slot, result] of seen.results.splice(0)) {
            if (result === -ERRNO.EAGAIN) {
              const tag = tagOf(port, slot);
              if (round === 0) engine.writev(tag, file, table, false);
              else engine.readv(tag, file, table);
              continue;
            }
            assert.is(result, 512);
            assert.not(ended.has(slot), 'ended twice');
            ended.add(slot);
          }
          return ended.size === begun;
        });
        if (round === 0) memory.u8.fill(0);
      }
      for (let slot = 0; slot < SLOTS; slot++) assert.is(memory.u8[slot * 512 + 100], (slot + 1) & 0xff);
      // Asleep: the loop is past its spin time, and the answer has to wake it.
      for (let i = 0; i < 20; i++) {
        const until2 = performance.now() + 1;
        while (performance.now() < until2) loop.turn(0);
        if (engine.fdatasync(tagOf(port, 3), file) !== PENDING) break;
        until(loop, () => seen.results.length > 0);
        assert.equal(seen.results.splice(0), [[3, 0]]);
      }
      engine.removeFile(file);
      engine.detach(port);
      table.close();
      mapping.unmap();
    });
  });
}

test('the threads end with their engine', async () => {
  const before = openFds().length;
  const loop = new EventLoop();
  const engine = new ThreadPoolEngine(loop, 2);
  engine.close();
  loop.close();
  const end = Date.now() + 20_000;
  while (openFds().length > before) {
    assert.ok(Date.now() < end, `still open: ${openFds().join(', ')}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});

test('VVU_NO_IO_URING chooses threads', () => {
  process.env['VVU_NO_IO_URING'] = '1';
  assert.is(preferredEngine(), 'threads');
  process.env['VVU_NO_IO_URING'] = '0';
  assert.is(preferredEngine(), unavailable === null ? 'io_uring' : 'threads');
  delete process.env['VVU_NO_IO_URING'];
});

test.run();
