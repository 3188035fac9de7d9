/**
 * `npm run demo:host`: a target on this machine and a stock QEMU VM whose Linux has two disks of it, and its shell for you. All it
 * starts ends with it; all it fetches lies in the project's cache folder.
 *
 * Options: `--qemu 11` takes QEMU 11 or later instead of the machine's own; `--no-shell` ends after the disks are shown
 * (so does a standard input that is no terminal).
 */
import { parseArgs } from 'node:util';
import { accelerator } from './accelerator.ts';
import { prepareCompute, startCompute } from './compute.ts';
import { awaitDisks, diskImage } from './disks.ts';
import { lendConsole } from './lend-console.ts';
import { cachePath } from './paths.ts';
import { progress } from './progress.ts';
import type { QemuKind } from './qemu.ts';
import { TargetProcess } from './target-process.ts';

const FILE_DISK_MIB = 400;

const { values } = parseArgs({
  options: { qemu: { type: 'string', default: 'system' }, 'no-shell': { type: 'boolean', default: false } },
});
const kind = values.qemu as QemuKind;

const disk = diskImage(cachePath('demo.img'), FILE_DISK_MIB);

progress('preparing: packages and images come once and are kept in .cache/vm');
const version = await prepareCompute(kind);
const accel = await accelerator();
progress('starting the target with a 64 MiB memory disk and a file disk');
const target = await TargetProcess.start({
  args: ['--malloc', '64M', '--file', disk],
  onOutput: (chunk) => process.stderr.write(chunk),
});
progress(`starting a VM: QEMU ${version}, ${accel === 'kvm' ? 'KVM' : 'emulated CPU (about 10 s to boot)'}`);
const vm = await startCompute({ qemu: kind, scsi: [{ socket: target.socket() }] });
await vm.booted();
progress('the guest is up');
await awaitDisks(vm, ['Malloc disk', 'AIO disk']);
console.log('\n# lsscsi');
console.log(await vm.run('lsscsi'));
if (process.stdin.isTTY && !values['no-shell']) await lendConsole(vm);
progress('taking everything down');
if (vm.process.exitCode === null) await vm.close();
const code = await target.end('SIGINT');
if (code !== 0) console.error(`the target ended with ${code}`);
await target.close();
process.exit(code === 0 ? 0 : 1);
