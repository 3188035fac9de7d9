/** The state of a vring: orders of messages (row 20), replaced descriptors (row 15), draining, breaking, ending. */
import { EventFd } from '../../src/sys/eventfd.ts';
import { connectUnix } from '../../src/sys/socket.ts';
import { addrBytes, bit, ID, LINUX_FEATURES, openFds, PF, pump, settle, u32s, u64 } from '../support/front-end.ts';
import { read10, ScsiDriver, write10 } from '../support/front-end-scsi.ts';
import { assert, suite } from '../support/suite.ts';
import { Rig, withRig } from './rig.ts';

const test = suite('vhost vring state');
const TUR = [0, 0, 0, 0, 0, 0];

/** All orders of a list. */
function* orders<T>(items: readonly T[]): Generator<T[]> {
  if (items.length === 0) yield [];
  for (const [i, first] of items.entries()) {
    for (const rest of orders(items.filter((_, j) => j !== i))) yield [first, ...rest];
  }
}

test(
  'row 20: NUM, BASE, ADDR, KICK, ENABLE and FEATURES in every order start the vring once, when all is known',
  withRig((rig) => {
    const frontEnd = rig.connect({ version: '7.2' });
    frontEnd.init();
    frontEnd.sendMemory();
    const names = ['NUM', 'BASE', 'ADDR', 'KICK', 'ENABLE', 'FEATURES'] as const;
    let base = 0;
    for (const order of orders(names)) {
      frontEnd.guest.reset();
      frontEnd.makeRings([2], LINUX_FEATURES, 16);
      const ring = frontEnd.ring(2);
      const { guest } = frontEnd;
      // FEATURES after the start leaves EVENT_IDX for the next one: not offered here, so that it does not matter.
      const send = {
        NUM: () => frontEnd.send(ID.SET_VRING_NUM, u32s(2, 16)),
        BASE: () => frontEnd.send(ID.SET_VRING_BASE, u32s(2, 0)),
        ADDR: () =>
          frontEnd.send(
            ID.SET_VRING_ADDR,
            addrBytes(2, guest.uva(ring.desc), guest.uva(ring.avail), guest.uva(ring.used)),
          ),
        KICK: () => frontEnd.send(ID.SET_VRING_KICK, u64(2), 1, [ring.kick.fd]),
        ENABLE: () => frontEnd.send(ID.SET_VRING_ENABLE, u32s(2, 1)),
        FEATURES: () => frontEnd.send(ID.SET_FEATURES, u64(bit(30) | bit(32))),
      };
      for (const name of order) send[name]();
      frontEnd.askU64(ID.GET_FEATURES); // all of it has been taken
      assert.is(rig.vring(2)['state'], 'running', order.join(' '));
      const answer = new ScsiDriver(frontEnd).run(0, [0x12, 0, 0, 0, 36, 0], { inLength: 36 });
      assert.is(answer.status, 0, order.join(' '));
      base = frontEnd.ask(ID.GET_VRING_BASE, u32s(2, 0)).payload.readUInt32LE(4);
      assert.is(base, 1);
      frontEnd.send(ID.RESET_DEVICE);
    }
    assert.is(rig.vring(2)['failures'], 0);
  }),
);

test(
  'row 20: a start with one message missing waits and says for what',
  withRig((rig) => {
    const frontEnd = rig.connect();
    frontEnd.init();
    const event = new EventFd();
    frontEnd.send(ID.SET_VRING_KICK, u64(2), 1, [event.fd]);
    frontEnd.askU64(ID.GET_FEATURES);
    assert.equal(rig.vring(2)['waits_for'], ['SET_VRING_NUM', 'SET_VRING_BASE', 'SET_VRING_ADDR', 'SET_MEM_TABLE']);
    event.close();
  }),
);

