/**
 * The vvu device behind an IOMMU: the target drives it through VFIO and is woken by MSI-X, for messages and for kicks. Idle, it sleeps;
 * and when it is killed, the kernel stops the device, so the relay learns of it at once.
 */
import { startAppliance } from '../../vm/appliance.ts';
import { ApplianceTarget } from '../../vm/appliance-target.ts';
import { startCompute } from '../../vm/compute.ts';
import { awaitDisks, type GuestDisk } from '../../vm/disks.ts';
import type { Machine } from '../../vm/machine.ts';
import { RelayProcess } from '../../vm/relay-process.ts';
import { assert, saying, suite } from '../support/suite.ts';
import { fio } from './host-disks.ts';

const test = suite('vvu device with MSI-X');
const IDLE_SECONDS = 20;
/** Of all threads, a second: the safety net that looks once a second, and the timers of Node. */
const IDLE_WAKES = 20;

let relay: RelayProcess;
let appliance: Machine;
let target: ApplianceTarget;
let vm: Machine;
let disk: GuestDisk;

/** Interrupts of the device so far, over all CPUs. */
async function interrupts(): Promise<number> {
  const line = await appliance.run("grep 'vfio-msix.*0000:00:07.0' /proc/interrupts");
  const counts = line
    .trim()
    .split(/\s+/)
    .slice(1)
    .filter((word) => /^\d+$/.test(word));
  return counts.reduce((n, word) => n + Number(word), 0);
}

async function wakeUps(): Promise<number> {
  const lines = await appliance.run('grep -h ^voluntary_ctxt_switches /proc/$(cat /tmp/target.pid)/task/*/status');
  return lines
    .trim()
    .split('\n')
    .reduce((n, line) => n + Number(line.split(/\s+/)[1]), 0);
}

async function idle(): Promise<number> {
  await appliance.run('sleep 5');
  const before = await wakeUps();
  await appliance.run(`sleep ${IDLE_SECONDS}`);
  return ((await wakeUps()) - before) / IDLE_SECONDS;
}

test.before(() =>
  saying(async () => {
    relay = await RelayProcess.start();
    appliance = await startAppliance({ qemu: '11', cpus: 2, iommu: true, args: [...relay.deviceArgs] });
    await appliance.booted();
    target = await ApplianceTarget.start(appliance, { args: ['--malloc', '16M'], debug: 'vvu:vvu' });
    vm = await startCompute({ qemu: '11', scsi: [{ socket: relay.compute, reconnectMs: 500 }] });
    await vm.booted();
    [disk] = await awaitDisks(vm, ['Malloc disk']);
  }),
);

test.after(async () => {
  await vm?.close();
  await appliance?.close();
  await relay?.close();
});

test('VFIO drives it, with a vector for messages and kicks', async () => {
  const driver = await appliance.run('basename $(readlink /sys/bus/pci/devices/0000:00:07.0/driver)');
  assert.is(driver.trim(), 'vfio-pci');
  assert.match(await target.log(), /"interrupts":"msix","kicks":"msix"/);
  assert.ok((await interrupts()) > 0);
});

test('idle with a compute VM connected, it sleeps', async () => {
  const rate = await idle();
  console.log(`idle, connected: ${rate.toFixed(1)} wake-ups a second`);
  assert.ok(rate < IDLE_WAKES, `${rate}`);
});

test('a request after a pause wakes it by an interrupt', async () => {
  for (let i = 0; i < 3; i++) {
    await vm.run('sleep 3');
    const before = await interrupts();
    await vm.run(`dd if=${disk.device} of=/dev/null bs=4096 count=1 skip=${i} iflag=direct 2>/dev/null`);
    const count = (await interrupts()) - before;
    console.log(`a READ after a pause: ${count} interrupts`);
    assert.ok(count > 0);
  }
});

test('what is written is read, checked by fio', async () => {
  await vm.run(fio(disk, '--rw=randwrite --bs=4k --size=8m'), 300);
});

test('killed: the kernel stops the device, and the relay hangs up on the compute VM at once; the next target serves it again', async () => {
  assert.is(await target.end('KILL'), 128 + 9);
  await relay.says(/the driver in the appliance has gone/, 10);
  await target.restart();
  await vm.run(fio(disk, '--rw=randwrite --bs=4k --size=2m'), 300);
  await vm.powerOff();
  assert.is(await target.end('INT'), 0);
  assert.is(appliance.process.exitCode, null);
});

test.run();
