import { SgList } from '../../src/memory/sg-list.ts';
import { DeviceRing, RING_BROKEN } from '../../src/virtio/device-ring.ts';
import type { InflightLog } from '../../src/virtio/inflight-log.ts';
import { FakeGuest, FakeRing, readable, writable } from '../support/fake-driver.ts';
import { assert, suite } from '../support/suite.ts';

/** The calls a ring makes to an in-flight log, and whether they let a new process take over at any moment. */
const test = suite('inflight');

const out = new SgList(4);
const into = new SgList(4);

function ringOf(driver: FakeRing, base: number, inflight?: InflightLog): DeviceRing {
  const { guest, size } = driver;
  const options = { guest: guest.memory, size, eventIdx: false, indirect: true, base };
  const device = DeviceRing.create(driver.place, inflight ? { ...options, inflight } : options);
  if (typeof device === 'string') throw new Error(device);
  return device;
}

test('calls come in the order of the protocol', () => {
  const guest = new FakeGuest();
  const driver = new FakeRing(guest, 8, { base: 65535 });
  const calls: string[] = [];
  const device = ringOf(driver, 65535, {
    taken: (head) => calls.push(`taken ${head}`),
    completing: (head) => {
      const at = driver.used + 4 + 8 * ((driver.usedIdx + (calls.at(-1)?.startsWith('completing') ? 1 : 0)) % 8);
      assert.is(guest.u32(at), head); // the element is there already
      calls.push(`completing ${head} at used ${driver.usedIdx}`);
    },
    published: (used) => calls.push(`published ${used} at used ${driver.usedIdx}`),
  });
  const a = driver.chain([readable(0x2000, 4)]);
  const b = driver.chain([readable(0x2000, 4)]);
  driver.offer(a, b);
  device.pop();
  device.pop();
  device.push(b, 0);
  device.push(a, 0);
  device.publish();
  assert.equal(calls, [
    `taken ${a}`,
    `taken ${b}`,
    `completing ${b} at used 65535`,
    `completing ${a} at used 65535`,
    'published 1 at used 1',
  ]);
});

test('recovered heads come first, in their order, and are not taken again', () => {
  const driver = new FakeRing(new FakeGuest(), 8);
  const [a, b, c] = [1, 2, 3].map(() => driver.chain([readable(0x2000, 4), writable(0x3000, 1)]));
  driver.offer(a, b, c);
  const taken: number[] = [];
  const device = ringOf(driver, 2, { taken: (h) => taken.push(h), completing: () => {}, published: () => {} });
  device.resubmit([b, a]);
  assert.is(device.recovering, 2);
  assert.ok(device.armNotifications()); // there is work though avail.idx stands still
  assert.equal([device.pop(), device.pop(), device.pop(), device.pop()], [b, a, c, -1]);
  assert.equal(taken, [c]);
  assert.equal([device.recovering, device.inFlight, device.nextAvail], [0, 3, 3]);
  assert.ok(device.readChain(b, out, into));
  for (const head of [a, b, c]) device.push(head, 0);
  device.publish();
  assert.is(driver.usedIdx, 3);
});

test('an available entry that names a head still to be recovered breaks the ring', () => {
  const driver = new FakeRing(new FakeGuest(), 8);
  driver.offer(5);
  const device = ringOf(driver, 0);
  device.resubmit([6, 5]);
  assert.is(device.pop(), 6);
  assert.is(device.pop(), 5);
  assert.is(device.pop(), RING_BROKEN);
  assert.match(String(device.broken), /head 5, which is still in flight/);
});

for (const [heads, reason] of [
  [[8], /names head 8, queue size is 8/],
  [[-1], /names head -1/],
  [[1.5], /names head 1.5/],
  [[3, 3], /names head 3 twice/],
  [Array.from({ length: 100_000 }, (_, i) => i % 8), /twice/],
] as const) {
  test(`a log that names ${String(heads.slice(0, 4))} breaks the ring`, () => {
    const device = ringOf(new FakeRing(new FakeGuest(), 8), 0);
    device.resubmit(heads);
    assert.is(device.pop(), RING_BROKEN);
    assert.match(String(device.broken), reason);
  });
}

