/**
 * A thread for event-loop.test.ts: publishes numbers in shared memory and rings only a consumer that says it sleeps, as a
 * guest's driver does with avail.idx and a kick.
 */
import { workerData } from 'node:worker_threads';
import { EventFd } from '../../../src/sys/eventfd.ts';
import { Fd } from '../../../src/sys/fd.ts';

const { shared, bell, count } = workerData as { shared: SharedArrayBuffer; bell: number; count: number };
const words = new Int32Array(shared); // 0 published, 1 armed, 2 acknowledged
const kick = new EventFd(Fd.take(bell));
let random = 12345;
for (let i = 1; i <= count; i++) {
  Atomics.store(words, 0, i); // publish, then look: StoreLoad
  if (Atomics.load(words, 1) === 1) kick.signal();
  Atomics.wait(words, 2, i - 1);
  // From nothing to some hundred microseconds, so that the next one meets the consumer in every state.
  random = (random * 1103515245 + 12345) & 0x7fffffff;
  for (let spin = random % 3000; spin > 0; spin--) Atomics.load(words, 2);
}
