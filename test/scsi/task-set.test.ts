import { LunState } from '../../src/scsi/lun-state.ts';
import { TaskResponse } from '../../src/scsi/task.ts';
import { Tmf } from '../../src/scsi/task-management.ts';
import { assert, suite } from '../support/suite.ts';
import { blocks, firstBytes } from './support/case.ts';
import { rangeCdb } from './support/cdb.ts';
import { Unit } from './support/unit.ts';

/** Who runs when: ordered tasks, head of queue, and exclusive commands over one and two controllers. */

const test = suite('scsi: task set');

const SIMPLE = 0;
const ORDERED = 1;
const HEAD_OF_QUEUE = 2;
const READ = rangeCdb(0x28, 0, 1);
const WRITE = rangeCdb(0x2a, 0, 1);
/** COMPARE AND WRITE of block 0. */
const CAW = '89 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00';

function deferred(): Unit {
  const unit = new Unit();
  unit.channel.deferred = true;
  unit.channel.log = [];
  return unit;
}

const take = (unit: Unit) => unit.channel.log?.splice(0) ?? [];

function compareAndWrite(expect: number, value: number): Uint8Array {
  const data = blocks(2, value);
  data.fill(expect, 0, 512);
  return data;
}

test('simple tasks run side by side', () => {
  const unit = deferred();
  const tasks = [READ, WRITE, READ].map((cdb) => unit.send(cdb, cdb === WRITE ? blocks(1, 1) : ''));
  assert.is(take(unit).length, 3);
  unit.channel.complete();
  for (const task of tasks) task.result();
});

test('an ordered task runs after those before and before those behind it', () => {
  const unit = deferred();
  const before = unit.send(rangeCdb(0x28, 1, 1));
  const ordered = unit.send(rangeCdb(0x28, 2, 1), '', { attr: ORDERED });
  const behind = unit.send(rangeCdb(0x28, 3, 1));
  assert.equal(take(unit), ['READ 1+1']);
  unit.channel.complete();
  assert.equal(take(unit), ['READ 2+1']);
  unit.channel.complete();
  assert.equal(take(unit), ['READ 3+1']);
  unit.channel.complete();
  for (const task of [before, ordered, behind]) assert.is(task.result().status, 0);
  assert.not(unit.target.wantsPoll);
});

test('an ordered task runs at once on an idle unit', () => {
  const unit = new Unit();
  assert.is(unit.run(READ, '', { attr: ORDERED }).status, 0);
  assert.is(unit.run(READ, '', { attr: SIMPLE }).status, 0);
});

/** MODE SELECT(6) of a page whose byte 2 or 4 is not as it was. */
const MODE_SELECT = (bytes: number) => `15 10 00 00 ${bytes.toString(16)} 00`;
const SWP_ON = '00 00 00 00  0a 0a 02 10 08 00 00 00 ff ff 00 00';
const WCE_OFF = '00 00 00 00  08 12 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00';

test('what waits behind an ordered MODE SELECT meets what that has set', () => {
  const unit = deferred();
  const before = unit.send(READ);
  const select = unit.send(MODE_SELECT(16), SWP_ON, { attr: ORDERED });
  const behind = unit.send(WRITE, blocks(1, 1));
  unit.channel.complete();
  assert.equal([before.result().status, select.result().status], [0, 0]);
  assert.is(behind.result().sense, '07/27/02');
  assert.equal(take(unit), ['READ 0+1']);
});

test('MODE SELECT waits for writes under way on all controllers: with WCE off, GOOD means written through', () => {
  const state = new LunState();
  const one = new Unit({ writeCache: true }, { state });
  const two = new Unit({ writeCache: true }, { state, relativePort: 2 });
  for (const unit of [one, two]) {
    unit.channel.deferred = true;
    unit.channel.log = [];
  }
  const write = two.send(WRITE, blocks(1, 1));
  const select = one.send(MODE_SELECT(24), WCE_OFF);
  const reads = [one.send(READ), two.send(READ)];
  const later = two.send(WRITE, blocks(1, 2));
  assert.equal([take(one), take(two)], [['READ 0+1'], ['WRITE 0+1', 'READ 0+1']]);
  two.channel.complete();
  two.target.poll();
  one.target.poll();
  assert.equal([take(one), take(two)], [['FLUSH 0+0'], []]);
  one.channel.complete();
  two.target.poll();
  assert.equal(take(two), ['WRITE 0+1 fua']);
  two.channel.complete();
  for (const task of [write, select, ...reads, later]) assert.is(task.result().status, 0);
});

test('a head of queue task passes those that wait', () => {
  const unit = deferred();
  const tasks = [
    unit.send(rangeCdb(0x28, 1, 1)),
    unit.send(rangeCdb(0x28, 2, 1), '', { attr: ORDERED }),
    unit.send(rangeCdb(0x28, 3, 1), '', { attr: HEAD_OF_QUEUE }),
    unit.send(rangeCdb(0x2a, 4, 1), blocks(1, 1), { attr: HEAD_OF_QUEUE }),
  ];
  assert.equal(take(unit), ['READ 1+1', 'READ 3+1', 'WRITE 4+1']);
  unit.channel.complete();
  assert.equal(take(unit), ['READ 2+1']);
  unit.channel.complete();
  for (const task of tasks) task.result();
});

