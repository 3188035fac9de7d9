/** A guest without a kernel of its own, on a vhost-user-blk disk: firmware, boot loader, kernel and root come from it. */
import { join } from 'node:path';
import { writeBootDisk } from '../../vm/boot-disk.ts';
import { Machine } from '../../vm/machine.ts';
import { scratchFolder } from '../../vm/paths.ts';
import { type QemuKind, qemu } from '../../vm/qemu.ts';
import { TargetProcess } from '../../vm/target-process.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('boot from a block disk');
const scratch = scratchFolder('blk-boot');
const image = join(scratch.path, 'boot.img');
let target: TargetProcess;

test.before(async () => {
  await writeBootDisk(image, 'vvu.loaded-from=blk');
  target = await TargetProcess.start({ args: ['--null', '1M'] });
  await target.rpc('construct_aio_bdev', image, 'Boot', '512');
  await target.rpc('construct_vhost_blk_controller', 'blk.0', 'Boot');
});

test.after(async () => {
  await target?.close();
  scratch.remove();
});

for (const kind of ['system', '11'] satisfies QemuKind[]) {
  test(`SeaBIOS of QEMU ${kind} reads it`, async () => {
    const blk = [{ socket: target.socket('blk.0'), bootIndex: 1 }];
    const vm = await Machine.start({ qemu: await qemu(kind), blk });
    try {
      await vm.booted();
      assert.match(await vm.run('cat /proc/cmdline'), /vvu\.loaded-from=blk/);
      await vm.run('modprobe virtio_blk');
      await vm.until('test -b /dev/vda1');
      assert.match(await vm.run('mount /dev/vda1 /mnt && ls -l /mnt && umount /mnt'), /vmlinuz/);
      await vm.powerOff();
    } finally {
      await vm.close();
    }
  });
}

test.run();
