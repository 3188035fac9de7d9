import { LunState } from '../../src/scsi/lun-state.ts';
import type { OpcodeRow } from '../../src/scsi/opcode-row.ts';
import { OPCODES } from '../../src/scsi/opcodes.ts';
import { Tmf } from '../../src/scsi/task-management.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { prList, unmapList } from './support/cdb.ts';
import { MemoryChannel } from './support/memory-channel.ts';
import { hex, type Sent, Unit } from './support/unit.ts';

/** What holds for every CDB and every buffer: no throw, one completion, no byte outside. */

const test = suite('scsi: properties');

const byte = fc.nat(255);
/** Mostly zero, so that commands get past their checks. */
const rarely = (mask: number) =>
  fc.oneof(
    { weight: 5, arbitrary: fc.constant(0) },
    fc.nat(255).map((b) => b & mask),
  );

/** A CDB of the table with a small range in the usual places, flags from its usage map. */
function plausible(row: OpcodeRow): fc.Arbitrary<Uint8Array> {
  return fc
    .record({ flags: rarely(row.usage[1]), page: byte, high: fc.nat(1), low: byte, count: fc.nat(12) })
    .map((f) => {
      const bytes = new Uint8Array(16);
      bytes[0] = row.opcode;
      bytes[1] = row.serviceAction >= 0 ? row.serviceAction : f.flags;
      const lba = { 6: 3, 10: 5, 12: 5, 16: 9 }[row.length]!;
      const count = { 6: 4, 10: 8, 12: 9, 16: 13 }[row.length]!;
      if (row.opcode === 0x5f) bytes.set([f.page % 10, 0, 0, 0, 0, 0, 24], 2);
      else if (row.usage[2] !== 0 && row.usage[3] !== 0xff) bytes[2] = f.page & row.usage[2];
      else if (row.usage[lba] === 0xff) bytes.set([f.high & row.usage[lba - 1], f.low], lba - 1);
      if (row.opcode !== 0x5f && row.usage[count] === 0xff)
        bytes[count] = row.data === 'in' && row.strict ? f.low : f.count;
      return bytes;
    });
}

const cdb = fc.oneof(
  { weight: 1, arbitrary: fc.uint8Array({ minLength: 32, maxLength: 32 }) },
  {
    weight: 3,
    arbitrary: fc
      .record({
        row: fc.constantFrom(...OPCODES),
        noise: fc.uint8Array({ minLength: 32, maxLength: 32 }),
        keep: fc.array(fc.constantFrom(0, 0, 0, 0x01, 0x02, 0x03, 0x0f, 0xff), { minLength: 32, maxLength: 32 }),
      })
      .map(({ row, noise, keep }) => {
        const bytes = noise.map((b, i) => b & keep[i] & (i < row.length ? row.usage[i] : 0));
        bytes[0] = row.opcode;
        if (row.serviceAction >= 0) bytes[1] = (bytes[1] & 0xe0) | row.serviceAction;
        return bytes;
      }),
  },
  { weight: 8, arbitrary: fc.constantFrom(...OPCODES).chain(plausible) },
);

const buffer = fc.oneof(fc.constant(0), fc.nat(64), fc.constantFrom(24, 36, 512, 1024, 4096), fc.nat(3000));

/** Data-out: a pattern of some length, or a parameter list. */
const dataOut = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(buffer, byte).map(([length, k]) => new Uint8Array(length).map((_, i) => i * k)) },
  { weight: 1, arbitrary: fc.tuple(fc.nat(2), fc.nat(2), rarely(0x0d)).map(([a, b, f]) => hex(prList(a, b, f))) },
  { weight: 1, arbitrary: fc.array(fc.tuple(fc.nat(310), fc.nat(20)), { maxLength: 5 }).map((r) => hex(unmapList(r))) },
);

const request = fc.record({
  cdb,
  out: dataOut,
  room: buffer,
  pieces: fc.constantFrom(1, 7, 512, 4096, 65536),
  nexus: fc.constantFrom(0, 0, 0, 1, 2, 17),
  lun: fc.constantFrom(0, 0, 0, 0, 3),
  attr: fc.constantFrom(0, 0, 0, 0, 1, 2, 3),
});

