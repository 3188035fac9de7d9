import { Command, InvalidArgumentError } from 'commander';
import { notifySystemd } from '../../sys/systemd.ts';
import type { Relay } from '../../vvu/relay/relay.ts';
import { parseSize } from '../options.ts';
import { fatal } from '../report.ts';

/** `vvu-target relay`: the host half of a vvu device for a stock QEMU. */

interface RelayCommandOptions {
  compute: string;
  appliance: string;
  vrings: number;
  window: number;
}

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

/** What the appliance's QEMU (11.1 or later) has to be started with. */
function deviceArguments(options: RelayCommandOptions): string {
  const queues = options.vrings + 2;
  return (
    `-chardev socket,id=vvu0,path=${options.appliance} ` +
    `-device vhost-user-test-device-pci,chardev=vvu0,virtio-id=38,num_vqs=${queues},vq_size=128,config_size=0,addr=07.0`
  );
}

export function relayCommand(): Command {
  return new Command('relay')
    .description('give an appliance VM under a stock QEMU (11.1 or later) a vvu device; one relay a compute VM')
    .requiredOption('--compute <path>', "socket for the compute VM's vhost-user-scsi device")
    .requiredOption('--appliance <path>', "socket for the appliance VM's vhost-user-test-device-pci")
    .option('--vrings <n>', 'vrings that the device carries: request queues and 2', parseVrings, 18)
    .option(
      '--window <size>',
      "window for the compute VM's memory, a power of two",
      parseWindow,
      parseWindow(DEFAULT_WINDOW),
    )
    .addHelpText(
      'after',
      `
Start the relay first, then the appliance VM (with shared memory: memory-backend-memfd,share=on), then the compute VM.
Do not stop the relay while the appliance VM runs: its QEMU does not survive a reset of the device without it.`,
    )
    .action((options: RelayCommandOptions) => run(options));
}

async function run(options: RelayCommandOptions): Promise<void> {
  // Not at the top: other commands need nothing of it.
  const { EventLoop } = await import('../../sys/event-loop.ts');
  const { Relay } = await import('../../vvu/relay/relay.ts');
  const loop = new EventLoop({ onError: (error) => console.error('vvu-target relay:', error) });
  let relay: Relay;
  try {
    relay = new Relay({
      loop,
      compute: options.compute,
      appliance: options.appliance,
      vrings: options.vrings,
      windowBytes: options.window,
      tell: (line) => console.log(line),
    });
  } catch (error) {
    fatal(error as Error);
    return;
  }
  loop.attach();
  console.log(
    `vvu-target relay: ready\n\n  appliance: ${deviceArguments(options)}\n  compute:   the socket ${options.compute}\n`,
  );
  notifySystemd('READY=1');
  let asked = false;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (asked) process.exit(1);
      asked = true;
      notifySystemd('STOPPING=1');
      relay.close(() => process.exit(0));
    });
  }
}