test('aborting a queued ordered task lets those behind it go', () => {
  const unit = deferred();
  const before = unit.send(rangeCdb(0x28, 1, 1));
  const ordered = unit.send(rangeCdb(0x28, 2, 1), '', { attr: ORDERED, tag: 9 });
  const behind = unit.send(rangeCdb(0x28, 3, 1));
  unit.target.taskManagement(Tmf.ABORT_TASK, 0, 9, 0, () => {});
  assert.is(ordered.result().response, TaskResponse.ABORTED);
  assert.equal(take(unit), ['READ 1+1', 'READ 3+1']);
  unit.channel.complete();
  before.result();
  behind.result();
});

test('COMPARE AND WRITE waits for writes in flight, and writes wait for it; reads do not', () => {
  const unit = deferred();
  const write = unit.send(WRITE, blocks(1, 5));
  const caw = unit.send(CAW, compareAndWrite(5, 6));
  const late = unit.send(rangeCdb(0x2a, 0, 1), blocks(1, 7));
  const read = unit.send(rangeCdb(0x28, 9, 1));
  assert.equal(take(unit), ['WRITE 0+1', 'READ 9+1']);
  unit.channel.complete();
  assert.equal(take(unit), ['COMPARE 0+1']);
  unit.channel.complete();
  assert.equal(take(unit), ['WRITE 0+1']);
  assert.is(late.done, 0);
  unit.channel.complete();
  assert.is(caw.result().status, 0);
  assert.equal(take(unit), ['WRITE 0+1']);
  unit.channel.complete();
  for (const task of [write, late, read]) task.result();
  assert.equal(firstBytes(unit, 0, 1), [7]);
  assert.not(unit.target.wantsPoll);
});

test('a head of queue write passes a COMPARE AND WRITE that still waits', () => {
  const unit = deferred();
  const write = unit.send(WRITE, blocks(1, 5));
  const caw = unit.send(CAW, compareAndWrite(9, 6));
  const head = unit.send(rangeCdb(0x2a, 0, 1), blocks(1, 9), { attr: HEAD_OF_QUEUE });
  unit.channel.complete();
  unit.channel.complete();
  unit.channel.complete();
  unit.settle();
  unit.channel.complete();
  for (const task of [write, caw, head]) assert.is(task.result().status, 0);
  assert.equal(firstBytes(unit, 0, 1), [6]);
});

test('a COMPARE AND WRITE that is aborted while it waits opens the gate again', () => {
  const unit = deferred();
  const write = unit.send(WRITE, blocks(1, 5));
  const caw = unit.send(CAW, compareAndWrite(5, 6), { tag: 3 });
  const late = unit.send(rangeCdb(0x2a, 1, 1), blocks(1, 7));
  unit.target.taskManagement(Tmf.ABORT_TASK, 0, 3, 0, () => {});
  assert.is(caw.result().response, TaskResponse.ABORTED);
  assert.equal(take(unit), ['WRITE 0+1', 'WRITE 1+1']);
  unit.channel.complete();
  write.result();
  late.result();
});

for (const [name, make] of [
  ['two controllers on one reactor', () => new LunState()],
  ['two controllers on two reactors', () => LunState.forReactors()],
] as const) {
  test(`COMPARE AND WRITE holds between ${name}`, () => {
    const state = make();
    const one = new Unit({}, { state });
    // A reactor of its own has its own views of the state.
    const two = new Unit({}, { state: new LunState(state.buffer), relativePort: 2 });
    for (const unit of [one, two]) {
      unit.channel.deferred = true;
      unit.channel.log = [];
    }
    const write = two.send(WRITE, blocks(1, 5));
    const caw = one.send(CAW, compareAndWrite(0, 6));
    assert.equal(take(one), []); // waits for the other controller's write
    const late = two.send(WRITE, blocks(1, 7)); // must not start any more
    assert.equal(take(two), ['WRITE 0+1']);
    assert.ok(one.target.wantsPoll && two.target.wantsPoll);
    one.target.poll();
    assert.equal(take(one), []);
    two.channel.complete();
    two.target.poll();
    assert.equal(take(two), []); // the gate stays closed
    one.target.poll();
    assert.equal(take(one), ['COMPARE 0+1']);
    one.channel.complete();
    one.channel.complete();
    assert.is(caw.result().status, 0);
    two.target.poll();
    assert.equal(take(two), ['WRITE 0+1']);
    two.channel.complete();
    write.result();
    late.result();
    assert.not(one.target.wantsPoll || two.target.wantsPoll);
  });

  test(`a head of queue write passes a COMPARE AND WRITE that waits for the other of ${name}`, () => {
    const state = make();
    const one = new Unit({}, { state });
    const two = new Unit({}, { state: new LunState(state.buffer), relativePort: 2 });
    two.channel.deferred = true;
    const write = two.send(WRITE, blocks(1, 5));
    const caw = one.send(CAW, compareAndWrite(9, 6));
    assert.is(one.run(WRITE, blocks(1, 9), { attr: HEAD_OF_QUEUE }).status, 0);
    two.channel.complete();
    one.settle();
    assert.is(caw.result().status, 0);
    write.result();
  });

  test(`a Lun that leaves opens the gate for ${name}`, () => {
    const state = make();
    const one = new Unit({}, { state });
    const two = new Unit({}, { state: new LunState(state.buffer), relativePort: 2 });
    two.channel.deferred = true;
    const write = two.send(WRITE, blocks(1, 5));
    const caw = one.send(CAW, compareAndWrite(0, 6), { tag: 1 });
    one.target.abandon(() => {});
    assert.is(caw.result().response, TaskResponse.RESET);
    let gone = false;
    one.target.removeLun(0, () => {
      gone = true;
    });
    assert.ok(gone);
    two.channel.complete();
    write.result();
    two.channel.deferred = false;
    assert.is(two.run(WRITE, blocks(1, 6)).status, 0);
  });
}

test.run();
