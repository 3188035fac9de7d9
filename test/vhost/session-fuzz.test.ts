/**
 * A mostly valid, sometimes hostile front end and guest against a session, over a real socket. After each run:
 * nothing threw; the session has ended or still answers; no byte outside the guest's own buffers has changed; no
 * descriptor and no mapping stays. Replay a failure with FC_SEED and FC_PATH.
 */
import { EventFd } from '../../src/sys/eventfd.ts';
import type { Fd } from '../../src/sys/fd.ts';
import { memfd } from '../../src/sys/mapping.ts';
import { connectUnix, recvWithFds, sendWithFds } from '../../src/sys/socket.ts';
import {
  addrBytes,
  bit,
  header,
  ID,
  inflightBytes,
  openFds,
  pump,
  regionBytes,
  settle,
  tableBytes,
  u32s,
  u64,
} from '../support/front-end.ts';
import { SharedGuest } from '../support/front-end-memory.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { Rig } from './rig.ts';
import { SlowDisk } from './slow-disk.ts';

const test = suite('vhost session fuzz');

/** Region 0 is nobody's: no descriptor and no ring leads there. Rings and buffers lie in region 1. */
const REGIONS = [
  { gpa: 0, size: 0x4000 },
  { gpa: 0x10_0000, size: 0x4_0000 },
  { gpa: 0x1_0000_0000, size: 0x1_0000 },
];
const HOME = 0x10_0000;
const RING_STRIDE = 0x8000;
const BUFFERS = HOME + 0x2_8000;
const RINGS = 4;
/** Everything that the session offers. */
const PROTOCOL = 0x1b009n;

/** Where ring `k` lies, by guest address. */
const place = (k: number) => ({
  desc: HOME + k * RING_STRIDE,
  avail: HOME + k * RING_STRIDE + 0x4000,
  used: HOME + k * RING_STRIDE + 0x5000,
});

class Fuzzer {
  readonly rig: Rig;
  readonly guest = new SharedGuest(REGIONS);
  private socket: Fd;
  private readonly event = new EventFd();
  private readonly small = memfd('small', 4096);
  private region: { fd: Fd; bytes: Buffer } | null = null;
  private replies = 0;
  private beginning = false;
  private readonly size = [16, 16, 16, 16];

  constructor(rig: Rig) {
    this.rig = rig;
    this.socket = connectUnix(rig.path);
    this.begin();
    this.guest.write(0, new Uint8Array(REGIONS[0].size).fill(0xa5));
  }

  /** Send without waiting. A socket that is full belongs to a session that has paused: that is the end of it. */
  send(bytes: Uint8Array, fds: readonly Fd[] = []): void {
    try {
      if (sendWithFds(this.socket, bytes, fds) !== bytes.length) this.reconnect();
    } catch {
      this.reconnect(); // the back end has hung up
    }
  }

  message(id: number, payload: Uint8Array = Buffer.alloc(0), fds: readonly Fd[] = [], flags = 1): void {
    this.send(Buffer.concat([header(id, flags, payload.length), payload]), fds);
  }

  /** Take all replies. @returns false when the back end has hung up */
  drain(): boolean {
    const buffer = Buffer.alloc(4096);
    for (;;) {
      const r = recvWithFds(this.socket, buffer, 8);
      if (r.fds.length > 0) {
        // The only reply with a descriptor is GET_INFLIGHT_FD's; it comes alone or after others.
        this.region?.fd.close();
        const bytes = Buffer.from(buffer.subarray(r.bytes - 24, r.bytes));
        this.region = { fd: r.fds[0], bytes };
        for (const fd of r.fds.slice(1)) fd.close();
      }
      if (r.bytes < 0) return true;
      if (r.bytes === 0) return false;
      this.replies++;
    }
  }

  /** Requests that sessions took before they ended. */
  requests = 0;

  countRequests(): void {
    for (const s of this.rig.server.sessions) {
      this.requests += (s.model.describe() as { requests: number }).requests;
    }
  }

  reconnect(): void {
    this.countRequests();
    this.socket.close();
    settle(this.rig.loop, 3);
    // As many front ends as a controller takes may still be there, waiting for the disk.
    if (this.rig.server.sessions.size >= 8) this.release();
    pump(this.rig.loop, () => this.rig.server.sessions.size < 8, 'sessions to end');
    this.socket = connectUnix(this.rig.path);
    this.begin();
  }

