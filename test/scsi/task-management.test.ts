import { BdevOp, BdevStatus } from '../../src/bdev/bdev.ts';
import { TaskResponse } from '../../src/scsi/task.ts';
import { Tmf, TmfResponse } from '../../src/scsi/task-management.ts';
import { assert, suite } from '../support/suite.ts';
import { blocks, firstBytes } from './support/case.ts';
import { rangeCdb } from './support/cdb.ts';
import { type RunOptions, Unit } from './support/unit.ts';

/** Every function's answer is true, and every task comes back exactly once. */

const test = suite('scsi: task management');

const READ = rangeCdb(0x28, 0, 1);
const WRITE = rangeCdb(0x2a, 0, 1);

function deferred(): Unit {
  const unit = new Unit();
  unit.channel.deferred = true;
  return unit;
}

function send(unit: Unit, tag: number, options: RunOptions = {}) {
  return unit.send(READ, '', { tag, ...options });
}

/** Ask for a function. The answers arrive in the list. */
function ask(unit: Unit, fn: Tmf, tag = 0, nexus = 0, lun = 0): TmfResponse[] {
  const answers: TmfResponse[] = [];
  unit.target.taskManagement(fn, lun, tag, 0, (response) => answers.push(response), nexus);
  return answers;
}

test('ABORT TASK waits for the disk and says so with ABORTED', () => {
  const unit = deferred();
  const task = send(unit, 7);
  const other = send(unit, 8);
  const answers = ask(unit, Tmf.ABORT_TASK, 7);
  assert.equal(answers, []);
  assert.is(task.done, 0);
  unit.channel.complete();
  assert.is(task.result().response, TaskResponse.ABORTED);
  assert.is(task.result().transferred, 0);
  assert.is(other.result().response, TaskResponse.OK);
  assert.equal(answers, [TmfResponse.FUNCTION_COMPLETE]);
  assert.is(unit.lun.outstanding, 0);
});

test('ABORT TASK of a task that is not there is complete', () => {
  const unit = deferred();
  const task = send(unit, 7);
  assert.equal(ask(unit, Tmf.ABORT_TASK, 9), [TmfResponse.FUNCTION_COMPLETE]);
  assert.equal(ask(unit, Tmf.ABORT_TASK, 7, 1), [TmfResponse.FUNCTION_COMPLETE]); // another nexus's tag
  unit.channel.complete();
  assert.is(task.result().response, TaskResponse.OK);
});

test('the whole 64-bit tag counts', () => {
  const unit = deferred();
  const task = send(unit, 7);
  const answers: TmfResponse[] = [];
  unit.target.taskManagement(Tmf.QUERY_TASK, 0, 7, 1, (r) => answers.push(r));
  assert.equal(answers, [TmfResponse.FUNCTION_COMPLETE]);
  unit.channel.complete();
  task.result();
});

test('two ABORT TASKs for one task are both answered', () => {
  const unit = deferred();
  const task = send(unit, 7);
  const first = ask(unit, Tmf.ABORT_TASK, 7);
  const second = ask(unit, Tmf.ABORT_TASK, 7);
  unit.channel.complete();
  assert.equal([first, second], [[0], [0]]);
  task.result();
});

test('ABORT TASK SET aborts the tasks of its nexus only', () => {
  const unit = deferred();
  const mine = [send(unit, 1), send(unit, 2)];
  const theirs = send(unit, 3, { nexus: 1 });
  const answers = ask(unit, Tmf.ABORT_TASK_SET);
  unit.channel.complete(1);
  assert.equal(answers, []);
  unit.channel.complete();
  assert.equal(answers, [TmfResponse.FUNCTION_COMPLETE]);
  assert.equal(
    mine.map((t) => t.result().response),
    [TaskResponse.ABORTED, TaskResponse.ABORTED],
  );
  assert.is(theirs.result().response, TaskResponse.OK);
});

