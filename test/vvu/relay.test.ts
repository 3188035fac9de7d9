/** The driver on a stock QEMU through the relay: the same work as on the forks, and each edge of that QEMU. */
import { bit, ID, LINUX_FEATURES, PF, SEABIOS_FEATURES, u32s } from '../support/front-end.ts';
import { read10, ScsiDriver, write10 } from '../support/front-end-scsi.ts';
import { assert, suite } from '../support/suite.ts';
import { onStock } from './rig.ts';

const test = suite('vvu through the relay');
const BLOCK = 512;
const INQUIRY = [0x12, 0, 0, 0, 36, 0];
const pattern = (seed: number, bytes = BLOCK) => Uint8Array.from({ length: bytes }, (_, i) => (seed * 31 + i) & 255);

for (const version of ['7.2', '11.1'] as const) {
  test(
    `QEMU ${version}: a VM finds its disk, reads and writes, is interrupted`,
    onStock((rig) => {
      rig.open();
      const { frontEnd, driver } = rig.boot({ version });
      assert.is(rig.port.device.layout.name, 'S');
      assert.is(Buffer.from(driver.ready(0, INQUIRY, { inLength: 36 }).data).toString('latin1', 8, 13), 'INTEL');
      assert.is(driver.ready(0, write10(7, 1), { out: pattern(1) }).status, 0);
      assert.equal(rig.disk.data.u8.slice(7 * BLOCK, 8 * BLOCK), pattern(1));
      const ring = frontEnd.ring(2);
      ring.driver.arm();
      ring.interrupts = 0;
      assert.equal(driver.run(0, read10(7, 1), { inLength: BLOCK }).data, pattern(1));
      rig.until(() => ring.interrupts > 0 || ring.call.drain(), 'an interrupt');
      const bases = frontEnd.stop();
      assert.ok((bases.get(2) ?? 0) >= 3);
      assert.is(rig.port.accepted, 1);
      assert.is(rig.session.lastError, null);
    }),
  );
}

test(
  'what is offered: features whose messages bring no descriptors',
  onStock((rig) => {
    rig.open();
    const frontEnd = rig.connect();
    frontEnd.init();
    const offered = [PF.MQ, PF.REPLY_ACK, PF.INFLIGHT, PF.RESET_DEVICE, PF.STATUS];
    assert.is(
      frontEnd.protocol,
      offered.map(bit).reduce((word, b) => word | b),
    );
  }),
);

test(
  'a VM that was there first waits for the driver',
  onStock((rig) => {
    const frontEnd = rig.connect();
    frontEnd.send(ID.GET_FEATURES);
    rig.settle();
    rig.open();
    assert.is(frontEnd.receive()?.id, ID.GET_FEATURES);
    frontEnd.init();
  }),
);

test(
  'firmware, system, reset, again',
  onStock((rig) => {
    rig.open();
    const frontEnd = rig.connect({ version: '11.1' });
    frontEnd.init();
    for (let life = 0; life < 2; life++) {
      frontEnd.guest.reset();
      frontEnd.makeRings([2], SEABIOS_FEATURES);
      frontEnd.start(SEABIOS_FEATURES);
      const firmware = new ScsiDriver(frontEnd);
      for (let target = 0; target < 40; target++) {
        const answer = firmware.ready(target, [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], { inLength: 16 });
        assert.is(answer.response, target === 0 ? 0 : 3, `target ${target}`);
      }
      frontEnd.stop();
      frontEnd.resetDevice();
      frontEnd.guest.reset();
      frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
      frontEnd.start();
      assert.is(new ScsiDriver(frontEnd).ready(0, write10(life, 1), { out: pattern(life) }).status, 0);
      frontEnd.stop();
      frontEnd.resetDevice();
    }
    assert.is(
      rig.device.maps,
      frontEnd.guest.regions.length + 1,
      'the same memory is mapped once, and the inflight region',
    );
  }),
);

test(
  'a VM goes and another comes; memory of the first is unmapped when nothing refers to it',
  onStock((rig) => {
    rig.open();
    for (let life = 0; life < 3; life++) {
      const { frontEnd, driver } = rig.boot();
      assert.is(driver.ready(0, write10(life, 1), { out: pattern(life) }).status, 0);
      rig.disk.hold = true;
      driver.submit(0, read10(life, 1), { inLength: BLOCK });
      rig.until(() => rig.session.outstanding === 1, 'the request to be taken');
      frontEnd.disconnect();
      rig.settle();
      assert.is(rig.port.sessions.size, 1, 'the session waits for its request');
      assert.ok(rig.device.sections.length > 0, 'and so does the memory');
      rig.disk.hold = false;
      rig.disk.release();
      rig.until(() => rig.port.sessions.size === 0 && rig.device.sections.length === 0, 'the end');
    }
  }),
);

