/** The line about a request that waits for too long: once, and again when it is twice as old. */

import { EventLoop } from '../../src/sys/event-loop.ts';
import type { InflightRequest } from '../../src/target/commands.ts';
import { SlowRequestWatch } from '../../src/target/slow-requests.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('slow requests');

test('says it once for each doubling of the age, and starts afresh when all is well', () => {
  const loop = new EventLoop();
  let ages: number[] = [];
  const watch = new SlowRequestWatch(loop, () =>
    ages.map(
      (age_ms): InflightRequest => ({
        ctrlr: 'c',
        target: 0,
        lun: 0,
        vring: 2,
        head: 1,
        age_ms,
        opcode: 'READ(10)',
        cdb: '28',
        where: 'disk',
      }),
    ),
  );
  const steps: [ages: number[], said: boolean][] = [
    [[], false],
    [[29_000, 10], false],
    [[10, 31_000], true],
    [[20, 41_000], false],
    [[61_000], false],
    [[63_000], true],
    [[100_000], false],
    [[130_000], true],
    [[5], false],
    [[31_000], true],
    [[], false],
    [[31_000], true],
  ];
  for (const [now, said] of steps) {
    ages = now;
    assert.is(watch.look(), said, now.join(', '));
  }
  loop.close();
});

test.run();