test('CLEAR TASK SET aborts all tasks and tells the other nexus', () => {
  const unit = deferred();
  const mine = send(unit, 1);
  const theirs = send(unit, 2, { nexus: 1 });
  const answers = ask(unit, Tmf.CLEAR_TASK_SET);
  unit.channel.complete();
  assert.equal(answers, [TmfResponse.FUNCTION_COMPLETE]);
  assert.is(mine.result().response, TaskResponse.ABORTED);
  assert.is(theirs.result().response, TaskResponse.ABORTED);
  assert.is(unit.run('00 00 00 00 00 00', '', { nexus: 1 }).sense, '06/2f/00');
  assert.is(unit.run('00 00 00 00 00 00').status, 0);
});

test('LOGICAL UNIT RESET ends all tasks, resets the disk, mode pages and RESERVE, and tells everybody', () => {
  const unit = new Unit();
  unit.run('00 00 00 00 00 00', '', { nexus: 1 });
  unit.run('16 00 00 00 00 00');
  unit.run('15 10 00 00 10 00', '00 00 00 00 0a 0a 06 10 00 00 00 00 ff ff 00 00'); // D_SENSE
  unit.run('00 00 00 00 00 00'); // nothing to tell yet
  unit.channel.deferred = true;
  const task = send(unit, 1);
  const answers = ask(unit, Tmf.LOGICAL_UNIT_RESET);
  assert.is(unit.channel.resets, 1);
  assert.equal(answers, [TmfResponse.FUNCTION_COMPLETE]); // the reset gave the request up
  assert.is(task.result().response, TaskResponse.RESET);
  unit.channel.deferred = false;
  for (const nexus of [0, 1]) {
    const told = unit.run('00 00 00 00 00 00', '', { nexus });
    assert.is(told.sense, '06/29/03');
    assert.is(told.senseBytes[0], 0x70); // D_SENSE is off again
  }
  assert.is(unit.run(READ, '', { nexus: 1 }).sense, '06/2a/01'); // the MODE SELECT of before
  assert.is(unit.run(READ, '', { nexus: 1 }).status, 0); // no RESERVE any more
});

test('a disk that ignores its reset holds the answer back', () => {
  const unit = deferred();
  unit.channel.reset = () => {};
  const task = send(unit, 1);
  const answers = ask(unit, Tmf.LOGICAL_UNIT_RESET);
  assert.equal([answers, task.done], [[], 0]);
  unit.channel.complete();
  assert.equal(answers, [TmfResponse.FUNCTION_COMPLETE]);
  assert.is(task.result().response, TaskResponse.RESET);
});

test('a reset through one controller ends the tasks of the other', () => {
  const one = new Unit();
  const two = new Unit({}, { state: one.lun.state, relativePort: 2 });
  two.channel.deferred = true;
  const task = send(two, 1);
  assert.equal(ask(one, Tmf.LOGICAL_UNIT_RESET), [TmfResponse.FUNCTION_COMPLETE]);
  two.target.poll();
  assert.is(task.result().response, TaskResponse.RESET);
  assert.is(two.run('00 00 00 00 00 00').sense, '06/29/03');
});

test('I_T NEXUS RESET ends the tasks of the nexus, releases its RESERVE and tells it', () => {
  const unit = new Unit();
  unit.run('16 00 00 00 00 00');
  unit.channel.deferred = true;
  const task = send(unit, 1);
  const answers = ask(unit, Tmf.I_T_NEXUS_RESET);
  unit.channel.complete();
  assert.equal(answers, [TmfResponse.FUNCTION_COMPLETE]);
  assert.is(task.result().response, TaskResponse.RESET);
  unit.channel.deferred = false;
  assert.is(unit.run(READ, '', { nexus: 1 }).status, 0);
  assert.is(unit.run(READ).sense, '06/29/07');
  assert.is(unit.run(READ).status, 0);
});

