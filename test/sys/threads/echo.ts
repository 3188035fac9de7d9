/** A thread for worker.test.ts: says that it runs, from TypeScript, with the FFI. */
import { parentPort, workerData } from 'node:worker_threads';
import { EventFd } from '../../../src/sys/eventfd.ts';

interface Data {
  readonly text: string;
}

const bell = new EventFd();
bell.signal();
const data: Data = workerData as Data;
if (data.text === 'throw') throw new Error('thrown in the thread');
parentPort?.postMessage({ text: data.text, rang: bell.drain(), file: import.meta.url });
bell.close();