test(
  'another memory table with work in flight: old memory stays until the driver has let go of it',
  onStock((rig) => {
    rig.open();
    const first = rig.boot();
    const { frontEnd, driver } = first;
    driver.ready(0, INQUIRY, { inLength: 36 });
    for (let round = 0; round < 6; round++) {
      rig.disk.hold = true;
      const pending = driver.submit(0, write10(round, 1), { out: pattern(round + 40) });
      rig.until(() => rig.session.outstanding === 1, 'the request to be taken');
      const { regions } = frontEnd.guest;
      frontEnd.sendMemory(round % 2 === 0 ? [...regions].reverse() : regions);
      rig.disk.hold = false;
      rig.disk.release();
      assert.is(driver.wait(pending).status, 0);
      assert.equal(driver.run(0, read10(round, 1), { inLength: BLOCK }).data, pattern(round + 40));
    }
    for (const index of [0, 1, 2]) assert.is(rig.session.vrings[index].failures, 0);
  }),
);

test(
  'the target ends in order and starts again: the device is told first',
  onStock((rig) => {
    for (let life = 0; life < 3; life++) {
      rig.open();
      const { driver, frontEnd } = rig.boot();
      assert.is(driver.ready(0, write10(life, 1), { out: pattern(life) }).status, 0);
      rig.closePort();
      rig.until(() => frontEnd.hungUp, 'the VM to be told');
      frontEnd.disconnect();
      assert.is(rig.device.status, 0);
      assert.is(rig.device.sections.length, 0);
    }
    assert.is(rig.relay.counters.hellos, 3);
  }),
);

test(
  'kill -9 of the target: the next one resets the device and serves the next VM',
  onStock((rig) => {
    rig.open();
    const { driver, frontEnd } = rig.boot();
    driver.ready(0, INQUIRY, { inLength: 36 });
    rig.killPort();
    rig.open();
    rig.until(() => frontEnd.hungUp, 'the VM to be told');
    frontEnd.disconnect();
    const second = rig.boot();
    assert.is(second.driver.ready(0, INQUIRY, { inLength: 36 }).status, 0);
  }),
);

test(
  'the QEMU of the appliance refuses a mapping: the VM is told where it asks, and the relay lives',
  onStock((rig) => {
    rig.open();
    const frontEnd = rig.connect({ version: '11.1' });
    frontEnd.init();
    rig.device.refuseMaps = true;
    assert.throws(() => frontEnd.sendMemory(), 'refused');
    rig.device.refuseMaps = false;
    frontEnd.sendMemory();
    frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
    frontEnd.start();
    assert.is(new ScsiDriver(frontEnd).ready(0, INQUIRY, { inLength: 36 }).status, 0);
  }),
);

test(
  'malformed messages of a VM end its session alone',
  onStock((rig) => {
    rig.open();
    const bad: [number, Uint8Array, number][] = [
      [ID.SET_VRING_NUM, u32s(77, 128), 1], // no such vring
      [ID.SET_MEM_TABLE, u32s(3, 0), 1], // regions that are not there
      [ID.GET_CONFIG, u32s(0, 4, 0, 0), 1], // can't go through
      [ID.SET_VRING_KICK, u32s(0, 0), 1], // no descriptor, no flag
      [99, u32s(1), 1],
      [ID.GET_FEATURES, new Uint8Array(0), 2], // version
      [ID.GET_FEATURES, new Uint8Array(0), 5], // an answer
    ];
    for (const [id, payload, flags] of bad) {
      const frontEnd = rig.connect();
      frontEnd.send(id, payload, flags);
      rig.until(() => frontEnd.hungUp, `message ${id} to be refused`);
    }
    const { driver } = rig.boot();
    assert.is(driver.ready(0, INQUIRY, { inLength: 36 }).status, 0);
    assert.is(rig.relay.counters.faults, 0);
  }),
);

test(
  'a driver that breaks the contract is out until it says HELLO again',
  onStock((rig) => {
    rig.open();
    const { frontEnd } = rig.boot();
    const bytes = new Uint8Array(20);
    new DataView(bytes.buffer).setUint32(0, 1, true);
    new DataView(bytes.buffer).setUint32(4, 5, true);
    new DataView(bytes.buffer).setUint32(8, 8, true);
    rig.port.device.queues.send(bytes); // an answer that nobody asked for
    rig.until(() => frontEnd.hungUp, 'the VM to be told');
    assert.is(rig.relay.counters.faults, 1);
    frontEnd.disconnect();
    rig.closePort();
    rig.open();
    assert.is(rig.boot().driver.ready(0, INQUIRY, { inLength: 36 }).status, 0);
  }),
);

test(
  'kicks wake the driver through the relay, calls wake the VM',
  onStock((rig) => {
    rig.open();
    const { driver } = rig.boot();
    driver.ready(0, INQUIRY, { inLength: 36 });
    const until = performance.now() + 10_000;
    const { sleeps } = rig.loop.stats;
    while (rig.loop.stats.sleeps < sleeps + 3 && performance.now() < until) rig.loop.turn(20);
    const before = { ...rig.relay.counters };
    const pending = driver.submit(0, INQUIRY, { inLength: 36 });
    while (pending.answer === null && performance.now() < until) {
      rig.loop.turn(1000);
      driver.collect();
    }
    assert.is(pending.answer?.status, 0);
    assert.ok(rig.relay.counters.kicks > before.kicks);
  }),
);

test.run();
