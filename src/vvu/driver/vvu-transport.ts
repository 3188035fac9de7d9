import type { Fd } from '../../sys/fd.ts';
import type { InflightDescription, MemoryRegion } from '../../vhost/messages.ts';
import type {
  IncomingMessage,
  KickSource,
  Notifier,
  RegionMapping,
  Transport,
  TransportHandler,
} from '../../vhost/transport.ts';

/** What a transport asks of the port that owns the device. */
export interface VvuCarrier {
  readonly name: string;
  readonly protocolFeatures: bigint;
  readonly memoryFlickers: boolean;
  /** The session can take messages again. */
  resumed(transport: VvuTransport): void;
  send(transport: VvuTransport, message: Uint8Array): void;
  mapRegions(regions: readonly MemoryRegion[]): RegionMapping[] | string;
  mapInflight(description: InflightDescription): RegionMapping | string;
  kickSource(index: number, wake: () => void): KickSource | string;
  notifier(index: number): Notifier | string;
  /** The session has ended the link. */
  closed(transport: VvuTransport): void;
}

/**
 * vhost-user through a vvu device, as one session sees it: messages without descriptors, memory by its place in the BAR, doorbells
 * for interrupts. The device outlives the session, so this is only the session's handle on it.
 */
export class VvuTransport implements Transport {
  readonly name: string;
  readonly protocolFeatures: bigint;
  readonly carriesFds = false;
  readonly memoryFlickers: boolean;
  paused = false;
  private readonly carrier: VvuCarrier;
  private handler: TransportHandler | null = null;
  private open_ = true;

  constructor(carrier: VvuCarrier) {
    this.carrier = carrier;
    this.name = carrier.name;
    this.protocolFeatures = carrier.protocolFeatures;
    this.memoryFlickers = carrier.memoryFlickers;
  }

  open(handler: TransportHandler): void {
    this.handler = handler;
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    if (this.open_) this.carrier.resumed(this);
  }

  reply(message: Uint8Array): void {
    if (this.open_) this.carrier.send(this, message);
  }

  sendBackend(message: Uint8Array): void {
    this.reply(message);
  }

  mapRegions(regions: readonly MemoryRegion[], _fds: readonly Fd[], whole: boolean): RegionMapping[] | string {
    return whole ? this.carrier.mapRegions(regions) : 'single regions can not be added through a vvu device';
  }

  mapInflight(description: InflightDescription): RegionMapping | string {
    return this.carrier.mapInflight(description);
  }

  kickSource(index: number, _fd: Fd | undefined, wake: () => void): KickSource | string {
    return this.carrier.kickSource(index, wake);
  }

  notifier(kind: 'call' | 'err', index: number): Notifier | null | string {
    return kind === 'err' ? null : this.carrier.notifier(index);
  }

  close(): void {
    if (!this.open_) return;
    this.open_ = false;
    this.carrier.closed(this);
  }

  // For the port.

  deliver(message: IncomingMessage): void {
    if (this.open_) this.handler?.message(message);
  }

  interrupted(reason: string): void {
    if (this.open_) this.handler?.linkInterrupted(reason);
  }

  down(reason: string): void {
    if (!this.open_) return;
    this.open_ = false;
    this.handler?.linkDown(reason);
  }
}
