import type { Bdev, BdevInfo, BdevShare } from './bdev.ts';
import { IoStats } from './io-stats.ts';
import { checkName } from './options.ts';
import type { VirtioScsiAdapter } from './virtio-scsi/adapter.ts';
import type { Unit } from './virtio-scsi/scan.ts';
import { UnitState } from './virtio-scsi/unit-state.ts';
import type { VirtioScsiShare } from './virtio-scsi-channel.ts';

/** A logical unit behind a virtio-scsi adapter as a disk, on the main thread. The adapter belongs to virtio-disks.ts. */

export interface VirtioScsiParts {
  /** What the operator called the adapter: its disks are NAMEt0, NAMEt1 ... */
  readonly adapterName: string;
  readonly adapter: VirtioScsiAdapter;
  readonly dmaTable: SharedArrayBuffer | null;
  /** The RPC parameters that attach the adapter. */
  readonly params: Record<string, unknown>;
}

export class VirtioScsiBdev implements Bdev {
  readonly kind = 'virtio_scsi';
  readonly info: BdevInfo;
  readonly stats = new IoStats();
  readonly unit: Unit;
  readonly state = new UnitState();
  private readonly parts: VirtioScsiParts;

  /** @throws BdevError when the name can't be one */
  constructor(parts: VirtioScsiParts, unit: Unit) {
    this.parts = parts;
    this.unit = unit;
    this.info = {
      name: checkName(`${parts.adapterName}t${unit.target}${unit.lun === 0 ? '' : `l${unit.lun}`}`),
      product: 'Virtio SCSI Disk',
      uuid: unit.uuid,
      blockSize: unit.blockSize,
      physicalBlockSize: unit.physicalBlockSize,
      numBlocks: unit.numBlocks,
      writeCache: unit.writeCache,
      readOnly: unit.readOnly,
      unmap: unit.maxUnmapBlocks > 0,
      unmapZeroes: unit.maxUnmapBlocks > 0 && unit.unmapZeroes,
      nonRotational: unit.nonRotational,
    };
  }

  share(): BdevShare {
    const { adapter, dmaTable } = this.parts;
    const { target, lun, maxUnmapBlocks, maxSameBlocks, writeCache, fua } = this.unit;
    const data: VirtioScsiShare = {
      adapter: adapter.share(),
      unit: {
        target,
        lun,
        maxTransfer: adapter.maxTransfer,
        maxUnmapBlocks,
        maxSameBlocks,
        writeCache,
        fua,
        state: this.state.shared,
      },
      dmaTable,
    };
    return { kind: this.kind, info: { ...this.info }, stats: this.stats.shared, data };
  }

  describe(): Record<string, unknown> {
    const { vendor, product, revision, serial, target, lun } = this.unit;
    return {
      virtio: { adapter: this.parts.adapterName, traddr: this.parts.adapter.name },
      scsi: { target, lun, vendor, product, revision, serial },
    };
  }

  config(): { method: string; params: Record<string, unknown> } {
    return { method: 'bdev_virtio_attach_controller', params: this.parts.params };
  }

  /** Take the size that a reactor has found. */
  rescan(): boolean {
    const found = this.state.take();
    if (found < 0 || found === this.info.numBlocks) return false;
    this.info.numBlocks = found;
    return true;
  }

  /** Take the size that a scan has found. @returns whether it has changed */
  update(unit: Unit): boolean {
    if (unit.numBlocks === this.info.numBlocks) return false;
    this.info.numBlocks = unit.numBlocks;
    return true;
  }

  /** Whether a unit of this description is still this disk. */
  is(unit: Unit): boolean {
    return (
      unit.target === this.unit.target &&
      unit.lun === this.unit.lun &&
      unit.uuid === this.info.uuid &&
      unit.blockSize === this.info.blockSize
    );
  }

  destroy(): void {}
}
