/**
 * The express lane on vrings whose memory may be exchanged under them (vvu): it goes away between passes and in the middle of
 * batches, and comes back. Each request is answered once, as by the whole way on memory that stays, and the disk holds the same.
 */
import type { BdevChannel, DirectAccess } from '../../src/bdev/bdev.ts';
import { createMallocBdev } from '../../src/bdev/malloc-bdev.ts';
import { openMallocChannel } from '../../src/bdev/malloc-channel.ts';
import { Lun } from '../../src/scsi/lun.ts';
import { ScsiTarget } from '../../src/scsi/target.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { ScsiController } from '../../src/vhost/scsi-controller.ts';
import { ScsiModel } from '../../src/vhost/scsi-model.ts';
import { Session } from '../../src/vhost/session.ts';
import { DriverRing, tablesBytes } from '../../src/virtio/driver-ring.ts';
import { IoList } from '../../src/virtio/io-list.ts';
import { addrBytes, bit, ID, settle, tableBytes, u32s, u64 } from '../support/front-end.ts';
import { SharedGuest } from '../support/front-end-memory.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { FakeTransport } from './fake-transport.ts';
import { Flicker, type Impostor } from './flicker.ts';

const BLOCK = 512;
const BLOCKS = 64;
/** Reads are of the lower half, writes to what is between; nobody asks for the last blocks but memory that is not the guest's. */
const HALF = 32;
const FORBIDDEN = BLOCKS - 4;
const QUEUE = 2;
const SIZE = 64;
const FEATURES = bit(28) | bit(32);

interface Request {
  /** 0x28, 0x2a, 0x88, 0x8a or others. */
  opcode: number;
  lba: number;
  blocks: number;
  pieces: number;
  target: number;
  indirect: boolean;
  fua: boolean;
}

/** The memory goes away before a pass (0), or after so many looks in it. */
interface Departure {
  moment: number;
  impostor: Impostor;
}

const isWrite = (opcode: number): boolean => opcode === 0x2a || opcode === 0x8a;

class Side {
  readonly errors: unknown[] = [];
  readonly loop = new EventLoop({ onError: (e) => this.errors.push(e) });
  readonly guest = new SharedGuest([
    { gpa: 0, size: 0x4000 },
    { gpa: 0x10_0000, size: 0x4_0000 },
  ]);
  readonly transport = new FakeTransport(this.guest);
  readonly disk = createMallocBdev({ name: 'Malloc0', numBlocks: BLOCKS });
  readonly channel = openMallocChannel(this.disk.share());
  readonly lun: Lun;
  readonly session: Session;
  readonly driver: DriverRing;
  readonly flicker: Flicker;
  private readonly tables: number;

  constructor(lane: boolean) {
    const { loop, transport, channel, guest } = this;
    this.contents().forEach((_, i, all) => {
      all[i] = (i / BLOCK) * 3 + 1;
    });
    const place = {
      desc: guest.alloc(16 * SIZE, 16, 0),
      avail: guest.alloc(6 + 2 * SIZE, 2, 0),
      used: guest.alloc(6 + 8 * SIZE, 4, 0),
    };
    this.flicker = new Flicker(guest, place.used + 2);
    if (channel.memory !== null) this.flicker.watch(channel.memory);
    const direct: DirectAccess = {
      locate: (lba, blocks) => {
        this.flicker.tick();
        return channel.locate(lba, blocks);
      },
      get memory() {
        return channel.memory;
      },
      get offset() {
        return channel.offset;
      },
      done: (op, requests, bytes, ns) => channel.done(op, requests, bytes, ns),
    };
    const shown = new Proxy<BdevChannel>(channel, {
      get: (of, key) => {
        if (key === 'direct') return lane ? direct : undefined;
        const value = Reflect.get(of, key);
        return typeof value === 'function' ? value.bind(of) : value;
      },
    });
    const controller = new ScsiController(loop);
    const target = new ScsiTarget();
    this.lun = new Lun({ channel: shown, id: 0, clock: { now: 0 } });
    target.addLun(this.lun);
    controller.add(1, target);
    this.session = new Session({ loop, transport, model: new ScsiModel(controller), onClosed: () => {} });
    this.session.open();
    this.tables = Math.ceil(guest.alloc(tablesBytes(SIZE, 8) + 4096, 8) / 4096) * 4096;
    const { memory, offset } = guest.part(this.tables);
    const addressOf = (at: number) => this.tables + at - offset;
    const ring = DriverRing.create(
      { desc: guest.part(place.desc), avail: guest.part(place.avail), used: guest.part(place.used) },
      { size: SIZE, eventIdx: false, tables: { memory, offset, addressOf, entries: 8 } },
    );
    if (typeof ring === 'string') throw new Error(ring);
    this.driver = ring;
    transport.deliver(ID.SET_FEATURES, u64(FEATURES));
    transport.deliver(ID.SET_MEM_TABLE, tableBytes(guest.regions));
    transport.deliver(ID.SET_VRING_NUM, u32s(QUEUE, SIZE));
    transport.deliver(ID.SET_VRING_BASE, u32s(QUEUE, 0));
    const { desc, avail, used } = place;
    transport.deliver(ID.SET_VRING_ADDR, addrBytes(QUEUE, guest.uva(desc), guest.uva(avail), guest.uva(used)));
    transport.deliver(ID.SET_VRING_KICK, u64(QUEUE | 0x100));
    transport.deliver(ID.SET_VRING_CALL, u64(QUEUE));
    settle(loop);
  }

