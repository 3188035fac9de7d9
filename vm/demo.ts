/**
 * `npm run demo`: from nothing to a compute VM whose Linux has three disks of a storage appliance VM, and its shell for you: a
 * virtio-scsi and an NVMe disk of the appliance, and a disk in its memory. The relay, the appliance VM with the target in it, the
 * compute VM: what docs/guide.md does by hand. All it starts ends with it; all it fetches lies in the project's
 * cache folder.
 *
 * Options: `--qemu 11` takes QEMU 11 for the compute VM, too; `--sysfs` goes without vIOMMU and VFIO; `--no-shell` ends after the
 * disks are shown (so does a standard input that is no terminal).
 */
import { parseArgs } from 'node:util';
import { accelerator } from './accelerator.ts';
import { prepareAppliance } from './appliance.ts';
import { prepareCompute, startCompute } from './compute.ts';
import { awaitDisks, diskImage } from './disks.ts';
import { lendConsole } from './lend-console.ts';
import type { Machine } from './machine.ts';
import { cachePath } from './paths.ts';
import { progress } from './progress.ts';
import type { QemuKind } from './qemu.ts';
import { PRODUCTS, StorageAppliance } from './storage-appliance.ts';

const DISK_MIB = 400;

const { values } = parseArgs({
  options: {
    qemu: { type: 'string', default: 'system' },
    sysfs: { type: 'boolean', default: false },
    'no-shell': { type: 'boolean', default: false },
  },
});
const kind = values.qemu as QemuKind;
let appliance: StorageAppliance | undefined;
let compute: Machine | undefined;
let code = 0;
try {
  progress('preparing: packages and images come once and are kept in .cache/vm');
  await prepareAppliance();
  const version = await prepareCompute(kind);
  progress((await accelerator()) === 'kvm' ? 'with KVM' : 'no KVM here: emulated CPUs, which take a few minutes');
  appliance = await StorageAppliance.start({
    scsiImage: diskImage(cachePath('demo-scsi.img'), DISK_MIB),
    nvmeImage: diskImage(cachePath('demo-nvme.img'), DISK_MIB),
    access: values.sysfs ? 'sysfs' : 'vfio',
    tell: progress,
  });
  progress(`starting the compute VM: QEMU ${version}, with a vhost-user-scsi device at the relay's socket`);
  compute = await startCompute({ qemu: kind, scsi: [{ socket: appliance.socket }] });
  await compute.booted();
  progress('the compute VM is up, and looks for disks');
  await awaitDisks(compute, PRODUCTS);
  progress('here they are');
  console.log('\n# lsscsi');
  console.log(await compute.run('lsscsi'));
  if (process.stdin.isTTY && !values['no-shell']) await lendConsole(compute);
  progress('taking everything down');
  if (compute.process.exitCode === null) await compute.close();
  code = await appliance.target.end('INT');
  if (code !== 0) console.error(`the target ended with ${code}\n${await appliance.target.log()}`);
} catch (error) {
  console.error(`\nthe demo failed: ${(error as Error).message}`);
  console.error('\ndocs/guide.md says what to do when a step fails; docs/vm.md what the machines are made of.');
  code = 1;
} finally {
  await compute?.close();
  await appliance?.close();
}
process.exit(code === 0 ? 0 : 1);
