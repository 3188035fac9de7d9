/** The virtio block device: config space, requests, errors, resize, the disk that goes (virtio 1.2 §5.2). */
import { BdevOp, BdevStatus } from '../../src/bdev/bdev.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import { BlkController } from '../../src/vhost/blk-controller.ts';
import { BlkModel } from '../../src/vhost/blk-model.ts';
import { Session } from '../../src/vhost/session.ts';
import { MemoryChannel } from '../scsi/support/memory-channel.ts';
import { bit, SEABIOS_FEATURES, settle } from '../support/front-end.ts';
import { ALL_FEATURES, BLK_PROTOCOL, F, ranges, S, T } from '../support/front-end-blk.ts';
import { SharedGuest } from '../support/front-end-memory.ts';
import { assert, suite } from '../support/suite.ts';
import { withBlkRig } from './blk-rig.ts';
import { FakeTransport } from './fake-transport.ts';

const test = suite('vhost blk model');
const CACHED = { writeCache: true };

function pattern(bytes: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => (i * 31 + seed * 17 + (i >> 8)) & 0xff);
}

const offers = (features: bigint, ...bits: number[]) => bits.map((n) => (features & bit(n)) !== 0n);

test(
  'features and config space of a disk in memory',
  withBlkRig((rig) => {
    const driver = rig.connect();
    const { offered } = driver.frontEnd;
    assert.equal(offers(offered, F.SEG_MAX, F.BLK_SIZE, F.TOPOLOGY, F.MQ, F.DISCARD, F.ZEROES), Array(6).fill(true));
    assert.equal(offers(offered, F.RO, F.FLUSH, F.WCE, 1, 4, 15, 16, 17), Array(8).fill(false));
    const c = driver.config() as Buffer;
    assert.is(c.readBigUInt64LE(0), 1024n, 'capacity');
    assert.is(c.readUInt32LE(12), 126, 'seg_max');
    assert.is(c.readUInt32LE(20), 512, 'blk_size');
    assert.equal([c[24], c[25], c.readUInt16LE(26), c.readUInt32LE(28)], [0, 0, 1, 0], 'topology');
    assert.is(c[32], 0, 'no write cache');
    assert.is(c.readUInt16LE(34), 128, 'num_queues');
    assert.equal([c.readUInt32LE(36), c.readUInt32LE(40), c.readUInt32LE(44)], [0x40_0000, 16, 1], 'discard');
    assert.equal([c.readUInt32LE(48), c.readUInt32LE(52), c[56]], [0x8000, 16, 1], 'write zeroes');
  }),
);

test(
  'features and config space of a 512e disk with a cache, and of a read-only one',
  withBlkRig(
    (rig) => {
      const driver = rig.connect();
      assert.equal(offers(driver.frontEnd.offered, F.FLUSH, F.WCE, F.DISCARD), [true, true, false]);
      const c = driver.config() as Buffer;
      assert.equal([c[24], c.readUInt16LE(26), c[32]], [3, 8, 1]);
      assert.equal([c.readUInt32LE(36), c.readUInt32LE(48), c[56]], [0, 0x8000, 0]);
    },
    { ...CACHED, physicalBlockSize: 4096, unmap: false },
  ),
);

test(
  'a read-only disk: RO is offered, writes fail and write nothing',
  withBlkRig(
    (rig) => {
      const driver = rig.boot();
      rig.disk.log = [];
      assert.equal(offers(driver.frontEnd.offered, F.RO, F.DISCARD, F.ZEROES), [true, false, false]);
      assert.equal([...(driver.config(36, 24) as Buffer)], Array(24).fill(0));
      assert.is(driver.write(0, pattern(512)).status, S.IOERR);
      assert.is(driver.run(T.WRITE_ZEROES, 0, { out: ranges([0, 1]) }).status, S.UNSUPP);
      assert.is(driver.run(T.DISCARD, 0, { out: ranges([0, 1]) }).status, S.UNSUPP);
      assert.is(driver.read(0, 512).status, S.OK);
      assert.equal(rig.disk.log, ['READ 0+1']);
    },
    {},
    true,
  ),
);

