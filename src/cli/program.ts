import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { doctorCommand } from './commands/doctor.ts';
import { relayCommand } from './commands/relay.ts';
import { rpcCommand } from './commands/rpc.ts';
import { addServeOptions } from './commands/serve.ts';
import { setupCommand } from './commands/setup.ts';

/** The command line as a whole. A new sub-command adds its line here and its file in commands/. */

export function packageVersion(): string {
  // Two folders up both from src/cli and from dist/cli.
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

export function createProgram(): Command {
  const version = packageVersion();
  const program = new Command('vvu-target')
    .description('Serves SCSI disks to virtual machines over vhost-user and virtio-vhost-user.')
    .version(version, '-V, --version')
    .enablePositionalOptions()
    .showHelpAfterError('(see vvu-target --help)')
    .addHelpText(
      'after',
      `
Examples:
  vvu-target --malloc 64M --file disk.img        serve two disks on ./vhost.0, print the QEMU command line
  vvu-target -S /var/tmp -m 0x3                  two reactors; everything else by RPC
  vvu-target rpc construct_malloc_bdev 64 512 -b Malloc0
  vvu-target rpc construct_vhost_scsi_controller --cpumask 0x1 vhost.0
  vvu-target rpc add_vhost_scsi_lun vhost.0 2 Malloc0
  vvu-target rpc save_config > target.json; vvu-target -c target.json

DEBUG=vvu:* logs every layer; DEBUG=vvu:vhost,vvu:rpc only those.`,
    );
  addServeOptions(program, version);
  program.addCommand(rpcCommand());
  program.addCommand(relayCommand());
  program.addCommand(setupCommand());
  program.addCommand(doctorCommand());
  return program;
}
