/**
 * `kill -9` of each part of the appliance topology while the compute VM's fio writes and verifies: the target, the appliance VM, the
 * relay, the compute VM. What becomes of the other parts is what docs/vvu-wire.md says ("When something dies"), and no write is
 * lost: the compute VM's QEMU keeps the record of what was in flight, and the next target does it again.
 *
 * The disk is the appliance's NVMe disk, because it outlives the appliance. The tests build on each other in order.
 */
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startAppliance } from '../../vm/appliance.ts';
import { ApplianceTarget } from '../../vm/appliance-target.ts';
import { startCompute } from '../../vm/compute.ts';
import { awaitDisks, type GuestDisk } from '../../vm/disks.ts';
import type { GuestJob } from '../../vm/guest-channel.ts';
import type { Machine } from '../../vm/machine.ts';
import { type Scratch, scratchFolder } from '../../vm/paths.ts';
import { progress } from '../../vm/progress.ts';
import { RelayProcess } from '../../vm/relay-process.ts';
import { assert, saying, suite } from '../support/suite.ts';
import { fio } from './host-disks.ts';

const test = suite('kill -9 of each part');
const NVME = '0000:00:06.0';
const MIB = 32;
const WORK = '--rw=randwrite --bs=4k --size=6m';
/** Long enough to be met by a kill, and verified while it writes. */
const LOAD = `${WORK} --rate_iops=150 --verify_backlog=64`;
/** Two beats of the driver's PING, on an emulated CPU. */
const SILENCE_SECONDS = 60;

let scratch: Scratch;
let image: string;
let relay: RelayProcess;
let appliance: Machine;
let target: ApplianceTarget;
let vm: Machine;
let disk: GuestDisk;
let load: GuestJob;

const alive = (machine: Machine) => machine.process.exitCode === null && machine.process.signalCode === null;

const config = JSON.stringify({
  subsystems: [
    {
      subsystem: 'bdev',
      config: [{ method: 'bdev_nvme_attach_controller', params: { name: 'NVMe0', trtype: 'PCIe', traddr: NVME } }],
    },
    {
      subsystem: 'vhost',
      config: [
        { method: 'vhost_create_scsi_controller', params: { ctrlr: 'vhost.0' } },
        {
          method: 'vhost_scsi_controller_add_target',
          params: { ctrlr: 'vhost.0', scsi_target_num: 0, bdev_name: 'NVMe0n1' },
        },
      ],
    },
  ],
});

/** The appliance VM with the disk, and the target in it. */
async function startStorage(): Promise<void> {
  progress('starting the appliance VM');
  const drive = ['-drive', `if=none,id=d0,file=${image},format=raw`, '-device', 'nvme,drive=d0,serial=N0,addr=06.0'];
  appliance = await startAppliance({ qemu: '11', cpus: 2, args: [...relay.deviceArgs, ...drive] });
  await appliance.booted();
  await appliance.guest.putFile('/tmp/target.json', config);
  progress('starting the target');
  target = await ApplianceTarget.start(appliance, { devices: [NVME], args: ['-c', '/tmp/target.json'] });
}

async function startVm(): Promise<void> {
  progress('starting the compute VM');
  vm = await startCompute({ qemu: '11', scsi: [{ socket: relay.compute, queues: 2, reconnectMs: 500 }] });
  await vm.booted();
  [disk] = await awaitDisks(vm, ['NVMe disk']);
}

/** fio at work, and seen to be. */
async function startLoad(): Promise<void> {
  const written = `awk '{print $7}' /sys/block/${disk.device.slice(5)}/stat`;
  const before = Number(await vm.run(written));
  load = await vm.background(fio(disk, LOAD));
  await vm.until(`[ $(${written}) -gt ${before + 100} ]`, 120);
  assert.is(await load.exitCode(), null, 'fio is still at work');
}

/** fio ends without an error, and what it wrote is on the disk. */
async function loadEnds(): Promise<void> {
  progress('waiting for fio');
  const { output, exitCode } = await load.wait(600);
  assert.is(exitCode, 0, output);
  assert.match(output, /err= 0/);
  await vm.run(fio(disk, `${WORK} --verify_only`), 300);
}

/** The compute VM's guest runs on; only its fio is held up. */
async function vmWaits(): Promise<void> {
  await sleep(2000);
  assert.ok(alive(vm), 'the QEMU of the compute VM');
  assert.is(await vm.run('echo lives', 30), 'lives\n');
  assert.is(await load.exitCode(), null, 'fio waits');
}

/** As `test`, but what is wrong is said at once: the machines may take minutes to the end. */
function step(name: string, body: () => Promise<void>): void {
  test(name, () => saying(body, () => `\n--- relay\n${relay.output}`));
}

test.before(() =>
  saying(async () => {
    scratch = scratchFolder('kill');
    image = join(scratch.path, 'nvme.img');
    writeFileSync(image, '');
    truncateSync(image, MIB * 2 ** 20);
    relay = await RelayProcess.start();
    await startStorage();
    await startVm();
  }),
);

test.after(async () => {
  await vm?.close();
  await appliance?.close();
  await relay?.close();
  scratch?.remove();
});

step('the target: all else lives; the next target serves on, and nothing is lost', async () => {
  await startLoad();
  assert.is(await target.end('KILL'), 128 + 9);
  // The target's guard (or VFIO, where there is an IOMMU) has turned the device off.
  await relay.says(/the driver in the appliance has gone/, 30);
  await vmWaits();
  assert.ok(alive(appliance));
  await target.restart();
  await loadEnds();
});

step('the appliance VM: the compute VM waits for the next one with the same disk', async () => {
  await startLoad();
  await appliance.close();
  await relay.says(/the appliance's QEMU has gone/, 30);
  await vmWaits();
  await startStorage();
  await loadEnds();
});

step('the compute VM: the others live, and another one finds what was written', async () => {
  await startLoad();
  const gone = relay.output.split('the compute VM is gone').length;
  await vm.close();
  await relay.says(new RegExp(`(the compute VM is gone[^]*){${gone}}`), 30);
  assert.ok(alive(appliance));
  await startVm();
  await vm.run(fio(disk, `${WORK} --verify_only`), 300);
});

step('the relay: the target says so; relay and appliance are started anew', async () => {
  await startLoad();
  assert.is(await relay.end('SIGKILL'), 'SIGKILL');
  await vmWaits();
  assert.ok(alive(appliance), 'the QEMU of the appliance');
  await appliance.until('grep -q "the relay does not answer" /tmp/target.log', SILENCE_SECONDS);
  assert.ok(alive(appliance));
  // The target may end: QEMU survives the reset of a device whose back end is dead, but not that it is started again.
  assert.is(await target.end('INT'), 0);
  assert.ok(alive(appliance));
  await target.restart().catch(() => {});
  assert.match(await appliance.exited, /SIGABRT[\s\S]*vhost_dev_start: Assertion/);
  await appliance.close();
  await relay.restart();
  await startStorage();
  await loadEnds();
});

step('after all that: the target ends in order, and no other QEMU has ended by itself', async () => {
  await vm.powerOff();
  assert.is(await target.end('INT'), 0);
  await relay.says(/said goodbye/, 10);
  assert.ok(alive(appliance));
  assert.not.match(relay.output, /refused|sent /);
});

test.run();