test(
  'row 20: addresses outside all regions, near 2^64, unaligned: the vring is broken with its reason, and curable',
  withRig((rig) => {
    const frontEnd = rig.connect();
    frontEnd.init();
    frontEnd.sendMemory();
    frontEnd.makeRings([2], 0n, 16);
    const ring = frontEnd.ring(2);
    const { guest } = frontEnd;
    const [desc, avail, used] = [guest.uva(ring.desc), guest.uva(ring.avail), guest.uva(ring.used)];
    const end = guest.uva(guest.regions[2].gpa) + guest.regions[2].size;
    const bad: [number, number, number, RegExp][] = [
      [0, avail, used, /not in the memory table/],
      [desc, 2 ** 64 - 4096, used, /not in the memory table/],
      [desc, avail, 2 ** 53 - 2, /not in the memory table/],
      [end - 255, avail, used, /not in the memory table/],
      [desc + 1, avail, used, /not a multiple of 16/],
      [desc, avail + 1, used, /not a multiple of 2/],
      [desc, avail, used + 2, /not a multiple of 4/],
      [desc, avail, desc, /overlaps/],
    ];
    let failures = 0;
    frontEnd.tell(ID.SET_VRING_ERR, u64(2), [ring.err.fd]);
    for (const [d, a, u, why] of bad) {
      frontEnd.tell(ID.SET_VRING_NUM, u32s(2, 16));
      frontEnd.tell(ID.SET_VRING_BASE, u32s(2, 0));
      frontEnd.tell(ID.SET_VRING_ADDR, addrBytes(2, d, a, u));
      frontEnd.tell(ID.SET_VRING_KICK, u64(2), [ring.kick.fd]);
      assert.is(rig.vring(2)['state'], 'broken');
      assert.match(String(rig.vring(2)['broken']), why);
      assert.is(rig.vring(2)['failures'], ++failures);
      assert.ok(ring.err.drain(), 'the error descriptor is signalled');
      assert.is(Number(frontEnd.askU64(ID.GET_STATUS)) & 0x40, 0x40, 'DEVICE_NEEDS_RESET');
      frontEnd.ask(ID.GET_VRING_BASE, u32s(2, 0));
    }
    frontEnd.start(bit(32));
    assert.is(new ScsiDriver(frontEnd).ready(0, TUR).status, 0);
    assert.is(Number(frontEnd.askU64(ID.GET_STATUS)) & 0x40, 0);
  }),
);

test(
  'row 20: NUM or BASE for a running vring stop it until the next kick; the same NUM changes nothing',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, TUR);
    frontEnd.tell(ID.SET_VRING_NUM, u32s(2, 128));
    assert.is(rig.vring(2)['state'], 'running');
    assert.is(frontEnd.tell(ID.SET_VRING_BASE, u32s(2, rig.session.vrings[2].running?.ring.nextAvail ?? 0)), 0n);
    assert.is(rig.vring(2)['state'], 'stopped');
    frontEnd.tell(ID.SET_VRING_KICK, u64(2), [frontEnd.ring(2).kick.fd]);
    assert.is(driver.run(0, TUR).status, 0);
    frontEnd.tell(ID.SET_VRING_NUM, u32s(2, 64));
    assert.is(rig.vring(2)['state'], 'stopped');
  }),
);

const WITHOUT_INFLIGHT = [PF.MQ, PF.REPLY_ACK, PF.RESET_DEVICE, PF.MEM_SLOTS].reduce((w, n) => w | bit(n), 0n);

test(
  'row 20: a base that is not where the ring is: the ring is broken, and stopping still answers',
  withRig((rig) => {
    const { frontEnd } = rig.boot({ protocol: WITHOUT_INFLIGHT });
    frontEnd.stop();
    frontEnd.start(LINUX_FEATURES, new Map([[2, 5000]]));
    settle(rig.loop);
    assert.match(String(rig.vring(2)['broken']), /avail.idx 0 is 60536 ahead of 5000/);
    assert.is(frontEnd.stop().get(2), 5000);
  }),
);

test(
  'row 20: with an inflight region in use, the ring and the region say where it is, not the base',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, TUR);
    frontEnd.stop();
    frontEnd.start(LINUX_FEATURES, new Map([[2, 5000]]));
    settle(rig.loop);
    assert.is(rig.vring(2)['broken'], null);
    assert.is(driver.run(0, TUR).status, 0);
  }),
);