  contents(): Uint8Array {
    this.channel.locate(0, BLOCKS);
    const { memory, offset } = this.channel;
    return memory?.u8.subarray(offset, offset + BLOCKS * BLOCK) ?? new Uint8Array();
  }

  private put(r: Request, fill: number) {
    const { guest } = this;
    const writes = isWrite(r.opcode);
    const bytes = r.opcode === 0 ? 0 : r.blocks * BLOCK;
    const header = guest.alloc(64, 8);
    const cdb = Buffer.alloc(32);
    cdb[0] = r.opcode;
    if (r.opcode >= 0x80) {
      cdb.writeBigUInt64BE(BigInt(r.lba), 2);
      cdb.writeUInt32BE(r.blocks, 10);
    } else if (r.opcode === 0x08) {
      cdb.writeUInt16BE(r.lba, 2);
      cdb[4] = r.blocks;
    } else if (r.opcode !== 0) {
      cdb.writeUInt32BE(r.lba, 2);
      cdb.writeUInt16BE(r.blocks, 7);
    }
    if (r.fua && r.opcode > 0x20) cdb[1] = 8;
    guest.write(header, [1, r.target]);
    guest.write(header + 19, cdb);
    const response = guest.alloc(112, 8);
    guest.write(response, new Uint8Array(108).fill(0xee));
    const data = guest.alloc(Math.max(1, bytes), 8);
    guest.write(data, new Uint8Array(bytes).fill(writes ? fill : 0xee));
    const [out, into] = [new IoList(16), new IoList(16)];
    out.pushAddress(header, 51);
    into.pushAddress(response, 108);
    const piece = Math.max(1, Math.ceil(bytes / r.pieces));
    for (let at = 0; at < bytes; at += piece) (writes ? out : into).pushAddress(data + at, Math.min(piece, bytes - at));
    const head = this.driver.add(out, into, r.indirect);
    if (head < 0) throw new Error('the ring is full');
    return { head, header, response, data, bytes, opcode: r.opcode };
  }

  /** @returns what each request left behind */
  run(requests: readonly Request[], fill: number, departures: readonly Departure[]): unknown {
    const { guest, flicker, driver, loop, transport } = this;
    const free = guest.regions.map((r) => r.free);
    const parts = requests.map((r, n) => this.put(r, (fill + n) & 0xff));
    flicker.disguise = () => {
      for (const { header, data, bytes, opcode } of parts) {
        if (opcode > 0x20)
          guest.write(header + 21, opcode < 0x80 ? [0, 0, 0, FORBIDDEN] : [0, 0, 0, 0, 0, 0, 0, FORBIDDEN]);
        guest.write(data, new Uint8Array(bytes).fill(0xbb));
      }
    };
    if (driver.publish()) transport.kicks.get(QUEUE)?.();
    const used = new Map<number, number>();
    const left = [...departures];
    for (let passes = 0; used.size < requests.length; passes++) {
      assert.ok(passes < 1000, 'the answers come');
      const departure = left.shift();
      if (departure?.moment === 0) flicker.leave(departure.impostor);
      else if (departure !== undefined) flicker.leaveAfter(departure.moment, departure.impostor);
      if (!flicker.away) loop.turn(0);
      if (flicker.away) {
        flicker.look();
        settle(loop, 3);
        flicker.untouched();
      }
      flicker.back();
      transport.kicks.get(QUEUE)?.();
      for (let head = driver.poll(); head >= 0; head = driver.poll()) {
        assert.not(used.has(head), 'a head came back twice');
        used.set(head, driver.usedLength);
      }
      assert.is(driver.broken, null);
    }
    settle(loop, 2);
    assert.ok(driver.poll() < 0 && driver.broken === null, 'nothing comes after the last');
    const answers = parts.map((p) => ({
      used: used.get(p.head),
      response: Buffer.from(guest.read(p.response, 108)).toString('hex'),
      data: Buffer.from(guest.read(p.data, Math.max(1, p.bytes))).toString('hex'),
    }));
    guest.regions.forEach((r, i) => {
      r.free = free[i] as number;
    });
    return answers;
  }

