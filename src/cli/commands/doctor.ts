import { Command } from 'commander';
import { examineDevice, examineHost, examineMachine, type Finding } from '../../pci/setup/doctor.ts';
import { Machine } from '../../pci/setup/machine.ts';

/** `vvu-target doctor [BDF...]`: what is missing, a sentence each, and the command that mends it. */

export function doctorCommand(machine = new Machine()): Command {
  return new Command('doctor')
    .summary('say what is missing for this machine or for a device')
    .description('Says in a sentence each what is missing for serving VMs and driving devices, and what mends it.')
    .argument('[bdf...]', 'PCI addresses to look at')
    .action((bdfs: string[]) => {
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
    });
}

const MARKS = { ok: '  ok       ', note: '  note     ', missing: '  missing  ' } as const;

function line({ level, what, fix }: Finding): string {
  return `${MARKS[level]}${what}${fix === undefined ? '' : `\n           -> ${fix}`}`;
}
