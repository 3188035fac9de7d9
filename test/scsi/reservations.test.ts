import { LunState, StateWord } from '../../src/scsi/lun-state.ts';
import {
  type ReservationStore,
  restoreReservations,
  type SavedReservations,
} from '../../src/scsi/reservation-store.ts';
import { TaskResponse } from '../../src/scsi/task.ts';
import { Tmf } from '../../src/scsi/task-management.ts';
import { assert, suite } from '../support/suite.ts';
import { blocks } from './support/case.ts';
import { prList, prOutCdb, rangeCdb } from './support/cdb.ts';
import { Unit } from './support/unit.ts';

/** Persistent reservations between nexuses, controllers and restarts. */

const test = suite('scsi: reservations');

const CONFLICT = 0x18;
const READ = rangeCdb(0x28, 0, 1);
const WRITE = rangeCdb(0x2a, 0, 1);
const TUR = '00 00 00 00 00 00';
const KEYS = '5e 00 00 00 00 00 00 04 00 00';
const [A, B, C] = [0xaaaa, 0xbbbb, 0xcccc];

const register = (unit: Unit, key: number, nexus: number, flags = 0) =>
  unit.run(prOutCdb(0x06), prList(0, key, flags), { nexus }).status;
const act = (unit: Unit, action: number, type: number, key: number, nexus: number, other = 0) =>
  unit.run(prOutCdb(action, type), prList(key, other), { nexus }).status;
const read = (unit: Unit, nexus: number) => unit.run(READ, '', { nexus }).status === 0;
const write = (unit: Unit, nexus: number) => unit.run(WRITE, blocks(1, 1), { nexus }).status === 0;
const generation = (unit: Unit) => unit.run(KEYS).dataIn[3];

// SPC-4 table 59: what others may do. Columns: registered reads, writes; unregistered reads, writes.
const TYPES: readonly [name: string, type: number, allowed: [boolean, boolean, boolean, boolean]][] = [
  ['Write Exclusive', 1, [true, false, true, false]],
  ['Exclusive Access', 3, [false, false, false, false]],
  ['Write Exclusive, registrants only', 5, [true, true, true, false]],
  ['Exclusive Access, registrants only', 6, [true, true, false, false]],
  ['Write Exclusive, all registrants', 7, [true, true, true, false]],
  ['Exclusive Access, all registrants', 8, [true, true, false, false]],
];

for (const [name, type, allowed] of TYPES) {
  test(`${name}: who may do what`, () => {
    const unit = new Unit();
    register(unit, A, 0);
    register(unit, B, 1);
    assert.is(act(unit, 0x01, type, A, 0), 0);
    assert.equal([read(unit, 0), write(unit, 0)], [true, true]);
    assert.equal([read(unit, 1), write(unit, 1), read(unit, 2), write(unit, 2)], allowed);
    assert.is(unit.run(TUR, '', { nexus: 2 }).status, 0);
    assert.is(unit.run('25 00 00 00 00 00 00 00 00 00', '', { nexus: 2 }).status, 0);
    assert.is(unit.run('1b 00 00 00 01 00', '', { nexus: 2 }).status, 0); // START is allowed, STOP is not
    assert.is(unit.run('1b 00 00 00 00 00', '', { nexus: 2 }).status, CONFLICT);
    assert.is(unit.run('1e 00 00 00 00 00', '', { nexus: 2 }).status, 0); // ALLOW is allowed, PREVENT is not
    assert.is(unit.run('1e 00 00 00 01 00', '', { nexus: 2 }).status, CONFLICT);
  });

  test(`${name}: released by the holder, the others are told where they had a part`, () => {
    const unit = new Unit();
    register(unit, A, 0);
    register(unit, B, 1);
    act(unit, 0x01, type, A, 0);
    assert.is(act(unit, 0x02, type, A, 0), 0);
    assert.is(unit.run(TUR, '', { nexus: 1 }).sense, type >= 5 ? '06/2a/04' : '');
    assert.equal([read(unit, 2), write(unit, 2)], [true, true]);
  });
}