  scsi(): Record<string, number> {
    return (this.session.describe() as { scsi: Record<string, number> }).scsi;
  }

  close(): void {
    this.session.end('the test is over');
    settle(this.loop);
    this.channel.close();
    this.disk.destroy();
    this.guest.close();
    this.loop.close();
    if (this.errors.length > 0) throw this.errors[0];
  }
}

const reading = fc.record({
  opcode: fc.oneof({ weight: 8, arbitrary: fc.constantFrom(0x28, 0x88) }, fc.constantFrom(0x00, 0x08)),
  lba: fc.nat(HALF - 4),
});
const writing = fc.record({
  opcode: fc.constantFrom(0x2a, 0x8a),
  // Now and then one that is refused, and so goes the whole way.
  lba: fc.oneof({ weight: 9, arbitrary: fc.integer({ min: HALF, max: FORBIDDEN - 4 }) }, fc.constant(BLOCKS)),
});
const request: fc.Arbitrary<Request> = fc
  .tuple(
    fc.oneof(reading, writing),
    fc.record({
      blocks: fc.integer({ min: 1, max: 4 }),
      pieces: fc.oneof({ weight: 9, arbitrary: fc.constant(1) }, fc.integer({ min: 2, max: 3 })),
      target: fc.oneof({ weight: 19, arbitrary: fc.constant(1) }, fc.constant(7)),
      indirect: fc.boolean(),
      fua: fc.oneof({ weight: 9, arbitrary: fc.constant(false) }, fc.constant(true)),
    }),
  )
  .map(([a, b]) => ({ ...a, ...b }));
const departure: fc.Arbitrary<Departure> = fc.record({
  moment: fc.oneof(fc.constant(0), fc.nat(12), fc.nat(60)),
  impostor: fc.constantFrom<Impostor>('zeroes', 'garbage', 'likeness'),
});

const test = suite('express lane, vvu');

test('each request is answered once and rightly, whenever the memory goes away', () => {
  const [fast, whole] = [new Side(true), new Side(false)];
  try {
    fc.assert(
      fc.property(
        fc.array(request, { minLength: 1, maxLength: 20 }),
        fc.array(departure, { maxLength: 4 }),
        fc.nat(255),
        (requests, departures, fill) => {
          assert.equal(fast.run(requests, fill, departures), whole.run(requests, fill, []));
          assert.ok(Buffer.compare(fast.contents(), whole.contents()) === 0, 'the disks are the same');
        },
      ),
      budget(300),
    );
    const { express } = fast.scsi();
    assert.ok((express as number) > 300, `only ${express} requests went through the lane`);
    assert.ok(fast.flicker.middles > 30, `the memory went away only ${fast.flicker.middles} times in the middle`);
    assert.is(whole.scsi()['express'], 0);
    assert.ok(fast.lun.state.beginExclusive(5), 'no write counts as under way');
    fast.lun.state.endExclusive(5);
  } finally {
    fast.close();
    whole.close();
  }
});

test('the whole way, too', () => {
  const [flickers, stays] = [new Side(false), new Side(false)];
  try {
    fc.assert(
      fc.property(
        fc.array(request, { minLength: 1, maxLength: 20 }),
        fc.array(departure, { maxLength: 4 }),
        fc.nat(255),
        (requests, departures, fill) => {
          assert.equal(flickers.run(requests, fill, departures), stays.run(requests, fill, []));
          assert.ok(Buffer.compare(flickers.contents(), stays.contents()) === 0, 'the disks are the same');
        },
      ),
      budget(100),
    );
  } finally {
    flickers.close();
    stays.close();
  }
});

test('nothing is counted of a batch that went astray, and all of it when it comes again', () => {
  const side = new Side(true);
  try {
    const requests = Array.from({ length: 8 }, (_, i): Request => {
      return { opcode: 0x2a, lba: HALF + i, blocks: 1, pieces: 1, target: 1, indirect: false, fua: false };
    });
    for (let moment = 0; moment < 60; moment++) {
      const before = [side.scsi()['requests'], side.scsi()['express'], side.disk.stats.snapshot().write.count];
      side.run(requests, moment, [{ moment, impostor: 'likeness' }]);
      const after = [side.scsi()['requests'], side.scsi()['express'], side.disk.stats.snapshot().write.count];
      const more = after.map((n, i) => (n as number) - (before[i] as number));
      assert.equal(more, [8, 8, 8], `moment ${moment}`);
    }
    assert.is(side.contents()[FORBIDDEN * BLOCK], (FORBIDDEN * 3 + 1) & 0xff);
  } finally {
    side.close();
  }
});

test.run();
