/**
 * The appliance's side of the relay against anything: messages of its QEMU, answers on the channel for mappings, and rings that a driver has
 * scribbled over. The relay lives, gives everything back, and serves the next appliance.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Memory } from '../../src/memory/memory.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import type { Fd } from '../../src/sys/fd.ts';
import { memfd } from '../../src/sys/mapping.ts';
import { connectUnix, sendWithFds, socketPair } from '../../src/sys/socket.ts';
import { Relay } from '../../src/vvu/relay/relay.ts';
import { FAKE_WINDOW, FakeStockQemu } from '../support/fake-stock-qemu.ts';
import { addrBytes, header, openFds, pump, settle, tableBytes, u32s, u64 } from '../support/front-end.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { onStock } from './rig.ts';

const test = suite('relay fuzz, appliance side');
const RUNS = 60;
const INQUIRY = [0x12, 0, 0, 0, 36, 0];

/** @param examples cases that once failed: always run, and first */
function check<T>(values: fc.Arbitrary<T>, run: (value: T) => void, examples: [T][] = []): void {
  fc.assert(fc.property(values, run), { ...(budget(RUNS) as fc.Parameters<[T]>), examples });
}

const small = fc.oneof(fc.integer({ min: 0, max: 7 }), fc.constantFrom(127, 128, 255, 256, 0xffff, 0xffff_ffff));
const place = fc.constantFrom(0, 1, 16, 4096, 0x1000_0000, 2 ** 40, 2 ** 53);
const payload = fc.oneof(
  fc.constant(new Uint8Array(0)),
  fc.tuple(small, small).map(([a, b]) => new Uint8Array(u32s(a, b))),
  small.map((n) => new Uint8Array(u64(n))),
  fc.tuple(small, place, place, place).map(([i, a, b, c]) => new Uint8Array(addrBytes(i, a, b, c))),
  fc
    .tuple(place, place, place)
    .map(([gpa, size, offset]) => new Uint8Array(tableBytes([{ gpa, size, uva: gpa, offset }]))),
  fc.uint8Array({ maxLength: 300 }),
);
const message = fc.record({
  id: fc.oneof(fc.integer({ min: 1, max: 21 }), fc.constantFrom(5, 9, 12, 13, 21, 44), fc.nat(60)),
  flags: fc.oneof({ weight: 9, arbitrary: fc.constantFrom(1, 9) }, { weight: 1, arbitrary: fc.nat(255) }),
  payload,
  fds: fc.constantFrom('none', 'none', 'event', 'file', 'channel', 'two'),
});
/** Bytes that come down the channel for mappings, where only answers belong. */
const noise = fc.oneof(
  fc.constant(new Uint8Array(0)),
  fc.uint8Array({ maxLength: 100 }),
  fc.constantFrom(9, 10).map((id) => new Uint8Array(Buffer.concat([header(id, 5, 8), u64(0)]))),
);

/** A plain file as the back-end channel stayed open. */
const FOUND: [
  [{ id: number; flags: number; payload: Uint8Array<ArrayBuffer>; fds: string }[], Uint8Array<ArrayBuffer>],
][] = [[[[{ id: 21, flags: 1, payload: new Uint8Array(0), fds: 'file' }], new Uint8Array(0)]]];

let warm = false;

test('any messages of the QEMU, and anything on its channel', () => {
  check(
    fc.tuple(fc.array(message, { minLength: 1, maxLength: 14 }), noise),
    ([list, answers]) => {
      const once = () => {
        const errors: unknown[] = [];
        const loop = new EventLoop({ onError: (e) => errors.push(e) });
        const folder = mkdtempSync(join(tmpdir(), 'vvu-relay-'));
        const [compute, appliance] = ['c', 'a'].map((name) => join(folder, name));
        const relay = new Relay({ loop, compute, appliance, vrings: 4, windowBytes: FAKE_WINDOW });
        const event = new EventFd();
        const file = memfd('fuzz', 0x20000);
        const [mine, theirs] = socketPair();
        const given: Record<string, Fd[]> = {
          none: [],
          event: [event.fd],
          file: [file],
          channel: [theirs],
          two: [event.fd, file],
        };
        const socket = connectUnix(appliance);
        try {
          for (const { id, flags, payload, fds } of list) {
            sendWithFds(socket, Buffer.concat([header(id, flags, payload.length), payload]), given[fds]);
            settle(loop, 4);
          }
          if (answers.length > 0) sendWithFds(mine, answers, []);
        } catch {
          // The relay has hung up, as it may.
        }
        settle(loop, 8);
        for (const fd of [socket, mine, theirs, file]) fd.close();
        event.close();
        pump(loop, () => relay.describe()['appliance'] === 'absent', 'the appliance to be gone');
        const next = new FakeStockQemu(loop, appliance, 4);
        pump(loop, () => next.answers > 0, 'an answer for the next appliance');
        next.destroy();
        let closed = false;
        relay.close(() => {
          closed = true;
        });
        pump(loop, () => closed, 'the relay to close');
        settle(loop);
        loop.close();
        rmSync(folder, { recursive: true, force: true });
        if (errors.length > 0) throw errors[0];
      };
      if (!warm) once();
      warm = true;
      const before = openFds();
      once();
      const after = openFds();
      assert.ok(after <= before, `${after - before} descriptors stayed open`);
    },
    FOUND,
  );
});

interface Pages {
  rxPage: { buffer: { memory: Memory } };
  txPage: { buffer: { memory: Memory } };
}

test('rings that the driver has scribbled over: no QEMU ends, and a new driver is served', () => {
  const scribble = fc.record({
    page: fc.constantFrom('rxPage', 'txPage'),
    // Descriptors of the first heads, flags, indices, ring entries.
    at: fc.oneof(fc.integer({ min: 0, max: 127 }), fc.integer({ min: 2048, max: 2080 }), fc.nat(4095)),
    value: fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 2, 4, 255)),
  });
  check(fc.array(scribble, { minLength: 1, maxLength: 40 }), (list) => {
    onStock((rig) => {
      rig.open();
      const { driver, frontEnd } = rig.boot();
      driver.ready(0, INQUIRY, { inLength: 36 });
      const pages = rig.port.device.queues as unknown as Pages;
      rig.killPort();
      for (const { page, at, value } of list) {
        pages[page as keyof Pages].buffer.memory.u8[at] = value;
        rig.device.registers(4, 0x3000, 0x1000).write16(page === 'rxPage' ? 0 : 4, page === 'rxPage' ? 0 : 1);
        settle(rig.loop, 2);
      }
      frontEnd.disconnect();
      settle(rig.loop, 10);
      rig.open();
      rig.settle(20); // until the relay has seen the reset: who connects before is hung up on
      const second = rig.boot();
      assert.is(second.driver.ready(0, INQUIRY, { inLength: 36 }).status, 0);
    })();
  });
});

test.run();
