import { assert } from '../../support/suite.ts';
import { blocks, type Case } from '../support/case.ts';
import { prList, prOutCdb } from '../support/cdb.ts';
import type { Unit } from '../support/unit.ts';

/** PERSISTENT RESERVE and RESERVE as bytes; sequences over several nexuses are in reservations.test.ts. */

const PR_IN = 'PERSISTENT RESERVE IN';
const PR_OUT = 'PERSISTENT RESERVE OUT';
const CONFLICT = 0x18;
const A = 0x1111_2222;
const B = 0x3333_4444;

/** Nexus `nexus` registers `key`. */
const register = (unit: Unit, key: number, nexus = 0) =>
  assert.is(unit.run(prOutCdb(0x06), prList(0, key), { nexus }).status, 0);
const reserve = (unit: Unit, key: number, type: number, nexus = 0) =>
  assert.is(unit.run(prOutCdb(0x01, type), prList(key), { nexus }).status, 0);
const keys = (unit: Unit) => {
  const { dataIn } = unit.run('5e 00 00 00 00 00 00 04 00 00');
  return Array.from({ length: (dataIn.length - 8) / 8 }, (_, i) => new DataView(dataIn.buffer).getUint32(12 + 8 * i));
};

const registeredA = (unit: Unit) => register(unit, A);
const reservedA = (unit: Unit) => {
  register(unit, A);
  reserve(unit, A, 1);
};
const reservedBy1 = (unit: Unit) => {
  register(unit, A);
  register(unit, B, 1);
  reserve(unit, B, 3, 1);
};
const reserved6By1 = (unit: Unit) => {
  assert.is(unit.run('16 00 00 00 00 00', '', { nexus: 1 }).status, 0);
};

const prIn: Case[] = [
  {
    command: `${PR_IN}, READ KEYS`,
    kind: 'good',
    shows: 'two keys',
    before: reservedBy1,
    cdb: '5e 00 00 00 00 00 00 00 ff 00',
    in: '00 00 00 02 00 00 00 10 00 00 00 00 11 11 22 22 00 00 00 00 33 33 44 44',
  },
  {
    command: `${PR_IN}, READ KEYS`,
    kind: 'edge',
    shows: 'no keys',
    cdb: '5e 00 00 00 00 00 00 00 ff 00',
    in: '00 00 00 00 00 00 00 00',
  },
  {
    command: `${PR_IN}, READ KEYS`,
    kind: 'edge',
    shows: 'a short allocation length still tells the whole length',
    before: reservedBy1,
    cdb: '5e 00 00 00 00 00 00 00 08 00',
    in: '00 00 00 02 00 00 00 10',
  },
  {
    command: `${PR_IN}, READ KEYS`,
    kind: 'refused',
    shows: 'an unknown service action',
    cdb: '5e 04 00 00 00 00 00 00 ff 00',
    sense: '05/24/00',
    field: 1,
  },
  {
    command: `${PR_IN}, READ KEYS`,
    kind: 'refused',
    shows: 'another nexus has it by RESERVE',
    before: reserved6By1,
    cdb: '5e 00 00 00 00 00 00 00 ff 00',
    status: CONFLICT,
  },
  {
    command: `${PR_IN}, READ RESERVATION`,
    kind: 'good',
    shows: 'a reservation',
    before: reservedBy1,
    cdb: '5e 01 00 00 00 00 00 00 ff 00',
    in: '00 00 00 02 00 00 00 10 00 00 00 00 33 33 44 44 00 00 00 00 00 03 00 00',
  },
  {
    command: `${PR_IN}, READ RESERVATION`,
    kind: 'edge',
    shows: 'none',
    before: registeredA,
    cdb: '5e 01 00 00 00 00 00 00 ff 00',
    in: '00 00 00 01 00 00 00 00',
  },
  {
    command: `${PR_IN}, READ RESERVATION`,
    kind: 'edge',
    shows: 'an all-registrants one has no key',
    before: (u) => {
      register(u, A);
      reserve(u, A, 7);
    },
    cdb: '5e 01 00 00 00 00 00 00 ff 00',
    in: '00 00 00 01 00 00 00 10 00 00 00 00 00 00 00 00 00 00 00 00 00 07 00 00',
  },
  {
    command: `${PR_IN}, READ RESERVATION`,
    kind: 'refused',
    shows: 'a reserved byte',
    cdb: '5e 01 01 00 00 00 00 00 ff 00',
    sense: '05/24/00',
    field: 2,
  },
  {
    command: `${PR_IN}, REPORT CAPABILITIES`,
    kind: 'good',
    shows: 'all types, no APTPL without a store',
    cdb: '5e 02 00 00 00 00 00 00 ff 00',
    in: `00 08
         10     // CRH
         80     // TMV
         ea 01  // types 1 3 5 6 7 8
         00 00`,
  },
  {
    command: `${PR_IN}, REPORT CAPABILITIES`,
    kind: 'edge',
    shows: 'a short allocation length',
    cdb: '5e 02 00 00 00 00 00 00 03 00',
    in: '00 08 10',
  },
  {
    command: `${PR_IN}, REPORT CAPABILITIES`,
    kind: 'refused',
    shows: 'its own RESERVE',
    before: (u) => {
      u.run('16 00 00 00 00 00');
    },
    cdb: '5e 02 00 00 00 00 00 00 ff 00',
    status: CONFLICT,
  },
  {
    command: `${PR_IN}, READ FULL STATUS`,
    kind: 'good',
    shows: 'holder and registrant',
    before: reservedBy1,
    cdb: '5e 03 00 00 00 00 00 00 ff 00',
    in: `00 00 00 02 00 00 00 60
         00 00 00 00 11 11 22 22 00 00 00 00  00 00  00 00 00 00  00 01  00 00 00 18
           06 00 00 00 30 db 52 4f 84 0b ea 8f 00 00 00 00 00 00 00 00 00 00 00 00
         00 00 00 00 33 33 44 44 00 00 00 00  01 03  00 00 00 00  00 01  00 00 00 18
           06 00 00 00 30 9b a4 cf 0e 30 d7 48 00 00 00 00 00 00 00 00 00 00 00 00`,
  },
  {
    command: `${PR_IN}, READ FULL STATUS`,
    kind: 'edge',
    shows: 'nobody',
    cdb: '5e 03 00 00 00 00 00 00 ff 00',
    in: '00 00 00 00 00 00 00 00',
  },
  {
    command: `${PR_IN}, READ FULL STATUS`,
    kind: 'refused',
    shows: 'another nexus has it by RESERVE',
    before: reserved6By1,
    cdb: '5e 03 00 00 00 00 00 00 ff 00',
    status: CONFLICT,
  },
];

