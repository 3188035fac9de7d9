/**
 * The whole way of a request, from ring through SCSI and statistics to a disk and back, allocates nothing. What there
 * is, is the loop's and the statistics' clock: a reading is a heap number, one a pass and two in 64 requests. REQUESTS=10000000
 * for a long run.
 */
import { execFileSync } from 'node:child_process';
import { assert, suite } from '../support/suite.ts';

const test = suite('heap of a reactor');
const REQUESTS = Number(process.env['REQUESTS'] ?? 1_000_000);
/** Bytes of a heap number, with room for another version's. */
const READING = 24;
const DEPTH = 32;

for (const [disk, op] of [
  ['null', 'read'],
  ['malloc', 'read'],
  ['malloc', 'write'],
] as const) {
  test(`${disk}, ${op}: nothing is allocated for a request`, () => {
    const program = new URL('./heap-requests.ts', import.meta.url).pathname;
    // A new space that is large enough for all of it, so that no collection hides what was allocated.
    const flags = ['--expose-gc', '--min-semi-space-size=64', '--import', 'tsx'];
    const argv = [...flags, program, disk, op, String(REQUESTS)];
    const printed = execFileSync(process.execPath, argv, { encoding: 'utf8' });
    const { scavenges, allocated, grown } = JSON.parse(printed) as Record<string, number>;
    console.log(`\n${disk} ${op}, ${REQUESTS} requests: ${allocated} bytes allocated, ${grown} kept`);
    assert.is(scavenges, 0);
    assert.ok(grown < 2 << 20, `${grown} bytes kept`);
    const readings = REQUESTS / DEPTH + (2 * REQUESTS) / 64;
    // Twice: a pass may find less than the whole depth ready.
    assert.ok(allocated < 2 * READING * readings + (1 << 20), `${allocated} bytes allocated`);
  });
}

test.run();
