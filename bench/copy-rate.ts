/**
 * The physical limit: how many blocks a second one core copies from a 64 MiB disk at random places to fresh buffers.
 *
 * `node --import tsx bench/copy-rate.ts BYTES` measures on CPU 0 and prints the rate.
 */
import { copyMemory } from '../src/memory/copy.ts';
import { pinThread } from '../src/sys/affinity.ts';
import { mapAnonymous } from '../src/sys/mapping.ts';

const SPAN = 64 << 20;

/** @returns copies of `bytes` a second */
export function copyRate(bytes: number): number {
  const disk = mapAnonymous(SPAN);
  const guest = mapAnonymous(128 * bytes);
  const from = disk.memoryAt(0, SPAN);
  const to = guest.memoryAt(0, 128 * bytes);
  from.u8.fill(1);
  to.u8.fill(1);
  const places = SPAN / bytes;
  let state = 1;
  let best = 0;
  for (let round = 0; round < 5; round++) {
    const count = Math.ceil((256 << 20) / bytes);
    const begin = performance.now();
    for (let i = 0; i < count; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      copyMemory(to, (i & 127) * bytes, from, ((state >>> 8) % places) * bytes, bytes);
    }
    best = Math.max(best, (count / (performance.now() - begin)) * 1000);
  }
  disk.unmap();
  guest.unmap();
  return best;
}

if (process.argv[1] === import.meta.filename) {
  pinThread(0);
  console.log(Math.round(copyRate(Number(process.argv[2]))));
}