/** What every service action of PERSISTENT RESERVE OUT checks. */
function prOutChecks(action: number, name: string, type: number): Case[] {
  const command = `${PR_OUT}, ${name}`;
  const cdb = prOutCdb(action, type);
  const list: Case[] = [
    {
      command,
      kind: 'refused',
      shows: 'a list of another length',
      cdb: prOutCdb(action, type, 25),
      out: `${prList(0)}00`,
      sense: '05/1a/00',
    },
    { command, kind: 'refused', shows: 'data shorter than the list', cdb, out: prList(0).slice(0, 40), response: 5 },
    { command, kind: 'refused', shows: 'SPEC_I_PT', cdb, out: prList(0, 0, 0x08), sense: '05/26/00', field: 20 },
    {
      command,
      kind: 'refused',
      shows: 'a RESERVE of another nexus',
      before: reserved6By1,
      cdb,
      out: prList(0, A),
      status: CONFLICT,
    },
  ];
  if (type !== 0) {
    // PREEMPT looks at them when there is a reservation to take over: its own will do.
    const preempts = action === 0x04 || action === 0x05;
    const wrong = preempts ? { before: reservedA, out: prList(A, A) } : { out: prList(0) };
    const refused = { command, kind: 'refused', ...wrong, sense: '05/24/00', field: 2 } as const;
    list.push(
      { ...refused, shows: 'an unknown type', cdb: prOutCdb(action, 2) },
      { ...refused, shows: 'a scope that is not the unit', cdb: prOutCdb(action, 0x11) },
    );
  }
  return list;
}

