/**
 * The express lane on vrings whose memory may be exchanged under them (vvu): it goes away between passes and in the middle of
 * batches, and comes back. Each request is answered once, as by the whole way on memory that stays, and the disk holds the same.
 */
import { Lun } from '../../src/scsi/lun.ts';
import { ScsiTarget } from '../../src/scsi/target.ts';
import { ScsiController } from '../../src/vhost/scsi-controller.ts';
import { ScsiModel } from '../../src/vhost/scsi-model.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { departures, LaneSide, NOTHING, type Part, same } from './lane-side.ts';

const BLOCK = 512;
/** Reads are of the lower half, writes to what is between; nobody asks for the last blocks but memory that is not the guest's. */
const HALF = 64;
const FORBIDDEN = 124;
const BEYOND = 128;

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

class Side extends LaneSide {
  readonly lun: Lun;

  constructor(lane: boolean) {
    const luns: Lun[] = [];
    super({
      lane,
      flickers: true,
      queue: 2,
      model: (loop, channel) => {
        const lun = new Lun({ channel, id: 0, clock: { now: 0 } });
        luns.push(lun);
        const target = new ScsiTarget();
        target.addLun(lun);
        const controller = new ScsiController(loop);
        controller.add(1, target);
        return new ScsiModel(controller);
      },
    });
    this.lun = luns[0] as Lun;
  }

  get express(): number {
    return this.describe('scsi')['express'] as number;
  }
}

function put(fill: number): (side: LaneSide, r: Request, n: number) => Part {
  return (side, r, n) => {
    const { guest } = side;
    const writes = r.opcode === 0x2a || r.opcode === 0x8a;
    const bytes = r.opcode === 0 ? 0 : r.blocks * BLOCK;
    const header = guest.alloc(64, 8, 1);
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
    const response = [guest.alloc(112, 8, 1), 108] as const;
    guest.write(response[0], new Uint8Array(108).fill(NOTHING));
    const data = [guest.alloc(Math.max(1, bytes), 8, 1), bytes] as const;
    guest.write(data[0], new Uint8Array(bytes).fill(writes ? fill + n : NOTHING));
    const { pieces, indirect } = r;
    const head = side.add([header, 51], data, response, { writes, pieces, indirect, responseFirst: true });
    const impersonate = () => {
      if (r.opcode > 0x20)
        guest.write(header + 21, r.opcode < 0x80 ? [0, 0, 0, FORBIDDEN] : [0, 0, 0, 0, 0, 0, 0, FORBIDDEN]);
    };
    return { head, response, data, impersonate };
  };
}

const reading = fc.record({
  opcode: fc.oneof({ weight: 8, arbitrary: fc.constantFrom(0x28, 0x88) }, fc.constantFrom(0x00, 0x08)),
  lba: fc.nat(HALF - 4),
});
const writing = fc.record({
  opcode: fc.constantFrom(0x2a, 0x8a),
  // Now and then one that is refused, and so goes the whole way.
  lba: fc.oneof({ weight: 9, arbitrary: fc.integer({ min: HALF, max: FORBIDDEN - 4 }) }, fc.constant(BEYOND)),
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
const requests = fc.array(request, { minLength: 1, maxLength: 20 });

const test = suite('express lane, vvu');

test('each request is answered once and rightly, whenever the memory goes away', () => {
  const [fast, whole] = [new Side(true), new Side(false)];
  try {
    fc.assert(
      fc.property(requests, departures, fc.nat(255), (list, leaves, fill) => {
        assert.equal(fast.run(list, put(fill), leaves), whole.run(list, put(fill)));
        same(fast, whole);
      }),
      budget(300),
    );
    assert.ok(fast.express > 200, `only ${fast.express} requests went through the lane`);
    assert.ok(fast.flicker.middles > 30, `the memory went away only ${fast.flicker.middles} times in the middle`);
    assert.is(whole.express, 0);
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
      fc.property(requests, departures, fc.nat(255), (list, leaves, fill) => {
        assert.equal(flickers.run(list, put(fill), leaves), stays.run(list, put(fill)));
        same(flickers, stays);
      }),
      budget(100),
    );
  } finally {
    flickers.close();
    stays.close();
  }
});

test('nothing is counted of a batch that went astray, and all of it when it comes again', () => {
  const side = new Side(true);
  const counts = () => [side.describe('scsi')['requests'], side.express, side.counts()[3]] as number[];
  try {
    const list = Array.from({ length: 8 }, (_, i): Request => {
      return { opcode: 0x2a, lba: HALF + i, blocks: 1, pieces: 1, target: 1, indirect: false, fua: false };
    });
    for (let moment = 0; moment < 60; moment++) {
      const before = counts();
      side.run(list, put(moment), [{ moment, impostor: 'likeness' }]);
      assert.equal(
        counts().map((n, i) => n - (before[i] as number)),
        [8, 8, 8],
        `moment ${moment}`,
      );
    }
    assert.is(side.contents()[FORBIDDEN * BLOCK], (FORBIDDEN * 3 + 1) & 0xff);
  } finally {
    side.close();
  }
});

test.run();
