/**
 * The target is killed outright, twice, while fio writes and verifies on its file disk, and is started again with the
 * same arguments. QEMU connects again, and fio must end without an error or a lost write.
 */
import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startCompute } from '../../vm/compute.ts';
import { awaitDisks } from '../../vm/disks.ts';
import { scratchFolder } from '../../vm/paths.ts';
import { TargetProcess } from '../../vm/target-process.ts';
import { assert, suite } from '../support/suite.ts';
import { fio } from './host-disks.ts';

const test = suite('target killed under load');
const DOWN_MS = 1500;

test('fio ends without an error', async () => {
  const scratch = scratchFolder('killed');
  const image = join(scratch.path, 'disk.img');
  const fd = openSync(image, 'w');
  ftruncateSync(fd, 64 * 2 ** 20);
  closeSync(fd);
  const target = await TargetProcess.start({ args: ['--file', image] });
  const vm = await startCompute({ qemu: '11', scsi: [{ socket: target.socket(), queues: 2, reconnectMs: 500 }] });
  try {
    await vm.booted();
    const [disk] = await awaitDisks(vm, ['AIO disk']);
    // The rate makes it last long enough to be met by both kills, the backlog makes it verify while it writes.
    const slow = '--rate_iops=200,200 --verify_backlog=128';
    const load = await vm.background(fio(disk, `--rw=randwrite --bs=4k --size=12m ${slow}`));
    for (const afterMs of [4000, 4000]) {
      await sleep(afterMs);
      assert.is(await load.exitCode(), null, 'fio is still at work when the target is killed');
      assert.is(await target.end('SIGKILL'), 'SIGKILL');
      await sleep(DOWN_MS);
      await target.restart();
    }
    const { output, exitCode } = await load.wait(300);
    assert.is(exitCode, 0, output);
    assert.match(output, /err= 0/);
    // Once more without a fault in between, reading from the disk what was written.
    await vm.run(fio(disk, '--rw=randwrite --bs=4k --size=12m --verify_only'), 300);
    await vm.powerOff();
    assert.is(await target.end('SIGTERM'), 0, target.output);
  } finally {
    await vm.close();
    await target.close();
    scratch.remove();
  }
});

test.run();
