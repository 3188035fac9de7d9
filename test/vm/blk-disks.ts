/**
 * A guest with vhost-user-blk disks beside a SCSI one, with one QEMU: what Linux sees of them, data, discard, the cache
 * switch, and new sizes of all kinds of disk while it runs. The tests build on each other in order.
 */
import { closeSync, ftruncateSync, openSync, readSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { startCompute } from '../../vm/compute.ts';
import type { Machine } from '../../vm/machine.ts';
import { type Scratch, scratchFolder } from '../../vm/paths.ts';
import { type QemuKind, qemu } from '../../vm/qemu.ts';
import { TargetProcess } from '../../vm/target-process.ts';
import { assert, suite } from '../support/suite.ts';

const MIB = 2 ** 20;
const MARK = 'written by the guest, read by the host';
/** vda, vdb and vdc of the guest, by their controllers. */
const [MALLOC, FILE, READ_ONLY] = ['vda', 'vdb', 'vdc'];

function fio(name: string, options: string): string {
  const common = '--name=v --ioengine=libaio --direct=1 --iodepth=16 --verify=crc32c --verify_fatal=1';
  return `fio --filename=/dev/${name} ${common} ${options}`;
}

export function blkDisks(kind: QemuKind): void {
  const test = suite(`block disks, QEMU ${kind}`);
  let scratch: Scratch;
  let image: string;
  let target: TargetProcess;
  let vm: Machine;

  const sysfs = async (path: string) => (await vm.run(`cat /sys/block/${path}`)).trim();
  const controllers = async () =>
    JSON.parse(await target.rpc('get_vhost_controllers')) as { sessions: { block: Record<string, unknown> }[] }[];

  test.before(async () => {
    scratch = scratchFolder('blk');
    image = join(scratch.path, 'disk.img');
    const fd = openSync(image, 'w');
    ftruncateSync(fd, 64 * MIB);
    closeSync(fd);
    target = await TargetProcess.start({ args: ['-m', '0x3', '--malloc', '16M'] });
    await target.rpc('construct_malloc_bdev', '64', '512', '-b', 'BlkM');
    await target.rpc('construct_aio_bdev', image, 'BlkF', '512');
    await target.rpc('construct_vhost_blk_controller', 'blk.0', 'BlkM');
    await target.rpc('vhost_create_blk_controller', 'blk.1', 'BlkF');
    await target.rpc('vhost_create_blk_controller', '-r', 'blk.2', 'BlkF');
    const blk = [0, 1, 2].map((i) => ({ socket: target.socket(`blk.${i}`), queues: i === 0 ? 2 : 1 }));
    vm = await startCompute({ qemu: kind, cpus: 2, scsi: [{ socket: target.socket() }], blk });
    await vm.booted();
    console.log(`QEMU ${(await qemu(kind)).version.join('.')}`);
    await vm.run('modprobe virtio_blk');
  });

  test.after(async () => {
    await vm?.close();
    await target?.close();
    scratch.remove();
  });

  test('Linux finds the disks as they are', async () => {
    await vm.until(`test -b /dev/${READ_ONLY}`);
    for (const [disk, serial, ro, cache, queues] of [
      [MALLOC, 'BlkM', '0', 'write through', '2'],
      [FILE, 'BlkF', '0', 'write back', '1'],
      [READ_ONLY, 'BlkF', '1', 'write back', '1'],
    ]) {
      assert.is(await sysfs(`${disk}/serial`), serial);
      assert.is(await sysfs(`${disk}/ro`), ro, `${disk} read-only`);
      assert.is(await sysfs(`${disk}/queue/write_cache`), cache, `${disk} cache`);
      assert.is((await vm.run(`ls /sys/block/${disk}/mq | wc -l`)).trim(), queues, `${disk} queues`);
      assert.is(await sysfs(`${disk}/size`), String(131072));
      assert.is(await sysfs(`${disk}/queue/logical_block_size`), '512');
    }
    assert.is(await sysfs(`${MALLOC}/queue/discard_max_bytes`), String(2 ** 31));
    assert.is(await sysfs(`${MALLOC}/queue/write_zeroes_max_bytes`), String(16 * MIB));
    assert.is(await sysfs(`${READ_ONLY}/queue/discard_max_bytes`), '0');
  });

  test('fio verifies what it wrote, in small and mixed sizes', async () => {
    for (const disk of [MALLOC, FILE]) {
      await vm.run(fio(disk, '--rw=randwrite --bs=4k --size=4m'), 300);
      await vm.run(fio(disk, '--rw=randwrite --bsrange=512-256k --offset=8m --size=8m'), 300);
    }
  });

  test('what the guest wrote is in the file, and in its read-only view', async () => {
    const at = 32 * MIB;
    await vm.run(`printf '${MARK}' >/tmp/mark; truncate -s 4096 /tmp/mark
      dd if=/tmp/mark of=/dev/${FILE} bs=4096 seek=${at / 4096} oflag=direct conv=notrunc,fsync`);
    const fd = openSync(image, 'r');
    const block = Buffer.alloc(4096, 0xff);
    readSync(fd, block, 0, 4096, at);
    closeSync(fd);
    assert.is(block.toString('latin1', 0, MARK.length), MARK);
    const view = `dd if=/dev/${READ_ONLY} bs=4096 skip=${at / 4096} count=1 iflag=direct 2>/dev/null`;
    assert.match(await vm.run(`${view} | tr -d '\\0'`), MARK);
    assert.is.not((await vm.try(`dd if=/tmp/mark of=/dev/${READ_ONLY} oflag=direct`)).exitCode, 0);
  });

  test('discarded and zeroed blocks read as zeroes, their neighbours stay', async () => {
    for (const disk of [MALLOC, FILE]) {
      await vm.run(
        `tr '\\0' '\\377' </dev/zero | dd of=/dev/${disk} bs=1M seek=40 count=4 iflag=fullblock oflag=direct`,
      );
      await vm.run(`blkdiscard -o ${41 * MIB} -l ${MIB} /dev/${disk}`);
      await vm.run(`xfs_io -d -c 'fzero ${42 * MIB} 64k' /dev/${disk}`);
      const count = async (byte: string) =>
        vm.run(`dd if=/dev/${disk} bs=1M skip=40 count=4 iflag=direct 2>/dev/null | tr -dc '${byte}' | wc -c`);
      const zeroes = MIB + 65536;
      assert.is(Number(await count('\\0')), zeroes, disk);
      assert.is(Number(await count('\\377')), 4 * MIB - zeroes, disk);
    }
  });

  const throughNow = async () => (await controllers())[2].sessions[0].block['write_through'];

  test('the guest switches the write cache', async () => {
    assert.is(await throughNow(), false);
    await vm.run(`echo 'write through' >/sys/block/${FILE}/cache_type`);
    assert.is(await sysfs(`${FILE}/queue/write_cache`), 'write through');
    assert.is(await throughNow(), true);
    await vm.run(fio(FILE, '--rw=randwrite --bs=4k --size=1m'), 300);
    await vm.run(`echo 'write back' >/sys/block/${FILE}/cache_type`);
    assert.is(await throughNow(), false);
  });

  test('a file system keeps files', async () => {
    await vm.run(`mkfs.ext4 -q -F /dev/${FILE} && mkdir -p /mnt/b && mount /dev/${FILE} /mnt/b`, 300);
    await vm.run('cp -r /usr/sbin /mnt/b && cd /mnt/b && find . -type f | xargs sha256sum >/tmp/sums', 300);
    await vm.run('umount /mnt/b && echo 3 >/proc/sys/vm/drop_caches', 300);
    await vm.run(`e2fsck -fn /dev/${FILE} && mount /dev/${FILE} /mnt/b && cd /mnt/b && sha256sum -c /tmp/sums`, 300);
    await vm.run('cd / && umount /mnt/b');
  });

  test('new sizes show in the running guest, on both types of device', async () => {
    const becomes = async (disk: string, mib: number) => {
      await vm.until(`test $(cat /sys/block/${disk}/size) = ${mib * 2048}`, 30);
      const last = `bs=1M count=1 seek=${mib - 1}`;
      await vm.run(
        `dd if=/dev/urandom of=/tmp/last bs=1M count=1 && dd if=/tmp/last of=/dev/${disk} ${last} oflag=direct`,
      );
      await vm.run(`dd if=/dev/${disk} bs=1M skip=${mib - 1} iflag=direct 2>/dev/null | cmp - /tmp/last`);
    };
    await target.rpc('bdev_malloc_resize', 'BlkM', '96');
    await becomes(MALLOC, 96);
    await target.rpc('bdev_malloc_resize', 'Malloc0', '24');
    await becomes('sda', 24);
    truncateSync(image, 100 * MIB);
    await target.rpc('bdev_aio_rescan', 'BlkF');
    await becomes(FILE, 100);
    await vm.until(`test $(cat /sys/block/${READ_ONLY}/size) = ${100 * 2048}`, 30);
    // Smaller again: beyond the end there is nothing to read.
    await target.rpc('bdev_malloc_resize', 'BlkM', '32');
    await becomes(MALLOC, 32);
    await target.rpc('bdev_malloc_resize', 'Malloc0', '8');
    await becomes('sda', 8);
  });

  test('after a reset the disks are there, in their new sizes and cache modes; then all ends in order', async () => {
    await vm.run(`echo 'write through' >/sys/block/${FILE}/cache_type`);
    await vm.reset();
    await vm.run('modprobe virtio_blk');
    await vm.until(`test -b /dev/${READ_ONLY}`);
    // What Linux believes and what the target does must be the same: with the cache off it does not flush.
    assert.is(await sysfs(`${FILE}/queue/write_cache`), 'write through');
    assert.is(await throughNow(), true);
    assert.equal([await sysfs(`${MALLOC}/size`), await sysfs(`${FILE}/size`)], ['65536', '204800']);
    await vm.run(fio(MALLOC, '--rw=randwrite --bs=4k --size=1m'), 300);
    const refused = (await controllers()).flatMap((c) => c.sessions).map((s) => s['block']?.['failed'] ?? 0);
    console.log(`requests that failed, by controller: ${refused.join(', ')}`);
    await vm.powerOff();
    assert.is(await target.end('SIGINT'), 0, target.output);
  });

  test.run();
}
