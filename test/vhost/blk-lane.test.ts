/**
 * The express lane of virtio-blk against the whole way: the same requests on two controllers, one of whose disks does not tell where its
 * blocks lie. Answers, data, disks and counters are the same, also when the memory goes away in between (vvu).
 */
import type { BdevInfo } from '../../src/bdev/bdev.ts';
import { BdevOp } from '../../src/bdev/bdev.ts';
import { BlkController } from '../../src/vhost/blk-controller.ts';
import { BlkModel } from '../../src/vhost/blk-model.ts';
import { bit } from '../support/front-end.ts';
import { F, ranges, S, T } from '../support/front-end-blk.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { DISK_BYTES, departures, LaneSide, NOTHING, type Part, same } from './lane-side.ts';

const SECTORS = DISK_BYTES / 512;
const HALF = SECTORS / 2;
/** Nobody asks for these but memory that is not the guest's. */
const FORBIDDEN = SECTORS - 16;
const FLUSH = bit(F.FLUSH);

interface Request {
  type: number;
  sector: bigint;
  bytes: number;
  /** Which way the data goes. */
  writes: boolean;
  pieces: number;
  indirect: boolean;
  headerShift: number;
  statusBytes: number;
  /** Region of the guest's memory for the data. */
  region: number;
}

interface Options {
  readOnly?: boolean;
  flickers?: boolean;
  info?: Partial<BdevInfo>;
  features?: bigint;
}

function makeSide(lane: boolean, { readOnly = false, flickers = false, info = {}, features = FLUSH }: Options = {}) {
  const model = (...[loop, channel]: ConstructorParameters<typeof BlkController>) =>
    new BlkModel(new BlkController(loop, channel, readOnly));
  return new LaneSide({ lane, flickers, queue: 0, model, info, features });
}

function put(fill: number): (side: LaneSide, r: Request, n: number) => Part {
  return (side, r, n) => {
    const { guest } = side;
    const header = guest.alloc(24, 8, 1) + r.headerShift;
    const bytes = Buffer.alloc(16);
    bytes.writeUInt32LE(r.type >>> 0, 0);
    bytes.writeBigUInt64LE(r.sector, 8);
    guest.write(header, bytes);
    const ranged = r.type === T.DISCARD || r.type === T.WRITE_ZEROES;
    const list = ranges([r.sector, r.bytes / 512]);
    const data = [guest.alloc(Math.max(1, r.bytes), 4, r.region), ranged ? list.length : r.bytes] as const;
    guest.write(data[0], ranged ? list : new Uint8Array(r.bytes).fill(r.writes ? fill + n : NOTHING));
    const response = [guest.alloc(r.statusBytes, 1, 1), r.statusBytes] as const;
    guest.write(response[0], new Uint8Array(r.statusBytes).fill(NOTHING));
    const { writes, pieces, indirect } = r;
    const head = side.add([header, 16], data, response, { writes, pieces, indirect, responseFirst: false });
    const impersonate = () => {
      guest.write(header + 8, [FORBIDDEN, 0, 0, 0, 0, 0, 0, 0]);
      if (ranged) guest.write(data[0], ranges([FORBIDDEN, 8]));
    };
    return { head, response, data, impersonate };
  };
}

const mostly = <X>(usual: fc.Arbitrary<X>, other: fc.Arbitrary<X>) =>
  fc.oneof({ weight: 9, arbitrary: usual }, { weight: 1, arbitrary: other });

/** @param from @param to the sectors that may be asked for */
function plain(type: number, from: number, to: number): fc.Arbitrary<Request> {
  return fc
    .record({
      block: mostly(fc.nat((to - from) / 8 - 2), fc.constant(0)),
      bytes: fc.constantFrom(4096, 8192, 4096, 512, 1536),
      pieces: mostly(fc.constant(1), fc.integer({ min: 2, max: 4 })),
      indirect: fc.boolean(),
      headerShift: mostly(fc.constantFrom(0, 4), fc.nat(7)),
      statusBytes: mostly(fc.constant(1), fc.constant(2)),
      region: fc.constantFrom(1, 2),
    })
    .map(({ block, ...r }) => ({ ...r, type, sector: BigInt(from + block * 8), writes: type !== T.IN }));
}

/** Plain but for something or other. */
const odd: fc.Arbitrary<Request> = fc.record({
  type: fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom(T.IN, T.OUT) },
    fc.constantFrom(...Object.values(T), 2, 3, 0x8000_0000, 0x8000_0001, 0xffff_ffff),
  ),
  sector: fc.oneof(
    fc.nat(SECTORS + 2).map(BigInt),
    fc.constantFrom(2n ** 31n, 2n ** 32n - 8n, 2n ** 32n, 2n ** 32n + 8n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 8n),
  ),
  bytes: mostly(fc.constantFrom(512, 4096, 8192), fc.constantFrom(0, 1, 511, 513)),
  writes: fc.boolean(),
  pieces: mostly(fc.constant(1), fc.constant(2)),
  indirect: fc.boolean(),
  headerShift: mostly(fc.constant(0), fc.constant(1)),
  statusBytes: fc.constant(1),
  region: fc.constantFrom(1, 2),
});

