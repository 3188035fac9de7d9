import type { BdevEntry } from '../../target/bdev-registry.ts';

/** A disk as bdev_get_bdevs shows it: SPDK's object. */
export function describeBdev(entry: BdevEntry): Record<string, unknown> {
  const { bdev, limits, users } = entry;
  const { info } = bdev;
  return {
    name: info.name,
    aliases: [info.uuid],
    product_name: info.product,
    block_size: info.blockSize,
    num_blocks: info.numBlocks,
    uuid: info.uuid,
    physical_block_size: info.physicalBlockSize,
    assigned_rate_limits: limits ?? {
      rw_ios_per_sec: 0,
      rw_mbytes_per_sec: 0,
      r_mbytes_per_sec: 0,
      w_mbytes_per_sec: 0,
    },
    claimed: users.size > 0,
    claimed_by: [...users],
    removing: entry.removing,
    zoned: false,
    supported_io_types: {
      read: true,
      write: !info.readOnly,
      unmap: info.unmap && !info.readOnly,
      flush: info.writeCache,
      reset: true,
      write_zeroes: !info.readOnly,
      compare: bdev.kind !== 'null',
      compare_and_write: bdev.kind !== 'null' && !info.readOnly,
      abort: true,
      nvme_admin: false,
      nvme_io: false,
    },
    driver_specific: bdev.describe(),
  };
}
