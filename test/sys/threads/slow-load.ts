/** A thread for load-gate.test.ts: as if it loaded the FFI for a while. With `below` another thread does. */
import { writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { loaded } from '../../../src/sys/load-gate.ts';
import { startWorker } from '../../../src/sys/worker.ts';

if ((workerData as { below: boolean }).below) {
  loaded();
  const worker = startWorker(new URL(import.meta.url), { below: false });
  worker.on('message', (message) => parentPort?.postMessage(message));
} else {
  writeSync(1, 'loading ');
  parentPort?.postMessage('loading');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
  writeSync(1, 'loaded');
  loaded();
}
