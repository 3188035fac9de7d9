/** A session as stock front ends use it: both orders of messages, firmware then system, reset, several at once. */
import { bit, ID, LINUX_FEATURES, pump, SEABIOS_FEATURES, u32s, u64 } from '../support/front-end.ts';
import { read10, ScsiDriver, write10 } from '../support/front-end-scsi.ts';
import { assert, suite } from '../support/suite.ts';
import { withRig } from './rig.ts';

const test = suite('vhost session');
const BLOCK = 512;
const INQUIRY = [0x12, 0, 0, 0, 36, 0];
const pattern = (seed: number, bytes = BLOCK) => Uint8Array.from({ length: bytes }, (_, i) => (seed * 31 + i) & 255);

for (const version of ['7.2', '11.1'] as const) {
  test(
    `QEMU ${version}: initialise, start, read and write, stop`,
    withRig((rig) => {
      const { frontEnd, driver } = rig.boot({ version });
      const inquiry = driver.ready(0, INQUIRY, { inLength: 36 });
      assert.is(inquiry.response, 0);
      assert.is(inquiry.status, 0);
      assert.is(Buffer.from(inquiry.data).toString('latin1', 8, 15), 'INTEL  ');
      assert.is(inquiry.used, 108 + 36);
      const written = driver.ready(0, write10(7, 1), { out: pattern(1) });
      assert.is(written.status, 0);
      assert.is(written.used, 108);
      assert.equal(rig.disk.data.u8.slice(7 * BLOCK, 8 * BLOCK), pattern(1));
      const read = driver.run(0, read10(7, 1), { inLength: BLOCK });
      assert.equal(read.data, pattern(1));
      assert.is(read.residual, 0);
      const bases = frontEnd.stop();
      assert.is(bases.get(0), 0, 'the control queue was never used');
      assert.ok((bases.get(2) ?? 0) >= 3);
      frontEnd.resetDevice();
      assert.is(rig.session.lastError, null);
    }),
  );

  test(
    `QEMU ${version}: firmware starts queue 2 alone, then the system starts all, then again after system_reset`,
    withRig((rig) => {
      const frontEnd = rig.connect({ version });
      frontEnd.init();
      for (let life = 0; life < 2; life++) {
        frontEnd.guest.reset();
        frontEnd.makeRings([2], SEABIOS_FEATURES);
        frontEnd.start(SEABIOS_FEATURES);
        const firmware = new ScsiDriver(frontEnd);
        for (let target = 0; target < 256; target++) {
          const answer = firmware.ready(target, [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], { inLength: 16 });
          assert.is(answer.response, target === 0 ? 0 : 3, `target ${target}`);
        }
        assert.is(firmware.ready(0, read10(0, 1), { inLength: BLOCK }).status, 0);
        assert.is(rig.vring(0)['state'], undefined, 'queue 0 was never set up');
        frontEnd.stop();
        frontEnd.resetDevice();
        frontEnd.guest.reset();
        frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
        frontEnd.start();
        const system = new ScsiDriver(frontEnd);
        system.giveEventBuffers(8);
        assert.is(system.ready(0, write10(life, 1), { out: pattern(life) }).status, 0);
        assert.is(system.tmf(5, 0), 0);
        const bases = frontEnd.stop();
        assert.is(bases.get(1), 0, 'event buffers are taken only for events');
        frontEnd.resetDevice();
      }
      assert.is(rig.session.lastError, null);
    }),
  );
}

test(
  'stop and continue: the next start goes on at the index that the stop returned',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot({ version: '7.2' });
    for (let i = 0; i < 200; i++) driver.ready(0, [0, 0, 0, 0, 0, 0]);
    const bases = frontEnd.stop();
    const { rings } = frontEnd;
    assert.ok((bases.get(2) ?? 0) >= 200);
    frontEnd.start(LINUX_FEATURES, bases);
    assert.is(frontEnd.rings, rings);
    assert.equal(driver.run(0, read10(1, 1), { inLength: BLOCK }).status, 0);
  }),
);

test(
  'a front end without protocol features: vrings run as soon as they are kicked',
  withRig((rig) => {
    const frontEnd = rig.connect({ protocol: 0n });
    const features = bit(32) | bit(28);
    frontEnd.offered = frontEnd.askU64(ID.GET_FEATURES);
    frontEnd.send(ID.SET_OWNER);
    frontEnd.makeRings([0, 1, 2], features);
    frontEnd.start(features);
    assert.is(new ScsiDriver(frontEnd).ready(0, INQUIRY, { inLength: 36 }).status, 0);
  }),
);

