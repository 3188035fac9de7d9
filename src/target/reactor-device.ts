import type { WorkBuffers } from '../scsi/work-buffers.ts';
import type { EventLoop } from '../sys/event-loop.ts';
import { type CoalescingSettings, NO_COALESCING } from '../vhost/coalescing.ts';
import type { DeviceModel } from '../vhost/device-model.ts';
import { VhostServer } from '../vhost/server.ts';
import { transportLacks } from '../vhost/session.ts';
import { openPciDevice } from '../vvu/driver/pci-device.ts';
import { VvuPort } from '../vvu/driver/vvu-port.ts';
import type { InflightRequest, OpenController } from './commands.ts';
import { isErrnoName, TargetError } from './errors.ts';
import type { OpenDisk, ReactorChannels } from './reactor-channels.ts';
import type { ReservationClient } from './reservation-client.ts';

/** What the controllers of a reactor share, whatever device they are: a socket or vvu device, and sessions. */

export interface ReactorParts {
  readonly loop: EventLoop;
  readonly channels: ReactorChannels;
  readonly buffers: WorkBuffers;
  readonly reservations: ReservationClient;
}

/** What an operator does about a socket that cannot be had, by errno. */
const HINTS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'stop who serves there, or choose another name or folder (-S)',
  EEXIST: 'or choose another name or folder (-S)',
  EINVAL: 'choose another name or a shorter folder (-S)',
};

export abstract class ReactorDevice {
  readonly name: string;
  protected readonly options: OpenController;
  protected readonly parts: ReactorParts;
  private server: VhostServer | VvuPort | undefined;
  private coalescing: CoalescingSettings = { ...NO_COALESCING };

  constructor(options: OpenController, parts: ReactorParts) {
    this.name = options.name;
    this.options = options;
    this.parts = parts;
  }

  /** The device of one session. */
  protected abstract model(): DeviceModel;
  /** What it asks of a transport. */
  protected abstract readonly needs: Pick<DeviceModel, 'name' | 'needsConfig'>;
  /** Let go of all disks; `done` when their last requests have ended. No session is left. */
  protected abstract closeDisks(done: () => void): void;
  /** The disk's channel was replaced: take the new one. It wraps the old; requests under way are not touched. */
  abstract channelChanged(disk: OpenDisk): void;
  /** The disk has another size: guests are told. */
  abstract capacityChanged(disk: OpenDisk): void;
  /** Requests that a session's model has under way. */
  protected abstract busy(model: DeviceModel, now: number): InflightRequest[];
  /** Its part of {@link dump}. */
  protected abstract dumpDisks(): Record<string, unknown>;

  /** Listen. @throws TargetError when the socket can not be had */
  start(): void {
    if (this.server !== undefined) return;
    try {
      this.server = this.listen();
      this.setCoalescing(this.coalescing);
    } catch (error) {
      const { code, message } = error as { code?: unknown; message: string };
      if (!isErrnoName(code)) throw error;
      const hint = HINTS[code] ?? 'choose another folder (-S)';
      throw new TargetError(code, `controller ${this.name} can not listen: ${message}; ${hint}`);
    }
  }

  private listen(): VhostServer | VvuPort {
    const { loop, channels: memoryListener } = this.parts;
    const { place, transport, layout } = this.options;
    const model = () => this.model();
    if (transport === 'unix') return new VhostServer({ loop, path: place, model, memoryListener });
    const port = new VvuPort({ loop, access: openPciDevice(place, loop), model, memoryListener, layout });
    const lack = transportLacks(this.needs, {
      name: `the vvu device ${place}`,
      protocolFeatures: port.protocolFeatures,
    });
    if (lack === null) return port;
    port.close();
    throw new TargetError('ENOTSUP', `controller ${this.name}: ${lack}`);
  }

  /** Of all front ends, now and later. */
  setCoalescing(settings: CoalescingSettings): void {
    this.coalescing = settings;
    if (this.server instanceof VhostServer) Object.assign(this.server.coalescing, settings);
  }

  get connected(): number {
    return this.server?.sessions.size ?? 0;
  }

  /** Listen no more, end the front ends' sessions, then let go of the disks. */
  close(done: () => void): void {
    if (this.server === undefined) this.closeDisks(done);
    else this.server.close(() => this.closeDisks(done));
  }

  sessions(): Record<string, unknown>[] {
    return this.server === undefined ? [] : [...this.server.sessions].map((session) => session.describe());
  }

  dump(): Record<string, unknown> {
    return { ...this.server?.describe(), ...this.dumpDisks() };
  }

  inflight(): InflightRequest[] {
    const { now } = this.parts.loop;
    return [...(this.server?.sessions ?? [])].flatMap((session) => this.busy(session.model, now));
  }
}

/** A disk's channel, for {@link ReactorDevice.dump}. */
export function dumpChannel({ channel, users }: OpenDisk): Record<string, unknown> {
  return { in_flight: channel.inFlight, zero_copy: channel.zeroCopy, luns: users };
}