test('QUERY TASK and QUERY TASK SET', () => {
  const unit = deferred();
  assert.equal(ask(unit, Tmf.QUERY_TASK_SET), [TmfResponse.FUNCTION_COMPLETE]);
  const task = send(unit, 7);
  assert.equal(ask(unit, Tmf.QUERY_TASK, 7), [TmfResponse.FUNCTION_SUCCEEDED]);
  assert.equal(ask(unit, Tmf.QUERY_TASK, 8), [TmfResponse.FUNCTION_COMPLETE]);
  assert.equal(ask(unit, Tmf.QUERY_TASK_SET), [TmfResponse.FUNCTION_SUCCEEDED]);
  assert.equal(ask(unit, Tmf.QUERY_TASK_SET, 0, 1), [TmfResponse.FUNCTION_COMPLETE]);
  unit.channel.complete();
  task.result();
});

test('CLEAR ACA and unknown functions are rejected, a missing LUN is incorrect', () => {
  const unit = new Unit();
  assert.equal(ask(unit, Tmf.CLEAR_ACA), [TmfResponse.FUNCTION_REJECTED]);
  assert.equal(ask(unit, 99 as Tmf), [TmfResponse.FUNCTION_REJECTED]);
  assert.equal(ask(unit, Tmf.ABORT_TASK, 0, 0, 3), [TmfResponse.INCORRECT_LUN]);
  assert.equal(ask(unit, Tmf.LOGICAL_UNIT_RESET, 0, 0, 9999), [TmfResponse.INCORRECT_LUN]);
});

test('a command of many steps stops after the step it is in', () => {
  const unit = deferred();
  const task = unit.send(rangeCdb(0x93, 0, 1024), blocks(1, 0x77), { tag: 5 });
  unit.channel.complete(1); // of four pieces
  const answers = ask(unit, Tmf.ABORT_TASK, 5);
  unit.channel.complete(1);
  assert.is(unit.channel.waiting.length, 0);
  assert.is(task.result().response, TaskResponse.ABORTED);
  assert.equal(answers, [TmfResponse.FUNCTION_COMPLETE]);
  assert.equal(firstBytes(unit, 511, 2), [0x77, 0]);
});

test('a command that waits for its turn is given up at once', () => {
  const unit = new Unit({ numBlocks: 20_000 });
  const task = unit.send(rangeCdb(0x8f, 0, 20_000), '', { tag: 5 }); // VERIFY; the disk completes at once
  assert.is(task.done, 0);
  assert.ok(unit.target.wantsPoll);
  assert.equal(ask(unit, Tmf.ABORT_TASK, 5), [TmfResponse.FUNCTION_COMPLETE]);
  assert.is(task.result().response, TaskResponse.ABORTED);
  assert.not(unit.target.wantsPoll);
});

test('commands that wait for a work buffer, and then for an aborted one', () => {
  const unit = deferred();
  const verify = rangeCdb(0x2f, 0, 1);
  const tasks = Array.from({ length: 10 }, (_, i) => unit.send(verify, '', { tag: i }));
  assert.is(unit.channel.waiting.length, 8); // as many as there are buffers
  assert.equal(ask(unit, Tmf.ABORT_TASK, 8), [TmfResponse.FUNCTION_COMPLETE]);
  assert.is(tasks[8].result().response, TaskResponse.ABORTED);
  unit.channel.complete(1);
  unit.settle();
  unit.channel.complete();
  unit.settle();
  for (const i of [0, 1, 2, 3, 4, 5, 6, 7, 9]) assert.is(tasks[i].result().response, TaskResponse.OK);
});

test('a task given up by a reset of the disk is an aborted command', () => {
  const unit = new Unit();
  unit.channel.failures.push({ op: BdevOp.WRITE, status: BdevStatus.ABORTED });
  assert.is(unit.run(WRITE, blocks(1, 1)).sense, '0b/00/00');
});

test('abandon ends everything without an attention', () => {
  const unit = deferred();
  const tasks = [send(unit, 1), unit.send(WRITE, blocks(1, 1), { tag: 2 })];
  let done = 0;
  unit.target.abandon(() => done++);
  assert.is(done, 1);
  for (const task of tasks) assert.is(task.result().response, TaskResponse.RESET);
  unit.channel.deferred = false;
  assert.is(unit.run(READ).status, 0);
});

test.run();
