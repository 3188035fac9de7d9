import {
  type Bdev,
  type BdevChannel,
  type BdevInfo,
  type BdevIo,
  BdevOp,
  type BdevShare,
  BdevStatus,
  type DirectAccess,
} from './bdev.ts';
import { BdevError } from './errors.ts';
import { type ChannelStats, claimStats, IoStats } from './io-stats.ts';
import { checkBlockSize, checkName, checkNumBlocks, checkPhysicalBlockSize, checkUuid } from './options.ts';

// Own copies of what the hot path uses: a constant of another module is loaded and checked at each use.
const COMPARE = BdevOp.COMPARE;
const OK: typeof BdevStatus.OK = BdevStatus.OK;

/**
 * The null disk: completes everything at once and keeps nothing. It measures the layers above.
 *
 * Its one rule: no buffer is touched. A read leaves the guest's memory as it was, which tells the guest nothing that it did not
 * have. Whoever reads through a buffer of its own clears that first.
 */

export interface NullBdevOptions {
  name: string;
  numBlocks: number;
  /** Bytes; 512 when not given. */
  blockSize?: number | undefined;
  physicalBlockSize?: number | undefined;
  uuid?: string | undefined;
}

export class NullBdev implements Bdev {
  readonly kind = 'null';
  readonly info: BdevInfo;
  readonly stats = new IoStats();

  constructor(options: NullBdevOptions) {
    const blockSize = checkBlockSize(options.blockSize ?? 512);
    this.info = {
      name: checkName(options.name),
      product: 'Null disk',
      uuid: checkUuid(options.uuid),
      blockSize,
      physicalBlockSize: checkPhysicalBlockSize(options.physicalBlockSize, blockSize),
      numBlocks: checkNumBlocks(options.numBlocks, blockSize),
      writeCache: false,
      readOnly: false,
      unmap: true,
      unmapZeroes: false,
      nonRotational: true,
    };
  }

  share(): BdevShare {
    return { kind: this.kind, info: { ...this.info }, stats: this.stats.shared, data: null };
  }

  describe(): Record<string, unknown> {
    return {};
  }

  config(): { method: string; params: Record<string, unknown> } {
    const { name, numBlocks, blockSize, physicalBlockSize, uuid } = this.info;
    return {
      method: 'bdev_null_create',
      params: { name, num_blocks: numBlocks, block_size: blockSize, physical_block_size: physicalBlockSize, uuid },
    };
  }

  resize(numBlocks: number): void {
    this.info.numBlocks = checkNumBlocks(numBlocks, this.info.blockSize);
  }

  destroy(): void {}
}

/** @throws BdevError that names the wrong option */
export function createNullBdev(options: NullBdevOptions): NullBdev {
  return new NullBdev(options);
}

export class NullChannel implements BdevChannel, DirectAccess {
  readonly info: BdevInfo;
  readonly inFlight = 0;
  readonly zeroCopy = true;
  private readonly stats: ChannelStats;
  private removed = false;
  /** Blocks that transfers on the spot may name: none once it is removed. */
  private blocks: number;
  readonly direct: DirectAccess = this;
  readonly memory = null;
  readonly offset = 0;

  constructor(share: BdevShare) {
    this.info = { ...share.info };
    this.blocks = this.info.numBlocks;
    this.stats = claimStats(share.stats);
  }

  submit(io: BdevIo): void {
    const info = this.info;
    if (this.removed) io.status = BdevStatus.REMOVED;
    else if (io.op === COMPARE) io.status = BdevStatus.NOT_SUPPORTED;
    else if (io.lba + io.blocks > info.numBlocks) io.status = BdevStatus.OUT_OF_RANGE;
    else io.status = OK;
    this.stats.count(io, io.blocks * info.blockSize);
    io.owner.ioDone(io);
  }

  locate(lba: number, blocks: number): boolean {
    return lba + blocks <= this.blocks;
  }

  done(op: BdevOp, requests: number, bytes: number): void {
    this.stats.countMany(op, requests, bytes);
  }

  poll(): number {
    return 0;
  }

  reset(): void {}

  resized(share: BdevShare): void {
    this.info.numBlocks = share.info.numBlocks;
    if (!this.removed) this.blocks = share.info.numBlocks;
  }

  remove(): void {
    this.removed = true;
    this.blocks = 0;
  }

  close(): void {
    this.stats.close();
  }
}

/** @throws BdevError when the share is another kind's */
export function openNullChannel(share: BdevShare): NullChannel {
  if (share.kind !== 'null') throw new BdevError('EINVAL', `a ${share.kind} disk is no null disk`);
  return new NullChannel(share);
}
