import { BlkController } from '../vhost/blk-controller.ts';
import { BlkModel } from '../vhost/blk-model.ts';
import type { DeviceModel } from '../vhost/device-model.ts';
import type { InflightRequest, OpenController, OpenDiskOf } from './commands.ts';
import type { OpenDisk } from './reactor-channels.ts';
import { dumpChannel, ReactorDevice, type ReactorParts } from './reactor-device.ts';

/** A vhost-user-blk controller on its reactor: a socket, its front ends, and one disk for its whole life. */

export class ReactorBlkController extends ReactorDevice {
  protected readonly needs = { name: 'block', needsConfig: true };
  private readonly disk: OpenDisk;
  private readonly block: BlkController;
  /** The disk has been given back. */
  private gone = false;
  private readonly whenGone: (() => void)[] = [];

  constructor(options: OpenController, { bdev, state, readOnly }: OpenDiskOf, parts: ReactorParts) {
    super(options, parts);
    this.disk = parts.channels.open(bdev, state);
    this.block = new BlkController(parts.loop, this.disk.channel, readOnly);
  }

  protected model(): DeviceModel {
    return new BlkModel(this.block);
  }

  /** Requests fail from now on. @param done called when the last of the disk's has ended */
  removeDisk(done: () => void): void {
    if (this.gone) {
      done();
      return;
    }
    this.whenGone.push(done);
    this.block.removeDisk(() => {
      this.gone = true;
      this.parts.channels.release(this.disk);
      for (const then of this.whenGone.splice(0)) then();
    });
  }

  channelChanged(disk: OpenDisk): void {
    if (disk === this.disk) this.block.replaceChannel(disk.channel);
  }

  capacityChanged(disk: OpenDisk): void {
    if (disk === this.disk) this.block.capacityChanged();
  }

  protected closeDisks(done: () => void): void {
    this.removeDisk(done);
  }

  protected dumpDisks(): Record<string, unknown> {
    const { disk, block, gone } = this;
    if (gone) return { block: null };
    return { block: { bdev: disk.name, outstanding: block.outstanding, channel: dumpChannel(disk) } };
  }

  protected busy(model: DeviceModel, now: number): InflightRequest[] {
    return (model as BlkModel).busy().map((request) => ({
      ctrlr: this.name,
      target: null,
      lun: null,
      vring: request.vring,
      head: request.head,
      age_ms: Math.max(0, (now - request.started) / 1e6),
      opcode: request.type,
      cdb: null,
      sector: request.sector,
      where: 'disk',
    }));
  }
}
