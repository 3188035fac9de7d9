/** A session over a transport without descriptors, and a model with config space: what a socket and SCSI do not show. */

import { SgList } from '../../src/memory/sg-list.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import type { DeviceModel, ModelQueue } from '../../src/vhost/device-model.ts';
import type { RunningRing } from '../../src/vhost/running-ring.ts';
import { Session } from '../../src/vhost/session.ts';
import { DriverRing } from '../../src/virtio/driver-ring.ts';
import { IoList } from '../../src/virtio/io-list.ts';
import { addrBytes, bit, ID, settle, tableBytes, u32s, u64 } from '../support/front-end.ts';
import { SharedGuest } from '../support/front-end-memory.ts';
import { assert, suite } from '../support/suite.ts';
import { FakeTransport } from './fake-transport.ts';

const test = suite('vhost transport');

/** Completes each chain with the bytes it may write, when told to. */
class EchoModel implements DeviceModel, ModelQueue {
  readonly name = 'echo';
  readonly features = bit(32);
  readonly featureBits = { ECHO: 0 };
  readonly maxQueues = 2;
  readonly configBytes = 8;
  readonly config = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
  accepted = 0n;
  stops = 0;
  closed = 0;
  hold = false;
  held: number[] = [];
  private ring!: RunningRing;
  private readonly out = new SgList(8, 64);
  private readonly into = new SgList(8, 64);

  readConfig(offset: number, size: number): Uint8Array | null {
    return offset + size <= 8 ? this.config.slice(offset, offset + size) : null;
  }
  writeConfig(offset: number, data: Uint8Array, migrating: boolean): string | null {
    if (offset + data.length > 8) return 'outside';
    if (offset < 4 && !migrating) return 'read only';
    this.config.set(data, offset);
    return null;
  }
  setFeatures(features: bigint): void {
    this.accepted = features;
  }
  startQueue(ring: RunningRing): ModelQueue {
    this.ring = ring;
    return this;
  }
  poll(): number {
    const head = this.ring.next();
    if (head < 0 || !this.ring.read(head, this.out, this.into)) return 0;
    if (this.hold) this.held.push(head);
    else this.ring.complete(head, this.into.bytes);
    return 1;
  }
  release(): void {
    for (const head of this.held.splice(0)) this.ring.complete(head, 0);
  }
  arm(): boolean {
    return this.ring.ring.armNotifications();
  }
  disarm(): void {}
  stopped(): void {
    this.stops++;
  }
  describe(): Record<string, unknown> {
    return {};
  }
  close(): void {
    this.closed++;
  }
}

class Bench {
  readonly errors: unknown[] = [];
  readonly loop = new EventLoop({ onError: (e) => this.errors.push(e) });
  readonly guest = new SharedGuest([{ gpa: 0x10_0000, size: 0x1_0000 }]);
  readonly transport = new FakeTransport(this.guest);
  readonly model = new EchoModel();
  over = 0;
  readonly session: Session;
  readonly ring: DriverRing;
  private readonly place: { desc: number; avail: number; used: number };

  constructor() {
    const { loop, transport, model } = this;
    this.session = new Session({ loop, transport, model, onClosed: () => this.over++ });
    this.session.open();
    const { guest } = this;
    this.place = { desc: guest.alloc(256, 16), avail: guest.alloc(64, 2), used: guest.alloc(256, 4) };
    const part = (gpa: number) => guest.part(gpa);
    const ring = DriverRing.create(
      { desc: part(this.place.desc), avail: part(this.place.avail), used: part(this.place.used) },
      { size: 16, eventIdx: false },
    );
    if (typeof ring === 'string') throw new Error(ring);
    this.ring = ring;
  }

  /** As a 2.11 master behind a vvu device does it. */
  start(): void {
    const { transport: t, guest } = this;
    t.deliver(ID.SET_FEATURES, u64(bit(32)));
    t.deliver(ID.SET_MEM_TABLE, tableBytes(guest.regions));
    t.deliver(ID.SET_VRING_NUM, u32s(1, 16));
    t.deliver(ID.SET_VRING_BASE, u32s(1, 0));
    const { desc, avail, used } = this.place;
    t.deliver(ID.SET_VRING_ADDR, addrBytes(1, guest.uva(desc), guest.uva(avail), guest.uva(used)));
    t.deliver(ID.SET_VRING_KICK, u64(1 | 0x100));
    t.deliver(ID.SET_VRING_CALL, u64(1));
  }

  /** One chain of `bytes` to write. */
  submit(bytes = 16): number {
    const [out, into] = [new IoList(1), new IoList(1)];
    into.pushAddress(this.guest.alloc(bytes), bytes);
    const head = this.ring.add(out, into, false);
    if (this.ring.publish()) this.transport.kicks.get(1)?.();
    settle(this.loop);
    return head;
  }

  close(): void {
    this.session.end('the test is over');
    settle(this.loop);
    this.model.release();
    settle(this.loop);
    const { over, model, transport, errors } = this;
    this.guest.close();
    this.loop.close();
    if (errors.length > 0) throw errors[0];
    assert.equal([over, model.closed, transport.mapped, transport.closed], [1, 1, 0, true]);
  }
}

function withBench(run: (bench: Bench) => void): () => void {
  return () => {
    const bench = new Bench();
    run(bench);
    bench.close();
  };
}

