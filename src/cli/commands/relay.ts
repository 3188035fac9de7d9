import { Command, InvalidArgumentError, Option } from 'commander';
import type { RelayOptions } from '../actions/relay.ts';
import { parseSize } from '../options.ts';

/** `vvu-target relay`: the host half of a vvu device for a stock QEMU. */

const MAX_VRINGS = 250;
const DEFAULT_WINDOW = '64G';
const PAGE = 4096;

function parseVrings(text: string): number {
  const n = Number(text);
  if (!Number.isInteger(n) || n < 1 || n > MAX_VRINGS) throw new InvalidArgumentError(`expected 1 to ${MAX_VRINGS}.`);
  return n;
}

function parseWindow(text: string): number {
  const bytes = parseSize(text);
  if (!Number.isInteger(Math.log2(bytes)) || bytes < PAGE) throw new InvalidArgumentError('expected a power of two.');
  return bytes;
}

export function relayCommand(): Command {
  return new Command('relay')
    .description('give an appliance VM under a stock QEMU (11.1 or later) a vvu device; one relay a compute VM')
    .requiredOption('--compute <path>', "socket for the compute VM's vhost-user-scsi device")
    .requiredOption('--appliance <path>', "socket for the appliance VM's vhost-user-test-device-pci")
    .option('--vrings <n>', 'vrings that the device carries: request queues and 2', parseVrings, 18)
    .addOption(
      new Option('--window <size>', "window for the compute VM's memory, a power of two")
        .argParser(parseWindow)
        .default(parseWindow(DEFAULT_WINDOW), DEFAULT_WINDOW),
    )
    .addHelpText(
      'after',
      `
Start the relay first, then the appliance VM (with shared memory: memory-backend-memfd,share=on), then the compute VM.
Do not stop the relay while the appliance VM runs: its QEMU does not survive that a target starts without it.`,
    )
    .action(async (options: RelayOptions) => (await import('../actions/relay.ts')).runRelay(options));
}
