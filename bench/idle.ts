/**
 * What idle controllers cost a busy one on their reactor: two reactors in one process take turns of about a millisecond, one
 * with and one without them, so that what the machine does meanwhile meets both. The ratio of neighbours in time counts.
 *
 * `node --import tsx bench/idle.ts [IDLE] [SECONDS]`
 */
import { InProcess } from './in-process.ts';
import { quantile } from './statistics.ts';

const idle = Number(process.argv[2] ?? 64);
const seconds = Number(process.argv[3] ?? 10);
/** Passes a turn. */
const PASSES = 100;

const shape = { disk: 'malloc', write: false, depth: 32, bytes: 4096, indirect: false } as const;
const alone = new InProcess(shape);
const among = new InProcess({ ...shape, idle });

/** @returns ns a request */
function turn(run: InProcess): number {
  const begin = performance.now();
  let requests = 0;
  for (let i = 0; i < PASSES; i++) requests += run.turn();
  return ((performance.now() - begin) * 1e6) / requests;
}

const until = performance.now() + seconds * 1000;
const pairs: [number, number][] = [];
while (performance.now() < until) pairs.push([turn(alone), turn(among)]);
alone.close();
among.close();
const steady = pairs.slice(pairs.length >> 1);
const ratio = steady.map(([a, b]) => b / a);
const ns = (i: 0 | 1, q: number) =>
  quantile(
    steady.map((p) => p[i]),
    q,
  ).toFixed(0);
console.log(
  `ns a request, tenth percentile and median: alone ${ns(0, 0.1)} ${ns(0, 0.5)}, among ${idle} idle controllers ` +
    `${ns(1, 0.1)} ${ns(1, 0.5)}; ratio of neighbours: median ${quantile(ratio, 0.5).toFixed(3)}, ` +
    `quartiles ${quantile(ratio, 0.25).toFixed(3)} ${quantile(ratio, 0.75).toFixed(3)}, ${ratio.length} pairs`,
);
process.exit(0);