test(
  'no descriptors: kicks, doorbells and memory come from the transport; only its protocol features are offered',
  withBench((b) => {
    assert.is(b.transport.deliver(ID.GET_PROTOCOL_FEATURES)?.readBigUInt64LE(12), 1n, 'MQ alone');
    b.start();
    const before = b.transport.rung.get(1) ?? 0;
    const head = b.submit();
    assert.is(b.ring.poll(), head);
    assert.is(b.transport.rung.get(1), before + 1);
    assert.is(b.model.accepted, bit(32));
    b.transport.deliver(ID.SET_VRING_CALL, u64(1 | 0x100));
    b.submit();
    assert.is(b.transport.rung.get(1), before + 1, 'NOFD: the guest polls');
  }),
);

test(
  'an interrupted link keeps the conversation: the next message goes on with it',
  withBench((b) => {
    b.start();
    b.submit();
    b.ring.poll();
    b.transport.handler.linkInterrupted('SET_VRING_ERR was refused by the device');
    assert.is(b.session.ended, null);
    b.transport.deliver(ID.SET_VRING_CALL, u64(1));
    const head = b.submit();
    assert.is(b.ring.poll(), head);
    assert.match(String(b.session.describe()['last_error']), /SET_VRING_ERR was refused/);
  }),
);

test(
  'after an interruption GET_FEATURES begins a new conversation, once the old requests have ended',
  withBench((b) => {
    b.start();
    b.model.hold = true;
    b.submit();
    b.transport.handler.linkInterrupted('the master went away');
    assert.is(b.transport.deliver(ID.GET_FEATURES), undefined, 'not yet');
    assert.ok(b.transport.paused);
    settle(b.loop);
    const answers = b.transport.replies.length;
    b.model.release();
    settle(b.loop);
    assert.is(b.transport.replies.length, answers + 1);
    assert.is(b.transport.replies[answers].readBigUInt64LE(12), bit(32) | bit(30));
    assert.not(b.transport.paused);
    assert.is(b.transport.mapped, 0, 'the old memory is gone');
    assert.is(b.session.features, 0n);
    b.model.hold = false;
    assert.is(b.transport.deliver(ID.GET_FEATURES)?.length, 20, 'a second question is a question');
  }),
);

test(
  'memory that the transport cannot map: refused, and the session ends where nobody can be told',
  withBench((b) => {
    b.transport.mapError = 'the regions do not fit the BAR';
    b.transport.deliver(ID.SET_MEM_TABLE, tableBytes(b.guest.regions));
    assert.match(String(b.session.ended), /do not fit the BAR/);
  }),
);

test('config space: read, written, refused', () => {
  const b = new Bench();
  Object.assign(b.transport, { protocolFeatures: bit(9) | bit(3) });
  const session = new Session({
    loop: b.loop,
    transport: b.transport,
    model: b.model,
    onClosed: () => {},
  });
  session.open();
  const t = b.transport;
  t.deliver(ID.SET_PROTOCOL_FEATURES, u64(bit(9) | bit(3)));
  const config = (id: number, offset: number, data: number[], flags = 0) =>
    t.deliver(id, Buffer.concat([u32s(offset, data.length, flags), Buffer.from(data)]), id === ID.SET_CONFIG ? 9 : 1);
  assert.equal([...(config(ID.GET_CONFIG, 2, [0, 0, 0]) as Buffer).subarray(24)], [3, 4, 5]);
  assert.is(config(ID.GET_CONFIG, 6, [0, 0, 0])?.length, 12, 'no payload: an error');
  assert.is(t.deliver(ID.GET_CONFIG, u32s(0, 4, 0))?.length, 12, 'a size that is not the payload\u2019s');
  assert.is(config(ID.SET_CONFIG, 4, [9])?.readUInt32LE(12), 0);
  assert.is(config(ID.SET_CONFIG, 0, [9])?.readUInt32LE(12), 1);
  assert.is(config(ID.SET_CONFIG, 0, [9], 1)?.readUInt32LE(12), 0, 'from a migration');
  assert.is(t.deliver(ID.SET_CONFIG, u32s(0, 4, 0), 9)?.readUInt32LE(12), 1);
  assert.equal([...b.model.config], [9, 2, 3, 4, 9, 6, 7, 8]);
  session.end('done');
  settle(b.loop);
  b.guest.close();
  b.loop.close();
});

test(
  'memory that reads as zeroes for a while stops nothing (the table is swapped under the ring)',
  withBench((b) => {
    b.start();
    b.submit();
    b.ring.poll();
    const [region] = b.guest.regions;
    const whole = region.memory.u8.slice();
    region.memory.u8.fill(0);
    settle(b.loop);
    region.memory.u8.set(whole);
    const head = b.submit();
    assert.is(b.ring.poll(), head);
  }),
);

test('a stop that waits long (three seconds) says for what', () => {
  const b = new Bench();
  b.start();
  b.model.hold = true;
  b.submit();
  b.transport.deliver(ID.GET_VRING_BASE, u32s(1, 0));
  const until = performance.now() + 10_000;
  while (b.session.lastError === null && performance.now() < until) b.loop.turn(100);
  assert.match(String(b.session.lastError), /GET_VRING_BASE waits for requests: 1 of vring 1/);
  b.model.release();
  settle(b.loop);
  assert.is(b.transport.replies.at(-1)?.readUInt32LE(16), 1);
  b.close();
});

test.run();
