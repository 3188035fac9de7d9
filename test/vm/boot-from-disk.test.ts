/** A guest without a kernel of its own: firmware, boot loader, kernel and first root all come through the target. */
import { join } from 'node:path';
import { writeBootDisk } from '../../vm/boot-disk.ts';
import { awaitDisks } from '../../vm/disks.ts';
import { Machine } from '../../vm/machine.ts';
import { scratchFolder } from '../../vm/paths.ts';
import { type QemuKind, qemu } from '../../vm/qemu.ts';
import { TargetProcess } from '../../vm/target-process.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('boot from a served disk');
const scratch = scratchFolder('boot');
const image = join(scratch.path, 'boot.img');
let target: TargetProcess;

test.before(async () => {
  await writeBootDisk(image, 'vvu.loaded-from=disk');
  target = await TargetProcess.start({ args: ['--file', image] });
});

test.after(async () => {
  await target?.close();
  scratch.remove();
});

for (const kind of ['system', '11'] satisfies QemuKind[]) {
  test(`SeaBIOS of QEMU ${kind} reads it`, async () => {
    const vm = await Machine.start({ qemu: await qemu(kind), scsi: [{ socket: target.socket(), bootIndex: 1 }] });
    try {
      await vm.booted();
      assert.match(await vm.run('cat /proc/cmdline'), /vvu\.loaded-from=disk/);
      const [disk] = await awaitDisks(vm, ['AIO disk']);
      const list = `mount ${disk.device}1 /mnt && ls -l /mnt && umount /mnt`;
      assert.match(await vm.run(list), /vmlinuz/);
      await vm.powerOff();
    } finally {
      await vm.close();
    }
  });
}

test.run();