  /** Mostly a driver is at work: hostile things happen to a ring that runs. */
  begin(): void {
    if (this.beginning) return;
    this.beginning = true;
    this.message(ID.SET_PROTOCOL_FEATURES, u64(PROTOCOL));
    this.start([0, 1, 2], 0x1_7000_0006n);
    this.beginning = false;
  }

  release(): void {
    const { disk } = this.rig;
    disk.hold = false;
    disk.release();
  }

  fdsOf(kinds: readonly number[]): Fd[] {
    return kinds.map((k) => [this.event.fd, this.guest.regions[k % 3].fd, this.small][Math.min(k, 2)]);
  }

  start(rings: readonly number[], features: bigint): void {
    const { guest } = this;
    for (const k of rings) this.message(ID.GET_VRING_BASE, u32s(k, 0));
    settle(this.rig.loop, 4);
    this.message(ID.SET_FEATURES, u64(features));
    this.message(
      ID.SET_MEM_TABLE,
      tableBytes(guest.regions),
      guest.regions.map((r) => r.fd),
    );
    for (const k of rings) {
      const p = place(k);
      // A fresh ring, as a driver makes it.
      guest.write(p.avail, new Uint8Array(4));
      guest.write(p.used, new Uint8Array(4));
      this.message(ID.SET_VRING_NUM, u32s(k, this.size[k]));
      this.message(ID.SET_VRING_BASE, u32s(k, 0));
      this.message(ID.SET_VRING_ADDR, addrBytes(k, guest.uva(p.desc), guest.uva(p.avail), guest.uva(p.used)));
      this.message(ID.SET_VRING_KICK, u64(k), [this.event.fd]);
      this.message(ID.SET_VRING_ENABLE, u32s(k, 1));
    }
  }

  desc(k: number, i: number, addr: bigint, len: number, flags: number, next: number): void {
    const b = Buffer.alloc(16);
    b.writeBigUInt64LE(BigInt.asUintN(64, addr));
    b.writeUInt32LE(len >>> 0, 8);
    b.writeUInt16LE(flags, 12);
    b.writeUInt16LE(next, 14);
    this.guest.write(place(k).desc + 16 * i, b);
  }

  avail(k: number, head: number, step: number): void {
    const p = place(k);
    const idx = this.guest.u16(p.avail + 2);
    this.guest.u16(p.avail + 4 + 2 * (idx % this.size[k]), head);
    this.guest.u16(p.avail + 2, (idx + step) & 0xffff);
    this.event.signal();
  }

  /** A well formed command in descriptors 3i to 3i + 2 of ring k. */
  command(k: number, i: number, target: number, cdb: readonly number[], out: boolean, bytes: number): void {
    const at = BUFFERS + (i % 4) * 0x1000 + k * 0x4000;
    const request = Buffer.alloc(51);
    request.set([1, target, 0, 0], 0);
    request.writeUInt32LE(i, 8);
    request.set(cdb, 19);
    this.guest.write(at, request);
    const d = (3 * i) % (this.size[k] - 2);
    this.desc(k, d, BigInt(at), 51, 1, d + 1);
    if (out) {
      this.desc(k, d + 1, BigInt(at + 0x200), bytes, 1, d + 2);
      this.desc(k, d + 2, BigInt(at + 0x100), 108, 2, 0);
    } else {
      this.desc(k, d + 1, BigInt(at + 0x100), 108, 3, d + 2);
      this.desc(k, d + 2, BigInt(at + 0x200), bytes, 2, 0);
    }
    this.avail(k, d, 1);
  }

  inflight(own: boolean): void {
    if (own && this.region !== null) this.message(ID.SET_INFLIGHT_FD, this.region.bytes, [this.region.fd]);
    else this.message(ID.SET_INFLIGHT_FD, inflightBytes(4096, 0, 2, 64), [this.guest.regions[1].fd]);
  }

