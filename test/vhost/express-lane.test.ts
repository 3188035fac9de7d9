/**
 * The express lane against the whole way: the same requests on two controllers, one of whose disks does not tell where its
 * blocks lie. Answers, data, disks and counters are the same afterwards.
 */
import type { BdevChannel } from '../../src/bdev/bdev.ts';
import { createMallocBdev } from '../../src/bdev/malloc-bdev.ts';
import { openMallocChannel } from '../../src/bdev/malloc-channel.ts';
import { Lun } from '../../src/scsi/lun.ts';
import { ScsiTarget } from '../../src/scsi/target.ts';
import { IoList } from '../../src/virtio/io-list.ts';
import { type FrontEnd, type FrontEndRing, LINUX_FEATURES, pump } from '../support/front-end.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { Rig } from './rig.ts';

const BLOCK = 512;
const BLOCKS = 64;
const NOTHING = 0xee;

/** The channel without its DirectAccess. */
function indirectly(channel: BdevChannel): BdevChannel {
  return new Proxy(channel, {
    get: (of, key) => (key === 'direct' ? undefined : bound(of, Reflect.get(of, key))),
    has: (of, key) => key !== 'direct' && Reflect.has(of, key),
  });
}

function bound(of: object, value: unknown): unknown {
  return typeof value === 'function' ? value.bind(of) : value;
}

interface Request {
  opcode: number;
  lba: number;
  blocks: number;
  /** CDB byte 1, and the last. */
  flags: number;
  control: number;
  attribute: number;
  /** lun[0], target, LUN. */
  place: readonly [number, number, number];
  /** Bytes of data-in or data-out, relative to what the command moves. */
  more: number;
  swapped: boolean;
  /** Bytes of header and response before an aligned place. */
  headerShift: number;
  responseShift: number;
  indirect: boolean;
  /** Region of the guest's memory for header and data. */
  region: number;
  /** Descriptors that the data is cut into. */
  pieces: number;
}

const OUT = new Set([0x2a, 0x8a, 0x0a]);

function cdbOf(r: Request): Buffer {
  const cdb = Buffer.alloc(32);
  cdb[0] = r.opcode;
  if (r.opcode === 0x08 || r.opcode === 0x0a) {
    cdb.writeUInt16BE(r.lba & 0xffff, 2);
    cdb[4] = r.blocks;
    cdb[5] = r.control;
  } else if (r.opcode >= 0x80) {
    cdb[1] = r.flags;
    cdb.writeBigUInt64BE(BigInt(r.lba), 2);
    cdb.writeUInt32BE(r.blocks, 10);
    cdb[15] = r.control;
  } else if (r.opcode !== 0) {
    cdb[1] = r.flags;
    cdb.writeUInt32BE(r.lba % 2 ** 32, 2);
    cdb.writeUInt16BE(r.blocks, 7);
    cdb[9] = r.control;
  }
  return cdb;
}

/** One controller, its disk and its guest. */
class Side {
  readonly rig = new Rig();
  readonly disk = createMallocBdev({ name: 'Malloc0', numBlocks: BLOCKS });
  readonly channel = openMallocChannel(this.disk.share());
  readonly lun: Lun;
  readonly frontEnd: FrontEnd;
  readonly ring: FrontEndRing;

  constructor(direct: boolean) {
    const channel = direct ? this.channel : indirectly(this.channel);
    const target = new ScsiTarget();
    this.lun = new Lun({ channel, id: 0, clock: { now: 0 } });
    target.addLun(this.lun);
    target.addLun(new Lun({ channel, id: 3, clock: { now: 0 }, state: this.lun.state }));
    this.rig.controller.add(1, target);
    this.frontEnd = this.rig.connect();
    this.frontEnd.init();
    this.frontEnd.makeRings([0, 1, 2], LINUX_FEATURES);
    this.frontEnd.start();
    this.ring = this.frontEnd.ring(2);
  }

