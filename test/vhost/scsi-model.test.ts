/** The virtio SCSI device: addressing, responses (row 23), task management, events, hot removal (row 24). */
import { Lun } from '../../src/scsi/lun.ts';
import { ScsiTarget } from '../../src/scsi/target.ts';
import { IoList } from '../../src/virtio/io-list.ts';
import { bit, LINUX_FEATURES, openFds, pump, settle } from '../support/front-end.ts';
import { read10, ScsiDriver, write10 } from '../support/front-end-scsi.ts';
import { assert, suite } from '../support/suite.ts';
import { withRig } from './rig.ts';
import { SlowDisk } from './slow-disk.ts';

const test = suite('vhost scsi model');
const TUR = [0, 0, 0, 0, 0, 0];
const INQUIRY = [0x12, 0, 0, 0, 36, 0];

// virtio 1.2 §5.6.6.1 and §5.6.6.3
const [OK, ABORTED, BAD_TARGET, FAILURE] = [0, 2, 3, 9];
const [SUCCEEDED, REJECTED, INCORRECT_LUN] = [10, 11, 12];
const [TRANSPORT_RESET, PARAM_CHANGE, MISSED] = [1, 3, 0x8000_0000];
const [RESCAN, REMOVED] = [1, 2];

test(
  'addressing: lun[0] is 1, lun[1] a target that is there, lun[2..3] single level',
  withRig((rig) => {
    const { driver } = rig.boot();
    driver.ready(0, TUR);
    const response = (lunBytes: number[]) => driver.run(0, INQUIRY, { lunBytes, inLength: 36 });
    assert.is(response([1, 0, 0, 0]).response, OK);
    assert.is(response([1, 0, 0x40, 0]).data[0], 0, 'flat addressing of LUN 0');
    assert.is(response([1, 0, 0, 1]).data[0], 0x7f, 'no such LUN: INQUIRY says so');
    assert.is(response([1, 0, 0x80, 0]).data[0], 0x7f, 'an addressing method that we have not');
    assert.is(response([1, 0, 0xc1, 1]).data[0], 0x7f);
    for (const lun of [
      [0, 0, 0, 0],
      [2, 0, 0, 0],
      [0xc1, 1, 0, 0],
      [1, 1, 0, 0],
      [1, 8, 0, 0],
      [1, 255, 0, 0],
    ]) {
      const answer = response(lun);
      assert.equal([answer.response, answer.residual, answer.used], [BAD_TARGET, 36, 108], String(lun));
    }
  }),
);

test(
  'response: sense and residual; used length is what was written',
  withRig((rig) => {
    const { driver } = rig.boot();
    driver.ready(0, TUR);
    const short = driver.run(0, INQUIRY, { inLength: 4096 });
    assert.is(short.used, 108 + 36);
    assert.is(short.residual, 4096 - 36);
    const illegal = driver.run(0, [0xff, 0, 0, 0, 0, 0], { inLength: 100 });
    assert.equal([illegal.status, illegal.response, illegal.residual, illegal.used], [2, OK, 100, 108]);
    assert.equal([illegal.sense[0] & 0x7f, illegal.sense[2] & 15, illegal.sense[12]], [0x70, 5, 0x20]);
    const out = driver.run(0, write10(0, 1), { out: new Uint8Array(1024) });
    assert.is(out.residual, 512, 'bytes that the device did not take');
    const both = driver.run(0, TUR, { out: new Uint8Array(16), inLength: 16 });
    assert.equal([both.response, both.residual], [FAILURE, 32]);
  }),
);

test(
  'row 9, 23: header and response cut in any way; one byte too few breaks the ring, loudly, and harms nothing',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, TUR);
    for (const cut of [1, 2, 7, 50, 51, 52, 107, 109]) {
      const big = driver.run(0, read10(0, 1), { inLength: 512, cut: Math.max(cut, 6) });
      assert.equal([big.status, big.used], [0, 620], `cut ${cut}`);
      assert.is(driver.run(0, TUR, { cut: Math.max(cut, 2) }).status, 0, `cut ${cut}`);
    }
    for (const wrong of [
      { headerBytes: 50 },
      { responseBytes: 107 },
      { responseBytes: 0, inLength: 0 },
      { responseBytes: 11 },
    ]) {
      frontEnd.stop();
      frontEnd.guest.reset();
      frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
      frontEnd.start();
      driver.ready(0, TUR);
      const { failures } = rig.session.vrings[2];
      const before = frontEnd.guest.u16(frontEnd.ring(2).used + 2);
      const bad = driver.submit(0, TUR, wrong);
      settle(rig.loop);
      assert.match(String(rig.vring(2)['broken']), /a request header has 51|a response has 108/);
      assert.is(rig.session.vrings[2].failures, failures + 1);
      assert.ok(frontEnd.ring(2).err.drain());
      assert.is(frontEnd.guest.u16(frontEnd.ring(2).used + 2), before);
      assert.is(bad.answer, null);
      driver.forget(bad);
    }
  }),
);

