/** For a program of one thread: another one that gets it out of a system call which a peer made to block (stall-guard.ts). */
import { guarded, ON_GUARD } from './stall-guard.ts';
import { startWorker } from './worker.ts';

/** @returns fulfilled when the guard is there. It does not keep the process alive. */
export function guardThisThread(): Promise<void> {
  const worker = startWorker(new URL('./stall-guard-worker.ts', import.meta.url), guarded(), { name: 'stall guard' });
  return new Promise((resolve, reject) => {
    worker.once('error', reject);
    worker.on('message', (message) => {
      if (message !== ON_GUARD) return; // a loader may have words of its own
      worker.unref();
      resolve();
    });
  });
}
