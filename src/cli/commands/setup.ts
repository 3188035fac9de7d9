import { Command, Option } from 'commander';
import { type BindDriver, type BindResult, bind, unbindFromTarget } from '../../pci/setup/bind.ts';
import { hugePages, reserveHugePages } from '../../pci/setup/hugepages.ts';
import { Machine } from '../../pci/setup/machine.ts';
import { deviceStatus } from '../../pci/setup/status.ts';
import { OperatorError } from '../operator-error.ts';

/** `vvu-target setup ...`: PCI devices and huge pages, made ready for the target. */

export function setupCommand(machine = new Machine()): Command {
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
    .action(({ all }: { all?: boolean }) => printStatus(machine, all ?? false));
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
    .action((bdfs: string[], options: { driver?: BindDriver; force?: boolean }) =>
      each(bdfs, (bdf) => bind(machine, bdf, options)),
    );
  setup
    .command('reset')
    .description('give devices back to their kernel drivers')
    .argument('<bdf...>', 'PCI addresses')
    .action((bdfs: string[]) => each(bdfs, (bdf) => unbindFromTarget(machine, bdf)));
  setup
    .command('hugepages')
    .description('reserve huge pages of 2 MiB, or show how many there are')
    .argument('[count]', 'how many there shall be')
    .action((count: string | undefined) => {
      const pages = told(() => (count === undefined ? hugePages(machine) : reserveHugePages(machine, Number(count))));
      console.log(
        pages === undefined ? 'none in this kernel' : `${pages.total} huge pages of 2 MiB, ${pages.free} free`,
      );
    });
  return setup;
}

function told<T>(fn: () => T): T {
  try {
    return fn();
  } catch (error) {
    throw new OperatorError(`setup: ${(error as Error).message}`);
  }
}

/** All of them, also after a failure; the last failure is the command's. */
function each(bdfs: readonly string[], fn: (bdf: string) => BindResult): void {
  let failure: unknown;
  for (const bdf of bdfs) {
    try {
      const { before, after, notes, bdf: name } = told(() => fn(bdf));
      console.log([`${name}: ${before ?? 'no driver'} -> ${after ?? 'no driver'}`, ...notes].join('; '));
    } catch (error) {
      if (failure !== undefined) console.error((failure as Error).message);
      failure = error;
    }
  }
  if (failure !== undefined) throw failure;
}

function printStatus(machine: Machine, all: boolean): void {
  const rows = deviceStatus(machine, all).map((d) => [
    d.bdf,
    d.ids,
    d.kind,
    d.driver,
    d.group,
    d.users.join('; ') || '-',
  ]);
  if (rows.length === 0) console.log('no devices that the target can drive (--all shows the others)');
  else {
    const table = [['address', 'ids', 'kind', 'driver', 'group', 'used by'], ...rows];
    const widths = (table[0] as string[]).map((_, i) => Math.max(...table.map((row) => (row[i] as string).length)));
    for (const row of table)
      console.log(
        row
          .map((cell, i) => cell.padEnd(widths[i] as number))
          .join('  ')
          .trimEnd(),
      );
  }
  const pages = hugePages(machine);
  if (pages !== undefined) console.log(`${pages.total} huge pages of 2 MiB, ${pages.free} free`);
}