/** The split region of the vhost-user protocol in plain fields; every store may be the last one. */
class SplitLog implements InflightLog {
  inflight: boolean[];
  next: number[];
  counter: number[];
  lastBatchHead = 0;
  usedIdx = 0;
  /** Stores until the process dies. */
  storesLeft = Number.POSITIVE_INFINITY;
  private count = 1;
  private batch: number[] = [];

  constructor(size: number) {
    this.inflight = new Array<boolean>(size).fill(false);
    this.next = new Array<number>(size).fill(0);
    this.counter = new Array<number>(size).fill(0);
  }

  private store(fn: () => void): void {
    if (this.storesLeft-- === 0) throw new Crash();
    fn();
  }

  taken(head: number): void {
    this.store(() => {
      this.counter[head] = this.count++;
    });
    this.store(() => {
      this.inflight[head] = true;
    });
  }

  completing(head: number): void {
    this.store(() => {
      this.next[head] = this.lastBatchHead;
    });
    this.store(() => {
      this.lastBatchHead = head;
    });
    this.batch.push(head);
  }

  published(usedIdx: number): void {
    for (const head of this.batch) {
      this.store(() => {
        this.inflight[head] = false;
      });
    }
    this.batch = [];
    this.store(() => {
      this.usedIdx = usedIdx;
    });
  }

  /** What the next process does with it. @returns heads to resubmit */
  recover(ringUsedIdx: number): number[] {
    this.batch = [];
    let head = this.lastBatchHead;
    for (let n = (ringUsedIdx - this.usedIdx) & 0xffff; n > 0; n--) {
      this.inflight[head] = false;
      head = this.next[head];
    }
    this.usedIdx = ringUsedIdx;
    const heads = this.inflight.flatMap((on, i) => (on ? [i] : []));
    this.count = Math.max(0, ...heads.map((h) => this.counter[h])) + 1;
    return heads.sort((a, b) => this.counter[a] - this.counter[b]);
  }
}

class Crash extends Error {}

/** Serve `total` requests with a death after `stores` stores of the log. @returns how often each was completed */
function serveWithCrash(stores: number, total: number, size: number, first: number): { done: number[]; died: boolean } {
  const driver = new FakeRing(new FakeGuest(), size, { base: first });
  const log = new SplitLog(size);
  log.usedIdx = first;
  log.storesLeft = stores;
  let device = ringOf(driver, first, log);
  const tags = new Array<number>(size).fill(-1); // which request a head carries
  const free = Array.from({ length: size }, (_, i) => i);
  const done = new Array<number>(total).fill(0);
  let sent = 0;
  let died = false;
  for (let turn = 0; done.includes(0); turn++) {
    assert.ok(turn < 10_000, 'no progress');
    for (let n = turn % 3; n >= 0 && sent < total && free.length > 0; n--) {
      const head = free.shift() ?? 0;
      driver.raw(head, { addr: 0x2000, len: 4, flags: 0, next: 0 });
      tags[head] = sent++;
      driver.offer(head);
    }
    try {
      const held: number[] = [];
      for (let head = device.pop(); head >= 0; head = device.pop()) held.push(head);
      // Complete in another order, in batches of up to three.
      for (let k = held.length - 1; k >= 0; k--) {
        device.push(held[k], 0);
        if (k % 3 === 0) device.publish();
      }
    } catch (e) {
      if (!(e instanceof Crash)) throw e;
      died = true;
      log.storesLeft = Number.POSITIVE_INFINITY;
      const heads = log.recover(driver.usedIdx);
      // What lies in front: everything used, and everything still in flight.
      device = ringOf(driver, (driver.usedIdx + heads.length) & 0xffff, log);
      device.resubmit(heads);
    }
    assert.is(device.broken, null);
    for (const { id } of driver.collect()) {
      done[tags[id]]++;
      tags[id] = -1;
      free.push(id);
    }
  }
  return { done, died };
}

test('a process that dies at any store of the log loses nothing and completes nothing twice', () => {
  let crashes = 0;
  for (let stores = 0; ; stores++) {
    const { done, died } = serveWithCrash(stores, 20, 4, 65530);
    assert.ok(done.every((n) => n === 1));
    if (!died) break;
    crashes++;
  }
  assert.ok(crashes > 80);
});

test.run();