  /** Nothing may be wrong now; then tidy up. */
  finish(): void {
    this.release();
    settle(this.rig.loop, 5);
    if (this.drain()) {
      const before = this.replies;
      // Complete whatever message is half sent, and ask a question: an answer or the end must come.
      this.send(Buffer.concat([Buffer.alloc(5000), header(ID.GET_FEATURES, 1, 0)]));
      pump(this.rig.loop, () => !this.drain() || this.replies > before, 'an answer or the end');
    }
    const untouched = this.guest.read(0, REGIONS[0].size).every((b) => b === 0xa5);
    assert.ok(untouched, 'memory that no descriptor named was written');
    this.socket.close();
    this.region?.fd.close();
    this.event.close();
    this.small.close();
  }
}

type Action = (f: Fuzzer) => void;

const ring = fc.nat(RINGS - 1);
const index = fc.oneof(
  { weight: 20, arbitrary: ring },
  { weight: 1, arbitrary: fc.constantFrom(5, 127, 128, 255, 0xffff_ffff) },
);
const u32 = fc.oneof(fc.nat(300), fc.constantFrom(0xffff, 0x1_0000, 0x8000_0000, 0xffff_ffff));
/** Mostly with an acknowledgement, so that a refusal is an answer and not the end. */
const flags = fc.oneof({ weight: 14, arbitrary: fc.constant(9) }, { weight: 1, arbitrary: fc.constant(1) });
const features = fc.constantFrom(
  bit(30) | bit(32),
  bit(32),
  bit(28) | bit(29) | bit(30) | bit(32) | bit(1) | bit(2),
  0n,
);
const ringNum = fc.constantFrom(16, 16, 16, 16, 16, 16, 1, 2, 8, 0, 3, 1024, 2048);
const fdKinds = fc.array(fc.nat(2), { maxLength: 3 });
const cdb = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom([0x28, 0, 0, 0, 0, 7, 0, 0, 1], [0x2a, 0, 0, 0, 0, 3, 0, 0, 2]) },
  fc.constantFrom(
    [0x12, 0, 0, 0, 96],
    [0],
    [0x28, 0, 0, 0, 0, 1, 0, 0, 2],
    [0x2a, 0, 0, 0, 0, 9, 0, 0, 1],
    [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
  ),
  fc.array(fc.nat(255), { minLength: 6, maxLength: 32 }),
);

/** Guest addresses: inside, at the edges, wrapping; never in region 0. */
const address = fc.oneof(
  { weight: 8, arbitrary: fc.nat(0x1_7fff).map((n) => BigInt(BUFFERS + n)) },
  fc.nat(0xffff).map((n) => 0x1_0000_0000n + BigInt(n)),
  fc.constantFrom(0x13_fffen, 0x14_0000n, 0x1_0000_fff0n, 0xffff_f000n, 2n ** 52n, 2n ** 64n - 8n, 2n ** 64n - 0x1000n),
);
/** Regions of a table: mostly all. */
const tables: fc.Arbitrary<number[]> = fc.oneof(
  { weight: 6, arbitrary: fc.constant<number[]>([0, 1, 2]) },
  fc.subarray([0, 1, 2]),
);
const transfer = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(512, 1024, 0x800) },
  fc.nat(600),
  fc.constantFrom(0, 0x4_0000),
);
const length = fc.oneof(fc.nat(600), fc.constantFrom(0, 51, 108, 16, 0x1000, 0x8000_0000, 0xffff_ffff));

