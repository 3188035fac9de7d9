/**
 * The appliance demo: relay, appliance VM under a stock QEMU 11 with the target inside, and a compute VM that is wired to nothing but
 * that VM's vvu device. Shows the compute VM's disks and lends its shell. All it starts ends with it; all it fetches lies in
 * the project's cache folder.
 *
 * Options: `--qemu 11` takes QEMU 11 for the compute VM, too; `--no-shell` ends after the disks are shown (so does a standard input
 * that is no terminal).
 */
import { parseArgs } from 'node:util';
import { accelerator } from './accelerator.ts';
import { startAppliance } from './appliance.ts';
import { ApplianceTarget } from './appliance-target.ts';
import { prepareCompute, startCompute } from './compute.ts';
import { awaitDisks } from './disks.ts';
import { lendConsole } from './lend-console.ts';
import type { Machine } from './machine.ts';
import { progress } from './progress.ts';
import { type QemuKind, qemu } from './qemu.ts';
import { RelayProcess } from './relay-process.ts';

const { values } = parseArgs({
  options: { qemu: { type: 'string', default: 'system' }, 'no-shell': { type: 'boolean', default: false } },
});
const kind = values.qemu as QemuKind;
const machines: Machine[] = [];
let relay: RelayProcess | undefined;
let code = 0;
try {
  progress('preparing: packages and images come once and are kept in .cache/vm');
  const version = await prepareCompute(kind);
  const newer = (await qemu('11')).version.join('.');
  const accel = (await accelerator()) === 'kvm' ? 'KVM' : 'emulated CPUs: a minute or two';
  progress('starting the relay');
  relay = await RelayProcess.start();
  progress(`starting the appliance VM: QEMU ${newer} (${accel})`);
  const appliance = await startAppliance({ qemu: '11', cpus: 2, args: [...relay.deviceArgs] });
  machines.push(appliance);
  await appliance.booted();
  progress('starting the target in it: vvu-target -T vvu -S 0000:00:07.0');
  const target = await ApplianceTarget.start(appliance, { args: ['--malloc', '64M', '--null', '1G'] });
  progress(`starting the compute VM: QEMU ${version}`);
  const compute = await startCompute({ qemu: kind, scsi: [{ socket: relay.compute }] });
  machines.push(compute);
  await compute.booted();
  await awaitDisks(compute, ['Malloc disk', 'Null disk']);
  console.log('\n# lsscsi');
  console.log(await compute.run('lsscsi'));
  if (process.stdin.isTTY && !values['no-shell']) await lendConsole(compute);
  progress('taking everything down');
  await compute.close();
  code = await target.end('INT');
  if (code !== 0) console.error(`the target ended with ${code}\n${await target.log()}`);
} finally {
  for (const machine of machines.reverse()) await machine.close();
  await relay?.close();
}
process.exit(code === 0 ? 0 : 1);
