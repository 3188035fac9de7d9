import { MAX_LUN_SLOTS } from '../../src/scsi/limits.ts';
import { Lun } from '../../src/scsi/lun.ts';
import { LunState } from '../../src/scsi/lun-state.ts';
import { commandName } from '../../src/scsi/opcodes.ts';
import { Counter, latencyBucket, READ_LATENCY, readCounters } from '../../src/scsi/statistics.ts';
import { assert, suite } from '../support/suite.ts';
import { blocks } from './support/case.ts';
import { rangeCdb } from './support/cdb.ts';
import { MemoryChannel } from './support/memory-channel.ts';
import { hex, toHex, Unit } from './support/unit.ts';

/** The target around its units: missing LUNs, units that come and go, what is counted. */

const test = suite('scsi: target');

const TUR = '00 00 00 00 00 00';
const REPORT = 'a0 00 00 00 00 00 00 00 00 ff 00 00';
const add = (unit: Unit, id: number) => {
  const lun = new Lun({ id, channel: new MemoryChannel({ name: `Malloc${id}` }) });
  unit.target.addLun(lun);
  return lun;
};

test('a missing LUN: INQUIRY says so', () => {
  const unit = new Unit();
  const { dataIn, status } = unit.run('12 00 00 00 24 00', '', { lun: 5 });
  assert.is(status, 0);
  assert.is(toHex(dataIn.subarray(0, 8)), '7f 00 06 12 5b 00 10 02');
  assert.is(toHex(unit.run('12 01 00 00 ff 00', '', { lun: 5 }).dataIn), '7f 00 00 01 00');
  assert.is(unit.run('12 01 83 00 ff 00', '', { lun: 5 }).sense, '05/24/00');
});

test('a missing LUN: REPORT LUNS tells what is there, REQUEST SENSE why it is not', () => {
  const unit = new Unit();
  assert.is(toHex(unit.run(REPORT, '', { lun: 5 }).dataIn), '00 00 00 08 00 00 00 00 00 00 00 00 00 00 00 00');
  assert.is(unit.run('a0 00 00 00 00 00 00 00 00 0f 00 00', '', { lun: 5 }).sense, '05/24/00');
  assert.is(unit.run('a0 00 55 00 00 00 00 00 00 ff 00 00', '', { lun: 5 }).sense, '05/24/00');
  const sense = unit.run('03 00 00 00 12 00', '', { lun: 5 });
  assert.is(sense.status, 0);
  assert.is(toHex(sense.dataIn), '70 00 05 00 00 00 00 0a 00 00 00 00 25 00 00 00 00 00');
});

test('a missing LUN: all else is LOGICAL UNIT NOT SUPPORTED', () => {
  const unit = new Unit();
  for (const cdb of [TUR, rangeCdb(0x28, 0, 1), 'c0 00 00 00 00 00']) {
    assert.is(unit.run(cdb, '', { lun: 5 }).sense, '05/25/00');
  }
  for (const lun of [255, 256, 0x3fff, -1, 1e9]) assert.is(unit.run(TUR, '', { lun }).sense, '05/25/00');
});

test('units come and go, and the others are told', () => {
  const unit = new Unit();
  unit.run(TUR);
  add(unit, 200);
  assert.is(unit.run(TUR).sense, '06/3f/0e');
  assert.is(unit.run(TUR).status, 0);
  assert.is(unit.run(TUR, '', { lun: 200 }).status, 0);
  assert.is(
    toHex(unit.run(REPORT).dataIn),
    '00 00 00 10 00 00 00 00  00 00 00 00 00 00 00 00  00 c8 00 00 00 00 00 00'.replaceAll('  ', ' '),
  );
  assert.ok(unit.target.removeLun(200));
  assert.not(unit.target.removeLun(200));
  assert.is(unit.run(TUR, '', { lun: 200 }).sense, '05/25/00');
  assert.is(unit.run(TUR).sense, '06/3f/0e');
});

test('REPORT LUNS tells of the change, so no attention remains', () => {
  const unit = new Unit();
  unit.run(TUR);
  add(unit, 1);
  unit.run(REPORT);
  assert.is(unit.run(TUR).status, 0);
});

test('INQUIRY runs with an attention pending and leaves it', () => {
  const unit = new Unit();
  unit.run(TUR);
  unit.lun.capacityChanged();
  assert.is(unit.run('12 00 00 00 24 00').status, 0);
  assert.is(unit.run(TUR).sense, '06/2a/09');
});

test('several attentions are told one by one', () => {
  const unit = new Unit();
  unit.run(TUR);
  unit.lun.capacityChanged();
  add(unit, 1);
  unit.lun.capacityChanged();
  assert.equal([unit.run(TUR).sense, unit.run(TUR).sense, unit.run(TUR).sense], ['06/2a/09', '06/3f/0e', '']);
});

test('a resized disk', () => {
  const unit = new Unit();
  assert.is(unit.run(rangeCdb(0x28, 1024, 1)).sense, '05/21/00');
  const grown = new Uint8Array(2048 * 512);
  (unit.channel as { disk: Uint8Array }).disk = grown;
  unit.channel.info.numBlocks = 2048;
  unit.lun.capacityChanged();
  assert.is(unit.run(rangeCdb(0x28, 1024, 1)).sense, '06/2a/09');
  assert.is(unit.run(rangeCdb(0x28, 1024, 1)).status, 0);
  assert.is(toHex(unit.run('25 00 00 00 00 00 00 00 00 00').dataIn), '00 00 07 ff 00 00 02 00');
});

