/** The driver on a stock QEMU through the relay: the same work as on the forks, and each edge of that QEMU. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { O } from '../../src/sys/constants.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { type Fd, fstat, ftruncate, open as openFile } from '../../src/sys/fd.ts';
import { memfd } from '../../src/sys/mapping.ts';
import { listenUnix } from '../../src/sys/socket.ts';
import { Relay } from '../../src/vvu/relay/relay.ts';
import {
  bit,
  type FrontEnd,
  ID,
  inflightBytes,
  LINUX_FEATURES,
  PF,
  pump,
  SEABIOS_FEATURES,
  tableBytes,
  u32s,
} from '../support/front-end.ts';
import { read10, ScsiDriver, write10 } from '../support/front-end-scsi.ts';
import { assert, suite } from '../support/suite.ts';
import { onStock, type StockRig } from './rig.ts';

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

/** The front end comes back to the same rings, as QEMU does: the next request to look at is told by the used index. */
function comeBack(rig: StockRig, frontEnd: FrontEnd): void {
  frontEnd.disconnect();
  rig.until(() => existsSync(rig.path), 'the socket for compute VMs');
  frontEnd.reconnect();
  frontEnd.init();
  frontEnd.start(LINUX_FEATURES, usedIndices(frontEnd));
}

function usedIndices(frontEnd: FrontEnd): Map<number, number> {
  return new Map(frontEnd.rings.map((r) => [r.index, frontEnd.guest.u16(r.used + 2)]));
}

test(
  'kill -9 of the target with requests in flight: the next one does them again, by the record that the VM keeps',
  onStock((rig) => {
    rig.open();
    const { driver, frontEnd } = rig.boot({ version: '11.1' });
    driver.ready(0, INQUIRY, { inLength: 36 });
    for (let life = 0; life < 3; life++) {
      rig.disk.hold = true;
      const first = driver.submit(0, write10(life, 1), { out: pattern(life) });
      const second = driver.submit(0, write10(life + 8, 1), { out: pattern(life + 8) });
      rig.until(() => rig.disk.held.length === 2, 'the requests to be taken');
      rig.killPort();
      // What the disk still does for the dead is nobody's, and both writes are lost.
      rig.disk.hold = false;
      rig.disk.release();
      rig.disk.data.u8.fill(0);
      assert.is(first.answer, null);
      rig.open();
      rig.until(() => frontEnd.hungUp, 'the VM to be told');
      comeBack(rig, frontEnd);
      assert.is(driver.wait(first).status, 0);
      assert.is(driver.wait(second).status, 0);
      assert.equal(rig.disk.data.u8.slice(life * BLOCK, (life + 1) * BLOCK), pattern(life));
      assert.equal(driver.run(0, read10(life + 8, 1), { inLength: BLOCK }).data, pattern(life + 8));
    }
  }),
);

test(
  'the VM comes back while its requests still run: they end first, then are done again',
  onStock((rig) => {
    rig.open();
    const { driver, frontEnd } = rig.boot({ version: '11.1' });
    driver.ready(0, INQUIRY, { inLength: 36 });
    rig.disk.executed.length = 0;
    rig.disk.hold = true;
    const waiting = driver.submit(0, write10(4, 1), { out: pattern(4) });
    rig.until(() => rig.disk.held.length === 1, 'the request to be taken');
    frontEnd.disconnect();
    rig.settle();
    frontEnd.reconnect();
    frontEnd.init();
    const { fd, bytes } = frontEnd.inflight as NonNullable<typeof frontEnd.inflight>;
    frontEnd.send(ID.SET_INFLIGHT_FD, bytes, 9, [fd]);
    rig.settle();
    assert.is(rig.port.sessions.size, 2, 'the new session waits for the old one');
    rig.disk.hold = false;
    rig.disk.release();
    assert.is(frontEnd.receive()?.id, ID.SET_INFLIGHT_FD);
    frontEnd.start(LINUX_FEATURES, usedIndices(frontEnd));
    assert.is(driver.wait(waiting).status, 0);
    assert.is(rig.disk.executed.length, 2, 'once for each session');
  }),
);

test(
  'the relay itself gives the inflight region, of whole pages; odd ones are refused',
  onStock((rig) => {
    rig.open();
    const frontEnd = rig.connect({ version: '11.1' });
    frontEnd.init();
    frontEnd.getInflight();
    const { fd, bytes } = frontEnd.inflight as NonNullable<typeof frontEnd.inflight>;
    assert.is(fstat(fd).size % 4096, 0);
    const no = (payload: Uint8Array, fds: Fd[]) => assert.is(frontEnd.tell(ID.SET_INFLIGHT_FD, payload, fds, true), 1n);
    no(bytes, []);
    no(inflightBytes(6336, 4096, 3, 128), [fd]); // beyond the file's end
    no(inflightBytes(6336, 1, 3, 128), [fd]);
    no(inflightBytes(6336, 0, 200, 128), [fd]);
    no(inflightBytes(2 ** 40, 0, 3, 128), [fd]);
    const short = memfd('short', 6336, { seal: false });
    no(inflightBytes(6336, 0, 3, 128), [short]);
    short.close();
    assert.is(frontEnd.tell(ID.SET_INFLIGHT_FD, bytes, [fd], true), 0n);
    frontEnd.sendMemory();
    frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
    frontEnd.start();
    assert.is(new ScsiDriver(frontEnd).ready(0, INQUIRY, { inLength: 36 }).status, 0);
    assert.is(rig.session.inflight !== null, true);
  }),
);