test(
  'config space: any part of it, none beyond it',
  withBlkRig((rig) => {
    const driver = rig.connect();
    const whole = driver.config(0, 96) as Buffer;
    for (const [offset, size] of [
      [0, 8],
      [7, 3],
      [32, 1],
      [95, 1],
      [96, 0],
    ]) {
      assert.equal(driver.config(offset, size) ?? Buffer.alloc(0), whole.subarray(offset, offset + size));
    }
    assert.is(driver.config(95, 2), null);
    assert.is(driver.config(0xffff_ffff, 1), null);
    assert.is(driver.config(0, 97), null);
  }),
);

test(
  'IN and OUT, over several blocks and both queues',
  withBlkRig((rig) => {
    const driver = rig.boot();
    const data = pattern(4096);
    assert.equal(driver.write(8, data), { status: S.OK, data: new Uint8Array(0), used: 1 });
    const back = driver.read(8, 4096, { queue: 1 });
    assert.equal([back.status, back.used], [S.OK, 4097]);
    assert.equal(back.data, data);
    assert.equal(rig.disk.disk.subarray(4096, 8192), data);
    assert.is(driver.read(1023, 512).status, S.OK, 'the last sector');
  }),
);

test(
  'requests cut in any way',
  withBlkRig((rig) => {
    const driver = rig.boot({ queueSize: 1024 });
    for (const cut of [5, 7, 16, 17, 511, 512, 513]) {
      const data = pattern(1024, cut);
      assert.is(driver.write(3, data, { cut }).status, S.OK, `cut ${cut}`);
      const back = driver.read(3, 1024, { cut });
      assert.equal([back.status, back.used, back.data], [S.OK, 1025, data], `cut ${cut}`);
    }
  }),
);

test(
  'refused requests are answers, and touch nothing',
  withBlkRig((rig) => {
    const driver = rig.boot();
    const before = rig.disk.disk.slice();
    rig.disk.log = [];
    const rows: [string, number, number | bigint, object, number][] = [
      ['one past the end', T.IN, 1024, { inLength: 512 }, S.IOERR],
      ['over the end', T.OUT, 1023, { out: pattern(1024) }, S.IOERR],
      ['a sector of 2^64-1', T.IN, -1n, { inLength: 512 }, S.IOERR],
      ['a sector of 2^53', T.OUT, 2n ** 53n, { out: pattern(512) }, S.IOERR],
      ['half a sector', T.IN, 0, { inLength: 256 }, S.IOERR],
      ['a sector and a byte', T.OUT, 0, { out: pattern(513) }, S.IOERR],
      ['IN with data-out', T.IN, 0, { inLength: 512, out: pattern(512) }, S.IOERR],
      ['OUT with data-in', T.OUT, 0, { inLength: 512, out: pattern(512) }, S.IOERR],
      ['IN beyond, without data', T.IN, 1025, {}, S.IOERR],
      ['SCSI_CMD', 2, 0, { out: pattern(16), inLength: 96 }, S.UNSUPP],
      ['GET_LIFETIME', T.LIFETIME, 0, { inLength: 16 }, S.UNSUPP],
      ['SECURE_ERASE', T.ERASE, 0, { out: ranges([0, 1]) }, S.UNSUPP],
      ['the legacy barrier bit', 0x8000_0000, 0, { inLength: 512 }, S.UNSUPP],
      ['DISCARD without a range', T.DISCARD, 0, {}, S.IOERR],
      ['DISCARD with half a range', T.DISCARD, 0, { out: ranges([0, 1]).subarray(0, 8) }, S.IOERR],
      ['DISCARD with 17 ranges', T.DISCARD, 0, { out: ranges(...Array(17).fill([0, 1])) }, S.IOERR],
      ['DISCARD with the unmap flag', T.DISCARD, 0, { out: ranges([0, 1, 1]) }, S.UNSUPP],
      ['WRITE_ZEROES with an unknown flag', T.WRITE_ZEROES, 0, { out: ranges([0, 1], [1, 1, 2]) }, S.UNSUPP],
      ['WRITE_ZEROES over the end', T.WRITE_ZEROES, 0, { out: ranges([0, 8], [1020, 5]) }, S.IOERR],
      ['WRITE_ZEROES of more than the limit', T.WRITE_ZEROES, 0, { out: ranges([0, 0x8001]) }, S.IOERR],
      ['WRITE_ZEROES at 2^64-1', T.WRITE_ZEROES, 0, { out: ranges([-1n, 1]) }, S.IOERR],
      ['DISCARD with data-in', T.DISCARD, 0, { out: ranges([0, 1]), inLength: 1 }, S.IOERR],
    ];
    for (const [what, type, sector, options, status] of rows) {
      const answer = driver.run(type, sector, options);
      const inLength = (options as { inLength?: number }).inLength ?? 0;
      assert.equal([answer.status, answer.used], [status, inLength > 0 ? 0 : 1], what);
      assert.ok(
        answer.data.every((byte) => byte === 0xee),
        what,
      );
    }
    assert.equal(rig.disk.log, []);
    assert.equal(rig.disk.disk, before);
    const shown = (rig.session.describe() as { block: Record<string, number> }).block;
    const count = (s: number) => rows.filter((r) => r[4] === s).length;
    assert.equal([shown['requests'], shown['failed'], shown['unsupported']], [rows.length, count(1), count(2)]);
  }),
);

