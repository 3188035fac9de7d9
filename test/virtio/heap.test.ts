import { execFileSync } from 'node:child_process';
import { assert, suite } from '../support/suite.ts';

/** A million requests through both halves leave no garbage. In a process of its own: it needs the collector. */
const test = suite('ring heap');

test('10^6 chains grow the heap by less than 1 MiB', () => {
  const program = new URL('./heap-cycles.ts', import.meta.url).pathname;
  const printed = execFileSync(process.execPath, ['--expose-gc', '--import', 'tsx', program], {
    encoding: 'utf8',
    env: { ...process.env, NODE_V8_COVERAGE: undefined }, // code that counts its lines allocates
  });
  const { chains, grown, allocated } = JSON.parse(printed) as { chains: number; grown: number; allocated: number };
  assert.is(chains, 2_000_000);
  assert.ok(grown < 1 << 20, `${grown} bytes kept`);
  // Not collected in between either: what was allocated in 2 * 10^6 chains, garbage included.
  assert.ok(allocated < 2 << 20, `${allocated} bytes allocated`);
});

test.run();