  /** Everything that a batch of requests leaves behind. */
  run(requests: readonly Request[], fill: number): unknown {
    const { guest, loop } = this.frontEnd;
    const free = guest.regions.map((r) => r.free);
    const parts = requests.map((r, n) => {
      const cdb = cdbOf(r);
      const writes = OUT.has(r.opcode) !== r.swapped;
      const bytes = Math.max(0, r.blocks * BLOCK + r.more);
      const header = guest.alloc(64, 8, r.region) + r.headerShift;
      guest.write(header, [
        r.place[0],
        r.place[1],
        0,
        r.place[2],
        0,
        0,
        0,
        0,
        n + 1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        r.attribute,
        0,
        0,
      ]);
      guest.write(header + 19, cdb);
      const response = guest.alloc(112, 8) + r.responseShift;
      guest.write(response, new Uint8Array(108).fill(NOTHING));
      const data = guest.alloc(Math.max(1, bytes), 4, r.region);
      guest.write(data, new Uint8Array(bytes).fill(writes ? fill + n : NOTHING));
      const [out, into] = [new IoList(16), new IoList(16)];
      out.pushAddress(header, 51);
      into.pushAddress(response, 108);
      const piece = Math.max(1, Math.ceil(bytes / r.pieces));
      for (let at = 0; at < bytes; at += piece)
        (writes ? out : into).pushAddress(data + at, Math.min(piece, bytes - at));
      const head = this.ring.driver.add(out, into, r.indirect);
      if (head < 0) throw new Error('the ring is full');
      return { head, response, data, bytes };
    });
    if (this.ring.driver.publish()) this.ring.kick.signal();
    const used = new Map<number, number>();
    pump(
      loop,
      () => {
        for (let head = this.ring.driver.poll(); head >= 0; head = this.ring.driver.poll()) {
          used.set(head, this.ring.driver.usedLength);
        }
        return used.size === requests.length;
      },
      'the answers',
    );
    this.ring.call.drain();
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

  state(): unknown {
    const all = Buffer.from(this.contents());
    const { requests, bad_targets } = this.scsi();
    const { read, write } = this.disk.stats.snapshot();
    return {
      disk: all.toString('hex'),
      requests,
      bad_targets,
      counters: [...this.lun.counters],
      read: [read.count, read.bytes, read.errors],
      write: [write.count, write.bytes, write.errors],
    };
  }

  private scsi(): Record<string, number> {
    return (this.rig.session.describe() as { scsi: Record<string, number> }).scsi;
  }

  /** Requests that went through the lane. */
  lane(): number {
    return this.scsi()['express'] as number;
  }

  vring(): { state: string; publishes: number; next_avail: number } {
    const { vrings } = this.rig.session.describe() as { vrings: { index: number }[] };
    return vrings.find((v) => v.index === 2) as ReturnType<Side['vring']> & { index: number };
  }

  private contents(): Uint8Array {
    this.channel.locate(0, BLOCKS);
    return this.channel.memory?.u8.slice(this.channel.offset, this.channel.offset + BLOCKS * BLOCK) ?? new Uint8Array();
  }

  close(): void {
    this.frontEnd.close();
    this.rig.close();
    this.channel.close();
    this.disk.destroy();
  }
}

/** Mostly plain, and each thing wrong now and then: weights are in tenths. */
const mostly = <T>(usual: fc.Arbitrary<T>, other: fc.Arbitrary<T>) =>
  fc.oneof({ weight: 9, arbitrary: usual }, { weight: 1, arbitrary: other });
const always = <T>(value: T) => fc.constant(value);

const request: fc.Arbitrary<Request> = fc.record({
  opcode: mostly(
    fc.constantFrom(0x28, 0x2a, 0x88, 0x8a),
    fc.constantFrom(0x00, 0x08, 0x0a, 0x2f, 0x35, 0x41, 0x93, 0xff),
  ),
  lba: mostly(fc.nat(BLOCKS - 4), fc.constantFrom(BLOCKS - 1, BLOCKS, 0xffff_ffff, 2 ** 32 + 1, 2 ** 40)),
  blocks: mostly(fc.integer({ min: 1, max: 4 }), fc.constantFrom(0, 5, 255)),
  flags: mostly(always(0), fc.constantFrom(0x08, 0x10, 0x20, 0xe0, 0x02)),
  control: mostly(always(0), fc.constantFrom(0x04, 0x80)),
  attribute: mostly(always(0), fc.nat(255)),
  place: mostly<readonly [number, number, number]>(
    fc.constantFrom([1, 1, 0] as const, [1, 1, 3] as const),
    fc.constantFrom([1, 1, 7] as const, [1, 2, 0] as const, [0, 1, 0] as const),
  ),
  more: mostly(always(0), fc.constantFrom(-512, -1, 1, 512)),
  swapped: mostly(always(false), always(true)),
  headerShift: mostly(always(0), fc.nat(7)),
  responseShift: mostly(fc.constantFrom(0, 3), fc.nat(3)),
  indirect: fc.boolean(),
  region: fc.constantFrom(1, 2),
  pieces: mostly(always(1), fc.integer({ min: 2, max: 5 })),
});

const test = suite('express lane');

test('does what the whole way does', () => {
  const [fast, whole] = [new Side(true), new Side(false)];
  try {
    fc.assert(
      fc.property(fc.array(request, { minLength: 1, maxLength: 40 }), fc.nat(200), (requests, fill) => {
        assert.equal(fast.run(requests, fill), whole.run(requests, fill));
      }),
      budget(300),
    );
    assert.equal(fast.state(), whole.state());
    const lane = fast.lane();
    assert.ok(lane > 100, `only ${lane} requests went through the lane`);
    assert.is(whole.lane(), 0);
  } finally {
    fast.close();
    whole.close();
  }
});

test('what comes together becomes visible together, whichever way each goes', () => {
  const side = new Side(true);
  try {
    // Every other header lies in another region than its response, and so is not plain.
    const requests = Array.from(
      { length: 8 },
      (_, i): Request => ({
        opcode: 0x28,
        lba: i,
        blocks: 1,
        flags: 0,
        control: 0,
        attribute: 0,
        place: [1, 1, 0],
        more: 0,
        swapped: false,
        headerShift: 0,
        responseShift: 0,
        indirect: false,
        region: 1 + (i % 2),
        pieces: 1,
      }),
    );
    const before = side.vring().publishes;
    side.run(requests, 0);
    assert.is(side.lane(), 4);
    assert.is(side.vring().publishes - before, 1);
  } finally {
    side.close();
  }
});

test('nothing is done behind a request that broke the ring', () => {
  for (const direct of [true, false]) {
    const side = new Side(direct);
    try {
      const { guest, loop } = side.frontEnd;
      const { driver, kick } = side.ring;
      const before = (side.state() as { disk: string }).disk;
      const [out, into] = [new IoList(4), new IoList(4)];
      out.pushAddress(guest.alloc(64, 8), 51);
      driver.add(out, into, false); // no place for an answer
      const header = guest.alloc(64, 8);
      guest.write(header, new Uint8Array(51));
      guest.write(header, [1, 1]);
      guest.write(header + 19, [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
      const data = guest.alloc(BLOCK, 4);
      guest.write(data, new Uint8Array(BLOCK).fill(NOTHING));
      out.reset();
      out.pushAddress(header, 51);
      out.pushAddress(data, BLOCK);
      into.pushAddress(guest.alloc(112, 8), 108);
      driver.add(out, into, false);
      if (driver.publish()) kick.signal();
      pump(loop, () => side.vring().state === 'broken', 'the end of the ring');
      assert.ok((side.state() as { disk: string }).disk === before, 'the disk is as it was');
      assert.is(side.vring().next_avail, 1, 'the second was never taken');
    } finally {
      side.close();
    }
  }
});

test.run();