test(
  'requests without data',
  withBlkRig((rig) => {
    const driver = rig.boot();
    rig.disk.log = [];
    assert.equal(driver.run(T.IN, 1024), { status: S.OK, data: new Uint8Array(0), used: 1 });
    assert.is(driver.run(T.OUT, 0).status, S.OK);
    assert.is(driver.run(T.WRITE_ZEROES, 0, { out: ranges([1024, 0], [0, 0]) }).status, S.OK);
    assert.equal(rig.disk.log, []);
  }),
);

test(
  'blocks of 4 KiB: addresses are in sectors, requests in whole blocks',
  withBlkRig(
    (rig) => {
      const driver = rig.boot();
      const c = driver.config() as Buffer;
      assert.equal([c.readBigUInt64LE(0), c.readUInt32LE(20), c.readUInt32LE(44)], [512n, 4096, 8]);
      const data = pattern(8192);
      rig.disk.log = [];
      assert.is(driver.write(16, data).status, S.OK);
      assert.equal(driver.read(16, 8192).data, data);
      assert.equal(rig.disk.log, ['WRITE 2+2', 'READ 2+2']);
      for (const [sector, bytes] of [
        [1, 4096],
        [8, 512],
        [8, 4608],
        [512, 4096],
      ]) {
        assert.is(driver.read(sector, bytes).status, S.IOERR, `${sector} ${bytes}`);
      }
      assert.is(driver.run(T.DISCARD, 0, { out: ranges([8, 4]) }).status, S.IOERR);
      assert.is(driver.run(T.DISCARD, 0, { out: ranges([8, 8]) }).status, S.OK);
    },
    { blockSize: 4096, physicalBlockSize: 4096, numBlocks: 64 },
  ),
);