test(
  'the socket for compute VMs is away while a driver that was there is not',
  onStock((rig) => {
    assert.ok(existsSync(rig.path), 'before the first driver a VM may wait');
    rig.open();
    rig.connect().init();
    assert.ok(existsSync(rig.path));
    rig.closePort();
    rig.until(() => !existsSync(rig.path), 'the socket to go');
    rig.open();
    rig.until(() => existsSync(rig.path), 'the socket to come back');
    assert.is(rig.boot().driver.ready(0, INQUIRY, { inLength: 36 }).status, 0);
  }),
);

test('a relay that follows one that was killed lets nobody in before a driver is there', () => {
  const folder = mkdtempSync(join(tmpdir(), 'vvu-relay-'));
  const loop = new EventLoop();
  const [compute, appliance] = ['c', 'a'].map((name) => join(folder, name));
  const start = () => new Relay({ loop, compute, appliance, vrings: 4, windowBytes: 2 ** 28 });
  const end = (relay: Relay) => {
    let over = false;
    relay.close(() => {
      over = true;
    });
    pump(loop, () => over, 'the relay to close');
  };
  const first = start();
  assert.ok(existsSync(compute), 'a fresh one lets those wait who are early');
  end(first);
  listenUnix(compute).fd.close(); // killed: the file stays
  assert.ok(existsSync(compute));
  const second = start();
  assert.not(existsSync(compute));
  end(second);
  loop.close();
  rmSync(folder, { recursive: true });
});

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
  'more files than the appliance has room for are refused, and the VM is told where it asks',
  onStock((rig) => {
    rig.open();
    // A section each; vhost-user tables have 8 entries, and the appliance's own memory needs some.
    const regions = Array.from({ length: 6 }, (_, i) => ({ gpa: i * 0x10_0000, size: 0x1_0000 }));
    const frontEnd = rig.connect({ version: '11.1', guest: rig.guest(regions) });
    frontEnd.init();
    assert.throws(() => frontEnd.sendMemory(), 'refused');
    assert.match(rig.told.at(-1) ?? '', /5 files are mapped already/);
    rig.settle();
    assert.is(rig.device.sections.length, 0, 'and those that were mapped are unmapped');
    frontEnd.disconnect();
    assert.is(rig.boot().driver.ready(0, INQUIRY, { inLength: 36 }).status, 0);
  }),
);

test(
  'to the appliance exactly what it survives is offered: no memory slots (bit 15), no configuration (bit 9)',
  onStock((rig) => {
    assert.equal(rig.device.offered, [0, 3, 5, 10, 22]);
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
  'memory that can be shortened is said to be; what is no file is no memory',
  onStock((rig) => {
    rig.open();
    const frontEnd = rig.connect({ version: '11.1' });
    frontEnd.init();
    frontEnd.sendMemory();
    assert.not.match(rig.told.join(), /can shorten/, 'sealed by the relay, if by nobody else');
    const folder = mkdtempSync('/dev/shm/vvu-');
    const file = openFile(join(folder, 'ram'), O.RDWR | O.CREAT);
    ftruncate(file, 2 ** 20);
    const zero = openFile('/dev/zero', O.RDWR);
    try {
      const table = tableBytes([{ gpa: 0, size: 2 ** 20, uva: 2 ** 40, offset: 0 }]);
      assert.is(frontEnd.tell(ID.SET_MEM_TABLE, table, [zero], true), 1n);
      assert.match(rig.told.at(-1) ?? '', /memory of the compute VM refused: .*not a file or memfd/);
      assert.is(frontEnd.tell(ID.SET_MEM_TABLE, table, [file], true), 0n);
      assert.match(rig.told.join(), /can shorten/);
    } finally {
      file.close();
      zero.close();
      rmSync(folder, { recursive: true });
    }
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
  'a piece of a message from the driver is not passed on to the VM: the stream would be out of step',
  onStock((rig) => {
    for (const bytes of [1, 8, 11, 13]) {
      rig.open();
      const { frontEnd } = rig.boot();
      const { faults } = rig.relay.counters;
      // Past the driver's own check, which would not let it out.
      const queues = rig.port.device.queues as unknown as { waiting: Uint8Array[]; flush(): void };
      const piece = new Uint8Array(bytes);
      piece.set([ID.GET_FEATURES, 0, 0, 0, 5].slice(0, bytes));
      queues.waiting.push(piece);
      queues.flush();
      rig.until(() => frontEnd.hungUp, 'the VM to be told');
      assert.is(rig.relay.counters.faults, faults + 1, `${bytes} bytes`);
      frontEnd.disconnect();
      rig.closePort();
    }
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
