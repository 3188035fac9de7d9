import { accessSync, constants, existsSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseBdf, requireBdf } from '../../pci/bdf.ts';
import type { Service, ServiceOptions } from '../../rpc/service.ts';
import { notifySystemd } from '../../sys/systemd.ts';
import { Target } from '../../target/target.ts';
import { LAYOUT_NAMES, type LayoutName } from '../../vvu/driver/layout-names.ts';
import { OperatorError } from '../operator-error.ts';
import type { QuickDisk } from '../options.ts';
import { QEMU_NOTES, qemuCommand } from '../qemu-command.ts';
import { QUICK_CONTROLLER, QUICK_DISKS, quickConfig } from '../quick-form.ts';
import { fatal } from '../report.ts';

/** What `vvu-target` itself does: the target, from its start until a signal or an RPC ends it. */

export interface ServeOptions {
  socket: string;
  transport: string;
  vvuLayout?: string;
  mask?: string;
  rpcSocket: string;
  config?: string;
  state?: string;
  reservations?: string;
  singleThread?: boolean;
  poll?: boolean;
  waitForRpc?: boolean;
}

/** How long requests in flight may take to end, ms. */
const DRAIN_MS = 10_000;

export async function serve(options: ServeOptions, disks: readonly QuickDisk[], version: string): Promise<void> {
  const vvuLayout = layoutOf(options);
  check(options, disks);
  // Before anything is made: a signal during the start ends it in order, too.
  let stop: (reason: string) => void = (reason) => {
    console.error(`vvu-target: ${reason} during the start`);
    process.exit(1);
  };
  let asked = false;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGQUIT', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (asked) process.exit(1);
      asked = true;
      stop(signal);
    });
  }
  const settings: ServiceOptions = {
    version,
    vvuLayout,
    directory: options.transport === 'vvu' ? '.' : options.socket,
    vvu: options.transport === 'vvu' ? requireBdf(options.socket) : undefined,
    rpcSocket: resolve(options.rpcSocket),
    mask: options.mask,
    singleThread: options.singleThread,
    poll: options.poll,
    config: options.config,
    stateFile: options.state,
    reservations: options.reservations,
    waitForRpc: options.waitForRpc,
    extra: disks.length > 0 ? { name: 'command line', config: quickConfig(disks) } : undefined,
    onFailure: fatal,
    onShutDown: (reason) => {
      asked = true;
      stop(reason);
    },
  };
  if (options.singleThread) {
    // Reactors on threads of their own are guarded by this one; it needs one, too.
    const { guardThisThread } = await import('../../sys/guard-this-thread.ts');
    await guardThisThread();
  }
  // The reactors' threads load their code while this one loads that of the RPCs: together that is most of a start.
  const starting = Target.start(settings);
  starting.catch(() => {}); // told below
  const { Service } = await import('../../rpc/service.ts');
  const service = await Service.start(settings, starting);
  stop = (reason) => void shutDown(service, reason);
  const where =
    options.transport === 'vvu' ? `vvu device ${options.socket}` : `controllers in ${resolve(options.socket)}`;
  console.log(`vvu-target ${version}: RPC at ${resolve(options.rpcSocket)}, ${where}`);
  if (disks.length > 0 && options.transport === 'unix')
    announce(join(resolve(options.socket), QUICK_CONTROLLER), disks);
  notifySystemd('READY=1');
}

/** A device is recognised by its capabilities; the operator may know better (docs/vvu-devices.md). */
function layoutOf({ vvuLayout, transport }: ServeOptions): LayoutName | undefined {
  if (vvuLayout === undefined) return undefined;
  if (transport !== 'vvu') throw new OperatorError('--vvu-layout is about a vvu device: it needs -T vvu');
  const name = LAYOUT_NAMES.find((known) => known === vvuLayout.toUpperCase());
  if (name === undefined) {
    throw new OperatorError(`--vvu-layout ${vvuLayout}: no such layout; expected ${LAYOUT_NAMES.join(', ')}`);
  }
  return name;
}

function check(options: ServeOptions, disks: readonly QuickDisk[]): void {
  if (options.transport !== 'unix' && options.transport !== 'vvu') {
    throw new OperatorError(`-T ${options.transport}: no such transport; expected unix or vvu`);
  }
  if (options.transport === 'vvu' && parseBdf(options.socket) === undefined) {
    throw new OperatorError(`-T vvu needs the device's PCI address, as in -S 0000:00:07.0; got -S ${options.socket}`);
  }
  if (options.transport === 'unix') checkFolder(options.socket);
  else checkDevice(options.socket);
  if (disks.length > QUICK_DISKS)
    throw new OperatorError(`${disks.length} disks: a controller has ${QUICK_DISKS} targets at most`);
  if (disks.length > 0 && options.state !== undefined) {
    throw new OperatorError(
      '--state keeps disks that were made by RPC; those of --malloc, --file and --null are made anew',
    );
  }
  if (disks.length > 0 && options.waitForRpc) {
    throw new OperatorError('--wait-for-rpc makes nothing by itself: leave it out, or make the disks by RPC');
  }
}

/** Controllers come later, by RPC: what would stop them all is told now. */
function checkFolder(path: string): void {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) {
    throw new OperatorError(`-S ${path}: there is no such directory; make it or name another one`);
  }
  if (!stat.isDirectory()) throw new OperatorError(`-S ${path}: it is no directory; name one`);
  try {
    accessSync(path, constants.W_OK | constants.X_OK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new OperatorError(`-S ${path}: this user cannot make sockets there (${code}); name a directory of yours`);
  }
}

function checkDevice(bdf: string): void {
  if (existsSync(join('/sys/bus/pci/devices', requireBdf(bdf)))) return;
  throw new OperatorError(
    `-T vvu -S ${bdf}: there is no such PCI function; \`vvu-target setup status --all\` shows those that are there`,
  );
}

function announce(socket: string, disks: readonly QuickDisk[]): void {
  const what = disks.map(
    (disk, i) => `target ${i}: ${disk.kind === 'file' ? disk.path : `${disk.kind} ${disk.bytes / 2 ** 20} MiB`}`,
  );
  console.log(
    `${what.join(', ')} on ${socket}\n\nAttach a virtual machine:\n\n  ${qemuCommand(socket)}\n\n${QEMU_NOTES}`,
  );
}

async function shutDown(service: Service, reason: string): Promise<void> {
  console.log(`vvu-target: ${reason}, shutting down`);
  notifySystemd('STOPPING=1');
  const limit = setTimeout(async () => {
    console.error(`vvu-target: requests in flight did not end within ${DRAIN_MS / 1000} s; giving up on them`);
    process.exit(1);
  }, DRAIN_MS);
  try {
    await service.stop();
  } catch (error) {
    fatal(error as Error);
  }
  clearTimeout(limit);
  process.exit(0);
}
