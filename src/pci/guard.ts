import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import type { Fd } from '../sys/fd.ts';
import { logger } from '../sys/log.ts';

const log = logger('pci');

/**
 * A small process that outlives this one by a moment, for devices without an IOMMU: when the target dies (kill -9, a crash), its
 * pages would go to other processes while a device may still write to them. The guard holds descriptors of the DMA memory, so the
 * pages stay; it turns bus mastering off, resets the functions, and only then lets go.
 *
 * It is a shell that waits for the end of its input. An orderly end says so first.
 */

/** Runs when the target has gone without a word. Arguments: folders of the functions in sysfs. */
const SCRIPT = `
trap '' INT TERM HUP
read -r word
[ "$word" = done ] && exit 0
for fn in "$@"; do
  printf '\\002\\000' | dd of="$fn/config" bs=1 seek=4 count=2 conv=notrunc 2>/dev/null
  echo 1 > "$fn/reset"
  printf '\\002\\000' | dd of="$fn/config" bs=1 seek=4 count=2 conv=notrunc 2>/dev/null
done 2>/dev/null
sleep 1
`;

/** Descriptors begin at 3 in the child; a shell handles the single digits well, and more arenas are rare. */
const MAX_FDS = 64;

export class Guard {
  private readonly sysfsRoot: string;
  private child: ChildProcess | null = null;
  private functions: readonly string[] = [];
  private memory: readonly Fd[] = [];

  constructor(sysfsRoot = '/sys') {
    this.sysfsRoot = sysfsRoot;
  }

  /** Functions that reach memory without an IOMMU. */
  setFunctions(bdfs: readonly string[]): void {
    this.functions = bdfs;
    this.renew();
  }

  /** DMA memory that must not be given away. */
  setMemory(fds: readonly Fd[]): void {
    this.memory = fds;
    this.renew();
  }

  /** A new guard takes over before the old one goes. */
  private renew(): void {
    const old = this.child;
    this.child = this.functions.length > 0 && this.memory.length > 0 ? this.start() : null;
    old?.stdin?.end('done\n');
  }

  private start(): ChildProcess | null {
    const folders = this.functions.map((bdf) => join(this.sysfsRoot, 'bus/pci/devices', bdf));
    const fds = this.memory.slice(0, MAX_FDS).map((fd) => fd.number);
    const child = spawn('/bin/sh', ['-c', SCRIPT, 'vvu-guard', ...folders], {
      stdio: ['pipe', 'ignore', 'ignore', ...fds],
      detached: true, // a terminal's Ctrl-C is not for it
      cwd: '/',
    });
    child.on('error', (error) => log('no guard for the DMA memory: %s', error.message));
    child.stdin?.on('error', () => {}); // it has ended already
    child.unref();
    (child.stdin as { unref?: () => void } | null)?.unref?.();
    return child;
  }

  /** In order: the functions are quiet. */
  close(): void {
    this.setFunctions([]);
  }
}