test(
  'with protocol features a vring waits for SET_VRING_ENABLE, and stops taking when disabled',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, INQUIRY, { inLength: 36 });
    frontEnd.tell(ID.SET_VRING_ENABLE, u32s(2, 0));
    const waiting = driver.submit(0, INQUIRY, { inLength: 36 });
    for (let i = 0; i < 50; i++) rig.loop.turn(0);
    driver.collect();
    assert.is(waiting.answer, null);
    frontEnd.tell(ID.SET_VRING_ENABLE, u32s(2, 1));
    assert.is(driver.wait(waiting).status, 0);
  }),
);

test(
  'bits that were not offered are tolerated in SET_FEATURES',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    frontEnd.tell(ID.SET_FEATURES, u64(LINUX_FEATURES | bit(3) | bit(26) | bit(33) | bit(40) | bit(63)));
    assert.is(rig.session.features & bit(33), 0n);
    assert.is(driver.ready(0, INQUIRY, { inLength: 36 }).status, 0);
  }),
);

test(
  'rings parked at guest address 0 are left alone',
  withRig((rig) => {
    const frontEnd = rig.connect({ version: '7.2', protocol: 0n });
    const { guest } = frontEnd;
    frontEnd.offered = frontEnd.askU64(ID.GET_FEATURES);
    frontEnd.send(ID.SET_FEATURES, u64(bit(32)));
    guest.write(0, pattern(9, 4096));
    frontEnd.sendMemory();
    frontEnd.makeRings([2], bit(32));
    const at = guest.uva(0);
    for (const index of [0, 1]) {
      frontEnd.send(ID.SET_VRING_NUM, u32s(index, 128));
      frontEnd.send(ID.SET_VRING_BASE, u32s(index, 0));
      frontEnd.send(ID.SET_VRING_ADDR, Buffer.concat([u32s(index, 0), u64(at), u64(at), u64(at), u64(0)]));
      frontEnd.send(ID.SET_VRING_KICK, u64(index), 1, [frontEnd.ring(2).kick.fd]);
    }
    frontEnd.startRing(frontEnd.ring(2), 0);
    const driver = new ScsiDriver(frontEnd);
    assert.is(driver.ready(0, INQUIRY, { inLength: 36 }).status, 0);
    assert.equal(guest.read(0, 4096), pattern(9, 4096));
    assert.is(rig.vring(0)['state'], 'waiting');
    assert.is(frontEnd.ask(ID.GET_VRING_BASE, u32s(0, 0)).payload.readUInt32LE(4), 0);
  }),
);

test(
  'several front ends and requests of any cut at once',
  withRig((rig) => {
    const systems = ['7.2', '11.1', '11.1'].map((version) => rig.boot({ version: version as '7.2' | '11.1' }));
    assert.is(rig.server.sessions.size, 3);
    systems.forEach(({ driver }, i) => {
      driver.ready(0, [0, 0, 0, 0, 0, 0]);
      assert.is(driver.run(0, write10(10 + i, 1), { out: pattern(i), cut: 7 + i }).status, 0);
    });
    systems.forEach(({ driver }, i) => {
      const other = (i + 1) % 3;
      assert.equal(driver.run(0, read10(10 + other, 1), { inLength: BLOCK, cut: 13 }).data, pattern(other));
    });
    systems[0].frontEnd.disconnect();
    rig.waitClosed(2);
    assert.is(systems[1].driver.run(0, INQUIRY, { inLength: 36 }).status, 0);
  }),
);

test(
  'completions interrupt through the descriptor of the last SET_VRING_CALL; NOFD turns it off',
  withRig((rig) => {
    const { frontEnd, driver } = rig.boot();
    const ring = frontEnd.ring(2);
    ring.driver.arm();
    ring.call.drain();
    ring.interrupts = 0;
    driver.ready(0, INQUIRY, { inLength: 36 });
    pump(rig.loop, () => ring.interrupts > 0 || ring.call.drain(), 'an interrupt');
    frontEnd.noCall(2);
    ring.call.drain();
    ring.driver.arm();
    driver.run(0, INQUIRY, { inLength: 36 });
    assert.not(ring.call.drain());
  }),
);

test(
  'the loop sleeps while nothing happens and a kick wakes it',
  withRig((rig) => {
    const { driver } = rig.boot();
    driver.ready(0, INQUIRY, { inLength: 36 });
    const until = performance.now() + 5000;
    const { sleeps } = rig.loop.stats;
    while (rig.loop.stats.sleeps < sleeps + 3 && performance.now() < until) rig.loop.turn(5);
    assert.ok(rig.loop.stats.sleeps >= sleeps + 3, 'it never slept');
    const pending = driver.submit(0, INQUIRY, { inLength: 36 });
    while (pending.answer === null && performance.now() < until) {
      rig.loop.turn(100);
      driver.collect();
    }
    assert.is(pending.answer?.status, 0);
  }),
);

test.run();