test(
  'row 15: every message that brings a descriptor, a thousand times, keeps as many open as once',
  withRig((rig) => {
    const frontEnd = rig.connect();
    frontEnd.init();
    const [event] = [new EventFd()];
    const [r] = frontEnd.guest.regions;
    const round = () => {
      for (const id of [ID.SET_VRING_KICK, ID.SET_VRING_CALL, ID.SET_VRING_ERR]) {
        frontEnd.tell(id, u64(2), [event.fd]);
        frontEnd.tell(id, u64(77), [event.fd]);
      }
      frontEnd.getInflight();
      assert.is(frontEnd.tell(ID.SET_INFLIGHT_FD, frontEnd.inflight?.bytes, [frontEnd.inflight?.fd ?? r.fd], true), 0n);
      frontEnd.tell(ID.SET_VRING_CALL, u64(2 | 0x100));
    };
    round();
    const before = openFds();
    for (let i = 0; i < 150; i++) round();
    assert.ok(openFds() <= before, `${openFds()} descriptors are open, ${before} were before`);
    event.close();
  }),
);

test(
  'GET_VRING_BASE answers when the last request of that vring has ended; other vrings go on meanwhile',
  withRig((rig) => {
    const frontEnd = rig.connect({ queues: 4 });
    frontEnd.init();
    frontEnd.makeRings([0, 1, 2, 3], LINUX_FEATURES);
    frontEnd.start();
    const driver = new ScsiDriver(frontEnd);
    driver.ready(0, TUR);
    rig.disk.hold = true;
    const held = [0, 1, 2].map((i) => driver.submit(0, write10(i, 1), { out: new Uint8Array(512).fill(i + 1) }));
    pump(rig.loop, () => rig.disk.held.length === 3);
    frontEnd.send(ID.GET_VRING_BASE, u32s(2, 0));
    frontEnd.send(ID.GET_FEATURES); // not looked at before the answer
    settle(rig.loop);
    // Queue 3 is served; queue 2 takes nothing new.
    assert.is(driver.run(0, [0x12, 0, 0, 0, 36, 0], { inLength: 36, queue: 3 }).status, 0);
    const late = driver.submit(0, TUR);
    settle(rig.loop);
    rig.disk.release(2);
    settle(rig.loop);
    driver.collect();
    assert.is(held[1].answer?.status, 0, 'completions are seen while draining');
    assert.is(rig.session.describe()['state'], 'draining');
    rig.disk.release();
    const reply = frontEnd.receive();
    assert.is(reply?.id, ID.GET_VRING_BASE);
    const base = reply?.payload.readUInt32LE(4) ?? -1;
    driver.collect();
    assert.is(held[2].answer?.status, 0, 'and all before the answer');
    assert.is(frontEnd.receive()?.id, ID.GET_FEATURES);
    assert.is(late.answer, null);
    // The next start goes on with what was not taken.
    rig.disk.hold = false;
    frontEnd.startRing(frontEnd.ring(2), base);
    assert.is(driver.wait(late).status, 0);
  }),
);

test(
  'the front end goes while its stop waits for requests: nothing is answered, all is freed',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, TUR);
    rig.disk.hold = true;
    driver.submit(0, read10(0, 1), { inLength: 512 });
    pump(rig.loop, () => rig.disk.held.length === 1);
    frontEnd.send(ID.GET_VRING_BASE, u32s(2, 0));
    settle(rig.loop);
    frontEnd.disconnect();
    settle(rig.loop);
    assert.is(rig.server.sessions.size, 1);
    rig.disk.release();
    rig.waitClosed();
  }),
);

