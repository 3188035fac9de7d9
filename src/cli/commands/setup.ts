import { Command, Option } from 'commander';
import type { BindOptions } from '../actions/setup.ts';

/** `vvu-target setup ...`: PCI devices and huge pages, made ready for the target. */

const actions = () => import('../actions/setup.ts');

export function setupCommand(): Command {
  const setup = new Command('setup').summary('list, bind and give back PCI devices; reserve huge pages').addHelpText(
    'after',
    `
Examples:
  vvu-target setup status
  vvu-target setup bind 0000:00:05.0 0000:00:06.0
  vvu-target setup reset 0000:00:06.0
  vvu-target setup hugepages 64`,
  );
  setup
    .command('status', { isDefault: true })
    .description('devices that the target can drive: driver, IOMMU group, who uses them')
    .option('-a, --all', 'all PCI functions')
    .action(async ({ all }: { all?: boolean }) => (await actions()).printStatus(all ?? false));
  setup
    .command('bind')
    .description('take devices from their kernel drivers')
    .argument('<bdf...>', 'PCI addresses')
    .addOption(
      new Option('-d, --driver <name>', 'what to bind them to; default: VFIO where it works, else no driver').choices([
        'vfio-pci',
        'none',
      ]),
    )
    .option('-f, --force', 'also when a disk is mounted or a network interface is up')
    .action(async (bdfs: string[], options: BindOptions) => (await actions()).bindAll(bdfs, options));
  setup
    .command('reset')
    .description('give devices back to their kernel drivers')
    .argument('<bdf...>', 'PCI addresses')
    .action(async (bdfs: string[]) => (await actions()).resetAll(bdfs));
  setup
    .command('hugepages')
    .description('reserve huge pages of 2 MiB, or show how many there are')
    .argument('[count]', 'how many there shall be')
    .action(async (count: string | undefined) => (await actions()).showHugePages(count));
  return setup;
}