const action: fc.Arbitrary<Action> = fc.oneof(
  // A driver at work.
  {
    weight: 8,
    arbitrary: fc.record({ rings: fc.subarray([0, 1, 2, 3], { minLength: 1 }), w: features }).map(
      ({ rings, w }): Action =>
        (f) =>
          f.start(rings, w),
    ),
  },
  {
    weight: 24,
    arbitrary: fc
      .record({
        k: fc.constantFrom(2, 2, 3, 0),
        i: fc.nat(9),
        t: fc.constantFrom(0, 0, 0, 1, 9),
        c: cdb,
        out: fc.boolean(),
        n: transfer,
      })
      .map(
        ({ k, i, t, c, out, n }): Action =>
          (f) =>
            f.command(k, i, t, c, out, n),
      ),
  },
  {
    weight: 6,
    arbitrary: fc.record({ k: ring, i: fc.nat(15), a: address, n: length, g: fc.nat(7), x: fc.nat(20) }).map(
      ({ k, i, a, n, g, x }): Action =>
        (f) =>
          f.desc(k, i, a, n, g, x),
    ),
  },
  {
    weight: 4,
    arbitrary: fc.record({ k: ring, h: fc.nat(18), s: fc.constantFrom(1, 1, 1, 2, 0, 16, 17, 40000) }).map(
      ({ k, h, s }): Action =>
        (f) =>
          f.avail(k, h, s),
    ),
  },
  {
    weight: 6,
    arbitrary: fc.nat(30).map(
      (n): Action =>
        (f) =>
          settle(f.rig.loop, n),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.constant((f: Fuzzer) => {
      f.rig.disk.hold = true;
    }),
  },
  {
    weight: 3,
    arbitrary: fc.nat(5).map(
      (n): Action =>
        (f) =>
          f.rig.disk.release(n),
    ),
  },
  { weight: 1, arbitrary: fc.constant((f: Fuzzer) => f.release()) },
  // Messages, valid and nearly so.
  {
    weight: 4,
    arbitrary: fc.record({ id: fc.constantFrom(1, 3, 4, 15, 17, 34, 36, 40), g: flags }).map(
      ({ id, g }): Action =>
        (f) =>
          f.message(id, undefined, [], g),
    ),
  },
  {
    weight: 3,
    arbitrary: fc.record({ i: index, n: ringNum, g: flags }).map(
      ({ i, n, g }): Action =>
        (f) =>
          f.message(ID.SET_VRING_NUM, u32s(i, n), [], g),
    ),
  },
  {
    weight: 3,
    arbitrary: fc.record({ i: index, n: u32, g: flags }).map(
      ({ i, n, g }): Action =>
        (f) =>
          f.message(ID.SET_VRING_BASE, u32s(i, n), [], g),
    ),
  },
  {
    weight: 6,
    arbitrary: ring.map(
      (i): Action =>
        (f) =>
          f.message(ID.GET_VRING_BASE, u32s(i, 0)),
    ),
  },
  {
    weight: 3,
    arbitrary: fc.record({ i: index, on: fc.nat(2), g: flags }).map(
      ({ i, on, g }): Action =>
        (f) =>
          f.message(ID.SET_VRING_ENABLE, u32s(i, on), [], g),
    ),
  },
  {
    weight: 4,
    arbitrary: fc
      .record({
        id: fc.constantFrom(ID.SET_VRING_KICK, ID.SET_VRING_CALL, ID.SET_VRING_ERR),
        i: ring,
        no: fc.boolean(),
        odd: fc.nat(19),
        kinds: fdKinds,
        g: flags,
      })
      .map(
        ({ id, i, no, odd, kinds, g }): Action =>
          (f) =>
            f.message(id, u64(no ? i | 0x100 : i), odd === 0 ? f.fdsOf(kinds) : no ? [] : f.fdsOf([0]), g),
      ),
  },
  {
    weight: 2,
    arbitrary: fc
      .record({ i: index, k: ring, d: fc.constantFrom(0, 0, 0, 0, 0, 0, 0, 0, 1, 8, 0x3_ffff), g: flags })
      .map(
        ({ i, k, d, g }): Action =>
          (f) => {
            const p = place(k);
            f.message(
              ID.SET_VRING_ADDR,
              addrBytes(i, f.guest.uva(p.desc) + d, f.guest.uva(p.avail), f.guest.uva(p.used)),
              [],
              g,
            );
          },
      ),
  },
  {
    weight: 3,
    arbitrary: fc
      .record({
        pick: tables,
        short: fc.nat(9),
        move: fc.constantFrom(0, 0, 0, 0, 0, 0, 0, 0, 1, 0x1000),
        g: flags,
      })
      .map(
        ({ pick, short, move, g }): Action =>
          (f) => {
            const regions = pick.map((i) => f.guest.regions[i]);
            const fds = regions.map((r) => r.fd);
            if (short === 0) fds.pop();
            f.message(
              ID.SET_MEM_TABLE,
              tableBytes(regions.map((r) => ({ gpa: r.gpa + move, size: r.size, uva: r.uva, offset: 0 }))),
              fds,
              g,
            );
          },
      ),
  },
  {
    weight: 2,
    arbitrary: fc
      .record({ add: fc.boolean(), i: fc.nat(2), size: fc.constantFrom(0, 0, 0x1000, 0x1_0000_0000), g: flags })
      .map(
        ({ add, i, size, g }): Action =>
          (f) => {
            const r = f.guest.regions[i];
            const bytes = Buffer.concat([
              u64(0),
              regionBytes({ gpa: r.gpa, size: size || r.size, uva: r.uva, offset: 0 }),
            ]);
            f.message(add ? ID.ADD_MEM_REG : ID.REM_MEM_REG, bytes, add ? [r.fd] : [], g);
          },
      ),
  },
  {
    weight: 2,
    arbitrary: fc.record({ w: features, g: flags }).map(
      ({ w, g }): Action =>
        (f) =>
          f.message(ID.SET_FEATURES, u64(w), [], g),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom(0x1b009n, 0n, 0x8n, 0xffff_ffffn).map(
      (w): Action =>
        (f) =>
          f.message(ID.SET_PROTOCOL_FEATURES, u64(w)),
    ),
  },
  {
    weight: 1,
    arbitrary: fc.nat(300).map(
      (s): Action =>
        (f) =>
          f.message(ID.SET_STATUS, u64(s)),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.record({ q: fc.constantFrom(4, 4, 4, 0, 200), n: fc.constantFrom(16, 16, 128, 0, 3000) }).map(
      ({ q, n }): Action =>
        (f) =>
          f.message(ID.GET_INFLIGHT_FD, inflightBytes(0, 0, q, n)),
    ),
  },
  {
    weight: 3,
    arbitrary: fc.nat(4).map(
      (n): Action =>
        (f) =>
          f.inflight(n > 0),
    ),
  },
  // Bytes.
  {
    weight: 1,
    arbitrary: fc
      .record({
        id: fc.nat(60),
        g: fc.constantFrom(1, 1, 1, 9, 0, 5, 0x11),
        n: fc.nat(300),
        body: fc.uint8Array({ maxLength: 80 }),
        kinds: fdKinds,
      })
      .map(
        ({ id, g, n, body, kinds }): Action =>
          (f) =>
            f.send(Buffer.concat([header(id, g, n), body]), f.fdsOf(kinds)),
      ),
  },
  {
    weight: 3,
    arbitrary: fc.constant((f: Fuzzer) => {
      if (!f.drain()) f.reconnect();
    }),
  },
  { weight: 2, arbitrary: fc.constant((f: Fuzzer) => f.reconnect()) },
  // The operator.
  {
    weight: 1,
    arbitrary: fc.boolean().map(
      (add): Action =>
        (f) => {
          const { controller, loop } = f.rig;
          if (add && controller.entries[1] === null) controller.add(1, f.rig.target(new SlowDisk(64)));
          else if (!add) controller.remove(1, () => loop.now);
        },
    ),
  },
  {
    weight: 1,
    arbitrary: fc.constant((f: Fuzzer) => {
      JSON.stringify(f.rig.server.describe());
    }),
  },
);

test('any sequence of messages and ring content', () => {
  new Rig().close();
  const before = openFds();
  let ended = 0;
  let executed = 0;
  let broken = 0;
  let requests = 0;
  fc.assert(
    fc.property(fc.array(action, { minLength: 5, maxLength: 100, size: 'max' }), (actions) => {
      const rig = new Rig();
      const fuzzer = new Fuzzer(rig);
      try {
        settle(rig.loop, 2);
        for (const act of actions) {
          act(fuzzer);
          rig.loop.turn(0);
          if (rig.errors.length > 0) throw rig.errors[0];
        }
        for (const s of rig.server.sessions) broken += s.vrings.some((v) => v.failures > 0) ? 1 : 0;
        fuzzer.countRequests();
        requests += fuzzer.requests;
        fuzzer.finish();
        executed += rig.disk.executed.length;
        ended += rig.server.ends.length;
      } finally {
        rig.close(); // throws when a handler threw or memory stayed
        fuzzer.guest.close();
      }
      assert.ok(openFds() <= before, 'descriptors stayed open'); // the loader may close some of its own
    }),
    budget(1200) as fc.Parameters<[Action[]]>,
  );
  // The fuzzer is worth its time only when it gets somewhere.
  console.log(
    `\n${ended} sessions ended early, ${broken} had a broken vring, ${requests} requests, ${executed} at the disk`,
  );
  assert.ok(executed > 0 && ended > 0 && broken > 0);
});

test.run();
