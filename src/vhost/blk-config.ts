/** The config space of the virtio block device (virtio 1.2 §5.2.4), made of what its disk is. Control path. */
import type { BdevInfo } from '../bdev/bdev.ts';
import { featureMask, VirtioFeature } from '../virtio/features.ts';
import {
  BLK_CONFIG,
  BLK_MAX_QUEUES,
  BlkFeature,
  MAX_DISCARD_BYTES,
  MAX_RANGES,
  MAX_ZERO_BYTES,
  SECTOR,
  SEG_MAX,
} from './blk-wire.ts';

/** What is offered for a disk. It stays so in the session's life: only a disk's size can change. */
export function blkFeatures(info: BdevInfo, readOnly: boolean): bigint {
  const own: number[] = [BlkFeature.SEG_MAX, BlkFeature.BLK_SIZE, BlkFeature.TOPOLOGY, BlkFeature.MQ];
  if (info.writeCache) own.push(BlkFeature.FLUSH, BlkFeature.CONFIG_WCE);
  if (readOnly) own.push(BlkFeature.RO);
  else own.push(BlkFeature.WRITE_ZEROES, ...(info.unmap ? [BlkFeature.DISCARD] : []));
  const { ANY_LAYOUT, INDIRECT_DESC, EVENT_IDX, VERSION_1 } = VirtioFeature;
  return featureMask(...own, ANY_LAYOUT, INDIRECT_DESC, EVENT_IDX, VERSION_1);
}

/** All bytes of the config space. Fields of features that are not offered are zero. */
export function blkConfig(info: BdevInfo, readOnly: boolean, writeback: boolean): Uint8Array {
  const bytes = new Uint8Array(BLK_CONFIG.size);
  const view = new DataView(bytes.buffer);
  const at = (field: keyof typeof BLK_CONFIG.fields) => BLK_CONFIG.fields[field][0];
  const { blockSize, physicalBlockSize, numBlocks } = info;
  const physicalBlocks = physicalBlockSize / blockSize;
  view.setBigUint64(at('capacity'), BigInt(numBlocks) * BigInt(blockSize / SECTOR), true);
  view.setUint32(at('seg_max'), SEG_MAX, true);
  view.setUint32(at('blk_size'), blockSize, true);
  view.setUint8(at('physical_block_exp'), Math.log2(physicalBlocks));
  view.setUint16(at('min_io_size'), physicalBlocks, true);
  view.setUint8(at('writeback'), info.writeCache && writeback ? 1 : 0);
  view.setUint16(at('num_queues'), BLK_MAX_QUEUES, true);
  if (readOnly) return bytes;
  if (info.unmap) {
    view.setUint32(at('max_discard_sectors'), MAX_DISCARD_BYTES / SECTOR, true);
    view.setUint32(at('max_discard_seg'), MAX_RANGES, true);
    view.setUint32(at('discard_sector_alignment'), physicalBlockSize / SECTOR, true);
  }
  view.setUint32(at('max_write_zeroes_sectors'), MAX_ZERO_BYTES / SECTOR, true);
  view.setUint32(at('max_write_zeroes_seg'), MAX_RANGES, true);
  view.setUint8(at('write_zeroes_may_unmap'), info.unmap && info.unmapZeroes ? 1 : 0);
  return bytes;
}
