/** A thread for mapping.test.ts: adopts a mapping, says what it reads, writes, and looks again when told. */
import { parentPort, workerData } from 'node:worker_threads';
import { adopt, type MappingShare } from '../../../src/sys/mapping.ts';

const mapping = adopt(workerData as MappingShare);
const memory = mapping.memoryAt(0, 4096);
const kept = memory.u32; // a view that outlives the owner's unmap
Atomics.add(kept, 1, 1);
parentPort?.postMessage({ first: kept[0], length: memory.length });
parentPort?.on('message', () => {
  let refused = '';
  try {
    mapping.memoryAt(0, 8192);
  } catch (error) {
    refused = String(error);
  }
  const stale = kept[0];
  kept[0] = 1; // goes nowhere
  mapping.unmap();
  parentPort?.postMessage({ stale, refused, length: memory.length });
  parentPort?.close();
});
