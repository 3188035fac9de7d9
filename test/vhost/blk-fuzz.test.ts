/**
 * Any block requests, in any pieces, on a disk of either block size: each is answered as a plain reading of virtio 1.2 §5.2
 * says, and the disk holds what that reading leaves there. Replay a failure with FC_SEED and FC_PATH.
 */
import { settle } from '../support/front-end.ts';
import { ranges, S, T } from '../support/front-end-blk.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { BlkRig } from './blk-rig.ts';

const test = suite('vhost blk fuzz');
/** Sectors of the disk. */
const SECTORS = 512;

interface Request {
  type: number;
  sector: bigint;
  out: Uint8Array;
  inLength: number;
  cut: number;
  queue: number;
}

interface Expected {
  status: number;
  data?: Uint8Array;
}

/** The disk as the requests should leave it, and what each should be answered. */
class Reading {
  readonly bytes = new Uint8Array(SECTORS * 512);
  private readonly block: number;

  constructor(block: number) {
    this.block = block;
  }

  private outside(sector: bigint, sectors: number): boolean {
    const per = BigInt(this.block / 512);
    return sector % per !== 0n || BigInt(sectors) % per !== 0n || sector + BigInt(sectors) > BigInt(SECTORS);
  }

  answer({ type, sector, out, inLength }: Request): Expected {
    if (type === T.FLUSH) return { status: S.OK };
    if (type === T.GET_ID) return { status: S.OK };
    if (type === T.IN || type === T.OUT) {
      const [bytes, other] = type === T.IN ? [inLength, out.length] : [out.length, inLength];
      if (other > 0 || bytes % this.block !== 0 || this.outside(sector, bytes / 512)) return { status: S.IOERR };
      const at = Number(sector) * 512;
      if (type === T.OUT) this.bytes.set(out, at);
      return { status: S.OK, ...(type === T.IN ? { data: this.bytes.slice(at, at + bytes) } : {}) };
    }
    if (type !== T.DISCARD && type !== T.WRITE_ZEROES) return { status: S.UNSUPP };
    if (out.length === 0 || out.length % 16 !== 0 || out.length > 256 || inLength > 0) return { status: S.IOERR };
    const list = Buffer.from(out);
    const found: [bigint, number][] = [];
    for (let at = 0; at < list.length; at += 16) {
      const [first, sectors, flags] = [list.readBigUInt64LE(at), list.readUInt32LE(at + 8), list.readUInt32LE(at + 12)];
      if ((flags & ~(type === T.DISCARD ? 0 : 1)) !== 0) return { status: S.UNSUPP };
      if (sectors > SECTORS || this.outside(first, sectors)) return { status: S.IOERR };
      found.push([first, sectors]);
    }
    for (const [first, sectors] of found) this.bytes.fill(0, Number(first) * 512, (Number(first) + sectors) * 512);
    return { status: S.OK };
  }
}

const sector = fc.oneof(
  { weight: 6, arbitrary: fc.nat(SECTORS / 8).map((n) => BigInt(n * 8)) },
  fc.nat(SECTORS + 4).map(BigInt),
  fc.constantFrom(2n ** 32n, 2n ** 53n, 2n ** 53n - 8n, 2n ** 63n, 2n ** 64n - 1n, 2n ** 64n - 8n),
);
const length = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(512, 4096, 8192) },
  fc.constantFrom(0, 1, 20, 511, 513, 1024),
);
const range = fc.tuple(
  sector,
  fc.oneof({ weight: 6, arbitrary: fc.constantFrom(0, 8, 16) }, fc.constantFrom(1, 0x8001, 0xffff_ffff)),
  fc.oneof({ weight: 8, arbitrary: fc.constant(0) }, fc.constantFrom(1, 2, 0x8000_0000)),
);
const filled = fc.tuple(length, fc.nat(255)).map(([n, byte]) => new Uint8Array(n).fill(byte));
const none = fc.constant(new Uint8Array(0));
const request: fc.Arbitrary<Request> = fc
  .oneof(
    fc.record({ type: fc.constant(T.IN), out: none, inLength: length }),
    fc.record({ type: fc.constant(T.OUT), out: filled, inLength: fc.constant(0) }),
    fc.record({
      type: fc.constantFrom(T.DISCARD, T.WRITE_ZEROES),
      out: fc.array(range, { maxLength: 17 }).map((list) => new Uint8Array(ranges(...list))),
      inLength: fc.constant(0),
    }),
    fc.record({
      type: fc.oneof(fc.constantFrom(...Object.values(T)), fc.nat(0xffff_ffff)),
      out: fc.oneof(none, filled, fc.uint8Array({ maxLength: 300 })),
      inLength: fc.oneof(fc.constant(0), length),
    }),
  )
  .chain((r) =>
    fc.record({
      type: fc.constant(r.type),
      out: fc.constant(r.out),
      inLength: fc.constant(r.inLength),
      sector,
      cut: fc.constantFrom(1 << 30, 1 << 30, 512, 100, 333),
      queue: fc.nat(1),
    }),
  );

test('requests are answered as the specification reads, and nothing else happens', () => {
  fc.assert(
    fc.property(fc.constantFrom(512, 4096), fc.array(request, { maxLength: 25 }), (block, list) => {
      const rig = new BlkRig({ blockSize: block, physicalBlockSize: block, numBlocks: (SECTORS * 512) / block });
      try {
        const driver = rig.boot({ queueSize: 256 });
        const reading = new Reading(block);
        for (const r of list) {
          const expected = reading.answer(r);
          const got = driver.run(r.type, r.sector, r);
          assert.is(got.status, expected.status);
          if (expected.data !== undefined) assert.equal(got.data, expected.data);
          // What is promised to be written is written: the rest of the buffer is as it was.
          if (got.status !== S.OK) assert.ok(got.data.every((byte) => byte === 0xee));
          assert.ok(got.used <= r.inLength + 1);
        }
        assert.equal(rig.disk.disk, reading.bytes);
        assert.is(rig.controller.outstanding, 0);
        assert.equal([rig.vring(0)['broken'], rig.vring(1)['broken']], [null, null]);
      } finally {
        rig.close();
      }
    }),
    budget(60),
  );
});

test('chains too short for a request break their vring, and only those', () => {
  const shape = fc
    .record({
      headerBytes: fc.nat(40),
      statusBytes: fc.constantFrom(0, 1, 1, 2, 600),
      cut: fc.constantFrom(1 << 30, 1, 3, 16),
      type: fc.constantFrom(...Object.values(T)),
    })
    .filter((s) => s.headerBytes + s.statusBytes > 0); // a chain has a descriptor
  fc.assert(
    fc.property(shape, (s) => {
      const rig = new BlkRig();
      try {
        const driver = rig.boot({ queueSize: 1024 });
        driver.submit(s.type, 0, s);
        settle(rig.loop);
        const broken = rig.vring(0)['broken'] !== null;
        assert.is(broken, s.headerBytes < 16 || s.statusBytes === 0);
        assert.is(driver.read(0, 512, { queue: 1 }).status, S.OK);
        if (broken) driver.forget();
        else driver.collect();
        assert.is(driver.waiting, 0);
      } finally {
        rig.close();
      }
    }),
    budget(60),
  );
});

test.run();