test('an all-registrants reservation lives as long as a registrant', () => {
  const unit = new Unit();
  register(unit, A, 0);
  register(unit, B, 1);
  act(unit, 0x01, 8, A, 0);
  register(unit, 0, 0); // the one who reserved leaves
  assert.equal([read(unit, 0), read(unit, 1)], [false, true]);
  register(unit, 0, 1);
  assert.equal([read(unit, 0), read(unit, 1)], [true, true]);
});

test('a holder that unregisters ends its reservation and tells the registrants', () => {
  const unit = new Unit();
  register(unit, A, 0);
  register(unit, B, 1);
  act(unit, 0x01, 5, A, 0);
  register(unit, 0, 0);
  assert.is(unit.run(TUR, '', { nexus: 1 }).sense, '06/2a/04');
  assert.ok(write(unit, 2));
});

test('PREEMPT with another type tells those that stay of the release', () => {
  const unit = new Unit();
  register(unit, A, 0);
  register(unit, B, 1);
  register(unit, C, 2);
  act(unit, 0x01, 3, B, 1);
  assert.is(act(unit, 0x04, 1, A, 0, B), 0);
  assert.is(unit.run(TUR, '', { nexus: 1 }).sense, '06/2a/05');
  assert.is(unit.run(TUR, '', { nexus: 2 }).sense, '06/2a/04');
});

test('PREEMPT looks at SCOPE and TYPE only when it takes a reservation over', () => {
  const unit = new Unit();
  for (const [key, nexus] of [
    [A, 0],
    [B, 1],
    [C, 2],
  ])
    register(unit, key, nexus);
  const preempt = (type: number, victim: number) => unit.run(prOutCdb(0x04, type), prList(A, victim), { nexus: 0 });
  // No reservation: type 0 and a scope that does not exist are passed over, the registration goes.
  assert.is(preempt(0x00, B).status, 0);
  assert.is(unit.run(TUR, '', { nexus: 1 }).sense, '06/2a/05');
  register(unit, B, 1);
  act(unit, 0x01, 5, C, 2);
  assert.is(preempt(0x1f, B).status, 0);
  assert.is(unit.run(TUR, '', { nexus: 1 }).sense, '06/2a/05');
  // C holds the reservation: now they count.
  for (const type of [0x00, 0x02, 0x15]) {
    const refused = preempt(type, C);
    assert.is(refused.sense, '05/24/00', `scope and type ${type}`);
    assert.is(new DataView(refused.senseBytes.buffer).getUint16(16), 2);
  }
  assert.is(act(unit, 0x02, 5, C, 2), 0, 'nothing was changed');
});

test('PREEMPT against an all-registrants reservation removes only the key it names', () => {
  const unit = new Unit();
  register(unit, A, 0);
  register(unit, B, 1);
  register(unit, C, 2);
  act(unit, 0x01, 7, A, 0);
  assert.is(act(unit, 0x04, 7, A, 0, B), 0);
  assert.is(unit.run(TUR, '', { nexus: 1 }).sense, '06/2a/05');
  assert.equal([write(unit, 1), write(unit, 2)], [false, true]);
});

test('the generation counts registrations, CLEAR and PREEMPT, not RESERVE and RELEASE', () => {
  const unit = new Unit();
  register(unit, A, 0);
  register(unit, B, 1);
  assert.is(generation(unit), 2);
  act(unit, 0x01, 3, A, 0);
  act(unit, 0x02, 3, A, 0);
  assert.is(generation(unit), 2);
  act(unit, 0x04, 3, A, 0, B);
  assert.is(generation(unit), 3);
  act(unit, 0x03, 0, A, 0);
  assert.is(generation(unit), 4);
  act(unit, 0x03, 0, A, 0); // refused: no longer registered
  assert.is(generation(unit), 4);
});

test('PREEMPT AND ABORT aborts the tasks of the preempted, on their controller', () => {
  const state = new LunState();
  const one = new Unit({}, { state });
  const two = new Unit({}, { state, relativePort: 2 });
  register(one, A, 0);
  register(two, B, 0);
  act(two, 0x01, 3, B, 0);
  two.channel.deferred = true;
  const task = two.send(READ);
  assert.is(act(one, 0x05, 3, A, 0, B), 0);
  two.target.poll();
  two.channel.complete();
  assert.is(task.result().response, TaskResponse.ABORTED);
  two.channel.deferred = false;
  assert.is(two.run(TUR).sense, '06/2a/05');
  assert.not(read(two, 0));
});

