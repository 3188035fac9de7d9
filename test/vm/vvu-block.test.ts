/** A block controller in an appliance on a stock QEMU: both QEMUs' vhost-user-blk through the relay, CONFIG included. */
import { startAppliance } from '../../vm/appliance.ts';
import { ApplianceTarget } from '../../vm/appliance-target.ts';
import { startCompute } from '../../vm/compute.ts';
import type { Machine } from '../../vm/machine.ts';
import type { QemuKind } from '../../vm/qemu.ts';
import { RelayProcess } from '../../vm/relay-process.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('block disk through a vvu device');
const MIB = 64;
let size = MIB;
let relay: RelayProcess;
let appliance: Machine;
let target: ApplianceTarget;

test.before(async () => {
  relay = await RelayProcess.start();
  appliance = await startAppliance({ qemu: '11', cpus: 2, args: [...relay.deviceArgs] });
  await appliance.booted();
  target = await ApplianceTarget.start(appliance);
  await target.rpc('construct_malloc_bdev', String(MIB), '512', '-b', 'Block0');
  await target.rpc('construct_vhost_blk_controller', 'vhost.0', 'Block0');
});

test.after(async () => {
  await appliance?.close();
  await relay?.close();
});

for (const kind of ['system', '11'] satisfies QemuKind[]) {
  test(`compute QEMU ${kind}: Linux reads the config space, writes and reads, and sees the disk grow`, async () => {
    const vm = await startCompute({ qemu: kind, blk: [{ socket: relay.compute }] });
    try {
      await vm.booted();
      await vm.run('modprobe virtio_blk');
      await vm.until('test -b /dev/vda');
      const sys = (name: string) => vm.run(`cat /sys/block/vda/${name}`).then((text) => text.trim());
      assert.is(Number(await sys('size')), size * 2048);
      assert.is(await sys('serial'), 'Block0');
      assert.is(await sys('queue/logical_block_size'), '512');
      assert.is(await sys('queue/write_cache'), 'write through', 'memory has no cache');
      await vm.run(
        'fio --name=x --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=4k --size=8m ' +
          '--verify=crc32c --do_verify=1 --verify_fatal=1 --thread --output-format=terse',
        300,
      );
      size += 32;
      await target.rpc('bdev_malloc_resize', 'Block0', String(size));
      await vm.until(`test $(cat /sys/block/vda/size) -eq ${size * 2048}`);
      await vm.run(`dd if=/dev/zero of=/dev/vda bs=1M count=1 oflag=direct seek=${size - 1} 2>&1`);
      await vm.powerOff();
    } finally {
      await vm.close();
    }
    await relay.says(/the compute VM is gone/, 30);
  });
}

test('nothing was complained of', async () => {
  const [{ backend_specific: shown }] = JSON.parse(await target.rpc('vhost_get_controllers'));
  assert.is(shown.block.bdev, 'Block0');
  assert.is(appliance.process.exitCode, null);
  assert.not.match(relay.output, /refused|sent /);
});

test.run();