const prOut: Case[] = [
  ...prOutChecks(0x00, 'REGISTER', 0),
  ...prOutChecks(0x01, 'RESERVE', 1),
  ...prOutChecks(0x02, 'RELEASE', 1),
  ...prOutChecks(0x03, 'CLEAR', 0),
  ...prOutChecks(0x04, 'PREEMPT', 1),
  ...prOutChecks(0x05, 'PREEMPT AND ABORT', 1),
  ...prOutChecks(0x06, 'REGISTER AND IGNORE EXISTING KEY', 0),
  {
    command: `${PR_OUT}, REGISTER`,
    kind: 'good',
    shows: 'a first key',
    cdb: prOutCdb(0x00),
    out: prList(0, A),
    transferred: 24,
    after: (u) => assert.equal(keys(u), [A]),
  },
  {
    command: `${PR_OUT}, REGISTER`,
    kind: 'good',
    shows: 'another key',
    before: registeredA,
    cdb: prOutCdb(0x00),
    out: prList(A, B),
    after: (u) => assert.equal(keys(u), [B]),
  },
  {
    command: `${PR_OUT}, REGISTER`,
    kind: 'good',
    shows: 'key 0 unregisters',
    before: registeredA,
    cdb: prOutCdb(0x00),
    out: prList(A, 0),
    after: (u) => assert.equal(keys(u), []),
  },
  {
    command: `${PR_OUT}, REGISTER`,
    kind: 'edge',
    shows: 'unregister the unregistered',
    cdb: prOutCdb(0x00),
    out: prList(0, 0),
    after: (u) => assert.equal(keys(u), []),
  },
  {
    command: `${PR_OUT}, REGISTER`,
    kind: 'edge',
    shows: 'unregistering the holder ends the reservation',
    before: reservedA,
    cdb: prOutCdb(0x00),
    out: prList(A, 0),
    after: (u) => assert.is(u.run('2a 00 00 00 00 00 00 00 01 00', blocks(1, 1), { nexus: 1 }).status, 0),
  },
  {
    command: `${PR_OUT}, REGISTER`,
    kind: 'refused',
    shows: 'a wrong key',
    before: registeredA,
    cdb: prOutCdb(0x00),
    out: prList(B, B),
    status: CONFLICT,
  },
  {
    command: `${PR_OUT}, REGISTER`,
    kind: 'refused',
    shows: 'a key from the unregistered',
    cdb: prOutCdb(0x00),
    out: prList(A, A),
    status: CONFLICT,
  },
  {
    command: `${PR_OUT}, REGISTER`,
    kind: 'refused',
    shows: 'APTPL without a store',
    cdb: prOutCdb(0x00),
    out: prList(0, A, 0x01),
    sense: '05/26/00',
    field: 20,
  },
  {
    command: `${PR_OUT}, REGISTER`,
    kind: 'refused',
    shows: 'ALL_TG_PT',
    cdb: prOutCdb(0x00),
    out: prList(0, A, 0x04),
    sense: '05/26/00',
    field: 20,
  },
  {
    command: `${PR_OUT}, REGISTER`,
    kind: 'refused',
    shows: 'REGISTER AND MOVE is not there',
    cdb: prOutCdb(0x07),
    out: prList(0, A),
    sense: '05/24/00',
    field: 1,
  },
  {
    command: `${PR_OUT}, REGISTER`,
    kind: 'refused',
    shows: 'REPLACE LOST RESERVATION is not there',
    cdb: prOutCdb(0x08),
    out: prList(0, A),
    sense: '05/24/00',
    field: 1,
  },
  {
    command: `${PR_OUT}, REGISTER AND IGNORE EXISTING KEY`,
    kind: 'good',
    shows: 'whatever the key',
    before: registeredA,
    cdb: prOutCdb(0x06),
    out: prList(B, B),
    after: (u) => assert.equal(keys(u), [B]),
  },
  {
    command: `${PR_OUT}, REGISTER AND IGNORE EXISTING KEY`,
    kind: 'edge',
    shows: 'key 0 unregisters',
    before: registeredA,
    cdb: prOutCdb(0x06),
    out: prList(B, 0),
    after: (u) => assert.equal(keys(u), []),
  },
  {
    command: `${PR_OUT}, RESERVE`,
    kind: 'good',
    shows: 'write exclusive',
    before: registeredA,
    cdb: prOutCdb(0x01, 1),
    out: prList(A),
    after: (u) => assert.is(u.run('2a 00 00 00 00 00 00 00 01 00', blocks(1, 1), { nexus: 1 }).status, CONFLICT),
  },
  {
    command: `${PR_OUT}, RESERVE`,
    kind: 'edge',
    shows: 'again by the holder',
    before: reservedA,
    cdb: prOutCdb(0x01, 1),
    out: prList(A),
  },
  {
    command: `${PR_OUT}, RESERVE`,
    kind: 'edge',
    shows: 'its key 0 bits are the whole 64',
    before: registeredA,
    cdb: prOutCdb(0x01, 1),
    out: prList(A + 2 ** 32),
    status: CONFLICT,
  },
  {
    command: `${PR_OUT}, RESERVE`,
    kind: 'refused',
    shows: 'another type by the holder',
    before: reservedA,
    cdb: prOutCdb(0x01, 3),
    out: prList(A),
    status: CONFLICT,
  },
  {
    command: `${PR_OUT}, RESERVE`,
    kind: 'refused',
    shows: 'held by another',
    before: reservedBy1,
    cdb: prOutCdb(0x01, 3),
    out: prList(A),
    status: CONFLICT,
  },
  {
    command: `${PR_OUT}, RESERVE`,
    kind: 'refused',
    shows: 'by the unregistered',
    cdb: prOutCdb(0x01, 1),
    out: prList(0),
    status: CONFLICT,
  },
  {
    command: `${PR_OUT}, RELEASE`,
    kind: 'good',
    shows: 'by the holder',
    before: reservedA,
    cdb: prOutCdb(0x02, 1),
    out: prList(A),
    after: (u) => assert.is(u.run('2a 00 00 00 00 00 00 00 01 00', blocks(1, 1), { nexus: 1 }).status, 0),
  },
  {
    command: `${PR_OUT}, RELEASE`,
    kind: 'edge',
    shows: 'nothing is reserved',
    before: registeredA,
    cdb: prOutCdb(0x02, 1),
    out: prList(A),
  },
  {
    command: `${PR_OUT}, RELEASE`,
    kind: 'edge',
    shows: 'by another registrant: nothing happens',
    before: reservedBy1,
    cdb: prOutCdb(0x02, 3),
    out: prList(A),
    after: (u) => assert.is(u.run('28 00 00 00 00 00 00 00 01 00').status, CONFLICT),
  },
  {
    command: `${PR_OUT}, RELEASE`,
    kind: 'refused',
    shows: 'with another type',
    before: reservedA,
    cdb: prOutCdb(0x02, 3),
    out: prList(A),
    sense: '05/26/04',
  },
  {
    command: `${PR_OUT}, RELEASE`,
    kind: 'refused',
    shows: 'with another key',
    before: reservedA,
    cdb: prOutCdb(0x02, 1),
    out: prList(B),
    status: CONFLICT,
  },
  {
    command: `${PR_OUT}, CLEAR`,
    kind: 'good',
    shows: 'all is gone',
    before: reservedBy1,
    cdb: prOutCdb(0x03),
    out: prList(A),
    after: (u) => assert.equal([keys(u), u.run('00 00 00 00 00 00', '', { nexus: 1 }).sense], [[], '06/2a/03']),
  },
  {
    command: `${PR_OUT}, CLEAR`,
    kind: 'edge',
    shows: 'without a reservation',
    before: registeredA,
    cdb: prOutCdb(0x03),
    out: prList(A),
    after: (u) => assert.equal(keys(u), []),
  },
  {
    command: `${PR_OUT}, CLEAR`,
    kind: 'refused',
    shows: 'by the unregistered',
    before: (u) => register(u, B, 1),
    cdb: prOutCdb(0x03),
    out: prList(0),
    status: CONFLICT,
  },
  {
    command: `${PR_OUT}, PREEMPT`,
    kind: 'good',
    shows: 'takes the reservation over',
    before: reservedBy1,
    cdb: prOutCdb(0x04, 1),
    out: prList(A, B),
    after: (u) =>
      assert.equal(
        [
          keys(u),
          u.run('00 00 00 00 00 00', '', { nexus: 1 }).sense,
          u.run('2a 00 00 00 00 00 00 00 01 00', blocks(1, 1)).status,
        ],
        [[A], '06/2a/05', 0],
      ),
  },
  {
    command: `${PR_OUT}, PREEMPT`,
    kind: 'edge',
    shows: 'removes a registrant that is no holder',
    before: (u) => {
      reservedA(u);
      register(u, B, 1);
    },
    cdb: prOutCdb(0x04, 3),
    out: prList(A, B),
    after: (u) => assert.equal([keys(u), u.run('5e 01 00 00 00 00 00 00 ff 00').dataIn[21]], [[A], 1]),
  },
  {
    command: `${PR_OUT}, PREEMPT`,
    kind: 'edge',
    shows: 'itself: changes the type',
    before: reservedA,
    cdb: prOutCdb(0x04, 3),
    out: prList(A, A),
    after: (u) => assert.equal([keys(u), u.run('5e 01 00 00 00 00 00 00 ff 00').dataIn[21]], [[A], 3]),
  },
  {
    command: `${PR_OUT}, PREEMPT`,
    kind: 'edge',
    shows: 'key 0 against an all-registrants reservation: all others',
    before: (u) => {
      register(u, A);
      register(u, B, 1);
      reserve(u, B, 8, 1);
    },
    cdb: prOutCdb(0x04, 1),
    out: prList(A, 0),
    after: (u) => assert.equal([keys(u), u.run('5e 01 00 00 00 00 00 00 ff 00').dataIn[21]], [[A], 1]),
  },
  {
    command: `${PR_OUT}, PREEMPT`,
    kind: 'refused',
    shows: 'a key that nobody has',
    before: reservedA,
    cdb: prOutCdb(0x04, 1),
    out: prList(A, B),
    status: CONFLICT,
  },
  {
    command: `${PR_OUT}, PREEMPT`,
    kind: 'refused',
    shows: 'key 0',
    before: reservedA,
    cdb: prOutCdb(0x04, 1),
    out: prList(A, 0),
    sense: '05/26/00',
    field: 8,
  },
  {
    command: `${PR_OUT}, PREEMPT AND ABORT`,
    kind: 'good',
    shows: 'takes the reservation over',
    before: reservedBy1,
    cdb: prOutCdb(0x05, 3),
    out: prList(A, B),
    after: (u) => assert.equal(keys(u), [A]),
  },
  {
    command: `${PR_OUT}, PREEMPT AND ABORT`,
    kind: 'edge',
    shows: 'without a reservation it removes registrants',
    before: (u) => {
      register(u, A);
      register(u, B, 1);
    },
    cdb: prOutCdb(0x05, 3),
    out: prList(A, B),
    after: (u) => assert.equal(keys(u), [A]),
  },
];