test('PREEMPT AND ABORT spares what the nexus sends later, to another target that shows the disk', () => {
  const unit = new Unit();
  register(unit, A, 0);
  register(unit, B, 1);
  assert.is(act(unit, 0x05, 1, A, 0, B), 0);
  unit.run(TUR, '', { nexus: 1 }); // hears of it
  const later = new Unit({}, { state: unit.lun.state });
  later.channel.deferred = true;
  const task = later.send(READ, '', { nexus: 1 });
  unit.lun.state.changed(); // another thing makes the Lun look
  later.target.poll();
  later.channel.complete();
  assert.is(task.result().response, TaskResponse.OK);
});

test('PREEMPT without ABORT leaves the tasks', () => {
  const unit = new Unit();
  register(unit, A, 0);
  register(unit, B, 1);
  unit.channel.deferred = true;
  const task = unit.send(READ, '', { nexus: 1 });
  assert.is(act(unit, 0x04, 3, A, 0, B), 0);
  unit.channel.complete();
  assert.is(task.result().response, TaskResponse.OK);
});

test('two controllers share registrations and reservations', () => {
  const state = LunState.forReactors();
  const one = new Unit({}, { state });
  const two = new Unit({}, { state: new LunState(state.buffer), relativePort: 2 });
  register(one, A, 0);
  act(one, 0x01, 1, A, 0);
  assert.equal([read(two, 0), write(two, 0)], [true, false]);
  assert.is(two.run(KEYS).dataIn.length, 16);
  const full = one.run('5e 03 00 00 00 00 00 04 00 00').dataIn;
  assert.equal([...full.subarray(26, 28)], [0, 1]); // relative target port
  act(one, 0x02, 1, A, 0);
  assert.ok(write(two, 0));
});

test('a mode change through one controller is seen and told on the other', () => {
  const state = new LunState();
  const one = new Unit({}, { state });
  const two = new Unit({}, { state, relativePort: 2 });
  two.run(TUR);
  one.run('15 10 00 00 10 00', '00 00 00 00 0a 0a 02 10 08 00 00 00 ff ff 00 00'); // SWP
  assert.is(two.run(TUR).sense, '06/2a/01');
  assert.is(two.run(WRITE, blocks(1, 1)).sense, '07/27/02');
  assert.is(one.run(TUR).status, 0);
});

test('a MODE SELECT that changes nothing is not told', () => {
  const unit = new Unit();
  unit.run(TUR, '', { nexus: 1 });
  unit.run('15 10 00 00 10 00', '00 00 00 00 0a 0a 02 10 00 00 00 00 ff ff 00 00');
  assert.is(unit.run(TUR, '', { nexus: 1 }).status, 0);
});

test('registrations survive a disconnection and a reset, RESERVE does not', () => {
  const unit = new Unit();
  unit.lun.nameNexus(0, 'vhost.0');
  register(unit, A, 0);
  act(unit, 0x01, 3, A, 0);
  unit.target.disconnectNexus(0);
  unit.target.taskManagement(Tmf.LOGICAL_UNIT_RESET, 0, 0, 0, () => {});
  assert.not(read(unit, 1));
  assert.ok(read(unit, 0)); // found again by its name
  const other = new Unit();
  other.run('16 00 00 00 00 00');
  other.target.disconnectNexus(0);
  assert.ok(write(other, 1));
});

test('the table of nexuses is bounded, and says so', () => {
  const unit = new Unit();
  const state = unit.lun.state;
  for (let i = 0; i < 64; i++) state.connectNexus(1, i, 9); // others have taken all
  assert.is(unit.run(prOutCdb(0x06), prList(0, A)).sense, '05/55/04');
  assert.ok(read(unit, 0));
  assert.is(unit.run(KEYS).status, 0);
});

test('64 registrants are listed', () => {
  const state = new LunState();
  const unit = new Unit({}, { state });
  for (let n = 0; n < 16; n++) register(unit, 100 + n, n);
  const { dataIn } = unit.run(KEYS);
  assert.is(dataIn.length, 8 + 16 * 8);
});

// Persistence through power loss.

class MemoryStore implements ReservationStore {
  saved: SavedReservations | null = null;
  sequences: number[] = [];
  ok = true;
  hold = false;
  held: (() => void)[] = [];

