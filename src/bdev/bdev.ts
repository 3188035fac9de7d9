import type { Memory } from '../memory/memory.ts';
import { SgList } from '../memory/sg-list.ts';
import type { IoStats } from './io-stats.ts';

/**
 * The block-device interface: what every kind of disk is to the layers above.
 *
 * Control plane (main thread): {@link Bdev} objects in a registry. Data plane (each reactor): a {@link BdevChannel}
 * per disk and reactor, opened from the serialisable {@link BdevShare}. One request is one preallocated
 * {@link BdevIo}; `submit` starts it, `io.owner.ioDone(io)` ends it, exactly once, possibly before `submit` returns.
 */

/** What a request asks for. */
export const BdevOp = {
  READ: 0,
  WRITE: 1,
  FLUSH: 2,
  /** Deallocate; the blocks read as zeroes afterwards where `info.unmapZeroes` says so. */
  UNMAP: 3,
  WRITE_ZEROES: 4,
  /** Compare the blocks with the buffers; MISCOMPARE when they differ, with `io.miscompareOffset` set. */
  COMPARE: 5,
} as const;
export type BdevOp = (typeof BdevOp)[keyof typeof BdevOp];

/** How a request ended. */
export const BdevStatus = {
  OK: 0,
  /** The medium or the device failed. */
  IO_ERROR: 1,
  NOT_SUPPORTED: 2,
  MISCOMPARE: 3,
  /** Given up by an abort or a reset. */
  ABORTED: 4,
  NO_SPACE: 5,
  /** The disk has gone. */
  REMOVED: 6,
  OUT_OF_RANGE: 7,
  WRITE_PROTECTED: 8,
  READ_ERROR: 9,
  WRITE_ERROR: 10,
  NOT_READY: 11,
  RESERVATION_CONFLICT: 12,
} as const;
export type BdevStatus = (typeof BdevStatus)[keyof typeof BdevStatus];

export interface BdevIoOwner {
  ioDone(io: BdevIo): void;
}

/** One request. The owner fills it, submits it and does not touch it until `ioDone`. */
export class BdevIo {
  op: BdevOp = BdevOp.READ;
  /** First block. Exact integer below 2^53. */
  lba = 0;
  blocks = 0;
  /** Where the data lies: bytes [sgOffset, sgOffset + blocks * blockSize) of `sg`. Unused by FLUSH and UNMAP. */
  sg: SgList;
  sgOffset = 0;
  /** Force unit access: the data is on stable storage when the write completes. */
  fua = false;
  /** Result; valid in `ioDone`. */
  status: BdevStatus = BdevStatus.OK;
  /** COMPARE: byte offset of the first difference from the request's start. */
  miscompareOffset = 0;
  owner: BdevIoOwner;
  /** Scratch of the channel that has the request: its slot in that channel's tables. -1 when it is not in flight. */
  slot = -1;
  /** When it was submitted: reactor clock, nanoseconds as a Number (statistics). */
  started = 0;

  constructor(owner: BdevIoOwner, sg: SgList = new SgList(1)) {
    this.owner = owner;
    this.sg = sg;
  }
}

/** What a disk is. `numBlocks` is the only thing that changes in its life (resize). */
export interface BdevInfo {
  readonly name: string;
  /** INQUIRY product identification: "Malloc disk", "AIO disk", "Null disk", "NVMe disk", "Virtio SCSI Disk". */
  readonly product: string;
  /** RFC 4122 text form. */
  readonly uuid: string;
  /** Bytes: a power of two, 512 or 4096 in practice. */
  readonly blockSize: number;
  /** Bytes; a multiple of blockSize (512e: blockSize 512, physical 4096). */
  readonly physicalBlockSize: number;
  numBlocks: number;
  /** The device has a volatile write cache: FLUSH means something. */
  readonly writeCache: boolean;
  readonly readOnly: boolean;
  readonly unmap: boolean;
  readonly unmapZeroes: boolean;
  /** Solid state (VPD b1 rotation rate 1). */
  readonly nonRotational: boolean;
}

