/** Where JSON documents end: any cut of the stream gives the same documents, and hostile streams end with a reason. */
import { DocumentSplitter, parseDocument } from '../../src/rpc/document-splitter.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('document splitter');

function split(
  chunks: readonly (string | Uint8Array)[],
  bytes = 1000,
  depth = 8,
): { documents: string[]; wrong: string | undefined } {
  const documents: string[] = [];
  const splitter = new DocumentSplitter({ bytes, depth }, (d) => documents.push(Buffer.from(d).toString()));
  let wrong: string | undefined;
  for (const chunk of chunks) wrong = splitter.push(typeof chunk === 'string' ? Buffer.from(chunk) : chunk);
  return { documents, wrong };
}

test('one document, several in one read, with and without space between', () => {
  assert.equal(split(['{"a":1}']).documents, ['{"a":1}']);
  assert.equal(split([' {"a":1}[2]\n\t{}\r\n']).documents, ['{"a":1}', '[2]', '{}']);
});

test('brackets and quotes inside of strings count for nothing', () => {
  assert.equal(split(['{"}":"\\"]{"}{"b\\\\":[]}']).documents, ['{"}":"\\"]{"}', '{"b\\\\":[]}']);
});

test('a document cut at every byte is the same document', () => {
  const text = '{"a":["}\\"",{"b":"\\\\"}],"c":"é"}[1]';
  const whole = split([text]).documents;
  for (let cut = 1; cut < Buffer.byteLength(text); cut++) {
    const bytes = Buffer.from(text);
    assert.equal(split([bytes.subarray(0, cut), bytes.subarray(cut)]).documents, whole);
  }
});

test('what begins no document is refused, with what it began with', () => {
  for (const text of ['hello', '5', '"a"', '}', '\u0000', 'GET / HTTP/1.1\r\n']) {
    assert.match(split([text]).wrong ?? '', /starts with \{ or \[/);
  }
  assert.match(split(['{} x']).wrong ?? '', /not with "x"/);
  assert.equal(split(['{} x']).documents, ['{}'], 'what was complete before is still delivered');
});

test('a broken stream stays broken', () => {
  const seen: unknown[] = [];
  const splitter = new DocumentSplitter({ bytes: 100, depth: 4 }, (d) => seen.push(d));
  assert.ok(splitter.push(Buffer.from('?')));
  assert.ok(splitter.push(Buffer.from('{}')));
  assert.is(seen.length, 0);
});

test('size limit: in one read, over many reads, and exactly at the limit', () => {
  const document = (bytes: number) => `"${'x'.repeat(bytes - 4)}"`;
  assert.is(split([`[${document(100)}]`], 100).wrong, undefined);
  assert.match(split([`[${document(101)}]`], 100).wrong ?? '', /more than 100 bytes/);
  assert.match(
    split(
      Array.from({ length: 101 }, (_, i) => (i === 0 ? '[' : ' ')),
      100,
    ).wrong ?? '',
    /more than 100 bytes/,
  );
});

test('nesting limit', () => {
  assert.is(split([`${'['.repeat(8)}${']'.repeat(8)}`]).wrong, undefined);
  assert.match(split(['['.repeat(9)]).wrong ?? '', /more than 8 nested/);
  assert.match(split(['{"a":'.repeat(9)]).wrong ?? '', /more than 8 nested/);
});

test('any values, cut anywhere, come out as they went in', () => {
  const value = fc.oneof(
    fc.array(fc.jsonValue({ maxDepth: 4 }), { maxLength: 4 }),
    fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 4 })),
  );
  fc.assert(
    fc.property(fc.array(value, { maxLength: 5 }), fc.array(fc.nat(200)), (values, cuts) => {
      const bytes = Buffer.from(values.map((v) => JSON.stringify(v)).join('\n'));
      const out: unknown[] = [];
      const splitter = new DocumentSplitter({ bytes: 1e6, depth: 64 }, (d) => out.push(parseDocument(d)));
      let at = 0;
      for (const cut of [...cuts, bytes.length]) {
        assert.is(splitter.push(bytes.subarray(at, Math.min(bytes.length, at + cut))), undefined);
        at = Math.min(bytes.length, at + cut);
      }
      assert.equal(out, JSON.parse(JSON.stringify(values)));
      assert.ok(splitter.idle);
    }),
    budget(200),
  );
});

test('any bytes at all: no throw, and every document that comes out was balanced', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 50 }), { maxLength: 8 }), (chunks) => {
      split(chunks, 64, 4);
    }),
    budget(300),
  );
});

test('bytes that are no UTF-8, and brackets that do not match, fail in the parser', () => {
  assert.throws(() => parseDocument(Uint8Array.from([0x7b, 0x22, 0xff, 0x22, 0x7d])));
  assert.throws(() => parseDocument(Buffer.from('{]')));
});

test.run();
