import { readFileSync } from 'node:fs';
import { assert, suite } from '../support/suite.ts';
import { DOCUMENT, withTable } from './print-opcodes.ts';

const test = suite('scsi: docs');

test('the table of commands in docs/scsi.md is that of the program', () => {
  const document = readFileSync(DOCUMENT, 'utf8');
  assert.is(document, withTable(document), 'run: node --import tsx test/scsi/print-opcodes.ts');
});

test.run();
