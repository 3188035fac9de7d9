/**
 * What a steady load leaves behind: growth of the heap and collections over many requests, from ring to ring on one thread.
 * With `--trace-deopt` before the file's name, Node prints what its compiler took back; there is to be none after "begin".
 *
 * `node --expose-gc --import tsx bench/steady.ts [--requests 10000000] [--disk malloc|null] [--op write] [--depth 32] [--memory 2G] [--disk-size 1G]`
 */
import { PerformanceObserver } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { getHeapSpaceStatistics } from 'node:v8';
import { parseSize } from '../src/cli/options.ts';
import { InProcess } from './in-process.ts';

const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: '10000000' },
    disk: { type: 'string', default: 'malloc' },
    op: { type: 'string', default: 'read' },
    depth: { type: 'string', default: '32' },
    bytes: { type: 'string', default: '4096' },
    indirect: { type: 'boolean', default: false },
    /** Of the guest, e.g. 2G, the data buffers being at its end; and of the disk. */
    memory: { type: 'string' },
    'disk-size': { type: 'string' },
  },
});

const run = new InProcess({
  disk: values.disk === 'null' ? 'null' : 'malloc',
  write: values.op === 'write',
  depth: Number(values.depth),
  bytes: Number(values.bytes),
  indirect: values.indirect,
  memory: values.memory === undefined ? undefined : parseSize(values.memory),
  diskBytes: values['disk-size'] === undefined ? undefined : parseSize(values['disk-size']),
});
const drive = (requests: number) => {
  for (let done = 0; done < requests; ) done += run.turn();
};
const inUse = () => getHeapSpaceStatistics().reduce((sum, space) => sum + space.space_used_size, 0);
const collect = globalThis.gc;
if (collect === undefined) throw new Error('run with --expose-gc');

drive(1_000_000); // code, feedback, tables
let collections = 0;
const observer = new PerformanceObserver((list) => {
  collections += list.getEntries().length;
});
collect();
collect();
await new Promise((resolve) => setTimeout(resolve, 100));
observer.observe({ entryTypes: ['gc'] });
const before = inUse();
console.log('begin');
const began = performance.now();
drive(Number(values.requests));
const seconds = (performance.now() - began) / 1000;
console.log('end');
const allocated = inUse() - before;
await new Promise((resolve) => setTimeout(resolve, 100));
observer.disconnect();
collect();
collect();
const grown = inUse() - before;
console.log(
  JSON.stringify({
    requests: Number(values.requests),
    disk: values.disk,
    op: values.op,
    memory: values.memory,
    disk_size: values['disk-size'],
    collections,
    allocated_bytes: allocated,
    grown_bytes: grown,
    per_second: Math.round(Number(values.requests) / seconds),
  }),
);
run.close();
process.exit(0);
