/** The driver on the forks' devices: everything that those do to it, and all that must go well nevertheless. */
import { bit, ID, LINUX_FEATURES, PF, SEABIOS_FEATURES, u32s, u64 } from '../support/front-end.ts';
import { read10, ScsiDriver, write10 } from '../support/front-end-scsi.ts';
import { assert, suite } from '../support/suite.ts';
import { onFork } from './rig.ts';

const test = suite('vvu on the forks');
const BLOCK = 512;
const INQUIRY = [0x12, 0, 0, 0, 36, 0];
const pattern = (seed: number, bytes = BLOCK) => Uint8Array.from({ length: bytes }, (_, i) => (seed * 31 + i) & 255);

for (const variant of ['A', 'B'] as const) {
  const on = (run: Parameters<typeof onFork>[1]) => onFork(variant, run);

  test(
    `${variant}: a VM finds its disk, reads and writes, interrupts come by doorbell`,
    on((rig) => {
      rig.open();
      const { frontEnd, driver } = rig.boot();
      assert.is(rig.port.device.layout.name, variant);
      assert.is(Buffer.from(driver.ready(0, INQUIRY, { inLength: 36 }).data).toString('latin1', 8, 13), 'INTEL');
      assert.is(driver.ready(0, write10(7, 1), { out: pattern(1) }).status, 0);
      assert.equal(rig.disk.data.u8.slice(7 * BLOCK, 8 * BLOCK), pattern(1));
      const ring = frontEnd.ring(2);
      ring.driver.arm();
      ring.interrupts = 0;
      assert.equal(driver.run(0, read10(7, 1), { inLength: BLOCK }).data, pattern(1));
      rig.until(() => ring.interrupts > 0 || ring.call.drain(), 'an interrupt');
      assert.ok((rig.device.rung.get(2) ?? 0) > 0);
      frontEnd.stop();
    }),
  );

  test(
    `${variant}: exactly MQ is offered, whatever the front end would like`,
    on((rig) => {
      rig.open();
      const frontEnd = rig.connect();
      frontEnd.init();
      assert.is(frontEnd.protocol, bit(PF.MQ));
      assert.is(frontEnd.askU64(ID.GET_PROTOCOL_FEATURES), 1n);
    }),
  );

  test(
    `${variant}: QEMU 7.1 and later bounce the link with SET_VRING_ERR at every vring`,
    on((rig) => {
      rig.open();
      const { driver } = rig.boot({ version: '7.2' });
      // One a vring at initialisation, and one a vring at the start (this front end sends it there, too).
      assert.ok(rig.device.bounces >= 3, `${rig.device.bounces} bounces`);
      assert.is(rig.port.sessions.size, 1);
      assert.is(rig.port.accepted, 1, 'the session outlives the bounces');
      assert.is(driver.ready(0, INQUIRY, { inLength: 36 }).status, 0);
      assert.is(rig.device.resets, 0);
    }),
  );

  test(
    `${variant}: a fresh device is not reset, so a front end that was there first is heard`,
    on((rig) => {
      const frontEnd = rig.connect();
      rig.settle();
      assert.is(rig.device.state, 'opened');
      rig.open();
      assert.is(rig.device.resets, 0);
      frontEnd.init();
    }),
  );

  test(
    `${variant}: the target ends in order and starts again: the socket is not lost, a VM that is reset has its disks again`,
    on((rig) => {
      rig.open();
      const { frontEnd, driver } = rig.boot();
      driver.ready(0, INQUIRY, { inLength: 36 });
      // A reset between a message's header and payload would put the stream out of step for good: an answer says that all is read.
      frontEnd.askU64(ID.GET_FEATURES);
      rig.closePort();
      assert.is(rig.device.state, 'opened', 'the device knows of the socket');
      assert.not(rig.device.busMaster);
      rig.open();
      rig.settle();
      assert.is(rig.device.state, 'connected');
      assert.is(rig.port.device.resets, 0);
      // system_reset of the VM: QEMU stops the device, and starts it when the guest is up again.
      const bases = frontEnd.stop();
      assert.equal([...bases.values()], [0, 0, 0], 'a new target knows nothing of the old rings');
      frontEnd.guest.reset();
      frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
      frontEnd.start();
      assert.is(new ScsiDriver(frontEnd).ready(0, INQUIRY, { inLength: 36 }).status, 0);
    }),
  );

  test(
    `${variant}: kill -9 of the target: the next one resets once, with SLAVE_UP and without bus mastering`,
    on((rig) => {
      rig.open();
      const { frontEnd, driver } = rig.boot();
      driver.ready(0, INQUIRY, { inLength: 36 });
      rig.killPort();
      assert.is(rig.device.state, 'connected');
      rig.open();
      rig.settle();
      assert.is(rig.port.device.resets, 1);
      assert.is(rig.device.state, 'connected', 'the open socket was not forgotten');
      frontEnd.stop();
      frontEnd.guest.reset();
      frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
      frontEnd.start();
      assert.is(new ScsiDriver(frontEnd).ready(0, INQUIRY, { inLength: 36 }).status, 0);
    }),
  );

  test(
    `${variant}: killed while the link was dropped: the reset does not make the device forget the socket`,
    on((rig) => {
      rig.open();
      const frontEnd = rig.connect();
      frontEnd.init();
      // A driver that has just seen a bounce and dies: status 0, socket open.
      rig.killPort();
      rig.device.registers(4, 0x2000, 24).write32(0, 0);
      assert.is(rig.device.state, 'opened');
      rig.open();
      rig.settle();
      assert.is(rig.device.state, 'connected');
      assert.is(frontEnd.askU64(ID.GET_QUEUE_NUM) > 0n, true);
    }),
  );

  test(
    `${variant}: firmware alone on queue 2, then the system on all, then again; rings parked on address 0 are left alone`,
    on((rig) => {
      rig.open();
      const frontEnd = rig.connect();
      frontEnd.init();
      for (let life = 0; life < 2; life++) {
        frontEnd.guest.reset();
        frontEnd.makeRings([2], SEABIOS_FEATURES);
        frontEnd.guest.write(0, pattern(9, 4096));
        const at = frontEnd.guest.uva(0);
        frontEnd.sendMemory();
        for (const index of [0, 1]) {
          frontEnd.send(ID.SET_VRING_NUM, u32s(index, 128));
          frontEnd.send(ID.SET_VRING_BASE, u32s(index, 0));
          frontEnd.send(ID.SET_VRING_ADDR, Buffer.concat([u32s(index, 0), u64(at), u64(at), u64(at), u64(0)]));
          frontEnd.send(ID.SET_VRING_KICK, u64(index), 1, [frontEnd.ring(2).kick.fd]);
        }
        frontEnd.start(SEABIOS_FEATURES);
        const firmware = new ScsiDriver(frontEnd);
        for (let target = 0; target < 40; target++) {
          const answer = firmware.ready(target, [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], { inLength: 16 });
          assert.is(answer.response, target === 0 ? 0 : 3, `target ${target}`);
        }
        assert.equal(frontEnd.guest.read(0, 4096), pattern(9, 4096));
        for (const index of [0, 1]) frontEnd.ask(ID.GET_VRING_BASE, u32s(index, 0));
        frontEnd.stop();
        frontEnd.guest.reset();
        frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
        frontEnd.start();
        assert.is(new ScsiDriver(frontEnd).ready(0, write10(life, 1), { out: pattern(life) }).status, 0);
        frontEnd.stop();
      }
      assert.is(rig.port.accepted, 1);
    }),
  );

  test(
    `${variant}: the VM goes, and another comes to the same device`,
    on((rig) => {
      rig.open();
      for (let life = 0; life < 3; life++) {
        const { frontEnd, driver } = rig.boot();
        assert.is(driver.ready(0, write10(life, 1), { out: pattern(life) }).status, 0);
        frontEnd.disconnect();
        rig.until(() => rig.port.sessions.size === 0, 'the session to end');
        assert.is(rig.device.state, 'slave_up');
      }
      assert.is(rig.port.accepted, 3);
      assert.equal(rig.disk.data.u8.slice(2 * BLOCK, 3 * BLOCK), pattern(2));
    }),
  );

  test(
    `${variant}: GET_VRING_BASE waits for what the disk still does; its doorbell may be dead by then`,
    on((rig) => {
      rig.open();
      const { frontEnd, driver } = rig.boot();
      driver.ready(0, INQUIRY, { inLength: 36 });
      rig.disk.hold = true;
      const pending = driver.submit(0, read10(0, 1), { inLength: BLOCK });
      rig.until(() => rig.session.outstanding === 1, 'the request to be taken');
      frontEnd.send(ID.GET_VRING_BASE, u32s(2, 0));
      rig.settle();
      driver.collect();
      assert.is(pending.answer, null);
      rig.disk.hold = false;
      rig.disk.release();
      const reply = frontEnd.receive();
      assert.is(reply?.id, ID.GET_VRING_BASE);
      assert.is(reply?.flags, 5);
      assert.is(reply?.payload.length, 8);
      driver.collect();
      assert.is((pending.answer as unknown as { status: number }).status, 0, 'completed before the reply');
    }),
  );

  test(
    `${variant}: the same memory table comes again while vrings run`,
    on((rig) => {
      rig.open();
      const { frontEnd, driver } = rig.boot();
      driver.ready(0, INQUIRY, { inLength: 36 });
      for (let i = 0; i < 20; i++) {
        const pending = driver.submit(0, write10(i, 1), { out: pattern(i) });
        frontEnd.sendMemory();
        assert.is(driver.wait(pending).status, 0);
      }
      assert.is(rig.session.lastError?.includes('broken') ?? false, false);
    }),
  );

  test(
    `${variant}: another memory table, in another order, while a disk is at work on the old one`,
    on((rig) => {
      rig.open();
      const { frontEnd, driver } = rig.boot();
      driver.ready(0, INQUIRY, { inLength: 36 });
      const { regions } = frontEnd.guest;
      for (let round = 0; round < 6; round++) {
        const order = round % 2 === 0 ? [...regions].reverse() : regions;
        frontEnd.sendMemory(order);
        assert.is(driver.run(0, write10(round, 1), { out: pattern(round + 40) }).status, 0, `round ${round}`);
        assert.equal(driver.run(0, read10(round, 1), { inLength: BLOCK }).data, pattern(round + 40));
      }
    }),
  );

  test(
    `${variant}: the device loses the rings' memory before the driver hears of it, with work in flight`,
    on((rig) => {
      rig.open();
      const { frontEnd, driver } = rig.boot();
      driver.ready(0, INQUIRY, { inLength: 36 });
      const { regions } = frontEnd.guest;
      for (let round = 0; round < 20; round++) {
        rig.disk.hold = round % 2 === 0;
        const early = driver.submit(0, write10(1, 1), { out: pattern(1) });
        rig.settle(2);
        rig.device.hold(true); // exchanged memory, message not delivered yet
        frontEnd.sendMemory(round % 2 === 0 ? [...regions].reverse() : regions);
        rig.device.hold(false);
        rig.device.hold(true);
        rig.settle(2);
        // Completions meanwhile must not be written where something else lies now.
        rig.disk.hold = false;
        rig.disk.release();
        const late = driver.submit(0, write10(2, 1), { out: pattern(2) });
        rig.settle(3);
        rig.device.hold(false);
        assert.is(driver.wait(early).status, 0, `round ${round}`);
        assert.is(driver.wait(late).status, 0, `round ${round}`);
      }
      for (const index of [0, 1, 2]) assert.is(rig.session.vrings[index].failures, 0, `vring ${index}`);
    }),
  );

  test(
    `${variant}: a device that needs a reset gets one, and a new VM is served`,
    on((rig) => {
      rig.open();
      const { frontEnd } = rig.boot();
      rig.device.registers(4, 0x2000, 24).write32(0, 4); // an undefined bit: virtio_error
      assert.is(rig.device.status & 0x40, 0x40);
      rig.until(() => rig.port.device.resets === 1, 'the recovery');
      frontEnd.disconnect();
      rig.settle();
      const { driver } = rig.boot();
      assert.is(driver.ready(0, INQUIRY, { inLength: 36 }).status, 0);
    }),
  );

  test(
    `${variant}: a device that stops again and again is given up, and said to be`,
    on((rig) => {
      rig.open();
      rig.connect();
      rig.settle();
      for (let n = 1; n <= 9; n++) {
        rig.device.registers(4, 0x2000, 24).write32(0, 4);
        rig.until(() => rig.port.device.resets === n || rig.port.failed !== null, `recovery ${n}`);
        rig.settle(5);
      }
      assert.is(rig.port.device.resets, 8);
      assert.match(String(rig.port.describe()['failed']), /stopped 9 times/);
      rig.allowViolations = true;
    }),
  );

  test(
    `${variant}: only whole messages go to the device, and none when no front end is there: any other would end its QEMU`,
    on((rig) => {
      rig.open();
      const { queues } = rig.port.device;
      const answer = (size: number, bytes: number) => {
        const message = new Uint8Array(bytes).fill(1, 0, 1);
        if (bytes >= 12) new DataView(message.buffer).setUint32(8, size, true);
        return message;
      };
      for (const bad of [
        answer(0, 0),
        answer(0, 11),
        answer(8, 12),
        answer(0, 20),
        answer(9, 20),
        answer(5000, 5012),
      ]) {
        assert.throws(() => queues.send(bad), /a message of/);
      }
      assert.is(queues.sent, 0);
      // A session that answers late finds its front end gone: the device must not get the answer.
      const { frontEnd, driver } = rig.boot();
      driver.ready(0, INQUIRY, { inLength: 36 });
      rig.disk.hold = true;
      driver.submit(0, read10(0, 1), { inLength: BLOCK });
      rig.until(() => rig.session.outstanding === 1, 'the request to be taken');
      frontEnd.send(ID.GET_VRING_BASE, u32s(2, 0));
      rig.settle();
      const { sent } = queues;
      frontEnd.disconnect();
      rig.settle();
      rig.disk.hold = false;
      rig.disk.release();
      rig.until(() => rig.port.sessions.size === 0, 'the session to end');
      assert.is(queues.sent, sent);
      assert.equal(rig.device.aborts, []);
    }),
  );

  test(
    `${variant}: a message that the session refuses does not leave the front end hanging`,
    on((rig) => {
      rig.open();
      const frontEnd = rig.connect();
      frontEnd.init();
      frontEnd.send(ID.SET_VRING_NUM, u32s(2, 77)); // no power of two
      assert.ok(frontEnd.askU64(ID.GET_FEATURES) !== 0n);
      assert.is(rig.port.accepted, 2);
      assert.match(rig.port.ends[0].reason, 'SET_VRING_NUM refused');
    }),
  );

  test(
    `${variant}: an idle target sleeps, and a request wakes it`,
    on((rig) => {
      rig.open();
      const { driver } = rig.boot();
      driver.ready(0, INQUIRY, { inLength: 36 });
      const { sleeps } = rig.loop.stats;
      const until = performance.now() + 10_000;
      while (rig.loop.stats.sleeps < sleeps + 5 && performance.now() < until) rig.loop.turn(20);
      assert.ok(rig.loop.stats.sleeps >= sleeps + 5, 'it never slept');
      const pending = driver.submit(0, INQUIRY, { inLength: 36 });
      while (pending.answer === null && performance.now() < until) {
        rig.loop.turn(1000);
        driver.collect();
      }
      assert.is(pending.answer?.status, 0);
    }),
  );
}

