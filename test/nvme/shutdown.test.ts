/** A controller is shut down at any moment of a start or a reset: it ends, and gives everything back. */
import { NvmeRig } from '../bdev/nvme-rig.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('nvme shutdown');

/** Looks of a reset, from hold to ready: some dozens. */
const MOST = 150;

test('at any moment of a reset, whether the device has just answered or is about to', () => {
  const states = new Set<string>();
  for (let looks = 0; looks < MOST; looks++) {
    for (const answered of [false, true]) {
      const rig = new NvmeRig();
      rig.open();
      rig.controller.reset('test');
      rig.loop.until(
        () => false,
        looks,
        () => rig.fake.step(),
      );
      if (answered) rig.fake.step();
      states.add(rig.controller.state);
      rig.stop();
      assert.is(rig.controller.state, 'off');
    }
  }
  for (const state of ['hold', 'disable', 'enable', 'identify', 'create', 'scan', 'ready'])
    assert.ok(states.has(state), `${state}: ${[...states]}`);
});

test.run();
