import { parentPort, workerData } from 'node:worker_threads';
import { LunState } from '../../../src/scsi/lun-state.ts';
import { MemoryChannel } from './memory-channel.ts';
import { Unit } from './unit.ts';

/**
 * A reactor of its own: raises the number in block 0 by COMPARE AND WRITE until it has done so `times` times, and
 * tries to spoil it by a WRITE of what it has just read, every third time.
 */

const { state, disk, started, port, times } = workerData as {
  state: SharedArrayBuffer;
  disk: SharedArrayBuffer;
  /** Counts the threads that are ready: they begin together. */
  started: SharedArrayBuffer;
  port: number;
  times: number;
};

const bytes = new Uint8Array(disk);
const channel = new MemoryChannel({ numBlocks: 8 }, bytes);
channel.deferred = true;
const unit = new Unit({}, { state: new LunState(state), channel, relativePort: port });

const CAW = '89 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00';
/** To the last block: only to keep the other's gate busy. */
const WRITE = '2a 00 00 00 00 07 00 00 01 00';

const ready = new Int32Array(started);
Atomics.add(ready, 0, 1);
while (Atomics.load(ready, 0) < 2);

let raised = 0;
let missed = 0;
for (let round = 0; raised < times; round++) {
  const now = bytes.slice(0, 512);
  const data = new Uint8Array(1024);
  data.set(now);
  data.set(now, 512);
  new DataView(data.buffer).setUint32(512, new DataView(now.buffer).getUint32(0) + 1);
  const write = round % 3 === 0 ? unit.send(WRITE, now) : undefined;
  const sent = unit.send(CAW, data);
  while (sent.done === 0 || write?.done === 0) {
    channel.complete();
    unit.target.poll();
  }
  if (sent.result().status === 0) raised++;
  else missed++;
}
parentPort!.postMessage({ raised, missed });
