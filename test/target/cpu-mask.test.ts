/** CPU masks in both of SPDK's forms. */
import { formatCpuMask, parseCpuMask } from '../../src/target/cpu-mask.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('cpu mask');

const good: [text: string, cpus: number[]][] = [
  ['0x1', [0]],
  ['0x3', [0, 1]],
  ['3', [0, 1]], // hexadecimal without the prefix, as SPDK reads it
  ['10', [4]],
  ['0XfF', [0, 1, 2, 3, 4, 5, 6, 7]],
  ['0x8000000000000000', [63]], // beyond 53 bits nothing is lost
  ['[0]', [0]],
  ['[0,1]', [0, 1]],
  ['[ 4 , 0-2 ]', [0, 1, 2, 4]],
];
for (const [text, cpus] of good) test(text, () => assert.equal(parseCpuMask(text), cpus));

for (const text of [
  '',
  '0x',
  '0',
  '0x0',
  'cpu',
  '-1',
  '[]',
  '[0',
  '0]',
  '[a]',
  '[3-1]',
  '[0-2000]',
  `0x1${'0'.repeat(400)}`,
  '[0,]',
  '0x1 ',
]) {
  test(`refused: "${text.slice(0, 20)}"`, () => assert.throws(() => parseCpuMask(text), /CPU mask .*write 0x3/));
}

test('what is formatted parses to the same', () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.nat(1023), { minLength: 1 }), (cpus) => {
      const sorted = cpus.sort((a, b) => a - b);
      assert.equal(parseCpuMask(formatCpuMask(sorted)), sorted);
      assert.equal(parseCpuMask(`[${cpus.join(',')}]`), sorted);
    }),
    budget(100),
  );
});

test.run();