/** What a test may look at of a device. */
function counters(side: LaneSide): unknown {
  const { requests, failed, unsupported } = side.describe('block');
  return { requests, failed, unsupported, disk: side.counts() };
}

const test = suite('express lane, blk');

for (const blockSize of [512, 4096]) {
  for (const readOnly of [false, true]) {
    test(`does what the whole way does: blocks of ${blockSize}${readOnly ? ', read only' : ''}`, () => {
      const options = { readOnly, info: { blockSize, physicalBlockSize: blockSize } };
      const [fast, whole] = [makeSide(true, options), makeSide(false, options)];
      const request = fc.oneof(plain(T.IN, 0, SECTORS), plain(T.OUT, 0, SECTORS), odd);
      try {
        fc.assert(
          fc.property(fc.array(request, { minLength: 1, maxLength: 20 }), fc.nat(255), (list, fill) => {
            assert.equal(fast.run(list, put(fill)), whole.run(list, put(fill)));
          }),
          budget(100),
        );
        same(fast, whole);
        assert.equal(counters(fast), counters(whole));
        const { express } = fast.describe('block');
        assert.ok((express as number) > 30, `only ${express} requests went through the lane`);
        assert.is(whole.describe('block')['express'], 0);
      } finally {
        fast.close();
        whole.close();
      }
    });
  }
}

for (const lane of [true, false]) {
  const way = lane ? 'the lane' : 'the whole way';
  test(`each request is answered once and rightly, whenever the memory goes away: ${way}`, () => flickering(lane));
}

function flickering(lane: boolean): void {
  const [fast, whole] = [makeSide(lane, { flickers: true }), makeSide(false, { flickers: true })];
  const request = fc.oneof(
    { weight: 5, arbitrary: plain(T.IN, 0, HALF) },
    { weight: 5, arbitrary: plain(T.OUT, HALF, FORBIDDEN) },
    { weight: 1, arbitrary: plain(T.FLUSH, 0, HALF) },
    { weight: 1, arbitrary: plain(T.WRITE_ZEROES, HALF, FORBIDDEN) },
    { weight: 1, arbitrary: plain(T.DISCARD, HALF, FORBIDDEN) },
  );
  try {
    const property = fc.property(
      fc.array(request, { minLength: 1, maxLength: 20 }),
      departures,
      fc.nat(255),
      (list, leaves, fill) => {
        assert.equal(fast.run(list, put(fill), leaves), whole.run(list, put(fill)));
        same(fast, whole);
      },
    );
    fc.assert(property, budget(200));
    const { express } = fast.describe('block');
    assert.ok(!lane || (express as number) > 100, `only ${express} requests went through the lane`);
    assert.ok(fast.flicker.middles > 20, `the memory went away only ${fast.flicker.middles} times in the middle`);
  } finally {
    fast.close();
    whole.close();
  }
}

const simple = { bytes: 512, pieces: 1, indirect: false, headerShift: 0, statusBytes: 1, region: 1 };

test('a write that must reach stable storage goes the whole way, with FUA; a read need not', () => {
  // The disk has a write cache, and the driver cannot flush it.
  const side = makeSide(true, { info: { writeCache: true }, features: 0n });
  try {
    const list = [T.IN, T.OUT, T.IN].map((type) => ({ ...simple, type, sector: 8n, writes: type === T.OUT }));
    side.run(list, put(7));
    assert.is(side.describe('block')['express'], 2);
    assert.equal(side.submitted, [{ op: BdevOp.WRITE, fua: true }]);
  } finally {
    side.close();
  }
});

test('a status in what a write reads is not written before it', () => {
  const [fast, whole] = [makeSide(true), makeSide(false)];
  try {
    const overlapping = (side: LaneSide, r: Request, n: number): Part => {
      const part = put(9)(side, r, n);
      const header = side.guest.alloc(16, 8, 1);
      side.guest.write(header, [T.OUT, 0, 0, 0, 0, 0, 0, 0, 16]);
      const response = [part.data[0] + 3, 1] as const;
      const shape = { writes: true, pieces: 1, indirect: false, responseFirst: false };
      side.add([header, 16], part.data, response, shape);
      return part;
    };
    for (const side of [fast, whole]) {
      const r = { ...simple, type: T.OUT, sector: 8n, writes: true };
      const part = overlapping(side, r, 0);
      const answers = side.run([r], put(5));
      assert.is((answers as { response: string }[])[0]?.response, '00');
      assert.is(side.guest.read(part.response[0], 1)[0], S.OK);
    }
    assert.is(fast.contents()[16 * 512 + 3], 9);
    same(fast, whole);
  } finally {
    fast.close();
    whole.close();
  }
});

test.run();
