import type { Machine } from './machine.ts';

/** Huge pages of 2 MiB: how many there are, and reserving more. */

const FOLDER = 'kernel/mm/hugepages/hugepages-2048kB';

export interface HugePages {
  readonly total: number;
  readonly free: number;
}

/** undefined when the kernel has none of this size */
export function hugePages(machine: Machine): HugePages | undefined {
  const total = machine.text(machine.sys(FOLDER, 'nr_hugepages'));
  const free = machine.text(machine.sys(FOLDER, 'free_hugepages'));
  return total === undefined ? undefined : { total: Number(total), free: Number(free ?? 0) };
}

/** @throws Error when there are fewer than asked for afterwards */
export function reserveHugePages(machine: Machine, count: number): HugePages {
  if (!Number.isInteger(count) || count < 0)
    throw new Error(`hugepages ${count}: expected a number of pages, 0 or more`);
  if (hugePages(machine) === undefined) throw new Error('this kernel has no huge pages of 2 MiB (CONFIG_HUGETLBFS)');
  machine.write(machine.sys(FOLDER, 'nr_hugepages'), `${count}\n`);
  const now = hugePages(machine) as HugePages;
  if (now.total < count) {
    throw new Error(
      `${now.total} of ${count} huge pages: memory is too full or too fragmented; free some, or reserve them at boot (hugepages=${count} on the kernel command line)`,
    );
  }
  return now;
}
