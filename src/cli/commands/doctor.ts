import { Command } from 'commander';

/** `vvu-target doctor [BDF...]`: what is missing, a sentence each, and the command that mends it. */

export function doctorCommand(): Command {
  return new Command('doctor')
    .summary('say what is missing for this machine or for a device')
    .description('Says in a sentence each what is missing for serving VMs and driving devices, and what mends it.')
    .argument('[bdf...]', 'PCI addresses to look at')
    .action(async (bdfs: string[]) => (await import('../actions/doctor.ts')).examine(bdfs));
}