test(
  'FLUSH, and what the cache mode makes of writes',
  withBlkRig((rig) => {
    const driver = rig.boot();
    const wrote = () => {
      rig.disk.log = [];
      assert.is(driver.write(1, pattern(512)).status, S.OK);
      assert.is(driver.run(T.WRITE_ZEROES, 0, { out: ranges([2, 1]) }).status, S.OK);
      assert.is(driver.run(T.WRITE_ZEROES, 0, { out: ranges([3, 1, 1]) }).status, S.OK); // may be given up
      return rig.disk.log;
    };
    const cached = ['WRITE 1+1', 'WRITE_ZEROES 2+1', 'UNMAP 3+1'];
    // Blocks given up would be zeroes on the medium some time later only.
    const through = ['WRITE 1+1 fua', 'WRITE_ZEROES 2+1 fua', 'WRITE_ZEROES 3+1 fua'];
    assert.equal(wrote(), cached);
    assert.equal([driver.run(T.FLUSH, 0).status, driver.run(T.FLUSH, 0, { inLength: 4 }).used], [S.OK, 0]);
    assert.is(driver.setConfig(32, [0]), 0n);
    assert.is((driver.config(32, 1) as Buffer)[0], 0);
    assert.equal(wrote(), through);
    // The device starts again with the same features, as at a migration's end: the mode stays.
    driver.frontEnd.stop();
    rig.start(driver);
    assert.equal(wrote(), through);
    assert.is(driver.setConfig(32, [1]), 0n);
    assert.equal(wrote(), cached);
  }, CACHED),
);

test(
  'the cache mode outlives a reboot and a lost connection: QEMU shows a driver what the last one set, and tells nobody',
  withBlkRig((rig) => {
    const driver = rig.boot();
    assert.is(driver.setConfig(32, [0]), 0n);
    for (const features of [SEABIOS_FEATURES, ALL_FEATURES]) {
      driver.frontEnd.stop();
      driver.frontEnd.resetDevice();
      rig.start(driver, features);
      rig.disk.log = [];
      assert.is(driver.write(1, pattern(512)).status, S.OK);
      assert.equal(rig.disk.log, ['WRITE 1+1 fua']);
      assert.is((driver.config(32, 1) as Buffer)[0], 0);
    }
    // The connection is lost, and made again: QEMU does not read the config space anew.
    driver.frontEnd.close();
    const again = rig.boot();
    rig.disk.log = [];
    again.write(1, pattern(512));
    assert.equal(rig.disk.log, ['WRITE 1+1 fua']);
    assert.is(again.setConfig(32, [1]), 0n);
    rig.disk.log = [];
    again.write(1, pattern(512));
    assert.equal(rig.disk.log, ['WRITE 1+1']);
  }, CACHED),
);

test(
  'a reset by another user of the disk gives requests up: they are made again, but not for ever',
  withBlkRig((rig) => {
    const driver = rig.boot();
    const abort = (op: BdevOp, times: number) => {
      for (let i = 0; i < times; i++) rig.disk.failures.push({ op, status: BdevStatus.ABORTED });
    };
    rig.disk.log = [];
    abort(BdevOp.WRITE, 3);
    assert.is(driver.write(1, pattern(512)).status, S.OK);
    assert.equal(rig.disk.log, ['WRITE 1+1', 'WRITE 1+1', 'WRITE 1+1', 'WRITE 1+1']);
    rig.disk.log = [];
    abort(BdevOp.WRITE_ZEROES, 1);
    assert.is(driver.run(T.WRITE_ZEROES, 0, { out: ranges([2, 1], [4, 2]) }).status, S.OK);
    assert.equal(rig.disk.log, ['WRITE_ZEROES 2+1', 'WRITE_ZEROES 2+1', 'WRITE_ZEROES 4+2']);
    abort(BdevOp.READ, 100);
    assert.is(driver.read(1, 512).status, S.IOERR);
    rig.disk.failures.length = 0;
    assert.is(driver.read(1, 512).status, S.OK, 'the next one begins to count anew');
  }),
);

test(
  'a driver that cannot flush gets write through',
  withBlkRig((rig) => {
    const without = (...bits: number[]) => bits.reduce((word, n) => word & ~bit(n), ALL_FEATURES);
    const driver = rig.boot({}, without(F.FLUSH, F.WCE));
    rig.disk.log = [];
    driver.write(1, pattern(512));
    driver.frontEnd.stop();
    rig.start(driver, without(F.WCE)); // it can flush, but not switch
    driver.write(1, pattern(512));
    driver.frontEnd.stop();
    rig.start(driver, without(F.FLUSH)); // §5.2.5.2: the cache is off at first then
    driver.write(1, pattern(512));
    assert.equal(rig.disk.log, ['WRITE 1+1 fua', 'WRITE 1+1', 'WRITE 1+1 fua']);
  }, CACHED),
);