/**
 * A disk whose blocks are memory of this process (or nothing at all): whoever asks where they lie may move the data himself,
 * at once, and says so afterwards.
 */
export interface DirectAccess {
  /**
   * Where these blocks lie: sets `memory` and `offset`. @param lba below 2^53 @param blocks not 0
   * @returns false when they are not there, or not in one piece: `submit` a request then, it is judged there
   */
  locate(lba: number, blocks: number): boolean;
  /** null: the disk keeps nothing, no data is to be moved. */
  memory: Memory | null;
  /** Bytes. */
  offset: number;
  /**
   * Requests of one kind were done, for the statistics. @param bytes in all
   * @param ns how long one of them took, where it was measured; else -1
   */
  done(op: BdevOp, requests: number, bytes: number, ns: number): void;
}

/**
 * A reactor's way to a disk. Single-threaded: all calls come from the reactor that opened it.
 * The event loop calls `poll`, `arm` and reads `fd` as those of any Poller (src/sys/event-loop.ts).
 */
export interface BdevChannel {
  readonly info: BdevInfo;
  /** Start a request. Never throws: a failure is a status in `ioDone`. */
  submit(io: BdevIo): void;
  /** Reap completions. @returns how many. Called once a pass while the loop is awake. */
  poll(): number;
  /** Absent where the disk is not memory, and where something may hold requests up (rate limits). */
  readonly direct?: DirectAccess;
  /** Requests submitted and not completed. */
  readonly inFlight: number;
  /** Bytes of every request's buffers are reachable by the device: no bounce. For statistics and tests. */
  readonly zeroCopy: boolean;
  /** Try to give up what is in flight (LUN RESET). Each request still completes exactly once. */
  reset(): void;
  /**
   * The disk changed its size: take the new one from a fresh share of the same Bdev. Absent where the channel learns it by
   * itself. Before a disk shrinks, every channel is told; after it has grown, too.
   */
  resized?(share: BdevShare): void;
  /** The disk has gone: what waits and what comes ends with REMOVED, what is in flight still completes. Then `close`. */
  remove?(): void;
  /** Release everything. Call only with `inFlight` 0. */
  close(): void;
}

/** The main thread's view of a disk. */
export interface Bdev {
  readonly info: BdevInfo;
  /** Kind for RPC and configuration: "malloc", "null", "aio", "nvme", "virtio_scsi". */
  readonly kind: string;
  /** Everything a reactor needs to open a channel; survives structured clone. */
  share(): BdevShare;
  /** Kind-specific part of get_bdevs ("driver_specific"). */
  describe(): Record<string, unknown>;
  /** The RPC that re-creates it, for save_config. */
  config(): { method: string; params: Record<string, unknown> };
  /** Counters of all its channels, for bdev_get_iostat. */
  readonly stats: IoStats;
  /** Change the size where the kind can; throws an Error that says why not. Then tell the channels (`resized`). */
  resize?(numBlocks: number): void;
  /** Look again at what it lies on. @returns true when `info.numBlocks` has changed; then tell the channels. */
  rescan?(): boolean;
  /** Release host resources. The registry calls it when no channel is open any more. */
  destroy(): void | Promise<void>;
}

/** See {@link Bdev.share}. `kind` selects the opener in src/bdev/open-channel.ts, `data` is its own. */
export interface BdevShare {
  readonly kind: string;
  readonly info: BdevInfo;
  /** {@link IoStats.shared} of the disk: the channel counts in a row of it. */
  readonly stats?: SharedArrayBuffer | undefined;
  /** QosLimiter.shared, when the disk can have rate limits: the channel keeps to them. */
  readonly qos?: SharedArrayBuffer | undefined;
  readonly data: unknown;
}

/** Registered memory changes: a channel that does DMA maps guest memory when it comes and forgets it when it goes. */
export interface MemoryListener {
  memoryAdded(memory: Memory): void;
  memoryRemoved(memory: Memory): void;
}
