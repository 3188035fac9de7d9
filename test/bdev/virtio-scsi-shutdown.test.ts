/** An adapter is shut down at any moment of a reset: it ends, the device is quiet, and stays it. */
import { assert, suite } from '../support/suite.ts';
import { VirtioRig } from './virtio-scsi-rig.ts';

const test = suite('virtio-scsi shutdown');

/** Every answer of the device takes so long: a reset then has some thirty moments. Milliseconds. */
const SLOW = 2;
const MOST = 60;

test('at any moment of a reset', async () => {
  const states = new Set<string>();
  for (let ms = 0; ms < MOST; ms++) {
    const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0));
    rig.open();
    const { fake } = rig;
    for (const name of ['reset', 'negotiate', 'enableQueue', 'start'] as const) {
      const work = fake[name].bind(fake) as (...args: unknown[]) => Promise<never>;
      fake[name] = async (...args: unknown[]) => {
        for (let i = 0; i < SLOW; i++) await new Promise((resolve) => setImmediate(resolve));
        return work(...args);
      };
    }
    rig.disks.reset('V');
    await rig.time(ms);
    states.add(JSON.stringify(rig.disks.describe('V')).match(/"state":"(\w+)"/)?.[1] ?? '');
    await rig.stop();
    const { resets } = fake;
    await rig.time(2 * MOST);
    assert.not(fake.running, 'it stays quiet');
    assert.is(fake.resets, resets, 'nobody starts it again');
    assert.is(rig.dma.allocated, 0);
  }
  assert.ok(states.has('resetting') && states.has('ready'), [...states].join());
});

test.run();