test(
  'a ring that broke takes nothing more, not even what it had seen before',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, TUR);
    const { kick, driver: ring } = frontEnd.ring(2);
    const before = rig.session.vrings[2].running?.ring.nextAvail ?? -1;
    const publish = ring.publish.bind(ring);
    ring.publish = () => false; // both become visible together
    driver.submit(0, TUR, { headerBytes: 50 });
    const good = driver.submit(0, TUR);
    publish();
    kick.signal();
    settle(rig.loop);
    driver.collect();
    assert.is(good.answer, null);
    assert.is(frontEnd.stop().get(2), before + 1);
  }),
);

test(
  'row 9: control requests that are none break the control ring',
  withRig((rig) => {
    const { frontEnd } = rig.boot();
    const wrong: [number, number, number][] = [
      // type, readable bytes, writable bytes
      [0, 23, 1],
      [0, 24, 0],
      [1, 15, 5],
      [1, 16, 4],
      [3, 24, 8],
      [0, 3, 1],
    ];
    for (const [type, readable, writable] of wrong) {
      frontEnd.stop();
      frontEnd.guest.reset();
      frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
      frontEnd.start();
      const at = frontEnd.guest.alloc(32);
      frontEnd.guest.write(at, [type]);
      const [out, into] = [new IoList(1), new IoList(1)];
      out.pushAddress(at, readable);
      if (writable > 0) into.pushAddress(at, writable);
      const ring = frontEnd.ring(0);
      ring.driver.add(out, into, false);
      if (ring.driver.publish()) ring.kick.signal();
      settle(rig.loop);
      assert.match(String(rig.vring(0)['broken']), /control request/, `${type} ${readable} ${writable}`);
    }
  }),
);

test(
  'task management: every function is answered truthfully',
  withRig((rig) => {
    const { driver } = rig.boot();
    driver.ready(0, TUR);
    const [ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET, NEXUS_RESET, LUN_RESET, QUERY, QUERY_SET] = [
      0, 1, 2, 3, 4, 5, 6, 7,
    ];
    assert.is(driver.tmf(QUERY, 0, 0, 77n), OK);
    assert.is(driver.tmf(QUERY_SET, 0), OK);
    assert.is(driver.tmf(CLEAR_ACA, 0), REJECTED);
    assert.is(driver.tmf(99, 0), REJECTED);
    assert.is(driver.tmf(0xffff_ffff, 0), REJECTED);
    assert.is(driver.tmf(LUN_RESET, 0, 5), INCORRECT_LUN);
    assert.is(driver.tmf(LUN_RESET, 3), BAD_TARGET);
    assert.is(driver.tmf(ABORT_TASK, 0, 0, 12345n), OK, 'a task that has ended');
    for (const fn of [NEXUS_RESET, ABORT_TASK_SET, CLEAR_TASK_SET]) assert.is(driver.tmf(fn, 0), OK);
    driver.ready(0, TUR);
    // With a command at the disk: it is found, and an abort is answered when it has come back.
    rig.disk.hold = true;
    const waiting = driver.submit(0, read10(0, 1), { inLength: 512, tag: 0xabc_0000_0001n });
    pump(rig.loop, () => rig.disk.held.length === 1);
    assert.is(driver.tmf(QUERY, 0, 0, 0xabc_0000_0001n), SUCCEEDED);
    assert.is(driver.tmf(QUERY, 0, 0, 0x1n), OK);
    assert.is(driver.tmf(QUERY_SET, 0), SUCCEEDED);
    rig.loop.after(5, () => rig.disk.release());
    assert.is(driver.tmf(ABORT_TASK, 0, 0, 0xabc_0000_0001n), OK);
    driver.collect();
    assert.is(waiting.answer?.response, ABORTED, 'the command was answered before its abort');
    rig.disk.hold = false;
    assert.is(driver.ready(0, TUR).status, 0);
  }),
);

test(
  'asynchronous notification: nothing is supported, and that is the answer',
  withRig((rig) => {
    const { driver } = rig.boot();
    for (const type of [1, 2]) {
      const query = (target: number) =>
        driver.control(Uint8Array.of(type, 0, 0, 0, 1, target, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0), 5);
      assert.equal([...query(0)], [0, 0, 0, 0, OK]);
      assert.equal([...query(4)], [0, 0, 0, 0, BAD_TARGET]);
    }
  }),
);

test(
  'events: a target comes, changes its size, goes; the driver is told of each',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.giveEventBuffers(4);
    const disk = new SlowDisk();
    rig.controller.add(3, rig.target(disk));
    // At once: the loop may be asleep, and nothing else would wake it.
    assert.equal(driver.takeEvent(), { event: TRANSPORT_RESET, lun: [1, 3, 0, 0], reason: RESCAN });
    assert.is(driver.ready(3, TUR).status, 0);
    rig.controller.capacityChanged(3, 0);
    assert.equal(driver.waitEvent(), { event: PARAM_CHANGE, lun: [1, 3, 0, 0], reason: 0x2a | (9 << 8) });
    let removed = 0;
    assert.ok(rig.controller.remove(3, () => removed++));
    assert.not(
      rig.controller.remove(3, () => removed++),
      'only once',
    );
    assert.equal(driver.waitEvent(), { event: TRANSPORT_RESET, lun: [1, 3, 0, 0], reason: REMOVED });
    pump(rig.loop, () => removed === 1);
    assert.is(driver.run(3, TUR).response, BAD_TARGET);
    assert.is(frontEnd.stop().get(1), 3, 'three buffers were taken');
  }),
);

