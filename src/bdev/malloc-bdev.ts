import { adopt, type Mapping, type MappingShare, mapAnonymous } from '../sys/mapping.ts';
import type { Bdev, BdevInfo, BdevShare } from './bdev.ts';
import { BdevError } from './errors.ts';
import { IoStats } from './io-stats.ts';
import { checkBlockSize, checkName, checkNumBlocks, checkPhysicalBlockSize, checkUuid } from './options.ts';
import { WindowTable, zeroRange } from './window-table.ts';

/**
 * The malloc disk: memory of this process, page aligned (an unaligned buffer copies up to thirty times slower), shared by all
 * reactors. Its contents end with the process.
 *
 * Its one rule: memory that any reactor may still touch stays mapped. So growth maps more memory beside what is there, and shrinking
 * only empties the pages.
 */

export interface MallocBdevOptions {
  name: string;
  numBlocks: number;
  /** Bytes; 512 when not given. */
  blockSize?: number | undefined;
  /** Bytes; a multiple of the block size, for 512e. */
  physicalBlockSize?: number | undefined;
  uuid?: string | undefined;
  /** Explicit huge pages, which must have been reserved. Without them transparent ones are asked for. */
  hugepages?: boolean | undefined;
  /** Allocate all memory now instead of at first use. */
  populate?: boolean | undefined;
}

/** What a reactor gets: the pieces of memory, in the order of the disk. */
export interface MallocShare {
  readonly pieces: readonly MappingShare[];
  /** Whether pages can be given back (not with explicit huge pages). */
  readonly givesBack: boolean;
}

/** Allocate the pages now (Linux 5.14; older kernels leave it to the first use). */
const MADV_POPULATE_WRITE = 23;

function describeBytes(bytes: number): string {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${Math.ceil(bytes / 2 ** 20)} MiB`;
}

export class MallocBdev implements Bdev {
  readonly kind = 'malloc';
  readonly info: BdevInfo;
  readonly stats = new IoStats();
  private readonly pieces: Mapping[] = [];
  private readonly hugepages: boolean;
  private readonly populate: boolean;

  constructor(options: MallocBdevOptions) {
    const blockSize = checkBlockSize(options.blockSize ?? 512);
    this.info = {
      name: checkName(options.name),
      product: 'Malloc disk',
      uuid: checkUuid(options.uuid),
      blockSize,
      physicalBlockSize: checkPhysicalBlockSize(options.physicalBlockSize, blockSize),
      numBlocks: checkNumBlocks(options.numBlocks, blockSize),
      writeCache: false,
      readOnly: false,
      unmap: true,
      unmapZeroes: true,
      nonRotational: true,
    };
    this.hugepages = options.hugepages ?? false;
    this.populate = options.populate ?? false;
    this.map(this.info.numBlocks * blockSize);
  }

  share(): BdevShare {
    const data: MallocShare = { pieces: this.pieces.map((p) => p.share()), givesBack: !this.hugepages };
    return { kind: this.kind, info: { ...this.info }, stats: this.stats.shared, data };
  }

  describe(): Record<string, unknown> {
    return { hugepages: this.hugepages };
  }

  config(): { method: string; params: Record<string, unknown> } {
    const { name, numBlocks, blockSize, physicalBlockSize, uuid } = this.info;
    return {
      method: 'bdev_malloc_create',
      params: {
        name,
        num_blocks: numBlocks,
        block_size: blockSize,
        physical_block_size: physicalBlockSize,
        uuid,
        ...(this.hugepages ? { hugepages: true } : {}),
      },
    };
  }

  /**
   * Grow: the new blocks read as zeroes. Shrink: the blocks beyond the end are lost, and read as zeroes if the disk grows
   * again. The channels must be told (`resized`) before the guest is; one that was not told yet still reaches the old
   * end, harmlessly.
   */
  resize(numBlocks: number): void {
    const { blockSize, numBlocks: before } = this.info;
    const bytes = checkNumBlocks(numBlocks, blockSize) * blockSize;
    const mapped = this.pieces.reduce((sum, p) => sum + p.size, 0);
    if (bytes > mapped) this.map(bytes - mapped);
    // What lay between the two sizes is emptied either way: when growing, a late write from before a shrink may be there.
    const from = Math.min(before, numBlocks) * blockSize;
    const to = Math.min(Math.max(before, numBlocks) * blockSize, mapped);
    if (to > from) this.empty(from, to - from);
    this.info.numBlocks = numBlocks;
  }

  destroy(): void {
    for (const piece of this.pieces.splice(0)) piece.unmap();
  }

  private map(bytes: number): void {
    try {
      const piece = mapAnonymous(bytes, {
        hugepages: this.hugepages,
        transparentHugepages: !this.hugepages,
        dontDump: true,
      });
      // After the advice above, so that the pages which come now are huge ones.
      if (this.populate) piece.advise(MADV_POPULATE_WRITE);
      this.pieces.push(piece);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new BdevError(
        'ENOMEM',
        `malloc disk ${this.info.name}: no memory for ${describeBytes(bytes)}: make it smaller, free memory, or use a file disk (${why})`,
      );
    }
  }

  private empty(offset: number, bytes: number): void {
    const windows = new WindowTable();
    for (const piece of this.pieces) windows.append(piece);
    zeroRange(windows, offset, bytes, 0, !this.hugepages);
  }
}

/** @throws BdevError: a wrong option, or no memory */
export function createMallocBdev(options: MallocBdevOptions): MallocBdev {
  return new MallocBdev(options);
}

/** The pieces, from number `first` on, as this thread's mappings. Their `unmap` leaves the memory to the disk. */
export function adoptPieces(share: MallocShare, first = 0): Mapping[] {
  return share.pieces.slice(first).map(adopt);
}
