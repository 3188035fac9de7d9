/** A thread for worker.test.ts: touches every GiB of a large mapping, and says how often the whole heap was collected meanwhile. */
import { constants, PerformanceObserver } from 'node:perf_hooks';
import { setImmediate } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { mapFile, memfd } from '../../../src/sys/mapping.ts';

const GIB = 2 ** 30;
const size = (workerData as { gib: number }).gib * GIB;
const fd = memfd('large', size);
const mapping = mapFile(fd, { size });
fd.close();
let collections = 0;
const observer = new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    const { kind, flags } = (entry as unknown as { detail: { kind: number; flags: number } }).detail;
    const forced = (flags & constants.NODE_PERFORMANCE_GC_FLAGS_FORCED) !== 0;
    if (kind === constants.NODE_PERFORMANCE_GC_MAJOR || forced) collections++;
  }
});
observer.observe({ entryTypes: ['gc'] });
await setImmediate();
collections = 0;
for (let at = 0; at < size; at += GIB) mapping.memoryAt(at, GIB).u8[0] = 1;
await setImmediate();
await setImmediate();
observer.disconnect();
mapping.unmap();
parentPort?.postMessage(collections);
