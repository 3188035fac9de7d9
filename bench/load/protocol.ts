/** What a request looks like on the wire of a device type: virtio-scsi (virtio 1.2 §5.6.6.1) and virtio-blk (§5.2.6). */
import type { Memory } from '../../src/memory/memory.ts';

export interface Protocol {
  readonly headerBytes: number;
  readonly responseBytes: number;
  /** The response comes before the data a device writes (scsi), or after it (blk). */
  readonly responseFirst: boolean;
  /** Index of the first request queue. */
  readonly firstQueue: number;
  /** Write what does not change from request to request. `at` is a multiple of 128. */
  prepare(memory: Memory, at: number, write: boolean, bytes: number): void;
  /** Set the block address. */
  address(memory: Memory, at: number, lba: number): void;
  good(memory: Memory, at: number): boolean;
}

const BLOCK = 512;
const CDB = 19;

export function scsi(target: number, blockSize = BLOCK): Protocol {
  return {
    headerBytes: 51,
    responseBytes: 108,
    responseFirst: true,
    firstQueue: 2,
    prepare(memory, at, write, bytes) {
      const b = memory.u8;
      b.fill(0, at, at + 51);
      b[at] = 1;
      b[at + 1] = target;
      b[at + CDB] = write ? 0x2a : 0x28;
      const blocks = bytes / blockSize;
      b[at + CDB + 7] = blocks >> 8;
      b[at + CDB + 8] = blocks;
    },
    address(memory, at, lba) {
      const b = memory.u8;
      b[at + CDB + 2] = lba >>> 24;
      b[at + CDB + 3] = lba >>> 16;
      b[at + CDB + 4] = lba >>> 8;
      b[at + CDB + 5] = lba;
    },
    // status_qualifier, status and response are one word: all zero is GOOD, OK.
    good: (memory, at) => memory.u32[(at + 8) >> 2] === 0,
  };
}

export const blk: Protocol = {
  headerBytes: 16,
  responseBytes: 1,
  responseFirst: false,
  firstQueue: 0,
  prepare(memory, at, write) {
    memory.u8.fill(0, at, at + 16);
    memory.u8[at] = write ? 1 : 0;
  },
  address(memory, at, lba) {
    memory.u32[(at + 8) >> 2] = lba;
  },
  good: (memory, at) => memory.u8[at] === 0,
};