test('a LUN number is taken once, and must be in range', () => {
  const unit = new Unit();
  assert.throws(() => add(unit, 0), /LUN 0 is taken/);
  assert.throws(() => add(unit, 256), /not in 0 to 255/);
});

test('a unit is removed when its last task has come back', () => {
  const unit = new Unit();
  unit.channel.deferred = true;
  const read = unit.send(rangeCdb(0x28, 0, 1));
  let done = 0;
  unit.target.removeLun(0, () => done++);
  assert.is(done, 0);
  assert.is(unit.target.outstanding, 1);
  assert.ok(unit.target.wantsPoll);
  assert.is(unit.run(TUR).sense, '05/25/00');
  unit.channel.complete();
  assert.is(read.result().status, 0);
  unit.target.poll();
  assert.is(done, 1);
  assert.not(unit.target.wantsPoll);
});

test('a disk has room for so many controllers', () => {
  const state = new LunState();
  for (let i = 0; i < MAX_LUN_SLOTS; i++) new Lun({ id: 0, channel: new MemoryChannel(), state });
  assert.throws(() => new Lun({ id: 0, channel: new MemoryChannel(), state }), /64 controllers already/);
});

test('a nexus beyond the table reads and writes', () => {
  const unit = new Unit();
  assert.is(unit.run(rangeCdb(0x28, 0, 1), '', { nexus: 1000 }).status, 0);
  assert.is(unit.run('16 00 00 00 00 00', '', { nexus: 1000 }).status, 0x18);
});

test('two targets of one controller may show the same disk', () => {
  const state = new LunState();
  const one = new Unit({}, { state });
  const two = new Unit({}, { state });
  one.run(TUR);
  two.run('16 00 00 00 00 00');
  one.target.removeLun(0);
  const other = new Unit({}, { state, relativePort: 2 });
  assert.is(other.run(rangeCdb(0x28, 0, 1)).status, 0x18); // the nexus is still there, and holds
  two.lun.capacityChanged();
  assert.is(two.run(TUR).sense, '06/2a/09');
});

test('a task that is under way cannot be executed again', () => {
  const unit = new Unit();
  unit.channel.deferred = true;
  const sent = unit.send(rangeCdb(0x28, 0, 1));
  assert.throws(() => unit.target.execute(sent.task), /still under way/);
  unit.channel.complete();
  sent.result();
});

test('a second completion of a request by the disk is ignored', () => {
  const unit = new Unit();
  unit.channel.deferred = true;
  const sent = unit.send(rangeCdb(0x28, 0, 1));
  const [io] = unit.channel.waiting;
  unit.channel.complete();
  io.owner.ioDone(io);
  assert.is(sent.result().status, 0);
});

test('a transport may send the next command from within taskDone', () => {
  const unit = new Unit();
  let rounds = 0;
  const task = unit.send(TUR).task;
  (task as { owner: object }).owner = {
    taskDone: () => {
      if (++rounds < 100) unit.target.execute(task);
    },
  };
  task.cdb.set(hex(rangeCdb(0x2f, 0, 4))); // VERIFY: many steps
  unit.target.execute(task);
  unit.settle();
  assert.is(rounds, 100);
  assert.is(unit.lun.outstanding, 0);
});

test('what is counted', () => {
  const clock = { now: 1_000_000 };
  const unit = new Unit({}, { clock });
  unit.channel.deferred = true;
  const read = unit.send(rangeCdb(0x28, 0, 3));
  clock.now += 70_000; // 70 us
  unit.channel.complete();
  unit.channel.deferred = false;
  read.result();
  unit.run(rangeCdb(0x2a, 0, 2), blocks(2, 1));
  unit.run(rangeCdb(0x28, 5000, 1));
  unit.run(rangeCdb(0x28, 0, 1), '', { room: 1 });
  unit.run('42 00 00 00 00 00 00 00 18 00', '00 16 00 10 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 04 00 00 00 00');
  const { counters } = unit.lun;
  assert.equal(
    {
      ...readCounters(counters),
    },
    {
      read_commands: 3,
      write_commands: 1,
      read_bytes: 1536,
      write_bytes: 1024,
      commands: 5,
      check_conditions: 1,
      reservation_conflicts: 0,
      aborted_commands: 0,
      overruns: 1,
      read_errors: 0,
      write_errors: 0,
      read_nanoseconds: 70_000,
      write_nanoseconds: 0,
      unmapped_blocks: 4,
    },
  );
  assert.is(counters[Counter.READ_BYTES], 1536);
  assert.is(counters[READ_LATENCY + 7], 1); // 64 to 128 us
});

test('latency buckets', () => {
  assert.equal([0, 999, 1000, 1999, 2000, 1e6, 1e15].map(latencyBucket), [0, 0, 1, 1, 2, 10, 23]);
});

test('names for traces', () => {
  assert.is(commandName(hex(rangeCdb(0x28, 0, 1, 0x08))), 'READ(10)');
  assert.is(commandName(hex('9e 12 00')), 'GET LBA STATUS');
  assert.is(commandName(hex('c1 00 00')), 'opcode c1h');
});

test.run();
