import { resolve } from 'node:path';
import { logger } from '../sys/log.ts';
import type { EngineKind } from '../sys/shared-engine.ts';
import type { Bdev, BdevInfo, BdevShare } from './bdev.ts';
import { BdevError } from './errors.ts';
import { claimFile, type OpenedFile, openFile, sizeOf, type UnmapMethod, unmapMethod } from './file-open.ts';
import { IoStats } from './io-stats.ts';
import { checkBlockSize, checkName, checkUuid } from './options.ts';

const log = logger('file');

/**
 * The file disk: a regular file or a block device of the host. SPDK calls it "aio", and so do its RPC methods and the product
 * name.
 *
 * Its one rule: one open file for all reactors, opened, locked and closed here; channels borrow its number.
 */

export interface FileBdevOptions {
  name: string;
  /** Path of a regular file or a block device. */
  filename: string;
  /** Bytes; the device's own, or 512 for a file, when not given. */
  blockSize?: number | undefined;
  readOnly?: boolean | undefined;
  /** Deallocate (UNMAP) and zero by fallocate or discard. Default true; false makes UNMAP unsupported. */
  fallocate?: boolean | undefined;
  uuid?: string | undefined;
  /** O_DIRECT: true or fail, false never, undefined where alignment allows it. */
  direct?: boolean | undefined;
  /** Take no lock: another program may use the file at the same time, and must know what it does. */
  share?: boolean | undefined;
  /** For tests: do not choose the engine by the host. */
  engine?: EngineKind | undefined;
}

/** What a reactor gets. */
export interface FileShare {
  /** Of this process; stays open until `destroy`. */
  readonly fd: number;
  /** Required alignment, bytes: of addresses and of lengths. 1 without O_DIRECT. */
  readonly memoryAlign: number;
  readonly lengthAlign: number;
  readonly unmap: UnmapMethod;
  /** Zero ranges by fallocate. */
  readonly fallocate: boolean;
  /** undefined: the reactor chooses. */
  readonly engine: EngineKind | undefined;
}

export class FileBdev implements Bdev {
  readonly kind = 'aio';
  readonly info: BdevInfo;
  readonly stats = new IoStats();
  private readonly options: FileBdevOptions;
  private readonly file: OpenedFile;
  private readonly unmap: UnmapMethod;

  /** @throws BdevError */
  constructor(options: FileBdevOptions) {
    const name = checkName(options.name);
    const uuid = checkUuid(options.uuid);
    const asked =
      options.blockSize === undefined || options.blockSize === 0 ? undefined : checkBlockSize(options.blockSize);
    if (typeof options.filename !== 'string' || options.filename === '') {
      throw new BdevError('EINVAL', 'filename: expected the path of a file or block device', 'filename');
    }
    const path = resolve(options.filename);
    const readOnly = options.readOnly ?? false;
    const share = options.share ?? false;
    this.options = { ...options, filename: path };
    this.file = openFile({ path, readOnly, share, direct: options.direct, blockSize: asked });
    try {
      if (!share) claimFile(this.file.fd, path, readOnly);
      const blockSize = asked ?? this.file.logicalBlockSize;
      if (blockSize < this.file.logicalBlockSize) {
        throw new BdevError(
          'EINVAL',
          `${path}: its blocks have ${this.file.logicalBlockSize} bytes; a block size of ${blockSize} cannot be served`,
          'blockSize',
        );
      }
      this.unmap = readOnly || options.fallocate === false ? 'none' : unmapMethod(this.file);
      this.info = {
        name,
        product: 'AIO disk',
        uuid,
        blockSize,
        physicalBlockSize: Math.max(blockSize, this.file.physicalBlockSize),
        numBlocks: this.blocksIn(this.file.size, blockSize),
        writeCache: true,
        readOnly,
        unmap: this.unmap !== 'none',
        unmapZeroes: this.unmap === 'punch',
        nonRotational: !this.file.rotational,
      };
    } catch (error) {
      this.file.fd.close();
      throw error;
    }
  }

  private blocksIn(bytes: number, blockSize: number): number {
    const blocks = Math.floor(bytes / blockSize);
    const { filename } = this.options;
    const rest = bytes % blockSize;
    if (blocks > 0 && rest > 0)
      log.warn(`${filename}: its last ${rest} bytes are no block of ${blockSize}: not served`);
    if (blocks > 0) return blocks;
    throw new BdevError(
      'EINVAL',
      `${filename}: ${bytes} bytes hold no block of ${blockSize}: enlarge it (truncate -s 10G ${filename})`,
      'filename',
    );
  }

  share(): BdevShare {
    const { direct, fd, inMemory } = this.file;
    const data: FileShare = {
      fd: fd.number,
      memoryAlign: direct?.memory ?? 1,
      lengthAlign: direct?.offset ?? 1,
      unmap: this.unmap,
      fallocate: this.options.fallocate ?? true,
      // Asking the kernel for what is in memory costs more than doing it.
      engine: this.options.engine ?? (inMemory ? 'inline' : undefined),
    };
    return { kind: this.kind, info: { ...this.info }, stats: this.stats.shared, data };
  }

  describe(): Record<string, unknown> {
    return {
      aio: {
        filename: this.options.filename,
        block_size_override: this.options.blockSize !== undefined && this.options.blockSize !== 0,
        readonly: this.info.readOnly,
        fallocate: this.options.fallocate ?? true,
        direct: this.file.direct !== undefined,
        unmap: this.unmap,
      },
    };
  }

  config(): { method: string; params: Record<string, unknown> } {
    const { filename, fallocate, direct, share } = this.options;
    const { name, blockSize, readOnly, uuid } = this.info;
    return {
      method: 'bdev_aio_create',
      params: {
        name,
        filename,
        block_size: blockSize,
        readonly: readOnly,
        fallocate: fallocate ?? true,
        uuid,
        ...(direct === undefined ? {} : { direct }),
        ...(share ? { share } : {}),
      },
    };
  }

  /** The file has grown, or become shorter. @throws BdevError when no block is left */
  rescan(): boolean {
    const blocks = this.blocksIn(sizeOf(this.file.fd, this.file.block), this.info.blockSize);
    if (blocks === this.info.numBlocks) return false;
    this.info.numBlocks = blocks;
    return true;
  }

  destroy(): void {
    this.file.fd.close();
  }
}

/** @throws BdevError: what is wrong with the file or an option, and what to do about it */
export function createFileBdev(options: FileBdevOptions): FileBdev {
  return new FileBdev(options);
}
