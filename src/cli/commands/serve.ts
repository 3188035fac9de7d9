import type { Command } from 'commander';
import { nearest } from '../../rpc/suggest.ts';
import { LAYOUT_NAMES } from '../../vvu/driver/layout-names.ts';
import type { ServeOptions } from '../actions/serve.ts';
import { DEFAULT_RPC_SOCKET, parseSize, type QuickDisk } from '../options.ts';

/** `vvu-target` itself: run the target until a signal or an RPC ends it. */

function refuseWord(command: Command, word: string): never {
  const near = nearest(
    word,
    command.commands.map((c) => c.name()),
  );
  const hint = near === undefined ? '' : `; did you mean ${near}?`;
  command.error(`error: there is no command '${word}', and serving takes options only${hint}`);
}

export function addServeOptions(command: Command, version: string): void {
  const disks: QuickDisk[] = [];
  command
    .option(
      '-S, --socket <dir>',
      "directory of the controllers' sockets; with -T vvu the PCI address of the device",
      '.',
    )
    .option('-T, --transport <name>', 'how front ends reach us: unix or vvu', 'unix')
    .option(
      '--vvu-layout <row>',
      `take the vvu device for this one, whatever it looks like: ${LAYOUT_NAMES.join(', ')}`,
    )
    .option('-m, --mask <cpus>', 'a reactor on each of these CPUs: 0x3 or [0,1] (default: one, on the first CPU)')
    .option('-r, --rpc-socket <path>', 'RPC socket', DEFAULT_RPC_SOCKET)
    .option('-c, --config <file>', 'configuration to load (from save_config)')
    .option('--state <file>', 'keep the configuration in this file and load it at the next start')
    .option('--reservations <dir>', 'keep persistent reservations (APTPL) in files of this directory, over restarts')
    .option('--single-thread', 'run the reactor on the main thread, for debugging')
    .option('--poll', 'never sleep: lowest latency, one CPU per reactor always busy')
    .option('--wait-for-rpc', 'make nothing before the RPC framework_start_init')
    .option('--malloc <size>', 'serve a disk in memory on ./vhost.0 (repeatable)', (text) => {
      disks.push({ kind: 'malloc', bytes: parseSize(text) });
    })
    .option('--file <path>', 'serve a file or block device on ./vhost.0 (repeatable)', (path) => {
      disks.push({ kind: 'file', path });
    })
    .option('--null <size>', 'serve a disk that keeps nothing on ./vhost.0 (repeatable)', (text) => {
      disks.push({ kind: 'null', bytes: parseSize(text) });
    })
    // Words are told apart here: the library would only count them.
    .allowExcessArguments()
    .action(async (options: ServeOptions, { args }: Command) => {
      if (args.length > 0) refuseWord(command, args[0]);
      await (await import('../actions/serve.ts')).serve(options, disks, version);
    });
}
