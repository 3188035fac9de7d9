/**
 * A thread for native-copy.test.ts: maps large memory, copies in it and gives it back, again and again, beside others that do the
 * same. Says what it found that was not its own.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { copyMemory } from '../../../src/memory/copy.ts';
import { mapAnonymous } from '../../../src/sys/mapping.ts';

const { tag, rounds, size } = workerData as { tag: number; rounds: number; size: number };
const BYTES = 65536;
let wrong = 0;
for (let round = 0; round < rounds; round++) {
  const mappings = [0, 1].map(() => mapAnonymous(size, { noReserve: true }));
  const [from, to] = mappings.map((m) => m.memoryAt(0, size));
  if (from.u32[0] !== 0 || to.u32[(size >> 2) - 1] !== 0) wrong++; // not new memory
  from.u8.fill(tag, size - BYTES);
  copyMemory(to, 4096, from, size - BYTES, BYTES);
  if (to.u8[4095] !== 0 || to.u8[4096 + BYTES] !== 0) wrong++;
  for (let i = 0; i < BYTES; i++) if (to.u8[4096 + i] !== tag) wrong++;
  // Of a pair that nobody looks at any more, one is given back later, by the collector of views.
  for (const m of mappings) m.unmap();
}
parentPort?.postMessage({ tag, wrong });