test(
  'SET_CONFIG writes the cache mode and nothing else',
  withBlkRig((rig) => {
    const driver = rig.boot();
    const before = driver.config(0, 96);
    for (const [offset, data] of [
      [0, [9]],
      [31, [0, 1]],
      [32, [2]],
      [32, [1, 0]],
      [96, [0]],
    ] as [number, number[]][]) {
      assert.is(driver.setConfig(offset, data), 1n, `${offset}`);
    }
    assert.equal(driver.config(0, 96), before);
    // A migration brings all bytes; only the mode is ours to take.
    assert.is(driver.setConfig(0, Array(60).fill(0), 1), 0n);
    const after = driver.config(0, 96) as Buffer;
    assert.is(after[32], 0);
    assert.equal(after.subarray(0, 32), (before as Buffer).subarray(0, 32));
  }, CACHED),
);

test(
  'GET_ID: the name of the disk, ended by zeroes or cut',
  withBlkRig(
    (rig) => {
      const driver = rig.boot();
      const answer = driver.run(T.GET_ID, 0, { inLength: 20 });
      assert.equal([answer.status, answer.used], [S.OK, 21]);
      assert.is(Buffer.from(answer.data).toString(), 'Disk of a long name '); // 20 bytes of it
      assert.equal([...driver.run(T.GET_ID, 0, { inLength: 4 }).data], [...Buffer.from('Disk')]);
      const long = driver.run(T.GET_ID, 0, { inLength: 40 });
      assert.equal([long.status, long.used, long.data[20]], [S.OK, 20, 0xee]);
      assert.is(driver.run(T.GET_ID, 0).status, S.OK);
    },
    { name: 'Disk of a long name that goes on' },
  ),
);

test(
  'DISCARD and WRITE_ZEROES, range by range',
  withBlkRig((rig) => {
    const driver = rig.boot();
    rig.disk.disk.fill(0xaa);
    rig.disk.log = [];
    const list = ranges([1, 1], [5, 0], [10, 2], [100, 24]);
    assert.is(driver.run(T.DISCARD, 0, { out: list, cut: 7 }).status, S.OK);
    assert.is(driver.run(T.WRITE_ZEROES, 0, { out: ranges([200, 4], [300, 4, 1]) }).status, S.OK);
    assert.equal(rig.disk.log, ['UNMAP 1+1', 'UNMAP 10+2', 'UNMAP 100+24', 'WRITE_ZEROES 200+4', 'UNMAP 300+4']);
    const zero = (sector: number) => rig.disk.disk.subarray(sector * 512, sector * 512 + 512).every((b) => b === 0);
    assert.equal([0, 1, 2, 10, 11, 12, 123, 124, 203, 303].map(zero), [
      ...[false, true, false, true, true, false],
      ...[true, false, true, true],
    ]);
    assert.is(driver.run(T.WRITE_ZEROES, 0, { out: ranges(...Array(16).fill([0, 1])) }).status, S.OK);
  }),
);

test(
  'what the disk refuses is the request’s status; ranges after a failure are not touched',
  withBlkRig((rig) => {
    const driver = rig.boot();
    const { disk } = rig;
    disk.failures.push({ op: BdevOp.READ, status: BdevStatus.READ_ERROR });
    assert.equal([driver.read(0, 512).status, driver.read(0, 512).status], [S.IOERR, S.OK]);
    disk.failures.push({ op: BdevOp.WRITE, status: BdevStatus.NO_SPACE });
    assert.equal([driver.write(0, pattern(512)).status, driver.write(0, pattern(512)).status], [S.IOERR, S.OK]);
    disk.log = [];
    disk.failures.push({ op: BdevOp.UNMAP, status: BdevStatus.IO_ERROR });
    assert.is(driver.run(T.DISCARD, 0, { out: ranges([0, 1], [4, 1]) }).status, S.IOERR);
    assert.equal(disk.log, ['UNMAP 0+1']);
    disk.lacks.add(BdevOp.UNMAP);
    assert.is(driver.run(T.DISCARD, 0, { out: ranges([0, 1]) }).status, S.UNSUPP);
  }),
);