  save(saved: SavedReservations | null, sequence: number, done: (ok: boolean) => void): void {
    const write = () => {
      this.saved = structuredClone(saved);
      this.sequences.push(sequence);
      done(this.ok);
    };
    if (this.hold) this.held.push(write);
    else write();
  }
}

const APTPL = 0x01;

test('APTPL: registrations and reservation are there again after a restart', () => {
  const store = new MemoryStore();
  const before = new Unit({}, { reservationStore: store });
  assert.is(register(before, A, 0, APTPL), 0);
  assert.is(register(before, B, 1, APTPL), 0);
  assert.is(act(before, 0x01, 6, A, 0), 0);
  assert.equal(store.sequences, [1, 2, 3]);

  const state = new LunState();
  restoreReservations(state, JSON.parse(JSON.stringify(store.saved)));
  const after = new Unit({}, { reservationStore: store, state });
  assert.equal([read(after, 0), read(after, 1), read(after, 2)], [true, true, false]);
  assert.is(act(after, 0x02, 6, A, 0), 0); // the holder is the holder
  assert.equal(after.run('5e 02 00 00 00 00 00 00 08 00').dataIn[3] & 1, 1); // PTPL_A
  assert.ok(store.sequences.at(-1)! > 3);
});

test('APTPL 0 forgets what was kept', () => {
  const store = new MemoryStore();
  const unit = new Unit({}, { reservationStore: store });
  register(unit, A, 0, APTPL);
  assert.ok(store.saved !== null);
  register(unit, B, 0, 0);
  assert.is(store.saved, null);
  act(unit, 0x01, 1, B, 0);
  assert.is(store.sequences.length, 2); // nothing to save any more
});

test('an all-registrants reservation is restored', () => {
  const store = new MemoryStore();
  const before = new Unit({}, { reservationStore: store });
  register(before, A, 0, APTPL);
  act(before, 0x01, 8, A, 0);
  const state = new LunState();
  restoreReservations(state, store.saved!);
  const after = new Unit({}, { state });
  assert.equal([read(after, 0), read(after, 1)], [true, false]);
});

test('GOOD comes after the state is on stable storage', () => {
  const store = new MemoryStore();
  store.hold = true;
  const unit = new Unit({}, { reservationStore: store });
  const sent = unit.send(prOutCdb(0x06), prList(0, A, APTPL));
  assert.is(sent.done, 0);
  store.held[0]();
  assert.is(sent.result().status, 0);
  store.held[0](); // called twice: ignored
  sent.result();
});

test('an abort while the state is being saved', () => {
  const store = new MemoryStore();
  store.hold = true;
  const unit = new Unit({}, { reservationStore: store });
  const sent = unit.send(prOutCdb(0x06), prList(0, A, APTPL), { tag: 4 });
  let answers = 0;
  unit.target.taskManagement(Tmf.ABORT_TASK, 0, 4, 0, () => answers++);
  assert.is(answers, 0);
  store.held[0]();
  assert.is(answers, 1);
  assert.is(sent.result().response, TaskResponse.ABORTED);
});

test('state that cannot be saved is an error', () => {
  const store = new MemoryStore();
  store.ok = false;
  const unit = new Unit({}, { reservationStore: store });
  assert.is(unit.run(prOutCdb(0x06), prList(0, A, APTPL)).sense, '04/44/00');
});

test('saved state that is not ours is an error of the host', () => {
  const bad = (saved: unknown) => () => restoreReservations(new LunState(), saved as SavedReservations);
  const one = { initiator: '0000000000000001', port: 1, key: '0000000000000001', holder: false };
  assert.throws(bad({ sequence: 1, type: 0, registrants: [{ ...one, key: 'x' }] }), /hexadecimal/);
  const many = Array.from({ length: 65 }, (_, i) => ({ ...one, initiator: i.toString(16).padStart(16, '0') }));
  assert.throws(bad({ sequence: 1, type: 0, registrants: many }), /more registrants/);
  const state = new LunState();
  restoreReservations(state, { sequence: 1, type: 99, registrants: [{ ...one, holder: true }] });
  assert.is(state.words[StateWord.PR_TYPE], 0);
});

test.run();
