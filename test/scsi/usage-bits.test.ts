import { cdbLength, OPCODES } from '../../src/scsi/opcodes.ts';
import { assert, suite } from '../support/suite.ts';
import { Unit } from './support/unit.ts';

/** The usage maps that REPORT SUPPORTED OPERATION CODES shows are what the parser does. */

const test = suite('scsi: usage bits');

const INVALID_FIELD = '05/24/00';

test('rows are in order, and each CDB has the length of its group', () => {
  for (let i = 1; i < OPCODES.length; i++) {
    const [a, b] = [OPCODES[i - 1], OPCODES[i]];
    assert.ok(a.opcode < b.opcode || (a.opcode === b.opcode && a.serviceAction < b.serviceAction), b.name);
  }
  for (const row of OPCODES) assert.is(row.length, cdbLength(row.opcode), row.name);
});

test('a service action is in its usage map, and nothing else of its field', () => {
  for (const row of OPCODES) if (row.serviceAction >= 0) assert.is(row.usage[1] & 0x1f, row.serviceAction, row.name);
});

for (const row of OPCODES.filter((r) => r.strict)) {
  test(`${row.name}: bits outside the map are refused, those inside are not refused as reserved`, () => {
    for (let byte = 1; byte < row.length; byte++) {
      for (let bit = 0; bit < 8; bit++) {
        // Free anyway: the service action, the obsolete LUN field, vendor bits of CONTROL.
        if (byte === 1 && row.serviceAction >= 0 && bit < 5) continue;
        if (byte === 1 && row.length === 6 && bit >= 5) continue;
        if (byte === row.length - 1 && bit >= 6) continue;
        const cdb = new Uint8Array(16);
        cdb[0] = row.opcode;
        cdb[1] = Math.max(row.serviceAction, 0);
        cdb[byte] |= 1 << bit;
        const { sense, senseBytes } = new Unit({ numBlocks: 8 }).run(cdb, '', { room: 256 });
        const pointer = senseBytes.length >= 18 ? (senseBytes[16] << 8) | senseBytes[17] : -1;
        if ((row.usage[byte] & (1 << bit)) === 0) {
          assert.is(sense, INVALID_FIELD, `byte ${byte} bit ${bit}`);
          assert.is(pointer, byte, `byte ${byte} bit ${bit}`);
          assert.is(senseBytes[15] & 0x0f, 0x08 | bit, `byte ${byte} bit ${bit}`);
        }
      }
    }
  });
}

for (const row of OPCODES.filter((r) => !r.strict)) {
  test(`${row.name}: NACA is refused, hints are not`, () => {
    const cdb = new Uint8Array(16);
    cdb[0] = row.opcode;
    cdb[row.length - 1] = 0x04;
    assert.is(new Unit({ numBlocks: 8 }).run(cdb, '', { room: 256 }).sense, INVALID_FIELD);
    if (row.length === 6) return;
    cdb[row.length - 1] = 0;
    cdb[1] = 0x10; // DPO
    assert.is(new Unit({ numBlocks: 8 }).run(cdb, '', { room: 256 }).status, 0);
    cdb[row.length === 10 ? 6 : row.length - 2] = 0x3f; // GROUP NUMBER
    assert.is(new Unit({ numBlocks: 8 }).run(cdb, '', { room: 256 }).status, 0);
  });
}

test.run();