test(
  'B: kicks raise an interrupt, also after a bounce',
  onFork('B', (rig) => {
    rig.open();
    const { frontEnd, driver } = rig.boot();
    driver.ready(0, INQUIRY, { inLength: 36 });
    assert.is(rig.port.device.vectors.kicks, 1);
    const asked = rig.device.registers(2, 0x2000, 4);
    asked.write16(0, 2);
    assert.is(asked.read16(2), 1);
    frontEnd.send(ID.SET_VRING_ERR, u64(2), 1, [frontEnd.ring(2).err.fd]);
    rig.settle();
    asked.write16(0, 2);
    assert.is(asked.read16(2), 1, 'set again after the link came back');
  }),
);

test(
  'A: nothing tells of kicks: the driver polls, at a pace that slows down',
  onFork('A', (rig) => {
    rig.open();
    const { driver } = rig.boot();
    driver.ready(0, INQUIRY, { inLength: 36 });
    assert.is(rig.port.device.vectors.kicks, -1);
    const until = performance.now() + 20_000;
    while (rig.port.describe()['poll_interval_ms'] !== 8 && performance.now() < until) rig.loop.turn(100);
    assert.is(rig.port.describe()['poll_interval_ms'], 8);
    assert.is(driver.run(0, INQUIRY, { inLength: 36 }).status, 0);
  }),
);

test.run();
