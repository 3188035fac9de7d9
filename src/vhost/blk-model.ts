/**
 * The virtio block device (virtio 1.2 §5.2) as a device model: every queue is a request queue, and the config space is
 * ours. One disk, which all front ends of the controller share.
 */
import { Memory } from '../memory/memory.ts';
import { hasFeature } from '../virtio/features.ts';
import { blkConfig, blkFeatures } from './blk-config.ts';
import type { BlkController, BlkFrontEnd } from './blk-controller.ts';
import { BlkPool } from './blk-request-pool.ts';
import { BlkRequestQueue, type BlkSession } from './blk-request-queue.ts';
import { BLK_CONFIG, BLK_MAX_QUEUES, BlkFeature, ID_BYTES, SECTOR, VIRTIO_BLK_T } from './blk-wire.ts';
import type { DeviceModel, ModelQueue } from './device-model.ts';
import type { RunningRing } from './running-ring.ts';

const WRITEBACK = BLK_CONFIG.fields.writeback[0];

/** A request that the disk has, for RPC. */
export interface BusyBlkRequest {
  readonly vring: number;
  readonly head: number;
  /** Name of the request type. */
  readonly type: string;
  /** First sector; of the range under way for DISCARD and WRITE_ZEROES. */
  readonly sector: number;
  /** Reactor clock when it was taken, nanoseconds. */
  readonly started: number;
}

const TYPE_NAMES = new Map<number, string>(Object.entries(VIRTIO_BLK_T).map(([name, type]) => [type, name]));

export class BlkModel implements DeviceModel, BlkFrontEnd, BlkSession {
  readonly name = 'block';
  readonly features: bigint;
  readonly featureBits = BlkFeature;
  readonly maxQueues = BLK_MAX_QUEUES;
  readonly configBytes = BLK_CONFIG.size;
  readonly needsConfig = true;
  readonly controller: BlkController;
  readonly pool = new BlkPool();
  readonly id: Memory;
  writeThrough = false;
  onConfigChange: (() => void) | null = null;

  private readonly queues = new Map<number, BlkRequestQueue>();
  private accepted = 0n;
  /**
   * The cache mode as this front end's drivers set it. A device reset leaves it: QEMU shows the next driver what the last
   * one set, from a copy, and tells nobody; and a driver that is shown "off" does not flush.
   */
  private writeback: boolean;

  constructor(controller: BlkController) {
    this.controller = controller;
    this.writeback = controller.writeback;
    this.features = blkFeatures(controller.info, controller.readOnly);
    this.id = new Memory(new ArrayBuffer((ID_BYTES + 7) & ~7));
    new TextEncoder().encodeInto(controller.info.name, this.id.u8.subarray(0, ID_BYTES));
    controller.attach(this);
  }

  readConfig(offset: number, size: number): Uint8Array | null {
    if (offset + size > BLK_CONFIG.size) return null;
    const { info, readOnly } = this.controller;
    return blkConfig(info, readOnly, this.writeback && !this.cannotFlush).slice(offset, offset + size);
  }

  /** Only the cache mode can be written. A migration brings it too, among fields that are the disk's own here. */
  writeConfig(offset: number, data: Uint8Array, migrating: boolean): string | null {
    if (offset + data.length > BLK_CONFIG.size) return `bytes ${offset} to ${offset + data.length} are not all there`;
    const value = data[WRITEBACK - offset];
    if (!migrating && (offset !== WRITEBACK || data.length !== 1)) {
      return `only the cache mode, byte ${WRITEBACK}, can be written`;
    }
    if (value === undefined) return null;
    if (value > 1) return `cache mode ${value}, expected 0 (write through) or 1 (write back)`;
    if (!hasFeature(this.features, BlkFeature.CONFIG_WCE)) {
      return migrating || value === 0 ? null : 'the disk has no write cache to switch on';
    }
    this.writeback = this.controller.writeback = value === 1;
    this.setWriteThrough();
    return null;
  }

  setFeatures(features: bigint): void {
    this.accepted = features;
    this.setWriteThrough();
  }

  /** §5.2.5.2: such a driver finds the cache off. */
  private get cannotFlush(): boolean {
    return hasFeature(this.accepted, BlkFeature.CONFIG_WCE) && !hasFeature(this.accepted, BlkFeature.FLUSH);
  }

  /** §5.2.6.2: a driver that cannot flush, or has turned the cache off, relies on every single write. */
  private setWriteThrough(): void {
    const off = hasFeature(this.accepted, BlkFeature.CONFIG_WCE) && !this.writeback;
    const cached = hasFeature(this.accepted, BlkFeature.FLUSH) && !off;
    this.writeThrough = this.controller.info.writeCache && !cached;
  }

  startQueue(ring: RunningRing): ModelQueue {
    let queue = this.queues.get(ring.index);
    if (queue === undefined) {
      queue = new BlkRequestQueue(ring.index, this);
      this.queues.set(ring.index, queue);
    }
    queue.begin(ring);
    return queue;
  }

  capacityChanged(): void {
    this.onConfigChange?.();
  }

  /** What the disk is working on. */
  busy(): BusyBlkRequest[] {
    const perBlock = this.controller.info.blockSize / SECTOR;
    return this.pool.busy().map((slot) => ({
      vring: slot.home?.index ?? -1,
      head: slot.head,
      type: TYPE_NAMES.get(slot.type) ?? String(slot.type),
      sector: slot.io.lba * perBlock,
      started: slot.started,
    }));
  }

  describe(): Record<string, unknown> {
    let [requests, express, failed, unsupported] = [0, 0, 0, 0];
    for (const queue of this.queues.values()) {
      requests += queue.requests;
      express += queue.express;
      failed += queue.failed;
      unsupported += queue.unsupported;
    }
    const { info } = this.controller;
    return {
      sectors: info.numBlocks * (info.blockSize / SECTOR),
      read_only: this.controller.readOnly,
      write_through: this.writeThrough || !info.writeCache,
      requests,
      express,
      failed,
      unsupported,
    };
  }

  close(): void {
    this.controller.detach(this);
  }
}
