import { performance } from 'node:perf_hooks'; // the global is a getter, which costs as much as the clock
import { copyMemory } from '../memory/copy.ts';
import type { Memory } from '../memory/memory.ts';
import type { Mapping } from '../sys/mapping.ts';
import {
  type BdevChannel,
  type BdevInfo,
  type BdevIo,
  BdevOp,
  type BdevShare,
  BdevStatus,
  type DirectAccess,
} from './bdev.ts';
import { firstDifference } from './compare.ts';
import { BdevError } from './errors.ts';
import { type ChannelStats, claimStats, SAMPLE_EVERY } from './io-stats.ts';
import { adoptPieces, type MallocShare } from './malloc-bdev.ts';
import { WindowTable, zeroRange } from './window-table.ts';

// Own copies of what the hot path uses: a constant of another module is loaded and checked at each use.
const READ = BdevOp.READ;
const WRITE = BdevOp.WRITE;
const COMPARE = BdevOp.COMPARE;
const FLUSH = BdevOp.FLUSH;
const OK: typeof BdevStatus.OK = BdevStatus.OK;
const SAMPLED = SAMPLE_EVERY - 1;

/**
 * A reactor's way to a malloc disk: every request is done, and its owner told, before `submit` returns. There is nothing to
 * poll.
 */

/** Zeroing fewer bytes than this keeps the pages: the next write would fault each of them in again. Bytes. */
const GIVE_BACK_FROM = 0x10_0000;

/** Longest latency that is counted as it is, nanoseconds. */
const LONGEST = 0x7fff_ffff;

export class MallocChannel implements BdevChannel, DirectAccess {
  readonly info: BdevInfo;
  readonly inFlight = 0;
  readonly zeroCopy = true;
  private readonly stats: ChannelStats;
  private readonly windows = new WindowTable();
  private readonly pieces: Mapping[];
  private readonly givesBack: boolean;
  private removed = false;
  private ticks = 0;
  // DirectAccess.
  readonly direct: DirectAccess = this;
  memory: Memory | null = null;
  offset = 0;

  constructor(share: BdevShare) {
    const data = share.data as MallocShare;
    this.info = { ...share.info };
    this.pieces = adoptPieces(data);
    for (const piece of this.pieces) this.windows.append(piece);
    this.givesBack = data.givesBack;
    this.stats = claimStats(share.stats);
  }

  submit(io: BdevIo): void {
    // A clock read costs as much as a short copy: only some requests are timed.
    const timed = (this.ticks++ & SAMPLED) === 0;
    const start = timed ? performance.now() : 0;
    const bytes = io.op === FLUSH ? 0 : io.blocks * this.info.blockSize;
    try {
      io.status = this.execute(io, io.lba * this.info.blockSize, bytes);
    } catch {
      // Only when a buffer's memory was revoked under the request, which its owner should have prevented.
      io.status = BdevStatus.IO_ERROR;
    }
    this.stats.count(io, bytes);
    // A small integer: a double would become a heap number on its way through the call.
    if (timed) this.stats.latency(io.op, Math.min((performance.now() - start) * 1e6, LONGEST) | 0);
    io.owner.ioDone(io);
  }

  private execute(io: BdevIo, offset: number, bytes: number): BdevStatus {
    if (this.removed) return BdevStatus.REMOVED;
    if (io.lba + io.blocks > this.info.numBlocks) return BdevStatus.OUT_OF_RANGE;
    switch (io.op) {
      case READ:
      case WRITE:
      case COMPARE:
        return this.transfer(io, offset, bytes);
      case BdevOp.UNMAP:
        zeroRange(this.windows, offset, bytes, 0, this.givesBack);
        return OK;
      case BdevOp.WRITE_ZEROES:
        zeroRange(this.windows, offset, bytes, GIVE_BACK_FROM, this.givesBack);
        return OK;
      case FLUSH:
        return OK;
      default:
        return BdevStatus.NOT_SUPPORTED;
    }
  }

  /** Walk the segments and the windows side by side; each step is the longest piece that lies in one of both. */
  private transfer(io: BdevIo, offset: number, bytes: number): BdevStatus {
    const sg = io.sg;
    if (io.sgOffset + bytes > sg.bytes) return BdevStatus.IO_ERROR; // the caller's mistake; nothing has moved
    const windows = this.windows;
    const op = io.op;
    let skip = io.sgOffset;
    let at = offset;
    const end = offset + bytes;
    for (let i = 0; at < end; i++) {
      const length = sg.length[i];
      if (skip >= length) {
        skip -= length;
        continue;
      }
      let place = sg.offset[i] + skip;
      let left = Math.min(length - skip, end - at);
      skip = 0;
      while (left > 0) {
        const w = windows.find(at);
        const from = windows.start[w];
        const room = windows.start[w + 1] - at;
        const n = Math.min(left, room);
        const disk: Memory = windows.memory[w];
        if (op === READ) copyMemory(sg.memory[i], place, disk, at - from, n);
        else if (op === WRITE) copyMemory(disk, at - from, sg.memory[i], place, n);
        else {
          const d = firstDifference(sg.memory[i], place, disk, at - from, n);
          if (d >= 0) {
            io.miscompareOffset = at + d - offset;
            return BdevStatus.MISCOMPARE;
          }
        }
        at += n;
        place += n;
        left -= n;
      }
    }
    return OK;
  }

  locate(lba: number, blocks: number): boolean {
    const { blockSize, numBlocks } = this.info;
    if (this.removed || lba + blocks > numBlocks) return false;
    const { windows } = this;
    const at = lba * blockSize;
    const w = windows.find(at);
    if (at + blocks * blockSize > windows.start[w + 1]) return false;
    const memory = windows.memory[w];
    if (this.memory !== memory) this.memory = memory;
    this.offset = at - windows.start[w];
    return true;
  }

  done(op: BdevOp, requests: number, bytes: number, ns: number): void {
    this.stats.countMany(op, requests, bytes);
    if (ns >= 0) this.stats.latency(op, ns);
  }

  poll(): number {
    return 0;
  }

  reset(): void {}

  resized(share: BdevShare): void {
    for (const piece of adoptPieces(share.data as MallocShare, this.pieces.length)) {
      this.pieces.push(piece);
      this.windows.append(piece);
    }
    this.info.numBlocks = share.info.numBlocks;
  }

  remove(): void {
    this.removed = true;
  }

  close(): void {
    for (const piece of this.pieces.splice(0)) piece.unmap();
    this.stats.close();
  }
}

/** @throws BdevError when the share is another kind's */
export function openMallocChannel(share: BdevShare): MallocChannel {
  if (share.kind !== 'malloc') throw new BdevError('EINVAL', `a ${share.kind} disk is no malloc disk`);
  return new MallocChannel(share);
}
