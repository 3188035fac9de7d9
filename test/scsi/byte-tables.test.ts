import { OPCODES } from '../../src/scsi/opcodes.ts';
import { assert, suite } from '../support/suite.ts';
import { type Case, runCase } from './support/case.ts';
import { identification } from './tables/identification.ts';
import { medium } from './tables/medium.ts';
import { mode } from './tables/mode.ts';
import { readWrite } from './tables/read-write.ts';
import { reports } from './tables/reports.ts';
import { reservations } from './tables/reservations.ts';
import { unitCommands } from './tables/unit.ts';
import { zeroes } from './tables/zeroes.ts';

/** Commands as bytes: every row of the opcode table with good, edge and refused cases. */

const CASES: readonly Case[] = [
  ...identification,
  ...unitCommands,
  ...readWrite,
  ...medium,
  ...zeroes,
  ...mode,
  ...reports,
  ...reservations,
];

const test = suite('scsi: byte tables');

for (const c of CASES) test(`${c.command}: ${c.shows}`, () => runCase(c));

test('every opcode row has good, edge and refused cases', () => {
  const missing: string[] = [];
  for (const row of OPCODES) {
    for (const kind of ['good', 'edge', 'refused']) {
      if (!CASES.some((c) => c.command === row.name && c.kind === kind)) missing.push(`${row.name}: ${kind}`);
    }
  }
  assert.equal(missing, []);
  const names = OPCODES.map((row) => row.name);
  assert.equal(
    CASES.filter((c) => !names.includes(c.command) && c.command !== 'other').map((c) => c.command),
    [],
  );
});

test('there are at least 200 rows', () => {
  assert.ok(CASES.length >= 200, `${CASES.length}`);
});

test.run();
