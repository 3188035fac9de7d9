/**
 * Structures of the virtio block device (virtio 1.2 §5.2) and its numbers. All little-endian; sectors are 512 bytes,
 * whatever the disk's blocks are.
 */
import { defineStruct } from '../memory/struct-table.ts';

/** Device feature bits (§5.2.3). */
export const BlkFeature = {
  SIZE_MAX: 1,
  SEG_MAX: 2,
  GEOMETRY: 4,
  RO: 5,
  BLK_SIZE: 6,
  /** There is a write cache, and FLUSH. */
  FLUSH: 9,
  TOPOLOGY: 10,
  /** The driver may switch the write cache. */
  CONFIG_WCE: 11,
  MQ: 12,
  DISCARD: 13,
  WRITE_ZEROES: 14,
  LIFETIME: 15,
  SECURE_ERASE: 16,
  ZONED: 17,
} as const;

/** Bytes of a sector, the unit of every address. */
export const SECTOR = 512;

/** §5.2.6: what precedes the data. One writable byte after all data is the status. */
export const BLK_REQUEST = defineStruct('virtio_blk_req', 'virtio 1.2 §5.2.6', 16, {
  type: [0, 'u32'],
  reserved: [4, 'u32'],
  sector: [8, 'u64'],
});

/** §5.2.6: request types. */
export const VIRTIO_BLK_T = {
  IN: 0,
  OUT: 1,
  FLUSH: 4,
  GET_ID: 8,
  GET_LIFETIME: 10,
  DISCARD: 11,
  WRITE_ZEROES: 13,
  SECURE_ERASE: 14,
} as const;

/** §5.2.6: the status byte. */
export const VIRTIO_BLK_S = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;

/** §5.2.6: a range of DISCARD and WRITE_ZEROES. */
export const BLK_RANGE = defineStruct('virtio_blk_discard_write_zeroes', 'virtio 1.2 §5.2.6', 16, {
  sector: [0, 'u64'],
  num_sectors: [8, 'u32'],
  flags: [12, 'u32'],
});
/** Range flag of WRITE_ZEROES: the blocks may be given up. All other bits are reserved. */
export const RANGE_UNMAP = 1;

/** §5.2.6: bytes of the answer to GET_ID; a shorter identifier ends with zeroes. */
export const ID_BYTES = 20;

/** §5.2.4. */
export const BLK_CONFIG = defineStruct('virtio_blk_config', 'virtio 1.2 §5.2.4', 96, {
  /** Sectors. */
  capacity: [0, 'u64'],
  size_max: [8, 'u32'],
  seg_max: [12, 'u32'],
  geometry_cylinders: [16, 'u16'],
  geometry_heads: [18, 'u8'],
  geometry_sectors: [19, 'u8'],
  blk_size: [20, 'u32'],
  /** Logical blocks in a physical one: 2 to the power of it. */
  physical_block_exp: [24, 'u8'],
  alignment_offset: [25, 'u8'],
  /** Logical blocks. */
  min_io_size: [26, 'u16'],
  opt_io_size: [28, 'u32'],
  writeback: [32, 'u8'],
  unused0: [33, 'u8'],
  num_queues: [34, 'u16'],
  max_discard_sectors: [36, 'u32'],
  max_discard_seg: [40, 'u32'],
  discard_sector_alignment: [44, 'u32'],
  max_write_zeroes_sectors: [48, 'u32'],
  max_write_zeroes_seg: [52, 'u32'],
  write_zeroes_may_unmap: [56, 'u8'],
  unused1: [57, 'bytes', 3],
  max_secure_erase_sectors: [60, 'u32'],
  max_secure_erase_seg: [64, 'u32'],
  secure_erase_sector_alignment: [68, 'u32'],
  zoned: [72, 'bytes', 24],
});

// What a request may ask for. The driver finds all but the last in the config space.

/** Data segments of a request: with header and status it fits QEMU's default queue of 128. */
export const SEG_MAX = 126;
/** Vrings; each one is a request queue. */
export const BLK_MAX_QUEUES = 128;
/** Ranges of one DISCARD or WRITE_ZEROES. */
export const MAX_RANGES = 16;
/** One range of DISCARD: bytes. */
export const MAX_DISCARD_BYTES = 2 ** 31;
/** One range of WRITE_ZEROES: bytes. Less than a disk in memory needs to hold up its reactor noticeably. */
export const MAX_ZERO_BYTES = 16 * 1024 * 1024;
/** Data of one request: bytes. Far more than drivers send; a bound for hostile ones. */
export const MAX_DATA_BYTES = 64 * 1024 * 1024;
