import { once } from 'node:events';
import { LUN_STATE_BYTES } from '../../src/scsi/lun-state.ts';
import { startWorker } from '../../src/sys/worker.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('scsi: reactors');

test('COMPARE AND WRITE is atomic between two threads', async () => {
  const times = 1500;
  const disk = new SharedArrayBuffer(8 * 512);
  const started = new SharedArrayBuffer(4);
  const state = new SharedArrayBuffer(LUN_STATE_BYTES);
  const results = await Promise.all(
    [1, 2].map(async (port) => {
      const worker = startWorker(new URL('./support/raising-thread.ts', import.meta.url), {
        state,
        disk,
        started,
        port,
        times,
      });
      const [result] = await Promise.race([
        once(worker, 'message'),
        once(worker, 'error').then(([error]) => Promise.reject(error)),
      ]);
      return result as { raised: number; missed: number };
    }),
  );
  assert.is(new DataView(disk).getUint32(0), 2 * times, JSON.stringify(results));
});

test.run();
