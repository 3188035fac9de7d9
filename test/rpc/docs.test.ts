/** docs/rpc.md says what the program does: its methods are made from the schemas. UPDATE_DOCS=1 writes them. */
import { readFileSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { describeParams, methodReference } from '../../src/rpc/describe.ts';
import { REQUEST_LIMITS } from '../../src/rpc/document-splitter.ts';
import { methodTable } from '../../src/rpc/methods/table.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('rpc documentation');
const PATH = resolve(import.meta.dirname, '../../docs/rpc.md');

test('docs/rpc.md holds the methods as they are', () => {
  const text = readFileSync(PATH, 'utf8');
  const parts = /^([\s\S]*<!-- methods: .*-->\n)([\s\S]*)(<!-- end of methods -->\n)$/.exec(text);
  assert.ok(parts, 'the two marks are there');
  const [, before, written, after] = parts as unknown as string[];
  const made = `\n${methodReference(methodTable)}\n`;
  if (process.env['UPDATE_DOCS']) writeFileSync(PATH, before + made + after);
  else assert.is(written, made, 'run UPDATE_DOCS=1 node --import tsx test/rpc/docs.test.ts');
});

test('its limits are those of the program', () => {
  const text = readFileSync(PATH, 'utf8');
  assert.match(text, new RegExp(`${REQUEST_LIMITS.bytes / 2 ** 20} MiB, ${REQUEST_LIMITS.depth} nested`));
});

test('every parameter is described', () => {
  for (const row of methodTable.rows) {
    assert.ok(row.summary.endsWith('.') || row.summary.endsWith(').'), `${row.names[0]}: a sentence`);
    for (const p of describeParams(row)) assert.ok(p.description !== '', `${row.names[0]}: ${p.name}`);
  }
});

test.run();
