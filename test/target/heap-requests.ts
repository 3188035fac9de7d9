/** Child of heap.test.ts: REQUESTS requests from ring to disk and back; what they left on the heap, as JSON. */
import { constants, PerformanceObserver } from 'node:perf_hooks';
import { setImmediate } from 'node:timers/promises';
import { getHeapSpaceStatistics } from 'node:v8';
import { InProcess } from '../../bench/in-process.ts';

const [disk, op, count] = process.argv.slice(2) as ['malloc' | 'null', string, string];
const collect = globalThis.gc;
if (collect === undefined) throw new Error('run with --expose-gc');

let scavenges = 0;
const observer = new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    const { kind } = (entry as unknown as { detail: { kind: number } }).detail;
    if (kind === constants.NODE_PERFORMANCE_GC_MINOR) scavenges++;
  }
});

const run = new InProcess({ disk, write: op === 'write', depth: 32, bytes: 4096, indirect: false });
const serve = (requests: number) => {
  for (let done = 0; done < requests; ) done += run.turn();
};
const inUse = () => getHeapSpaceStatistics().reduce((sum, space) => sum + space.space_used_size, 0);

serve(1_000_000); // code, feedback and slots are allocated too
await setImmediate();
collect();
collect();
observer.observe({ entryTypes: ['gc'] });
await setImmediate();
scavenges = 0;
const before = inUse();
const start = performance.now();
serve(Number(count));
const nanoseconds = ((performance.now() - start) * 1e6) / Number(count);
const allocated = inUse() - before;
await setImmediate();
await setImmediate();
observer.disconnect();
collect();
collect();
console.log(JSON.stringify({ scavenges, allocated, grown: inUse() - before, nanoseconds: Math.round(nanoseconds) }));
run.close();
process.exit(0);
