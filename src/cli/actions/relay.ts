import { EventLoop } from '../../sys/event-loop.ts';
import { guardThisThread } from '../../sys/guard-this-thread.ts';
import { notifySystemd } from '../../sys/systemd.ts';
import { Relay } from '../../vvu/relay/relay.ts';
import { fatal } from '../report.ts';

/** What `vvu-target relay` does: the relay, until a signal ends it. */

export interface RelayOptions {
  compute: string;
  appliance: string;
  vrings: number;
  window: number;
}

/** What the appliance's QEMU (11.1 or later) has to be started with. */
export function deviceArguments(options: Pick<RelayOptions, 'appliance' | 'vrings'>): string {
  const queues = options.vrings + 2;
  return (
    `-chardev socket,id=vvu0,path=${options.appliance} ` +
    `-device vhost-user-test-device-pci,chardev=vvu0,virtio-id=38,num_vqs=${queues},vq_size=128,config_size=0,addr=07.0`
  );
}

export async function runRelay(options: RelayOptions): Promise<void> {
  // A compute VM must not be able to hold this thread up: the appliance's QEMU waits for it, with its VM.
  await guardThisThread();
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
