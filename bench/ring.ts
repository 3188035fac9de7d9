/**
 * What the split ring costs by itself: one thread plays driver and device in turns, and only the device's half is
 * timed: pop, read the chain, push, and one publish a batch. Three descriptors a chain, as a SCSI read has
 * (header | response, data). Prints ns a chain: the best round is what an idle core can do.
 *
 * `node --import tsx bench/ring.ts [ROUNDS]`
 */
import { performance } from 'node:perf_hooks';
import { cutWindows, GuestMemory } from '../src/memory/guest-memory.ts';
import { Memory } from '../src/memory/memory.ts';
import { SgList } from '../src/memory/sg-list.ts';
import { DeviceRing } from '../src/virtio/device-ring.ts';
import { DriverRing, tablesBytes } from '../src/virtio/driver-ring.ts';
import { IoList } from '../src/virtio/io-list.ts';

const ROUNDS = Number(process.argv[2] ?? 400);
const BATCHES = 50;
const SIZE = 1024;
const ENTRIES = 8;
const HIGH = 0x1_4000_0000; // 5 GiB: the second region, as a VM with more than 3 GiB has

const low = new Memory(new ArrayBuffer(1 << 22));
const high = new Memory(new ArrayBuffer(1 << 22));

function bench(name: string, batch: number, indirect: boolean, eventIdx: boolean): void {
  const guest = new GuestMemory([
    ...cutWindows(0, 0, low.length, () => low),
    ...cutWindows(HIGH, HIGH, high.length, () => high),
  ]);
  const place = {
    desc: { memory: low, offset: 0x1_0000 },
    avail: { memory: low, offset: 0x2_0000 },
    used: { memory: low, offset: 0x3_0000 },
  };
  const tables = { memory: low, offset: 0x10_0000, addressOf: (offset: number) => offset, entries: ENTRIES };
  if (tables.offset + tablesBytes(SIZE, ENTRIES) > low.length) throw new Error('tables do not fit');
  const driver = DriverRing.create(place, { size: SIZE, eventIdx, tables });
  if (typeof driver === 'string') throw new Error(driver);
  const device = DeviceRing.create(place, { guest, size: SIZE, eventIdx, indirect: true, base: 0 });
  if (typeof device === 'string') throw new Error(device);

  const out = new IoList(4);
  const into = new IoList(4);
  const readable = new SgList(8, 2048);
  const writable = new SgList(8, 2048);
  let check = 0;
  const serve = () => {
    for (;;) {
      const head = device.pop();
      if (head < 0) break;
      if (!device.readChain(head, readable, writable)) throw new Error(device.broken ?? '');
      check += writable.bytes;
      device.push(head, writable.bytes);
    }
    device.publish();
  };
  driver.suppress();
  const times: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    let spent = 0;
    for (let b = 0; b < BATCHES; b++) {
      for (let i = 0; i < batch; i++) {
        out.reset();
        into.reset();
        out.push(0x20_0000 + i * 128, 0, 51);
        into.push(0x20_0040 + i * 128, 0, 108);
        into.pushAddress(HIGH + ((i * 4096) & 0x3f_ffff), 4096);
        if (driver.add(out, into, indirect) < 0) throw new Error('ring full');
      }
      driver.publish();
      const from = performance.now();
      serve();
      spent += performance.now() - from;
      while (driver.poll() >= 0) check--;
    }
    times.push((spent * 1e6) / (BATCHES * batch));
  }
  times.sort((a, b) => a - b);
  const at = (q: number) => times[Math.floor(times.length * q)].toFixed(0).padStart(6);
  console.log(`${name.padEnd(34)} batch ${String(batch).padStart(3)}  min ${at(0)}  p50 ${at(0.5)}  ns/chain`);
  if (check === 0) throw new Error('nothing was done');
}

/** Guest address look-up alone: random addresses, each within one window. */
function benchTranslate(gibibytes: number): void {
  // One small memory stands for every window: only the table matters here.
  const windows = Array.from({ length: gibibytes }, (_, i) => ({
    gpa: i * 0x4000_0000,
    uva: i * 0x4000_0000,
    length: low.length,
    memory: low,
    base: 0,
  }));
  const guest = new GuestMemory(windows);
  const sg = new SgList(8);
  const N = 4096;
  const lo = new Int32Array(N);
  const hi = new Int32Array(N);
  for (let i = 0; i < N; i++) {
    const page = Math.floor(Math.random() * gibibytes);
    lo[i] = (page << 30) | (i * 512);
    hi[i] = page >>> 2;
  }
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const from = performance.now();
    for (let i = 0; i < N; i++) {
      sg.reset();
      if (!guest.translate(lo[i], hi[i], 512, sg)) throw new Error('lost');
    }
    best = Math.min(best, performance.now() - from);
  }
  console.log(`translate, ${gibibytes} windows`.padEnd(34), `min ${((best * 1e6) / N).toFixed(1)}  ns/buffer`);
}

console.log(`Node ${process.version}, 3 descriptors a chain, device half only`);
for (const batch of [1, 32, 256]) {
  bench('direct', batch, false, false);
  bench('direct, event index', batch, false, true);
  bench('indirect, event index', batch, true, true);
}
for (const gibibytes of [1, 4, 64]) benchTranslate(gibibytes);
