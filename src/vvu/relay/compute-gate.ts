import { existsSync } from 'node:fs';
import type { EventLoop, Watch } from '../../sys/event-loop.ts';
import type { Fd } from '../../sys/fd.ts';
import { accept, type Listener, listenUnix } from '../../sys/socket.ts';

/**
 * The socket to which compute VMs connect. Its rule: whoever gets in is answered soon. A QEMU that waits for an answer holds its
 * whole VM still; one that finds no socket (and has `reconnect-ms`) tries again while its guest runs on. So the socket is
 * away while a driver that was there is not. Only before the first driver of a fresh relay has come may a VM that is early wait.
 */
export interface ComputeGateOptions {
  readonly loop: EventLoop;
  readonly path: string;
  /** Permission bits of the socket file. */
  readonly mode?: number | undefined;
  /** Somebody is in: a connected socket, the callee's from now on. Nobody else comes until `left`. */
  readonly entered: (fd: Fd) => void;
  /** What an operator should see. */
  readonly tell: (line: string) => void;
}

export class ComputeGate {
  private readonly options: ComputeGateOptions;
  private listener: Listener | null = null;
  private watch: Watch | null = null;
  private occupied = false;

  /** @throws SysError when the socket can't be had */
  constructor(options: ComputeGateOptions) {
    this.options = options;
    // A predecessor that was killed leaves its file: VMs that were connected to it come back, and must not be held still.
    const killed = existsSync(options.path);
    this.listen();
    if (killed) this.shut();
  }

  private listen(): void {
    this.listener = listenUnix(this.options.path, this.options.mode);
    this.rewatch();
  }

  /** Whoever is early while somebody is in waits in the socket's queue: a level-triggered watch would turn in circles. */
  private rewatch(): void {
    const { listener } = this;
    this.watch?.close();
    this.watch =
      listener === null || this.occupied
        ? null
        : this.options.loop.watch(listener.fd.number, () => this.called(listener));
  }

  private called(listener: Listener): void {
    const fd = accept(listener.fd);
    if (fd === undefined) return;
    this.occupied = true;
    this.rewatch();
    this.options.entered(fd);
  }

  /** The one who was in has gone. */
  left(): void {
    if (!this.occupied) return;
    this.occupied = false;
    this.rewatch();
  }

  /** Let them come. */
  open(): void {
    if (this.listener !== null) return;
    try {
      this.listen();
    } catch (error) {
      // The next driver tries again; to end here would take the appliance down.
      this.options.tell(`no compute VM can connect: ${(error as Error).message}`);
    }
  }

  /** No socket, and nobody waits in its queue. */
  shut(): void {
    const { listener } = this;
    this.listener = null;
    this.rewatch();
    listener?.close();
  }
}