test(
  'a chain without a header or a status breaks its ring, and only that',
  withBlkRig((rig) => {
    const driver = rig.boot();
    for (const wrong of [{ headerBytes: 15 }, { headerBytes: 0, inLength: 512 }, { statusBytes: 0 }]) {
      driver.submit(T.IN, 0, wrong);
      settle(rig.loop);
      assert.match(String(rig.vring(0)['broken']), /a request header has 16|no writable byte for the status/);
      assert.ok(driver.frontEnd.ring(0).err.drain());
      assert.is(driver.read(0, 512, { queue: 1 }).status, S.OK);
      driver.forget();
      driver.frontEnd.stop();
      rig.start(driver);
      assert.is(driver.read(0, 512).status, S.OK);
    }
  }),
);

test(
  'requests complete in the disk’s order; a ring that stops waits for them',
  withBlkRig((rig) => {
    const driver = rig.boot();
    rig.disk.deferred = true;
    const read = driver.submit(T.IN, 0, { inLength: 512 });
    const zeroes = driver.submit(T.WRITE_ZEROES, 0, { out: ranges([0, 1], [4, 1]) });
    settle(rig.loop);
    assert.is(rig.disk.waiting.length, 2);
    const model = rig.session.model as BlkModel;
    assert.equal(
      model.busy().map((r) => `${r.type} ${r.sector} vring ${r.vring}`),
      ['IN 0 vring 0', 'WRITE_ZEROES 0 vring 0'],
    );
    rig.disk.waiting.reverse();
    rig.disk.complete(1);
    settle(rig.loop);
    driver.collect();
    assert.is(zeroes.answer, null, 'it has a second range');
    assert.is(model.busy()[1]?.sector, 4);
    rig.disk.complete();
    settle(rig.loop);
    driver.collect();
    assert.is(read.answer?.status, S.OK);
    assert.is(zeroes.answer?.status, S.OK);
    assert.equal(model.busy(), []);
    assert.is(rig.controller.outstanding, 0);
  }),
);

test(
  'the front end goes while the disk is at work: nothing of its memory is written any more',
  withBlkRig((rig) => {
    const driver = rig.boot();
    rig.disk.deferred = true;
    const read = driver.submit(T.IN, 0, { inLength: 512 });
    driver.submit(T.DISCARD, 0, { out: ranges([0, 1], [1, 1]) });
    settle(rig.loop);
    driver.frontEnd.disconnect();
    settle(rig.loop);
    assert.is(rig.server.sessions.size, 1, 'it waits for the disk');
    rig.disk.complete();
    rig.disk.complete();
    settle(rig.loop);
    assert.is(rig.server.sessions.size, 0);
    assert.is(driver.frontEnd.guest.read(read.statusAt, 1)[0], 0xee);
    driver.frontEnd.reconnect();
  }),
);

test(
  'a new size: config space and one message to each running guest',
  withBlkRig((rig) => {
    const driver = rig.boot();
    const other = rig.boot();
    assert.is(driver.openBackendChannel(), 0n);
    assert.is(other.openBackendChannel(), 0n);
    rig.disk.info.numBlocks = 900;
    rig.controller.capacityChanged();
    assert.equal(driver.backendMessages(), [[2, 1, 0]]);
    assert.equal(other.backendMessages(), [[2, 1, 0]]);
    assert.is(driver.config()?.readBigUInt64LE(0), 900n);
    assert.equal([driver.read(899, 512).status, driver.read(900, 512).status], [S.OK, S.IOERR]);
    assert.is(driver.openBackendChannel(), 0n, 'a second socket takes the place of the first');
    rig.controller.capacityChanged();
    assert.equal(driver.backendMessages(), [[2, 1, 0]]);
  }),
);

