import { type BindDriver, type BindResult, bind, unbindFromTarget } from '../../pci/setup/bind.ts';
import { hugePages, reserveHugePages } from '../../pci/setup/hugepages.ts';
import { Machine } from '../../pci/setup/machine.ts';
import { deviceStatus } from '../../pci/setup/status.ts';
import { OperatorError } from '../operator-error.ts';

/** What `vvu-target setup` does. */

const machine = new Machine();

function told<T>(fn: () => T): T {
  try {
    return fn();
  } catch (error) {
    throw new OperatorError(`setup: ${(error as Error).message}`);
  }
}

export interface BindOptions {
  driver?: BindDriver;
  force?: boolean;
}

export function bindAll(bdfs: readonly string[], options: BindOptions): void {
  each(bdfs, (bdf) => bind(machine, bdf, options));
}

export function resetAll(bdfs: readonly string[]): void {
  each(bdfs, (bdf) => unbindFromTarget(machine, bdf));
}

/** @param count how many there shall be; undefined: only look */
export function showHugePages(count: string | undefined): void {
  const pages = told(() => (count === undefined ? hugePages(machine) : reserveHugePages(machine, Number(count))));
  console.log(pages === undefined ? 'none in this kernel' : `${pages.total} huge pages of 2 MiB, ${pages.free} free`);
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

export function printStatus(all: boolean): void {
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
