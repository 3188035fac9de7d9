import type { BdevChannel } from '../bdev/bdev.ts';
import { Lun } from '../scsi/lun.ts';
import { COUNTERS, readCounters } from '../scsi/statistics.ts';
import { ScsiTarget } from '../scsi/target.ts';
import type { WorkBuffers } from '../scsi/work-buffers.ts';
import type { EventLoop } from '../sys/event-loop.ts';
import { ScsiController } from '../vhost/scsi-controller.ts';
import { ScsiModel } from '../vhost/scsi-model.ts';
import { VhostServer } from '../vhost/server.ts';
import { openPciDevice } from '../vvu/driver/pci-device.ts';
import { VvuPort } from '../vvu/driver/vvu-port.ts';
import type { AddTarget, InflightRequest, OpenController } from './commands.ts';
import { isErrnoName, TargetError } from './errors.ts';
import type { OpenDisk, ReactorChannels } from './reactor-channels.ts';

/** A vhost-user-scsi controller on its reactor: a socket or vvu device, its front ends, and up to 8 targets with one LUN each. */

export interface ReactorParts {
  readonly loop: EventLoop;
  readonly channels: ReactorChannels;
  readonly buffers: WorkBuffers;
}

interface Place {
  readonly num: number;
  readonly target: ScsiTarget;
  readonly lun: Lun;
  readonly disk: OpenDisk;
}

export class ReactorController {
  readonly name: string;
  private readonly options: OpenController;
  private readonly parts: ReactorParts;
  private readonly scsi: ScsiController;
  /** Targets in service. */
  private readonly places = new Map<number, Place>();
  private server: VhostServer | VvuPort | undefined;

  constructor(options: OpenController, parts: ReactorParts) {
    this.name = options.name;
    this.options = options;
    this.parts = parts;
    this.scsi = new ScsiController(parts.loop);
  }

  /** Listen. @throws TargetError when the socket can not be had */
  start(): void {
    if (this.server !== undefined) return;
    try {
      this.server = this.listen();
    } catch (error) {
      const { code, message } = error as { code?: unknown; message: string };
      if (!isErrnoName(code)) throw error;
      const hint =
        code === 'EADDRINUSE'
          ? 'stop who serves there, or choose another name or folder (-S)'
          : 'choose another folder (-S)';
      throw new TargetError(code, `controller ${this.name} can not listen: ${message}; ${hint}`);
    }
  }

  private listen(): VhostServer | VvuPort {
    if (this.options.transport === 'vvu') {
      const { loop } = this.parts;
      return new VvuPort({
        loop,
        access: openPciDevice(this.options.place, loop),
        model: () => new ScsiModel(this.scsi),
        memoryListener: this.parts.channels,
      });
    }
    return new VhostServer({
      loop: this.parts.loop,
      path: this.options.place,
      model: () => new ScsiModel(this.scsi),
      memoryListener: this.parts.channels,
    });
  }

  get connected(): number {
    return this.server?.sessions.size ?? 0;
  }

  addTarget({ target: num, bdev, state }: AddTarget): void {
    const disk = this.parts.channels.open(bdev, state);
    try {
      const target = new ScsiTarget();
      const lun = new Lun({
        channel: disk.channel,
        id: 0,
        state: disk.state,
        clock: this.parts.loop,
        counters: new Float64Array(COUNTERS),
        buffers: this.parts.buffers,
        relativePort: this.options.port,
        targetName: `Target ${num}`,
      });
      target.addLun(lun);
      this.scsi.add(num, target);
      this.places.set(num, { num, target, lun, disk });
    } catch (error) {
      this.parts.channels.release(disk);
      throw error;
    }
  }

  /** @param done called when its last request has ended and its channel is given back */
  removeTarget(num: number, done: () => void): void {
    const place = this.places.get(num);
    if (place === undefined) throw new TargetError('ENODEV', `${this.name} has no target ${num}`);
    this.places.delete(num);
    this.scsi.remove(num, () => {
      place.target.removeLun(0, () => {
        this.parts.channels.release(place.disk);
        done();
      });
    });
  }

  /** The disk's channel was replaced: its units take the new one. */
  channelChanged(disk: OpenDisk): void {
    for (const { lun, disk: served } of this.places.values()) {
      // The one exception to "a unit keeps its channel": the new one wraps the old, requests under way are not touched.
      if (served === disk) (lun as { channel: BdevChannel }).channel = disk.channel;
    }
  }

  /** The disk has another size: units and guests are told. */
  capacityChanged(disk: OpenDisk): void {
    for (const place of this.places.values()) {
      if (place.disk !== disk) continue;
      place.lun.capacityChanged();
      this.scsi.capacityChanged(place.num, 0);
    }
  }

  /** Listen no more, end the front ends' sessions, then the targets. */
  close(done: () => void): void {
    const closeTargets = () => {
      let left = this.places.size;
      if (left === 0) return done();
      for (const num of [...this.places.keys()]) {
        this.removeTarget(num, () => {
          if (--left === 0) done();
        });
      }
    };
    if (this.server === undefined) closeTargets();
    else this.server.close(closeTargets);
  }

  sessions(): Record<string, unknown>[] {
    return this.server === undefined ? [] : [...this.server.sessions].map((session) => session.describe());
  }

  dump(): Record<string, unknown> {
    return {
      ...this.server?.describe(),
      targets: [...this.places.values()].map(({ num, lun, disk }) => ({
        target: num,
        bdev: disk.name,
        outstanding: lun.outstanding,
        channel: { in_flight: disk.channel.inFlight, zero_copy: disk.channel.zeroCopy, luns: disk.users },
        counters: readCounters(lun.counters),
      })),
    };
  }

  inflight(): InflightRequest[] {
    const { now } = this.parts.loop;
    const models = [...(this.server?.sessions ?? [])].map((session) => session.model as ScsiModel);
    return models.flatMap((model) =>
      model.busy().map((request) => ({
        ctrlr: this.name,
        target: request.target,
        lun: request.lun,
        vring: request.vring,
        head: request.head,
        age_ms: Math.max(0, (now - request.started) / 1e6),
        opcode: request.opcode,
        cdb: Buffer.from(request.cdb).toString('hex'),
        where: request.where,
      })),
    );
  }
}