test(
  'events without a buffer are lost, and the next one says so',
  withRig((rig) => {
    const { driver } = rig.boot();
    driver.giveEventBuffers(1);
    rig.controller.add(1, rig.target(new SlowDisk()));
    rig.controller.add(2, rig.target(new SlowDisk()));
    rig.controller.remove(2, () => {});
    assert.equal(driver.waitEvent(), { event: TRANSPORT_RESET, lun: [1, 1, 0, 0], reason: RESCAN });
    settle(rig.loop);
    assert.is(driver.takeEvent(), null);
    driver.giveEventBuffers(2);
    assert.equal(driver.waitEvent(), { event: MISSED, lun: [0, 0, 0, 0], reason: 0 });
    settle(rig.loop);
    assert.is(driver.takeEvent(), null, 'it is said once');
  }),
);

test(
  'a sleeping loop hears of event buffers when events were missed',
  withRig((rig) => {
    const { driver } = rig.boot();
    rig.controller.add(1, rig.target(new SlowDisk()));
    const { sleeps } = rig.loop.stats;
    const until = performance.now() + 5000;
    while (rig.loop.stats.sleeps < sleeps + 2 && performance.now() < until) rig.loop.turn(20);
    driver.giveEventBuffers(1);
    let event = null;
    while (event === null && performance.now() < until) {
      rig.loop.turn(100);
      event = driver.takeEvent();
    }
    assert.is(event?.event, MISSED);
  }),
);

test(
  'events go only to drivers that accepted them, and only to vrings that run',
  withRig((rig) => {
    const frontEnd = rig.connect();
    frontEnd.init();
    frontEnd.makeRings([0, 1, 2], 0n);
    frontEnd.start(bit(30) | bit(32));
    const driver = new ScsiDriver(frontEnd);
    driver.giveEventBuffers(1);
    rig.controller.add(1, rig.target(new SlowDisk()));
    settle(rig.loop);
    assert.is(driver.takeEvent(), null);
    frontEnd.stop();
    rig.controller.add(2, rig.target(new SlowDisk()));
    assert.is(rig.session.describe()['last_error'], null);
  }),
);

test(
  'row 24: a target is removed with commands in flight: they end, then it is let go; new ones find nothing',
  withRig((rig) => {
    const { driver } = rig.boot();
    driver.giveEventBuffers(2);
    const disk = new SlowDisk();
    const target = new ScsiTarget();
    target.addLun(new Lun({ channel: disk, id: 0, clock: rig.loop }));
    rig.controller.add(5, target);
    driver.ready(5, TUR);
    disk.hold = true;
    const held = [0, 1, 2].map((i) => driver.submit(5, write10(i, 1), { out: new Uint8Array(512).fill(i) }));
    pump(rig.loop, () => disk.held.length === 3);
    let removed = false;
    rig.controller.remove(5, () => {
      removed = true;
    });
    assert.is(driver.run(5, TUR).response, BAD_TARGET);
    disk.release(2);
    settle(rig.loop);
    assert.not(removed);
    // The number is free again at once, for another target.
    rig.controller.add(5, rig.target(new SlowDisk()));
    assert.is(driver.ready(5, TUR).status, 0);
    disk.release();
    for (const p of held) assert.is(driver.wait(p).status, 0);
    pump(rig.loop, () => removed);
    assert.is(target.outstanding, 0);
  }),
);

test(
  'row 26: a front end with a thousand requests in flight on many queues costs slots, not more; all are answered',
  withRig((rig) => {
    const frontEnd = rig.connect({ queues: 10, queueSize: 1024, guest: rig.guest([{ gpa: 0, size: 16 << 20 }]) });
    frontEnd.init();
    frontEnd.makeRings([2, 3, 4, 5, 6, 7], LINUX_FEATURES);
    frontEnd.start();
    const driver = new ScsiDriver(frontEnd);
    driver.ready(0, TUR);
    const before = openFds();
    rig.disk.hold = true;
    const all = [2, 3, 4, 5, 6, 7].flatMap((queue) =>
      Array.from({ length: 300 }, (_, i) => driver.submit(0, read10(i, 1), { queue, inLength: 512 })),
    );
    pump(rig.loop, () => rig.disk.held.length === all.length);
    assert.is(rig.session.outstanding, 1800);
    rig.disk.hold = false;
    rig.disk.release();
    for (const p of all) assert.is(driver.wait(p).status, 0);
    assert.ok(openFds() <= before, `${openFds()} descriptors are open, ${before} were before`);
    const busy = (rig.session.describe()['scsi'] as Record<string, number>)['requests'];
    assert.ok(busy >= 1800);
  }),
);

test.run();