test(
  'the front end goes with requests in flight: memory stays until they end, the ring and the answers stay untouched',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, TUR);
    rig.disk.hold = true;
    const read = driver.submit(0, read10(0, 1), { inLength: 512 });
    pump(rig.loop, () => rig.disk.held.length === 1);
    const ring = frontEnd.ring(2);
    const usedIdx = frontEnd.guest.u16(ring.used + 2);
    frontEnd.disconnect();
    pump(rig.loop, () => rig.session.ended !== null);
    assert.ok(rig.memory.present.size > 0);
    assert.match(rig.session.ended ?? '', /closed the connection/);
    rig.disk.release();
    rig.waitClosed();
    assert.is(rig.memory.present.size, 0);
    assert.is(frontEnd.guest.u16(ring.used + 2), usedIdx);
    assert.is(frontEnd.guest.read(read.responseAt, 108)[11], 0xee, 'no response was written');
  }),
);

test(
  'the server closes with front ends connected and requests in flight, in any order',
  withRig((rig) => {
    const one = new Rig();
    const { driver } = one.boot();
    driver.ready(0, TUR);
    one.disk.hold = true;
    driver.submit(0, read10(0, 1), { inLength: 512 });
    pump(one.loop, () => one.disk.held.length === 1);
    let closed = 0;
    one.server.close(() => closed++);
    one.server.close(() => closed++);
    settle(one.loop);
    assert.is(closed, 0);
    one.disk.release();
    pump(one.loop, () => closed === 2);
    one.close();
    assert.throws(() => connectUnix(one.path), /ENOENT/);
    assert.is(rig.server.sessions.size, 0);
  }),
);

test(
  'RESET_OWNER and RESET_DEVICE in the middle of requests: they end first, then the vrings are stopped',
  withRig((rig) => {
    for (const id of [ID.RESET_OWNER, ID.RESET_DEVICE]) {
      const { frontEnd, driver } = rig.boot();
      driver.ready(0, TUR);
      rig.disk.hold = true;
      const waiting = driver.submit(0, read10(0, 1), { inLength: 512 });
      pump(rig.loop, () => rig.disk.held.length === 1);
      frontEnd.send(id, undefined, 9);
      settle(rig.loop);
      rig.disk.hold = false;
      rig.disk.release();
      assert.is(frontEnd.receive()?.payload.readUInt32LE(0), 0);
      driver.collect();
      assert.is(waiting.answer?.status, 0);
      assert.not.ok(rig.session.vrings.some((v) => v.running !== null));
      frontEnd.close();
      rig.waitClosed();
    }
  }),
);

test(
  'a vring without a kick descriptor is polled, also when the loop sleeps in between',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, TUR);
    frontEnd.tell(ID.SET_VRING_KICK, u64(2 | 0x100));
    const { sleeps } = rig.loop.stats;
    const until = performance.now() + 5000;
    const start = performance.now();
    while (performance.now() < start + 2000 && rig.loop.stats.sleeps < sleeps + 30) rig.loop.turn(100);
    // It sleeps, but never for as long as it may: that would be twenty times in this time.
    assert.ok(rig.loop.stats.sleeps >= sleeps + 30, `${rig.loop.stats.sleeps - sleeps} sleeps`);
    const pending = driver.submit(0, TUR);
    frontEnd.ring(2).kick.drain();
    while (pending.answer === null && performance.now() < until) {
      rig.loop.turn(50);
      driver.collect();
    }
    assert.is(pending.answer?.status, 0);
  }),
);

test(
  'protocol features that a front end accepts without offer do not count',
  withRig((rig) => {
    const frontEnd = rig.connect();
    frontEnd.askU64(ID.GET_FEATURES);
    frontEnd.send(ID.SET_PROTOCOL_FEATURES, u64(0xffff_ffff_ffff_ffffn));
    frontEnd.askU64(ID.GET_FEATURES);
    const offered = frontEnd.askU64(ID.GET_PROTOCOL_FEATURES);
    assert.is(rig.session.protocolFeatures, offered);
    assert.is(offered & (bit(1) | bit(5) | bit(14)), 0n, 'no logging, no requests of ours, no in-band kicks');
    for (const n of [PF.MQ, PF.REPLY_ACK, PF.INFLIGHT, PF.RESET_DEVICE, PF.MEM_SLOTS, PF.STATUS]) {
      assert.ok((offered & bit(n)) !== 0n);
    }
  }),
);

test.run();
