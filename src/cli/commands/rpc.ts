import { Command, InvalidArgumentError, Option } from 'commander';
import type { RpcOptions } from '../actions/rpc.ts';
import { DEFAULT_RPC_SOCKET } from '../options.ts';

/** `vvu-target rpc METHOD ...`: rpc.py's argument forms in, its way of printing out. */

export function rpcCommand(): Command {
  return new Command('rpc')
    .summary('call a method of a running target')
    .usage('[options] [METHOD [arguments...]]')
    .description(
      'call a method of a running target; without METHOD the methods that stand on standard input, one a line',
    )
    .argument('[method]', 'method, in its modern or its older name; `rpc_get_methods` lists them')
    .argument('[words...]', 'its arguments, as rpc.py takes them; or --json OBJECT')
    .option('-s, --sock <path>', 'RPC socket of the target', DEFAULT_RPC_SOCKET)
    .addOption(new Option('-r, --rpc-socket <path>', 'the same, as the target calls it').hideHelp())
    .option('-t, --timeout <seconds>', 'give up after this long', parseSeconds, 60)
    .passThroughOptions()
    .allowUnknownOption()
    .addHelpText(
      'after',
      `
Examples:
  vvu-target rpc construct_malloc_bdev 64 512 -b Malloc0
  vvu-target rpc construct_vhost_scsi_controller --cpumask 0x1 vhost.0
  vvu-target rpc add_vhost_scsi_lun vhost.0 2 Malloc0
  vvu-target rpc bdev_get_bdevs -b Malloc0
  vvu-target rpc bdev_null_create --json '{"name": "Null0", "num_blocks": 2048, "block_size": 512}'
  vvu-target rpc save_config > target.json
  vvu-target rpc < calls.txt
  vvu-target rpc METHOD --help`,
    )
    .action(async (name: string | undefined, words: string[], options: RpcOptions) =>
      (await import('../actions/rpc.ts')).call(name, words, options),
    );
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (!(seconds > 0)) throw new InvalidArgumentError('seconds are a number above 0.');
  return seconds;
}
