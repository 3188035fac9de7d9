import { SgList } from '../../src/memory/sg-list.ts';
import {
  DeviceRing,
  type DeviceRingOptions,
  RING_AWAY,
  RING_BROKEN,
  RING_EMPTY,
} from '../../src/virtio/device-ring.ts';
import { PlainChains } from '../../src/virtio/plain-chains.ts';
import { FakeGuest, FakeRing, type FakeRingOptions, readable, writable } from '../support/fake-driver.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('device ring');

const out = new SgList(8, 2048);
const into = new SgList(8, 2048);

function setup(size = 8, options: Partial<DeviceRingOptions> & FakeRingOptions = {}) {
  const guest = new FakeGuest();
  const driver = new FakeRing(guest, size, options);
  const device = DeviceRing.create(driver.place, {
    guest: guest.memory,
    size,
    eventIdx: false,
    indirect: true,
    base: 0,
    ...options,
  });
  if (typeof device === 'string') throw new Error(device);
  return { guest, driver, device };
}

test('takes chains in order and gives them back in any', () => {
  const { guest, driver, device } = setup();
  const a = driver.chain([readable(guest.alloc(16), 16), writable(guest.alloc(64), 64)]);
  const b = driver.chain([writable(guest.alloc(8, 16, 2), 8)]);
  assert.is(device.pop(), RING_EMPTY);
  driver.offer(a, b);
  assert.is(device.pop(), a);
  assert.ok(device.readChain(a, out, into));
  assert.equal([out.count, out.bytes, into.count, into.bytes], [1, 16, 1, 64]);
  assert.is(device.pop(), b);
  assert.ok(device.readChain(b, out, into));
  assert.equal([out.count, into.count, into.bytes], [0, 1, 8]);
  assert.is(into.memory[0], guest.pieces[2].memory);
  assert.is(device.pop(), RING_EMPTY);
  assert.is(device.inFlight, 2);

  device.push(b, 5);
  assert.is(driver.usedIdx, 0); // not yet visible
  device.push(a, 0xffff_ffff);
  assert.ok(device.publish());
  assert.equal(driver.collect(), [
    { id: b, len: 5 },
    { id: a, len: 0xffff_ffff },
  ]);
  assert.not(device.publish()); // nothing new
  assert.is(device.inFlight, 0);
  assert.equal([device.chains, device.publishes, device.notifications], [2, 1, 1]);
});

test('is still when nothing has come, nothing is known and nothing is owed', () => {
  const { guest, driver, device } = setup();
  assert.ok(device.still);
  const a = driver.chain([writable(guest.alloc(16), 16)]);
  const b = driver.chain([writable(guest.alloc(16), 16)]);
  driver.offer(a, b);
  assert.not(device.still); // not looked at yet
  device.pop();
  assert.not(device.still); // one is known and not taken
  device.pop();
  assert.ok(device.still); // in flight is no work
  device.push(a, 0);
  assert.not(device.still); // the driver does not see it yet
  device.publish();
  assert.ok(device.still);
  device.again(b);
  assert.not(device.still);
});

test('claimed elements are the free ones, and mean nothing before the index covers them', () => {
  const { guest, driver, device } = setup(16);
  const addr = guest.alloc(16);
  const heads = Array.from({ length: 16 }, () => driver.chain([writable(addr, 16)]));
  driver.offer(...heads);
  while (device.pop() >= 0);
  device.claim(16);
  for (const head of heads) device.push(head, 100 + head);
  device.publish();
  const before = driver.collect();
  assert.equal(
    before,
    heads.map((id) => ({ id, len: 100 + id })),
  );
  driver.offer(heads[0]);
  device.pop();
  device.claim(1);
  assert.equal(driver.collect(), []);
  device.push(heads[0], 7);
  device.publish();
  assert.equal(driver.collect(), [{ id: heads[0], len: 7 }]);
});

for (const size of [1, 2, 8, 1024]) {
  test(`indexes wrap at 65536 with size ${size}`, () => {
    const { guest, driver, device } = setup(size, { base: 65530 });
    const addr = guest.alloc(16);
    for (let i = 0; i < 12 + 2 * size; i++) {
      const head = driver.chain([writable(addr, 16)]);
      driver.offer(head);
      assert.is(device.pop(), head);
      assert.ok(device.readChain(head, out, into));
      device.push(head, i);
      device.publish();
      assert.equal(driver.collect(), [{ id: head, len: i }]);
    }
    assert.is(device.nextAvail, (65530 + 12 + 2 * size) & 0xffff);
    assert.is(device.usedIndex, device.nextAvail);
    assert.is(driver.usedIdx, device.usedIndex);
    assert.is(device.broken, null);
  });
}

