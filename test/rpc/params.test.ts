/** Refusals of parameters: each names the parameter, what was expected, and what came. */
import { z } from 'zod';
import { RpcError } from '../../src/rpc/errors.ts';
import { method } from '../../src/rpc/method.ts';
import { parseParams } from '../../src/rpc/params.ts';
import { editDistance, nearest } from '../../src/rpc/suggest.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('rpc parameters');

const row = method({
  names: ['example'],
  summary: '',
  params: z.strictObject({
    name: z.string().min(1),
    num_blocks: z.int().min(1),
    kind: z.enum(['a', 'b']).optional(),
    flags: z.array(z.boolean()).optional(),
    uuid: z.string().regex(/^x/, 'a UUID').optional(),
    either: z.union([z.string(), z.int()]).optional(),
  }),
  result: '',
  handler: () => true,
});

function refusal(params: unknown): string {
  try {
    parseParams(row, 'example', params);
  } catch (error) {
    assert.instance(error, RpcError);
    assert.is((error as RpcError).code, -32602);
    return (error as RpcError).message;
  }
  return 'accepted';
}

const good = { name: 'n', num_blocks: 8 };

const cases: [params: unknown, message: string][] = [
  [good, 'accepted'],
  // What SPDK's script sends of its own accord.
  [{ ...good, md_interleave: false, dif_is_head_of_md: false, md_size: 0, nowait: false }, 'accepted'],
  [
    { ...good, md_size: 8 },
    'Invalid parameters: example: "md_size" asks for metadata beside the blocks, which is not supported: leave it out',
  ],
  [{ ...good, kind: null }, 'accepted'], // null is what some clients send for "not given"
  [{ name: 'n' }, 'Invalid parameters: example: "num_blocks" is missing: expected a number'],
  [
    undefined,
    'Invalid parameters: example: "name" is missing: expected a text; "num_blocks" is missing: expected a number',
  ],
  [{ ...good, name: 5 }, 'Invalid parameters: example: "name" must be a text, not 5'],
  [{ ...good, name: '' }, 'Invalid parameters: example: "name" must be a text of at least 1 character(s), not ""'],
  [{ ...good, num_blocks: '8' }, 'Invalid parameters: example: "num_blocks" must be a number, not "8"'],
  [{ ...good, num_blocks: 1.5 }, 'Invalid parameters: example: "num_blocks" must be a whole number, not 1.5'],
  [{ ...good, num_blocks: 0 }, 'Invalid parameters: example: "num_blocks" must be at least 1, not 0'],
  [
    { ...good, num_blocks: 2 ** 60 },
    'Invalid parameters: example: "num_blocks" must be at most 9007199254740991, not 1152921504606847000',
  ],
  [{ ...good, kind: 'c' }, 'Invalid parameters: example: "kind" must be one of a, b, not "c"'],
  [{ ...good, flags: [true, 1] }, 'Invalid parameters: example: "flags.[1]" must be true or false, not 1'],
  [{ ...good, uuid: 'y' }, 'Invalid parameters: example: "uuid" must be a UUID, not "y"'],
  [{ ...good, either: true }, 'Invalid parameters: example: "either" must be a text or a number, not true'],
  [
    { ...good, num_block: 1 },
    'Invalid parameters: example: unknown parameter "num_block"; known are name, num_blocks, kind, flags, uuid, either',
  ],
  [
    { name: 'n', num_block: 8 },
    'Invalid parameters: example: "num_blocks" is missing: expected a number; unknown parameter "num_block"; did you mean "num_blocks"?',
  ],
  [['n', 8], 'Invalid parameters: example: parameters are an object of names and values, not ["n",8]'],
  ['n', 'Invalid parameters: example: parameters are an object of names and values, not "n"'],
];

for (const [params, message] of cases) {
  test(`${JSON.stringify(params)}`, () => assert.is(refusal(params), message));
}

test('a hostile key does not reach a prototype', () => {
  assert.match(
    refusal(JSON.parse('{"name":"n","num_blocks":1,"__proto__":{"x":1}}')),
    /accepted|unknown parameter "__proto__"/,
  );
  assert.is(({} as { x?: number }).x, undefined);
});

test('a very long value is cut in the message', () => {
  assert.ok(refusal({ ...good, num_blocks: 'x'.repeat(10000) }).length < 200);
});

test('near words', () => {
  assert.is(nearest('bdev_malloc_creat', ['bdev_malloc_create', 'bdev_null_create']), 'bdev_malloc_create');
  assert.is(nearest('malloc_bdev_create', ['bdev_malloc_create']), 'bdev_malloc_create');
  assert.is(nearest('nonsense', ['bdev_malloc_create']), undefined);
  assert.is(editDistance('ab', 'ba'), 1);
  assert.is(editDistance('', 'abc'), 3);
});

test.run();
