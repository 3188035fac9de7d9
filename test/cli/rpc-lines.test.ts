/** Calls from standard input: how lines become words, and which line is named when one is wrong. */
import { rpcLines, splitWords } from '../../src/cli/rpc-lines.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('rpc lines');

const WORDS: [string, string[]][] = [
  ['', []],
  ['   ', []],
  ['get_bdevs', ['get_bdevs']],
  ['  construct_malloc_bdev 64 512\t-b Malloc0 ', ['construct_malloc_bdev', '64', '512', '-b', 'Malloc0']],
  ['# all of it', []],
  ['kill_instance SIGINT # the end', ['kill_instance', 'SIGINT']],
  ['a#b', ['a#b']],
  [`x --json '{"name": "Null 0"}'`, ['x', '--json', '{"name": "Null 0"}']],
  [`x "a 'b' \\"c\\"" d`, ['x', `a 'b' "c"`, 'd']],
  ["a'b c'd", ['ab cd']],
  ["x ''", ['x', '']],
  ['a\\ b', ['a b']],
];

test('words are split as a shell splits them', () => {
  for (const [line, words] of WORDS) assert.equal(splitWords(line), words, line);
});

test('a quotation without an end is refused, with its line', () => {
  assert.throws(() => splitWords("x 'y"), /quotation/);
  assert.throws(() => rpcLines('get_bdevs\n\nx "y'), /line 3: .*quotation/);
});

test('lines keep their numbers', () => {
  assert.equal(rpcLines('# first\n\nget_bdevs\r\n  # more\nget_scsi_devices'), [
    { number: 3, words: ['get_bdevs'] },
    { number: 5, words: ['get_scsi_devices'] },
  ]);
});

test.run();
