/**
 * The appliance on a stock QEMU: relay, appliance VM with the target inside, compute VMs that are wired to nothing but that VM's vvu
 * device. The tests build on each other in order, as the states of one appliance do.
 */
import { startAppliance } from '../../vm/appliance.ts';
import { ApplianceTarget } from '../../vm/appliance-target.ts';
import { startCompute } from '../../vm/compute.ts';
import { awaitDisks, type GuestDisk } from '../../vm/disks.ts';
import type { Machine } from '../../vm/machine.ts';
import { type QemuKind, qemu } from '../../vm/qemu.ts';
import { RelayProcess } from '../../vm/relay-process.ts';
import { assert, suite } from '../support/suite.ts';
import { fio } from './host-disks.ts';

const MALLOC_MIB = 64;
const IDLE_SECONDS = 20;
/** A second, of all threads: with no interrupts, and no front end, the reactor looks 20 times. */
const IDLE_WAKES = 80;

/** @param kinds QEMUs of the compute VMs, one after the other at the same target */
export function vvuStock(kinds: readonly QemuKind[]): void {
  const test = suite('vvu on a stock QEMU');
  let relay: RelayProcess;
  let appliance: Machine;
  let target: ApplianceTarget;
  let vm: Machine | undefined;
  let disk: GuestDisk;

  test.before(async () => {
    relay = await RelayProcess.start();
    appliance = await startAppliance({ qemu: '11', cpus: 2, args: [...relay.deviceArgs] });
    await appliance.booted();
    target = await ApplianceTarget.start(appliance, { args: ['--malloc', `${MALLOC_MIB}M`] });
  });

  test.after(async () => {
    await vm?.close();
    await appliance?.close();
    await relay?.close();
  });

  for (const kind of kinds) {
    test(`compute QEMU ${kind}: Linux finds the disk`, async () => {
      vm = await startCompute({ qemu: kind, scsi: [{ socket: relay.compute }] });
      await vm.booted();
      [disk] = await awaitDisks(vm, ['Malloc disk']);
      console.log(`compute QEMU ${(await qemu(kind)).version.join('.')}\n${await vm.run('lsscsi')}`);
      assert.is(disk.target, 0);
      assert.is(`${disk.vendor} ${disk.revision}`, 'INTEL 0001');
      assert.is(Number(await vm.run(`cat /sys/block/${disk.device.slice(5)}/size`)), MALLOC_MIB * 2048);
    });

    test(`compute QEMU ${kind}: what is written is read, checked by fio`, async () => {
      await vm!.run(fio(disk, '--rw=randwrite --bs=4k --size=8m'), 300);
    });

    test(`compute QEMU ${kind}: system_reset, and the disk is there again with its bytes`, async () => {
      await vm!.run(`echo kept over the reset | dd of=${disk.device} bs=512 conv=sync oflag=direct 2>/dev/null`);
      await vm!.reset();
      [disk] = await awaitDisks(vm!, ['Malloc disk']);
      const read = await vm!.run(`dd if=${disk.device} bs=512 count=1 iflag=direct 2>/dev/null | tr -d '\\0'`);
      assert.is(read.trim(), 'kept over the reset');
    });

    test(`compute QEMU ${kind}: the VM is powered off; the target waits for the next`, async () => {
      await vm!.powerOff();
      vm = undefined;
      await relay.says(/the compute VM is gone/, 30);
    });
  }

  test('idle, the target wakes seldom', async () => {
    // Wake-ups, not CPU time: what the host takes away from an emulated CPU is charged to the guest's threads.
    const count = async () => {
      const lines = await appliance.run('grep -h ^voluntary_ctxt_switches /proc/$(cat /tmp/target.pid)/task/*/status');
      return lines
        .trim()
        .split('\n')
        .reduce((n, line) => n + Number(line.split(/\s+/)[1]), 0);
    };
    await appliance.run('sleep 10');
    const before = await count();
    await appliance.run(`sleep ${IDLE_SECONDS}`);
    const rate = ((await count()) - before) / IDLE_SECONDS;
    console.log(`idle: ${rate.toFixed(0)} wake-ups a second`);
    assert.ok(rate < IDLE_WAKES, `${rate}`);
  });

  test('SIGINT ends the target with 0, and its device is quiet', async () => {
    assert.is(await target.end('INT'), 0);
    // Command register of PCI: bus mastering (bit 2) is off.
    const command = await appliance.run(
      'dd if=/sys/bus/pci/devices/0000:00:07.0/config bs=1 skip=4 count=1 2>/dev/null | od -An -tu1',
    );
    assert.is(Number(command) & 4, 0);
    assert.match(relay.output, /said goodbye/);
  });

  test('and another target serves another VM through the same device', async () => {
    await target.restart();
    vm = await startCompute({ qemu: kinds[0], scsi: [{ socket: relay.compute }] });
    await vm.booted();
    await awaitDisks(vm, ['Malloc disk']);
  });

  test('no QEMU has ended by itself, and the relay had nothing to complain of', () => {
    assert.is(appliance.process.exitCode, null);
    assert.not.match(relay.output, /refused|sent /);
  });

  test.run();
}
