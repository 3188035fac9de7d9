/** Entry of the thread that guards the one which started it; it ends with that. */
import { parentPort, workerData } from 'node:worker_threads';
import { type Guarded, guardThread, ON_GUARD } from './stall-guard.ts';

guardThread(workerData as Guarded);
// The guard's timer does not keep a thread alive; that somebody could send a message does.
parentPort?.on('message', () => {});
parentPort?.postMessage(ON_GUARD);
