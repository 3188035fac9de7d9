/** A block device through the relay: its config space goes through, its requests too. Other vvu devices refuse it. */
import { BlkController } from '../../src/vhost/blk-controller.ts';
import { BlkModel } from '../../src/vhost/blk-model.ts';
import { transportLacks } from '../../src/vhost/session.ts';
import { LAYOUTS } from '../../src/vvu/driver/layouts.ts';
import { bit, PF, SEABIOS_FEATURES } from '../support/front-end.ts';
import { ALL_FEATURES, BLK_PROTOCOL, BlkDriver, S } from '../support/front-end-blk.ts';
import { assert, suite } from '../support/suite.ts';
import { onFork, onStock, type RigDevice, type VvuRig } from './rig.ts';

const test = suite('block disk through a vvu device');
const pattern = (seed: number) => Uint8Array.from({ length: 1024 }, (_, i) => (seed * 31 + i) & 255);

/** The target serves the rig's disk by a block controller. */
function open(rig: VvuRig<RigDevice>): BlkController {
  const controller = new BlkController(rig.loop, rig.disk);
  rig.open({ model: () => new BlkModel(controller) });
  return controller;
}

for (const version of ['7.2', '11.1'] as const) {
  test(
    `QEMU ${version}: config space, two queues, cache mode, reset`,
    onStock((rig) => {
      const controller = open(rig);
      const frontEnd = rig.connect({ version, protocol: BLK_PROTOCOL, queues: 2 });
      frontEnd.init();
      assert.is(frontEnd.protocol & bit(PF.CONFIG), bit(PF.CONFIG));
      const driver = new BlkDriver(frontEnd);
      assert.is(Number(driver.config()?.readBigUInt64LE(0)), controller.info.numBlocks);
      assert.is(driver.config(60, 100), null, 'beyond the config space');
      assert.is(driver.openBackendChannel(), 0n);
      for (const [life, features] of [SEABIOS_FEATURES, ALL_FEATURES].entries()) {
        frontEnd.guest.reset();
        frontEnd.makeRings([0, 1], features);
        frontEnd.start(features);
        const guest = new BlkDriver(frontEnd);
        assert.is(guest.write(3, pattern(life)).status, S.OK);
        assert.equal(guest.read(3, 1024).data, pattern(life));
        assert.equal(rig.disk.data.u8.slice(3 * 512, 5 * 512), pattern(life));
        assert.is(Number(guest.config()?.readBigUInt64LE(0)), controller.info.numBlocks, 'while it runs');
        assert.is(guest.setConfig(32, [0]), 0n, 'the cache mode, which is write through');
        assert.is(guest.setConfig(33, [1]), 1n, 'nothing else can be written');
        assert.equal(driver.backendMessages(), []);
        controller.info.numBlocks -= 8;
        controller.capacityChanged();
        rig.settle();
        assert.equal(driver.backendMessages(), [[2, 1, 0]], 'CONFIG_CHANGE, version 1, no payload');
        assert.is(Number(guest.config()?.readBigUInt64LE(0)), controller.info.numBlocks);
        frontEnd.stop();
        frontEnd.resetDevice();
      }
      driver.closeBackendChannel();
      assert.is(rig.port.accepted, 1);
    }),
  );
}

test(
  'the front end closes its end of the back-end channel: news is lost, the disk goes on',
  onStock((rig) => {
    const controller = open(rig);
    const frontEnd = rig.connect({ protocol: BLK_PROTOCOL, queues: 2 });
    frontEnd.init();
    const driver = new BlkDriver(frontEnd);
    driver.openBackendChannel();
    frontEnd.makeRings([0, 1], ALL_FEATURES);
    frontEnd.start(ALL_FEATURES);
    driver.closeBackendChannel();
    controller.capacityChanged();
    rig.settle();
    assert.is(driver.write(1, pattern(1)).status, S.OK);
    assert.is(driver.openBackendChannel(), 0n);
    controller.capacityChanged();
    rig.settle();
    assert.is(driver.backendMessages().length, 1);
    driver.closeBackendChannel();
  }),
);

test(
  'a fork lets no CONFIG through: the session ends at once, with a sentence for the operator',
  onFork('B', (rig) => {
    open(rig);
    const frontEnd = rig.connect({ protocol: BLK_PROTOCOL });
    rig.until(() => rig.port.ends.length > 0, 'the session to end');
    assert.match(
      rig.port.ends[0].reason,
      /^.+ does not let the CONFIG messages through that a block device needs; use a SCSI controller, or a socket$/,
    );
    frontEnd.close();
  }),
);

test('which devices can serve it: the relay’s', () => {
  const block = { name: 'block', needsConfig: true };
  const able = LAYOUTS.filter(
    (row) => transportLacks(block, { ...row, protocolFeatures: row.protocolFeatures }) === null,
  );
  assert.equal(
    able.map((row) => row.name),
    ['S'],
  );
});

test.run();
