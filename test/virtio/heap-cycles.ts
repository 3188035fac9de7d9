/**
 * Child of heap.test.ts: 10^6 chains direct and 10^6 indirect, then the growth of the heap as JSON. The best of a few rounds: the
 * compiler works beside us, and on a busy machine code that is not optimised yet allocates. What a chain allocated would be
 * there in every round.
 */
import { getHeapSpaceStatistics } from 'node:v8';
import { SgList } from '../../src/memory/sg-list.ts';
import { DeviceRing } from '../../src/virtio/device-ring.ts';
import { DriverRing, tablesBytes } from '../../src/virtio/driver-ring.ts';
import { IoList } from '../../src/virtio/io-list.ts';
import { FakeGuest, FakeRing } from '../support/fake-driver.ts';

const SIZE = 256;
const HIGH = 0x1_4000_0000;
// Above 2 GiB too, where an address is no small integer.
const guest = new FakeGuest([
  { gpa: 0, size: 0x10_0000 },
  { gpa: 0xc000_0000, size: 0x10_0000 },
  { gpa: HIGH, size: 0x10_0000 },
]);
const { place } = new FakeRing(guest, SIZE, { eventIdx: true });
const at = guest.alloc(tablesBytes(SIZE, 4), 4096);
const tables = { ...guest.part(at), addressOf: (offset: number) => offset, entries: 4 };
const driver = DriverRing.create(place, { size: SIZE, eventIdx: true, tables });
const device = DeviceRing.create(place, { guest: guest.memory, size: SIZE, eventIdx: true, indirect: true, base: 0 });
if (typeof driver === 'string' || typeof device === 'string') throw new Error('no ring');

const out = new IoList(4);
const into = new IoList(4);
const readable = new SgList(8, 2048);
const writable = new SgList(8, 2048);

function cycle(indirect: boolean, batch: number): void {
  if (typeof driver === 'string' || typeof device === 'string') return;
  for (let i = 0; i < batch; i++) {
    out.reset();
    into.reset();
    out.push(0xc000_0000 + i * 64, 0, 51);
    into.push(0xc000_8000 + i * 128, 0, 108);
    into.pushAddress(HIGH + i * 4096, 4096);
    if (driver.add(out, into, indirect) < 0) throw new Error('full');
  }
  driver.publish();
  for (let head = device.pop(); head >= 0; head = device.pop()) {
    if (!device.readChain(head, readable, writable)) throw new Error(device.broken ?? '');
    device.push(head, writable.bytes);
  }
  device.publish();
  device.armNotifications();
  device.suppressNotifications();
  while (driver.poll() >= 0);
  driver.arm();
}

const BATCH = 50;
const run = (chains: number) => {
  for (let i = 0; i < chains; i += BATCH) {
    cycle(false, BATCH);
    cycle(true, BATCH);
  }
};
/** Everything ever allocated: what is in use and what was collected, as far as no collection ran in between. */
const inUse = () => getHeapSpaceStatistics().reduce((sum, space) => sum + space.space_used_size, 0);

const ROUNDS = 4;
/** Less than a byte a chain. */
const NOTHING = 1_000_000;

run(100_000); // warm up: code and feedback are allocated too
const collect = globalThis.gc;
if (collect === undefined) throw new Error('run with --expose-gc');
let [allocated, grown] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
for (let round = 0; round < ROUNDS && allocated > NOTHING; round++) {
  collect();
  collect();
  const before = inUse();
  run(1_000_000);
  allocated = Math.min(allocated, inUse() - before);
  collect();
  collect();
  grown = Math.min(grown, inUse() - before);
}
console.log(JSON.stringify({ chains: 2_000_000, grown, allocated }));