test('any command over any buffers ends once, throws nothing and writes only its data', () => {
  fc.assert(
    fc.property(fc.array(request, { minLength: 1, maxLength: 12 }), (requests) => {
      const unit = new Unit({ numBlocks: 300 });
      for (const r of requests) {
        const result = unit.run(r.cdb, r.out, r);
        const { transferred, response, status, senseBytes } = result;
        assert.ok(transferred >= 0 && transferred <= Math.max(r.out.length, r.room), 'transferred');
        if (response === 0) assert.is(senseBytes.length >= 8, status === 2, 'sense with CHECK CONDITION');
      }
      assert.is(unit.lun.outstanding, 0);
    }),
    budget(300),
  );
});

/** A step in the life of a unit with a slow disk. */
const step = fc.oneof(
  { weight: 5, arbitrary: request.map((r) => ({ kind: 'send' as const, r })) },
  { weight: 4, arbitrary: fc.nat(3).map((n) => ({ kind: 'complete' as const, n })) },
  { weight: 2, arbitrary: fc.constant({ kind: 'poll' as const }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('tmf' as const),
      fn: fc.constantFrom(...Object.values(Tmf)),
      tag: fc.nat(10),
      nexus: fc.nat(2),
    }),
  },
);

test('two controllers, a slow disk, commands and TMFs in any order: each ends exactly once', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(1), step), { maxLength: 60 }), fc.boolean(), (steps, shared) => {
      const state = shared ? LunState.forReactors() : new LunState();
      const disk = new Uint8Array(300 * 512);
      const units = [1, 2].map((relativePort) => {
        const channel = new MemoryChannel({ numBlocks: 300 }, disk);
        channel.deferred = true;
        return new Unit({}, { state, channel, relativePort });
      });
      const sent: Sent[] = [];
      let asked = 0;
      let answered = 0;
      for (const [which, s] of steps) {
        const unit = units[which];
        if (s.kind === 'send') {
          sent.push(unit.send(s.r.cdb, s.r.out, { ...s.r, tag: sent.length % 10 }));
        } else if (s.kind === 'complete') unit.channel.complete(s.n);
        else if (s.kind === 'poll') unit.target.poll();
        else {
          asked++;
          unit.target.taskManagement(s.fn, 0, s.tag, 0, () => answered++, s.nexus);
        }
      }
      for (let i = 0; i < 3000 && units.some((u) => u.lun.outstanding > 0); i++) {
        for (const u of units) {
          u.channel.complete();
          u.target.poll();
        }
      }
      for (const s of sent) s.result();
      assert.is(answered, asked);
      for (const u of units) assert.is(u.target.wantsPoll, false);
    }),
    budget(300),
  );
});

test('counters that two controllers raise by COMPARE AND WRITE lose nothing', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(5), { minLength: 20, maxLength: 200 }), (choices) => {
      const state = LunState.forReactors();
      const disk = new Uint8Array(16 * 512);
      const units = [1, 2].map((relativePort) => {
        const channel = new MemoryChannel({ numBlocks: 16 }, disk);
        channel.deferred = true;
        return new Unit({}, { state, channel, relativePort });
      });
      let successes = 0;
      // Each writer reads the counter, then tries to raise it; at most two are under way on each controller.
      const writers = [0, 0, 1, 1].map((which) => ({ unit: units[which], sent: null as Sent | null }));
      const advance = (w: (typeof writers)[number]) => {
        if (w.sent !== null) {
          if (w.sent.done === 0) return;
          const { status, sense } = w.sent.result();
          if (status === 0) successes++;
          else assert.is(sense, '0e/1d/00');
        }
        const data = new Uint8Array(1024);
        data.set(disk.subarray(0, 512));
        data.set(disk.subarray(0, 512), 512);
        new DataView(data.buffer).setUint32(512, new DataView(disk.buffer).getUint32(0) + 1);
        w.sent = w.unit.send('89 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00', data);
      };
      for (const choice of choices) {
        if (choice < 4) advance(writers[choice]);
        else {
          units[choice - 4].channel.complete(1);
          units[choice - 4].target.poll();
        }
      }
      for (let i = 0; i < 100; i++) {
        for (const u of units) {
          u.channel.complete();
          u.target.poll();
        }
      }
      for (const w of writers) if (w.sent?.result().status === 0) successes++;
      assert.is(new DataView(disk.buffer).getUint32(0), successes);
    }),
    budget(100),
  );
});

test.run();