test(
  'a new size while the device is stopped is told when it starts',
  withBlkRig((rig) => {
    const driver = rig.connect();
    assert.is(driver.openBackendChannel(), 0n);
    rig.disk.info.numBlocks = 100;
    rig.controller.capacityChanged();
    assert.equal(driver.backendMessages(), []);
    rig.start(driver);
    assert.equal(driver.backendMessages(), [[2, 1, 0]]);
    driver.frontEnd.stop();
    rig.start(driver);
    assert.equal(driver.backendMessages(), [], 'it knows');
  }),
);

test(
  'a front end that does not read its messages gets the last of them later, and costs nothing',
  withBlkRig((rig) => {
    const driver = rig.boot();
    driver.openBackendChannel();
    for (let i = 0; i < 5000; i++) rig.controller.capacityChanged();
    settle(rig.loop);
    let got = 0;
    for (let n = driver.backendMessages().length; n > 0; n = driver.backendMessages().length) got += n;
    assert.ok(got > 0 && got <= 5000, `${got}`);
    assert.is(rig.session.lastError, null);
  }),
);

test(
  'a front end that has closed its end of that socket, or sent something else, goes on without messages',
  withBlkRig((rig) => {
    const driver = rig.boot();
    driver.openBackendChannel();
    driver.closeBackendChannel();
    rig.controller.capacityChanged();
    settle(rig.loop);
    assert.match(String(rig.session.lastError), /messages to the front end: .*EPIPE/);
    rig.controller.capacityChanged();
    const { call } = driver.frontEnd.ring(0);
    assert.is(driver.frontEnd.tell(21, undefined, [call.fd], true), 0n);
    rig.controller.capacityChanged();
    assert.match(String(rig.session.lastError), /ENOTSOCK/);
    assert.is(driver.read(0, 512).status, S.OK);
  }),
);

test(
  'without BACKEND_REQ the guest is not told, and all else works',
  withBlkRig((rig) => {
    const driver = rig.boot({ protocol: BLK_PROTOCOL & ~bit(5) });
    rig.disk.info.numBlocks = 8;
    rig.controller.capacityChanged();
    assert.is(driver.config()?.readBigUInt64LE(0), 8n);
  }),
);

test(
  'the disk goes: what it has ends, what comes fails, the device stays',
  withBlkRig((rig) => {
    const driver = rig.boot();
    rig.disk.deferred = true;
    const last = driver.submit(T.IN, 0, { inLength: 512 });
    settle(rig.loop);
    let gone = 0;
    assert.ok(rig.controller.removeDisk(() => gone++));
    assert.not.ok(rig.controller.removeDisk(() => gone++));
    settle(rig.loop);
    assert.is(gone, 0);
    for (const type of [T.IN, T.FLUSH]) assert.is(driver.run(type, 0, { inLength: 512 }).status, S.IOERR);
    rig.disk.complete();
    settle(rig.loop);
    assert.is(gone, 1);
    driver.collect();
    assert.is(last.answer?.status, S.OK);
    assert.is(driver.write(0, pattern(512)).status, S.IOERR);
    assert.is(driver.config()?.readBigUInt64LE(0), 1024n);
  }),
);

test('a transport that does not carry CONFIG: the session ends at once, and says why', () => {
  const loop = new EventLoop();
  const guest = new SharedGuest();
  const transport = new FakeTransport(guest);
  const model = new BlkModel(new BlkController(loop, new MemoryChannel()));
  let ended: string | null = null;
  const session = new Session({
    loop,
    transport,
    model,
    onClosed: (s) => {
      ended = s.ended;
    },
  });
  session.open();
  settle(loop);
  assert.match(String(ended), /0000:00:07.0 does not let the CONFIG messages through that a block device needs/);
  assert.ok(transport.closed);
  guest.close();
  loop.close();
});

test.run();
