import { Worker } from 'node:worker_threads';
import { SgList } from '../../src/memory/sg-list.ts';
import { DeviceRing } from '../../src/virtio/device-ring.ts';
import { FakeGuest, FakeRing, INDIRECT, NEXT, WRITE } from '../support/fake-driver.ts';
import { assert, suite } from '../support/suite.ts';

/**
 * A guest that changes descriptors while they are read. Whatever mixture the ring sees: no exception, an end, and
 * every segment inside memory. A value judged in one load and used from another would show up here.
 */
const test = suite('double fetch');

const SIZE = 8;
const MILLISECONDS = Number(process.env['FC_SECONDS'] ?? 1.5) * 1000;

/** Plain JavaScript, for workers run no TypeScript on every Node: makes one word
 * bad for a moment, then good again, as fast as it can. */
const FLIPPER = `
  const { workerData } = require('node:worker_threads');
  const words = new Uint32Array(workerData.buffer);
  const stop = new Int32Array(workerData.stop);
  const { places } = workerData; // [index, good, bad][]
  let x = 12345;
  while (Atomics.load(stop, 0) === 0) {
    for (let k = 0; k < 1000; k++) {
      x = (Math.imul(x, 1103515245) + 12345) >>> 0;
      const p = places[(x >>> 8) % places.length];
      words[p[0]] = p[2];
      for (let spin = x & 31; spin > 0; spin--) words[p[0]] = p[2];
      words[p[0]] = p[1];
    }
  }
`;

for (const indirect of [false, true]) {
  test(`${indirect ? 'indirect tables' : 'descriptors'} that change while they are read`, async () => {
    const guest = new FakeGuest([{ gpa: 0, size: 0x1_0000 }], true);
    const driver = new FakeRing(guest, SIZE);
    const table = indirect ? guest.alloc(16 * SIZE) : driver.desc;
    const places: [number, number, number][] = [];
    for (let i = 0; i < SIZE; i++) {
      const at = (table + 16 * i) >> 2;
      const flags = (i > 3 ? WRITE : 0) | (i < SIZE - 1 ? NEXT : 0);
      driver.raw(i, { addr: 0x4000 + i * 64, len: 64, flags, next: i + 1 }, table);
      places.push(
        [at, 0x4000 + i * 64, 0xffff_fff0],
        [at + 1, 0, 0xffff_ffff],
        [at + 2, 64, 0xffff_ffff],
        [at + 3, (flags | ((i + 1) << 16)) >>> 0, ((flags ^ WRITE) | (0xfff0 << 16)) >>> 0],
      );
    }
    if (indirect) {
      driver.raw(0, { addr: table, len: 16 * SIZE, flags: INDIRECT, next: 0 });
      places.push([(driver.desc + 8) >> 2, 16 * SIZE, 0xffff_fff0], [driver.desc >> 2, table, 0xfff8]);
    }
    const stop = new SharedArrayBuffer(4);
    const buffer = guest.pieces[0].memory.u8.buffer;
    const worker = new Worker(FLIPPER, { eval: true, workerData: { buffer, stop, places } });
    const exited = new Promise<number>((resolve) => worker.once('exit', resolve));
    await new Promise((resolve) => worker.once('online', resolve));

    const out = new SgList(8, 64);
    const into = new SgList(8, 64);
    let good = 0;
    let broken = 0;
    const until = Date.now() + MILLISECONDS;
    while (Date.now() < until) {
      for (let k = 0; k < 200; k++) {
        const base = driver.availIndex;
        const options = { guest: guest.memory, size: SIZE, eventIdx: false, indirect: true, base };
        const device = DeviceRing.create(driver.place, options);
        if (typeof device === 'string') throw new Error(device);
        driver.offer(0);
        assert.is(device.pop(), 0);
        if (!device.readChain(0, out, into)) {
          broken++;
          assert.ok(device.broken);
          continue;
        }
        good++;
        assert.ok(out.count + into.count <= SIZE);
        for (const list of [out, into]) {
          for (let i = 0; i < list.count; i++) {
            const from = list.offset[i];
            if (from < 0 || list.length[i] < 1 || from + list.length[i] > 0x1_0000) {
              throw new Error(`segment ${from} + ${list.length[i]} lies outside`);
            }
          }
        }
        device.push(0, into.bytes);
        device.publish();
      }
    }
    Atomics.store(new Int32Array(stop), 0, 1);
    await exited;
    // Both kinds were met, or the test proved nothing.
    assert.ok(good > 0 && broken > 0, `${good} good, ${broken} broken`);
  });
}

test.run();
