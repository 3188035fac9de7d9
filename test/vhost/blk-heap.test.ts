/** A million block requests through session, model and a memory disk leave no garbage. In a process of its own. */
import { execFileSync } from 'node:child_process';
import { assert, suite } from '../support/suite.ts';

const test = suite('vhost blk heap');

test('10^6 block requests grow the heap by less than 2 MiB', () => {
  const program = new URL('./blk-heap-requests.ts', import.meta.url).pathname;
  const printed = execFileSync(process.execPath, ['--expose-gc', '--import', 'tsx', program], { encoding: 'utf8' });
  const { requests, failed, grown, allocated, perSecond } = JSON.parse(printed) as Record<string, number>;
  console.log(
    `\n${perSecond} requests a second in one thread, both sides; ${allocated} bytes allocated, ${grown} kept`,
  );
  assert.ok(requests >= 1_200_000);
  assert.is(failed, 0);
  assert.ok(grown < 2 << 20, `${grown} bytes kept`);
  // Not collected in between either: what there is, is the loop's (a clock reading a pass), not the requests'.
  assert.ok(allocated < 24 << 20, `${allocated} bytes allocated`);
});

test.run();
