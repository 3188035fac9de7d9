import { assert, suite } from '../support/suite.ts';
import { toHex, Unit } from './support/unit.ts';

const test = suite('scsi: first steps');

test('a disk is found, written and read', () => {
  const unit = new Unit();
  assert.is(unit.run('00 00 00 00 00 00').status, 0);
  const inquiry = unit.run('12 00 00 00 60 00');
  assert.is(inquiry.dataIn.length, 96);
  assert.is(String.fromCharCode(...inquiry.dataIn.subarray(8, 36)), 'INTEL   Malloc disk     0001');
  assert.is(toHex(unit.run('25 00 00 00 00 00 00 00 00 00').dataIn), '00 00 03 ff 00 00 02 00');
  const data = new Uint8Array(1024).map((_, i) => i);
  assert.is(unit.run('2a 00 00 00 00 08 00 00 02 00', data).status, 0);
  assert.equal(unit.run('28 00 00 00 00 08 00 00 02 00').dataIn, data);
  assert.is(unit.run('28 00 00 00 04 00 00 00 01 00').sense, '05/21/00');
});

test.run();
