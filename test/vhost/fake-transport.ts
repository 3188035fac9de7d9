/**
 * A transport without a socket and without descriptors, as virtio-vhost-user is one: messages are handed over, memory
 * is there already, kicks and doorbells are calls.
 */
import type { Memory } from '../../src/memory/memory.ts';
import type { Fd } from '../../src/sys/fd.ts';
import { ProtocolFeature } from '../../src/vhost/messages.ts';
import type { KickSource, Notifier, RegionMapping, Transport, TransportHandler } from '../../src/vhost/transport.ts';
import type { SharedGuest } from '../support/front-end-memory.ts';

export class FakeTransport implements Transport {
  readonly name = '0000:00:07.0';
  readonly protocolFeatures: bigint;
  readonly carriesFds = false;
  readonly memoryFlickers: boolean;
  handler!: TransportHandler;
  paused = false;
  closed = false;
  readonly replies: Buffer[] = [];
  /** Doorbells rung, by vring. */
  readonly rung = new Map<number, number>();
  /** Mapped and not released. */
  mapped = 0;
  /** Refuse to map, with this reason. */
  mapError: string | null = null;
  readonly kicks = new Map<number, () => void>();
  private readonly guest: SharedGuest;

  /** @param more protocol features beside MQ, by bit */
  constructor(guest: SharedGuest, flickers = true, more: readonly number[] = []) {
    this.guest = guest;
    this.memoryFlickers = flickers;
    this.protocolFeatures = [ProtocolFeature.MQ, ...more].reduce((word, n) => word | (1n << BigInt(n)), 0n);
  }

  open(handler: TransportHandler): void {
    this.handler = handler;
  }

  /** A message from the front end. @throws Error when the session has asked for none */
  deliver(id: number, payload: Uint8Array = new Uint8Array(0), flags = 1): Buffer | undefined {
    if (this.paused || this.closed) throw new Error('FakeTransport: paused or closed');
    const before = this.replies.length;
    this.handler.message({ id, flags, payload: Uint8Array.from(payload), fds: [] });
    return this.replies[before];
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
  }

  reply(message: Uint8Array, fds: readonly Fd[] = []): void {
    for (const fd of fds) fd.close();
    this.replies.push(Buffer.from(message));
  }

  mapRegions(regions: readonly { gpa: number }[]): RegionMapping[] | string {
    if (this.mapError !== null) return this.mapError;
    return regions.map(({ gpa }): RegionMapping => {
      this.mapped++;
      const { memory } = this.guest.part(gpa);
      return {
        key: `${gpa}`,
        memoryAt: (offset: number): Memory => {
          if (offset !== 0) throw new Error('FakeTransport: regions of less than 1 GiB only');
          return memory;
        },
        release: () => {
          this.mapped--;
        },
      };
    });
  }

  kickSource(index: number, fd: Fd | undefined, wake: () => void): KickSource {
    if (fd !== undefined) throw new Error('FakeTransport: a descriptor');
    this.kicks.set(index, wake);
    return { notifies: true, close: () => this.kicks.delete(index) };
  }

  notifier(kind: 'call' | 'err', index: number): Notifier | null {
    if (kind === 'err') return null;
    return { signal: () => this.rung.set(index, (this.rung.get(index) ?? 0) + 1), close: () => {} };
  }

  close(): void {
    this.closed = true;
  }
}
