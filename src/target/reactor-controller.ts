import type { BdevChannel } from '../bdev/bdev.ts';
import { MAX_NEXUSES } from '../scsi/limits.ts';
import { Lun } from '../scsi/lun.ts';
import { COUNTERS, readCounters } from '../scsi/statistics.ts';
import { ScsiTarget } from '../scsi/target.ts';
import type { DeviceModel } from '../vhost/device-model.ts';
import { ScsiController } from '../vhost/scsi-controller.ts';
import { ScsiModel } from '../vhost/scsi-model.ts';
import type { AddTarget, InflightRequest, OpenController } from './commands.ts';
import { TargetError } from './errors.ts';
import type { OpenDisk } from './reactor-channels.ts';
import { dumpChannel, ReactorDevice, type ReactorParts } from './reactor-device.ts';

/** A vhost-user-scsi controller on its reactor: a socket or vvu device, its front ends, and up to 8 targets with one LUN each. */

interface Place {
  readonly num: number;
  readonly target: ScsiTarget;
  readonly lun: Lun;
  readonly disk: OpenDisk;
}

export class ReactorController extends ReactorDevice {
  protected readonly needs = { name: 'scsi', needsConfig: false };
  private readonly scsi: ScsiController;
  /** Targets in service. */
  private readonly places = new Map<number, Place>();

  constructor(options: OpenController, parts: ReactorParts) {
    super(options, parts);
    this.scsi = new ScsiController(parts.loop);
  }

  protected model(): DeviceModel {
    return new ScsiModel(this.scsi);
  }

  addTarget({ target: num, bdev, state, persistent }: AddTarget): void {
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
        ...(persistent === true ? { reservationStore: this.parts.reservations.storeOf(bdev.info.uuid) } : {}),
      });
      // Virtio gives an initiator no name. This one is the same after a restart, so registrations find their owner.
      for (let nexus = 0; nexus < MAX_NEXUSES; nexus++) lun.nameNexus(nexus, `${this.name} front end ${nexus}`);
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

  channelChanged(disk: OpenDisk): void {
    for (const { lun, disk: served } of this.places.values()) {
      // The one exception to "a unit keeps its channel".
      if (served === disk) (lun as { channel: BdevChannel }).channel = disk.channel;
    }
  }

  capacityChanged(disk: OpenDisk): void {
    for (const place of this.places.values()) {
      if (place.disk !== disk) continue;
      place.lun.capacityChanged();
      this.scsi.capacityChanged(place.num, 0);
    }
  }

  protected closeDisks(done: () => void): void {
    let left = this.places.size;
    if (left === 0) {
      done();
      return;
    }
    for (const num of [...this.places.keys()]) {
      this.removeTarget(num, () => {
        if (--left === 0) done();
      });
    }
  }

  protected dumpDisks(): Record<string, unknown> {
    return {
      targets: [...this.places.values()].map(({ num, lun, disk }) => ({
        target: num,
        bdev: disk.name,
        outstanding: lun.outstanding,
        channel: dumpChannel(disk),
        counters: readCounters(lun.counters),
      })),
    };
  }

  protected busy(model: DeviceModel, now: number): InflightRequest[] {
    return (model as ScsiModel).busy().map((request) => ({
      ctrlr: this.name,
      target: request.target,
      lun: request.lun,
      vring: request.vring,
      head: request.head,
      age_ms: Math.max(0, (now - request.started) / 1e6),
      opcode: request.opcode,
      cdb: Buffer.from(request.cdb).toString('hex'),
      where: request.where,
    }));
  }
}
