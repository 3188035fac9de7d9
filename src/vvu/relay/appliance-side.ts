import type { EventLoop, Watch } from '../../sys/event-loop.ts';
import { accept, type Listener, listenUnix } from '../../sys/socket.ts';
import { Session } from '../../vhost/session.ts';
import { ApplianceTransport } from './appliance-transport.ts';
import { RelayModel } from './relay-model.ts';
import type { ShmemChannel } from './shmem-channel.ts';

/**
 * The appliance's side of the relay: its socket, and the vhost-user session with its QEMU, one at a time. What passes through rxq and
 * txq is whole messages; what they mean is the relay's business.
 */
export interface ApplianceSideOptions {
  readonly loop: EventLoop;
  readonly path: string;
  /** Permission bits of the socket file. */
  readonly mode?: number | undefined;
  readonly vrings: number;
  /** Bytes of the memory window. */
  readonly windowBytes: number;
  /** A message of the driver; a copy, valid during the call. */
  readonly fromDriver: (message: Uint8Array) => void;
  /** The driver took messages: there is room for more. */
  readonly taken: () => void;
  /** The driver rang a vring's doorbell. */
  readonly rung: (vring: number) => void;
  /** The device was stopped (a reset, or the end of QEMU): whatever was mapped or said before is void. */
  readonly stopped: () => void;
  readonly tell: (line: string) => void;
}

export class ApplianceSide {
  private readonly options: ApplianceSideOptions;
  private readonly listener: Listener;
  private readonly watch: Watch;
  private peer: { session: Session; transport: ApplianceTransport; model: RelayModel } | null = null;

  /** @throws SysError when the socket can't be had */
  constructor(options: ApplianceSideOptions) {
    this.options = options;
    this.listener = listenUnix(options.path, options.mode);
    this.watch = options.loop.watch(this.listener.fd.number, () => this.called());
  }

  private called(): void {
    const fd = accept(this.listener.fd);
    if (fd === undefined) return;
    const { loop, path, vrings, windowBytes, tell } = this.options;
    if (this.peer !== null) {
      fd.close();
      tell('a second appliance was turned away: one relay serves one device');
      return;
    }
    const { fromDriver, taken, rung, stopped } = this.options;
    const startedChanged = (started: boolean) => {
      if (!started) stopped();
    };
    const transport = new ApplianceTransport(loop, fd, path, windowBytes, { rung, startedChanged });
    const model = new RelayModel(vrings, { fromDriver, taken, stopped });
    const onClosed = (session: Session) => {
      stopped();
      this.peer = null;
      tell(`the appliance's QEMU has gone: ${session.ended}`);
    };
    const session = new Session({ loop, transport, model, onClosed });
    this.peer = { session, transport, model };
    tell("the appliance's QEMU is connected");
    session.open();
  }

  get connected(): boolean {
    return this.peer !== null;
  }

  /** To its QEMU, for mappings; null while the device is not started. */
  get channel(): ShmemChannel | null {
    return this.peer?.transport.started === true ? this.peer.transport.channel : null;
  }

  /** Mappings were asked for and not answered yet. */
  get mapping(): boolean {
    return this.peer?.transport.channel?.idle === false;
  }

  /** Messages that the driver has not taken. */
  get waiting(): number {
    return this.peer?.model.outbox.length ?? 0;
  }

  /** A message for rxq. */
  send(message: Uint8Array): void {
    if (this.peer === null) return;
    this.peer.model.outbox.push(message);
    this.options.loop.rouse(this.peer.session); // one that dozes looks at its queues again
  }

  forgetWaiting(): void {
    if (this.peer !== null) this.peer.model.outbox.length = 0;
  }

  /** The compute VM kicked a vring. */
  kick(vring: number): void {
    this.peer?.transport.kick(vring);
  }

  /** No other appliance comes. */
  shut(): void {
    this.watch.close();
    this.listener.close();
  }

  end(reason: string): void {
    this.peer?.session.end(reason);
  }

  describe(): Record<string, unknown> | null {
    return this.peer?.session.describe() ?? null;
  }
}