function spc2(size: 6 | 10): Case[] {
  const zeros = size === 6 ? '00 00 00 00 00' : '00 00 00 00 00 00 00 00 00';
  const reserveCdb = `${size === 6 ? '16' : '56'} ${zeros}`;
  const releaseCdb = `${size === 6 ? '17' : '57'} ${zeros}`;
  const held = (u: Unit) => {
    u.run(reserveCdb, '', { nexus: 1 });
  };
  return [
    {
      command: `RESERVE(${size})`,
      kind: 'good',
      shows: 'keeps others out',
      cdb: reserveCdb,
      after: (u) =>
        assert.equal(
          [
            u.run('28 00 00 00 00 00 00 00 01 00', '', { nexus: 1 }).status,
            u.run('28 00 00 00 00 00 00 00 01 00').status,
            u.run('12 00 00 00 24 00', '', { nexus: 1 }).status,
            u.run('00 00 00 00 00 00', '', { nexus: 1 }).status,
          ],
          [CONFLICT, 0, 0, CONFLICT],
        ),
    },
    {
      command: `RESERVE(${size})`,
      kind: 'edge',
      shows: 'again by the holder',
      before: (u) => {
        u.run(reserveCdb);
      },
      cdb: reserveCdb,
    },
    {
      command: `RESERVE(${size})`,
      kind: 'edge',
      shows: 'by the persistent holder: nothing happens (CRH)',
      before: reservedA,
      cdb: reserveCdb,
    },
    {
      command: `RESERVE(${size})`,
      kind: 'refused',
      shows: 'held by another',
      before: held,
      cdb: reserveCdb,
      status: CONFLICT,
    },
    {
      command: `RESERVE(${size})`,
      kind: 'refused',
      shows: 'someone has registered',
      before: (u) => register(u, B, 1),
      cdb: reserveCdb,
      status: CONFLICT,
    },
    {
      command: `RESERVE(${size})`,
      kind: 'refused',
      shows: 'third party',
      cdb: reserveCdb.replace('00', '10'),
      sense: '05/24/00',
    },
    {
      command: `RELEASE(${size})`,
      kind: 'good',
      shows: 'lets others in',
      before: (u) => {
        u.run(reserveCdb);
      },
      cdb: releaseCdb,
      after: (u) => assert.is(u.run('28 00 00 00 00 00 00 00 01 00', '', { nexus: 1 }).status, 0),
    },
    {
      command: `RELEASE(${size})`,
      kind: 'edge',
      shows: 'by another: GOOD, and it stays',
      before: held,
      cdb: releaseCdb,
      after: (u) => assert.is(u.run('28 00 00 00 00 00 00 00 01 00').status, CONFLICT),
    },
    { command: `RELEASE(${size})`, kind: 'edge', shows: 'nothing reserved', cdb: releaseCdb },
    {
      command: `RELEASE(${size})`,
      kind: 'refused',
      shows: 'someone has registered',
      before: (u) => register(u, B, 1),
      cdb: releaseCdb,
      status: CONFLICT,
    },
  ];
}

export const reservations: readonly Case[] = [...prIn, ...prOut, ...spc2(6), ...spc2(10)];