test('a full ring in one batch across the wrap', () => {
  const size = 256;
  const { guest, driver, device } = setup(size, { base: 65535 - 100 });
  const addr = guest.alloc(16);
  const heads = Array.from({ length: size }, () => driver.chain([readable(addr, 1)]));
  driver.offer(...heads);
  const popped: number[] = [];
  for (let head = device.pop(); head >= 0; head = device.pop()) popped.push(head);
  assert.equal(popped, heads);
  assert.is(device.inFlight, size);
  for (const head of popped.toReversed()) device.push(head, 0);
  device.publish();
  assert.equal(
    driver.collect().map((e) => e.id),
    heads.toReversed(),
  );
});

test('the used index is taken over from the ring', () => {
  const { device } = setup(8, { base: 4711 });
  assert.is(device.usedIndex, 4711);
});

test('values that make no ring are reasons, not exceptions', () => {
  const guest = new FakeGuest();
  const driver = new FakeRing(guest, 8);
  const options = { guest: guest.memory, size: 8, eventIdx: false, indirect: true, base: 0 };
  const create = (change: Partial<DeviceRingOptions>) => DeviceRing.create(driver.place, { ...options, ...change });
  assert.match(String(create({ size: 6 })), /power of two/);
  assert.match(String(create({ size: 2048 })), /1024/);
  assert.match(String(create({ base: 65536 })), /65536 is not 0 to 65535/);
  assert.match(String(create({ base: -1 })), /-1 is not/);
  const { desc } = driver.place;
  assert.match(String(DeviceRing.create({ desc, avail: desc, used: desc }, options)), /not set up/);
});

test('avail.idx too far ahead breaks the ring', () => {
  const { driver, device } = setup(8, { base: 65534 });
  driver.availIdx = 7; // 9 ahead
  assert.is(device.pop(), RING_BROKEN);
  assert.is(device.broken, 'avail.idx 7 is 9 ahead of 65534, queue size is 8');
  assert.is(device.pop(), RING_BROKEN); // and stays so
  driver.availIdx = 65534;
  assert.is(device.pop(), RING_BROKEN);
});

test('avail.idx that goes back breaks the ring', () => {
  const { driver, device } = setup(8, { base: 10 });
  driver.availIdx = 9;
  assert.is(device.pop(), RING_BROKEN);
  assert.match(String(device.broken), /65535 ahead of 10/);
});

test('exactly the queue size ahead is allowed', () => {
  const { guest, driver, device } = setup(8, { base: 3 });
  const addr = guest.alloc(16);
  driver.offer(...Array.from({ length: 8 }, () => driver.chain([readable(addr, 1)])));
  for (let i = 0; i < 8; i++) assert.ok(device.pop() >= 0);
  assert.is(device.pop(), RING_EMPTY);
});

test('jumpIsIdle: a runaway index is no work, until it makes sense again', () => {
  const { guest, driver, device } = setup(8, { base: 100, jumpIsIdle: true });
  driver.availIdx = 0; // what a hole in the mapping reads
  assert.is(device.pop(), RING_EMPTY);
  assert.is(device.broken, null);
  assert.is(device.idleJumps, 1);
  assert.not(device.armNotifications()); // no busy loop over the hole
  const head = driver.chain([readable(guest.alloc(4), 4)]);
  driver.offer(head);
  assert.is(device.pop(), head);
});

test('jumpIsIdle: what was read while the memory was away is nothing, of many heads as of one', () => {
  const { guest, driver, device } = setup(8, { base: 100, jumpIsIdle: true });
  const chains = Array.from({ length: 4 }, () => driver.chain([readable(guest.alloc(4), 4)]));
  driver.offer(...chains);
  const heads = new Uint16Array(8);
  assert.is(device.popMany(heads, 1), 1); // all four are known now
  const used = driver.usedIdx;
  guest.write(driver.used + 2, [1, 2]);
  assert.is(device.popMany(heads, 8), 0);
  assert.equal([device.nextAvail, device.inFlight, device.idleJumps], [101, 1, 1]);
  const batch = new PlainChains(8, { requestBytes: 16, requestWords: 4, responseBytes: 1, responseFirst: false });
  heads[0] = chains[0]; // what is in there after a look in vain means nothing
  assert.is(device.readPlain(heads, 0, 1, batch), RING_AWAY);
  device.again(heads[0]);
  guest.write(driver.used + 2, [used & 0xff, used >> 8]);
  assert.is(device.pop(), chains[0]); // the one that came back, then the others
  assert.is(device.popMany(heads, 8), 3);
  assert.equal([...heads.subarray(0, 3)], chains.slice(1));
  assert.is(device.readPlain(heads, 0, 3, batch), 0); // not plain
});

