/**
 * The main job on a host, with one QEMU: a target with a memory disk and a file disk, a stock VM whose Linux uses them.
 * The tests build on each other in order, as the states of one machine do.
 */
import { closeSync, ftruncateSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startCompute } from '../../vm/compute.ts';
import { awaitDisks, type GuestDisk, parseLsscsi } from '../../vm/disks.ts';
import type { Machine } from '../../vm/machine.ts';
import { type Scratch, scratchFolder } from '../../vm/paths.ts';
import { type QemuKind, qemu } from '../../vm/qemu.ts';
import { TargetProcess } from '../../vm/target-process.ts';
import { assert, suite } from '../support/suite.ts';

const MALLOC_MIB = 64;
/** Enough for XFS, which refuses less than 300 MiB. */
const FILE_MIB = 400;
const IDLE_SECONDS = 20;
/** Of one CPU. */
const IDLE_SHARE = 0.02;
const PRODUCTS = ['Malloc disk', 'AIO disk'];
const MARK = 'written by the guest, read by the host';

export function fio(disk: GuestDisk, options: string): string {
  const common = '--name=v --ioengine=libaio --direct=1 --iodepth=16 --verify=crc32c --verify_fatal=1';
  return `fio --filename=${disk.device} ${common} ${options}`;
}

export function hostDisks(kind: QemuKind): void {
  const test = suite(`host disks, QEMU ${kind}`);
  let scratch: Scratch;
  let image: string;
  let target: TargetProcess;
  let vm: Machine;
  let malloc: GuestDisk;
  let file: GuestDisk;

  test.before(async () => {
    scratch = scratchFolder('disks');
    image = join(scratch.path, 'disk.img');
    const fd = openSync(image, 'w');
    ftruncateSync(fd, FILE_MIB * 2 ** 20);
    closeSync(fd);
    target = await TargetProcess.start({ args: ['--malloc', `${MALLOC_MIB}M`, '--file', image] });
    vm = await startCompute({ qemu: kind, cpus: 2, scsi: [{ socket: target.socket(), queues: 2 }] });
    await vm.booted();
    console.log(`QEMU ${(await qemu(kind)).version.join('.')}`);
  });

  test.after(async () => {
    await vm?.close();
    await target?.close();
    scratch.remove();
  });

  test('Linux finds both disks with their names and sizes', async () => {
    [malloc, file] = await awaitDisks(vm, PRODUCTS);
    for (const disk of [malloc, file]) {
      assert.is(disk.vendor, 'INTEL');
      assert.is(disk.revision, '0001');
      assert.is(disk.lun, 0);
    }
    assert.is(Number(await vm.run(`cat /sys/block/${malloc.device.slice(5)}/size`)) / 2048, MALLOC_MIB);
    assert.is(Number(await vm.run(`cat /sys/block/${file.device.slice(5)}/size`)) / 2048, FILE_MIB);
  });

  test('fio verifies what it wrote, in small and mixed sizes', async () => {
    for (const disk of [malloc, file]) {
      await vm.run(fio(disk, '--rw=randwrite --bs=4k --size=4m'), 300);
      await vm.run(fio(disk, '--rw=randwrite --bsrange=512-256k --offset=8m --size=8m'), 300);
    }
  });

  test('what the guest wrote is in the file', async () => {
    const at = 300 * 2 ** 20;
    await vm.run(`printf '${MARK}' >/tmp/mark; truncate -s 4096 /tmp/mark
      dd if=/tmp/mark of=${file.device} bs=4096 seek=${at / 4096} oflag=direct conv=notrunc,fsync`);
    const fd = openSync(image, 'r');
    const block = Buffer.alloc(4096, 0xff);
    readSync(fd, block, 0, 4096, at);
    closeSync(fd);
    assert.is(block.toString('latin1', 0, MARK.length), MARK);
    assert.ok(block.subarray(MARK.length).every((byte) => byte === 0));
  });

  test('file systems keep files', async () => {
    await vm.run(`mkfs.ext4 -q -F ${malloc.device} && mkfs.xfs -q -f ${file.device}`, 300);
    await vm.run(`mkdir -p /mnt/a /mnt/b && mount ${malloc.device} /mnt/a && mount ${file.device} /mnt/b`);
    await vm.run(
      `for d in a b; do
        mkdir /mnt/$d/files
        for n in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/mnt/$d/files/$n bs=100003 count=$n 2>/dev/null; done
        cp -r /usr/sbin /mnt/$d/files/
        (cd /mnt/$d && find files -type f | sort | xargs sha256sum >sums)
      done
      umount /mnt/a /mnt/b && echo 3 >/proc/sys/vm/drop_caches`,
      300,
    );
    await vm.run(`e2fsck -fn ${malloc.device} && xfs_repair -n ${file.device}`, 300);
    await checkFiles();
  });

  /** Compares every file of both file systems with the checksum it was written with. */
  async function checkFiles(): Promise<void> {
    const output = await vm.run(
      `mkdir -p /mnt/a /mnt/b && mount ${malloc.device} /mnt/a && mount ${file.device} /mnt/b
      for d in a b; do (cd /mnt/$d && sha256sum -c sums) || exit 1; done
      umount /mnt/a /mnt/b`,
      300,
    );
    assert.ok(output.split('\n').filter((line) => line.endsWith(': OK')).length >= 16, output);
  }

  test('a target that is added or removed shows without a rescan', async () => {
    await target.rpc('construct_malloc_bdev', '16', '512', '-b', 'Hot0');
    await target.rpc('add_vhost_scsi_lun', 'vhost.0', '5', 'Hot0');
    await vm.until("lsscsi | grep -q ':0:5:0].*INTEL'", 30);
    const disk = parseLsscsi(await vm.until("lsscsi -g | grep ':5:0].*/dev/sd'", 30)).find((d) => d.target === 5)!;
    await vm.run(fio(disk, '--rw=randwrite --bs=4k --size=1m'), 300);
    await target.rpc('remove_vhost_scsi_target', 'vhost.0', '5');
    await vm.until("! lsscsi | grep -q ':0:5:0]'", 30);
    await target.rpc('delete_malloc_bdev', 'Hot0');
    await awaitDisks(vm, PRODUCTS);
  });

  test('an idle guest costs next to no CPU', async () => {
    await sleep(2000);
    const before = target.cpuSeconds();
    await sleep(IDLE_SECONDS * 1000);
    const share = (target.cpuSeconds() - before) / IDLE_SECONDS;
    console.log(`idle: ${(share * 100).toFixed(2)} % of one CPU`);
    assert.ok(share < IDLE_SHARE, `${(share * 100).toFixed(2)} % of one CPU`);
  });

  test('after a reset the disks and their files are there again', async () => {
    await vm.reset();
    [malloc, file] = await awaitDisks(vm, PRODUCTS);
    await checkFiles();
  });

  test('the guest goes, another comes, then the target ends in order', async () => {
    await vm.powerOff();
    vm = await startCompute({ qemu: kind, scsi: [{ socket: target.socket() }] });
    await vm.booted();
    [malloc, file] = await awaitDisks(vm, PRODUCTS);
    await checkFiles();
    await vm.powerOff();
    assert.is(await target.end('SIGINT'), 0, target.output);
  });

  test.run();
}
