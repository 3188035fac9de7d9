import { be32, be64 } from './bytes.ts';
import type { Step } from './command.ts';
import { responseWriter } from './task-result.ts';

/**
 * READ CAPACITY (SBC-3 5.16, 5.17).
 */

/** log2 of how many logical blocks a physical one has (512e: 3). */
export function physicalExponent(info: { blockSize: number; physicalBlockSize: number }): number {
  return Math.max(0, 31 - Math.clz32(info.physicalBlockSize / info.blockSize));
}

export const readCapacity10: Step = (lun, command) => {
  if (be32(command.task.cdb, 2) !== 0) return command.invalidCdb(2); // an LBA without PMI, which is obsolete
  const last = lun.info.numBlocks - 1;
  responseWriter
    .start()
    .u32(last > 0xffff_fffe ? 0xffff_ffff : Math.max(last, 0))
    .u32(lun.info.blockSize);
  return command.respond(8);
};

export const readCapacity16: Step = (lun, command) => {
  const cdb = command.task.cdb;
  if (be64(cdb, 2) !== 0) return command.invalidCdb(2);
  const { info } = lun;
  const provisioning = (info.unmap ? 0x80 : 0) | (info.unmap && info.unmapZeroes ? 0x40 : 0); // LBPME, LBPRZ
  responseWriter
    .start()
    .u64(Math.max(info.numBlocks - 1, 0))
    .u32(info.blockSize)
    .u8(0) // no protection information
    .u8(physicalExponent(info))
    .u8(provisioning)
    .u8(0) // lowest aligned LBA 0
    .zeros(16);
  return command.respond(be32(cdb, 10));
};
