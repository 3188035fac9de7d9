import { examineDevice, examineHost, examineMachine, type Finding } from '../../pci/setup/doctor.ts';
import { Machine } from '../../pci/setup/machine.ts';

/** What `vvu-target doctor` does. */

export function examine(bdfs: readonly string[]): void {
  const machine = new Machine();
  const parts: [string, Finding[]][] = [
    ['serving VMs on this host', examineHost(machine)],
    ['driving PCI devices', examineMachine(machine)],
    ...bdfs.map((bdf): [string, Finding[]] => [bdf, examineDevice(machine, bdf)]),
  ];
  for (const [title, findings] of parts) {
    console.log(`${title}:`);
    for (const finding of findings) console.log(line(finding));
  }
  // Only what was asked about decides: a host without PCI serves VMs all the same.
  const asked = bdfs.length > 0 ? parts.slice(1) : parts.slice(0, 1);
  if (asked.some(([, findings]) => findings.some((f) => f.level === 'missing'))) process.exitCode = 1;
}

const MARKS = { ok: '  ok       ', note: '  note     ', missing: '  missing  ' } as const;

function line({ level, what, fix }: Finding): string {
  return `${MARKS[level]}${what}${fix === undefined ? '' : `\n           -> ${fix}`}`;
}