test('heads that come back one by one keep their order', () => {
  const { guest, driver, device } = setup(8);
  const chains = Array.from({ length: 3 }, () => driver.chain([readable(guest.alloc(4), 4)]));
  driver.offer(...chains);
  for (const head of chains) assert.is(device.pop(), head);
  for (const head of chains) device.again(head);
  for (let i = 0; i < 3; i++) {
    assert.is(device.pop(), chains[0]);
    device.again(chains[0]);
  }
  for (const head of chains) assert.is(device.pop(), head);
  assert.is(device.pop(), RING_EMPTY);
});

test('jumpIsIdle: a ring that stops goes on with the heads that wait to be handed out again', () => {
  for (const many of [false, true]) {
    const { guest, driver, device } = setup(8, { base: 65534, jumpIsIdle: true });
    const chains = Array.from({ length: 6 }, () => driver.chain([readable(guest.alloc(4), 4)]));
    driver.offer(...chains.slice(0, 5));
    const heads = new Uint16Array(8);
    if (many) assert.is(device.popMany(heads, 8), 5);
    else for (const head of chains.slice(0, 5)) assert.is(device.pop(), head);
    assert.equal([device.nextAvail, device.resumeAt], [3, 3]);
    device.push(chains[1], 0);
    device.push(chains[0], 0);
    for (const head of [chains[3], chains[2], chains[4]]) device.again(head); // in any order
    assert.is(device.resumeAt, 0);
    assert.is(device.pop(), chains[3]);
    assert.is(device.resumeAt, 3); // not before it is back or done: what waits has a gap behind it
    device.push(chains[3], 0);
    assert.is(device.resumeAt, 3); // the request before it cannot be named without naming it
    assert.is(device.pop(), chains[2]);
    device.push(chains[2], 0);
    assert.is(device.resumeAt, 2);
    device.publish();

    // Whoever goes on there does each of the others once.
    driver.offer(chains[5]);
    const next = DeviceRing.create(driver.place, {
      guest: guest.memory,
      size: 8,
      eventIdx: false,
      indirect: true,
      base: device.resumeAt,
    });
    if (typeof next === 'string') throw new Error(next);
    assert.equal([next.pop(), next.pop(), next.pop()], [chains[4], chains[5], RING_EMPTY]);
  }
});

test('a head beyond the queue breaks the ring', () => {
  const { driver, device } = setup(8);
  driver.offer(8);
  assert.is(device.pop(), RING_BROKEN);
  assert.is(device.broken, 'avail.ring[0] (index 0) names head 8, queue size is 8');
});

test('a head that is in flight breaks the ring; the others still come home', () => {
  const { guest, driver, device } = setup(8, { base: 7 });
  const head = driver.chain([writable(guest.alloc(4), 4)]);
  driver.offer(head, head);
  assert.is(device.pop(), head);
  assert.ok(device.readChain(head, out, into));
  assert.is(device.pop(), RING_BROKEN);
  assert.is(device.broken, 'avail.ring[0] (index 8) names head 0, which is still in flight');
  assert.is(device.inFlight, 1);
  device.push(head, 4);
  assert.is(device.inFlight, 0); // a drain ends
  assert.not(device.publish());
  assert.is(driver.usedIdx, 7); // but a broken ring is not written to
});

test('a head may come again once it is pushed, even before publish', () => {
  const { guest, driver, device } = setup();
  const head = driver.chain([writable(guest.alloc(4), 4)]);
  driver.offer(head);
  device.pop();
  device.push(head, 0);
  driver.offer(head);
  assert.is(device.pop(), head);
});

test('completing twice is a bug of ours and throws', () => {
  const { guest, driver, device } = setup();
  const head = driver.chain([writable(guest.alloc(4), 4)]);
  driver.offer(head);
  device.pop();
  device.push(head, 0);
  assert.throws(() => device.push(head, 0), /head 0 is not in flight/);
  assert.throws(() => device.push(3, 0), /head 3 is not in flight/);
});

test('a bad chain drops its head, empties the lists and breaks the ring', () => {
  const { guest, driver, device } = setup();
  driver.raw(5, { addr: guest.alloc(4), len: 4, flags: 1, next: 8 });
  driver.offer(5);
  assert.is(device.pop(), 5);
  assert.not(device.readChain(5, out, into));
  assert.match(
    String(device.broken),
    /^head 5: descriptor 5 \(addr 0x[0-9a-f]+ len 4 flags NEXT next 8\) leads out of/,
  );
  assert.equal([device.inFlight, out.count, into.count, device.chains], [0, 0, 0, 0]);
  assert.is(device.pop(), RING_BROKEN);
});

test('goes on over a changed memory table, with its indexes', () => {
  const { guest, driver, device } = setup(8, { base: 20 });
  const first = driver.chain([readable(guest.alloc(4), 4)]);
  driver.offer(first);
  assert.is(device.pop(), first);
  // The same guest memory appears elsewhere: copy it, as a new mapping would show it.
  const moved = new FakeGuest();
  guest.pieces.forEach((p, i) => {
    moved.pieces[i].memory.u8.set(p.memory.u8);
  });
  const there = (gpa: number) => moved.part(gpa);
  const place = { desc: there(driver.desc), avail: there(driver.avail), used: there(driver.used) };
  device.replaceMemory(place, moved.memory);
  device.push(first, 1);
  device.publish();
  assert.is(driver.usedIdx, 20); // the old place is left alone
  assert.is(moved.u16(driver.used + 2), 21);
  // New work is found at the new place and lies in the new memory.
  moved.u16(driver.avail + 4 + 2 * (21 % 8), first);
  moved.u16(driver.avail + 2, 22);
  assert.is(device.pop(), first);
  assert.ok(device.readChain(first, out, into));
  assert.is(out.memory[0], moved.pieces[0].memory);
});

test('entries known before a memory change are looked up again', () => {
  const { guest, driver, device } = setup(8);
  const a = driver.chain([readable(guest.alloc(4), 4)]);
  const b = driver.chain([readable(guest.alloc(4), 4)]);
  driver.offer(a, b);
  assert.is(device.pop(), a);
  driver.availIdx = 1; // the new memory does not show the second
  device.replaceMemory(driver.place, guest.memory);
  assert.is(device.pop(), RING_EMPTY);
});

test('a new place that cannot hold the ring breaks it', () => {
  const { guest, driver, device } = setup(8);
  device.replaceMemory({ ...driver.place, used: { memory: guest.pieces[0].memory, offset: 6 } }, guest.memory);
  assert.match(String(device.broken), /memory table change: used: offset 6/);
  assert.is(device.pop(), RING_BROKEN);
  device.replaceMemory(driver.place, guest.memory);
  assert.is(device.pop(), RING_BROKEN); // broken is for good
});

test('many heads at once are those that come one by one, bad ones and pushes of many too', () => {
  const step = fc.record({
    /** What the driver offers; 8 and more are no heads. */
    heads: fc.array(fc.oneof({ weight: 20, arbitrary: fc.nat(7) }, { weight: 1, arbitrary: fc.nat(0xffff) }), {
      maxLength: 6,
    }),
    most: fc.nat(8),
    complete: fc.nat(8),
  });
  const seen = { taken: 0, broken: 0 };
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.nat(0xffff), (steps, base) => {
      const one = setup(8, { base });
      const many = setup(8, { base });
      const heads = new Uint16Array(8);
      const written = new Int32Array(8);
      const held: number[] = [];
      for (const { heads: offered, most, complete } of steps) {
        one.driver.offer(...offered);
        many.driver.offer(...offered);
        const expected: number[] = [];
        for (let head = 0; expected.length < most; expected.push(head)) {
          head = one.device.pop();
          if (head < 0) break;
        }
        // It gives those that are known, and looks for more when there are none.
        const taken: number[] = [];
        for (let n = 1; n > 0 && taken.length < most; taken.push(...heads.subarray(0, n))) {
          n = many.device.popMany(heads, most - taken.length);
        }
        assert.equal(taken, expected);
        held.push(...expected);
        seen.taken += expected.length;
        const done = held.splice(0, complete);
        done.forEach((head, i) => {
          heads[i] = head;
          written[i] = -head;
          one.device.push(head, -head);
        });
        many.device.pushMany(heads, written, 0, done.length);
        assert.is(many.device.publish(), one.device.publish());
        assert.equal(many.driver.collect(), one.driver.collect());
        assert.equal(many.device.dump(), one.device.dump());
      }
      if (one.device.broken !== null) seen.broken++;
    }),
    budget(300),
  );
  assert.ok(seen.taken > 100 && seen.broken > 10, JSON.stringify(seen));
});

test('dump shows both sides', () => {
  const { guest, driver, device } = setup(8, { eventIdx: true, base: 9 });
  driver.usedEvent = 77;
  const head = driver.chain([readable(guest.alloc(4), 4)]);
  driver.offer(head);
  device.pop();
  const dump = device.dump() as { driver: unknown; [key: string]: unknown };
  assert.equal(dump.driver, { avail_flags: 0, avail_idx: 10, used_event: 77 });
  assert.equal(dump['heads_in_flight'], [head]);
  assert.equal([dump['next_avail'], dump['used_index'], dump['in_flight'], dump['broken']], [10, 9, 1, null]);
  assert.equal(JSON.parse(JSON.stringify(dump)), dump); // goes over RPC as it is
});

test.run();
