import type { Memory } from '../memory/memory.ts';
import { SgCursor } from '../memory/sg-cursor.ts';
import { SgList } from '../memory/sg-list.ts';
import { DmaMemoryRegistry } from '../pci/dma-memory-registry.ts';
import {
  type BdevChannel,
  type BdevInfo,
  type BdevIo,
  BdevOp,
  type BdevShare,
  BdevStatus,
  type MemoryListener,
} from './bdev.ts';
import { firstDifference } from './compare.ts';
import { IoFifo } from './io-fifo.ts';
import { type ChannelStats, claimStats } from './io-stats.ts';

/**
 * What the channels of real devices (NVMe, virtio-scsi) have in common: a request becomes one or more commands, each at most
 * as large as the device takes; its buffers are named to the device directly, or go through a bounce buffer of a fixed
 * pool when the device cannot reach them; requests that find no command slot or bounce buffer wait their turn.
 *
 * The one rule: a request ends when all its commands have, with the first error among them; after an error no further
 * command of it is sent.
 */

/** A request in progress. Pooled: as many as were ever in progress at once. */
class Request {
  io: BdevIo | null = null;
  /** Blocks for which commands were sent, and of the whole request. FLUSH: 0 and 1. */
  next = 0;
  blocks = 0;
  /** Commands sent and not ended. */
  outstanding = 0;
  status: BdevStatus = BdevStatus.OK;
  /** COMPARE: blocks are read and compared here, one command at a time: to find the place, or for want of a command. */
  locating = false;
  /** The device found a difference. */
  differs = false;
  /** The data is written, and a flush makes it stable: FUA for a device that has none. */
  flushes = false;
  flushing = false;
  /** It stands in the queue of those that wait. */
  queued = false;
  /** Where in the segments the next command's data begins. */
  readonly cursor = new SgCursor();
  started = 0;
}

/** What one command of a kind can do at most, and which kinds there are. */
export interface CommandLimits {
  /** Bytes of data. */
  readonly maxTransfer: number;
  /** The device has a command that writes zeroes; blocks at most. 0: zeroes are written from a bounce buffer. */
  readonly maxZeroBlocks: number;
  /** Blocks of one UNMAP command; 0: not supported. */
  readonly maxUnmapBlocks: number;
  /** The device compares by itself. */
  readonly compare: boolean;
  /** FLUSH means something. */
  readonly flush: boolean;
  /** The device obeys FUA; else a flush follows such a write. */
  readonly fua: boolean;
}

const NO_BOUNCE = -1;

export abstract class CommandChannel implements BdevChannel, MemoryListener {
  readonly info: BdevInfo;
  inFlight = 0;
  /** False once a request's buffers could not be reached by the device. */
  zeroCopy = true;
  protected readonly stats: ChannelStats;
  protected readonly limits: CommandLimits;
  private readonly bounceMemory: Memory;
  private readonly bounceBytes: number;
  private readonly requests: Request[] = [];
  private readonly freeRequests: number[] = [];
  private readonly waiting = new IoFifo();
  private removed = false;
  private readonly registry: DmaMemoryRegistry | null;
  /** Guest memory that this channel's commands may name to the device. */
  private readonly registered = new Set<Memory>();
  // By command slot.
  private readonly requestOf: Int32Array;
  private readonly blockOf: Float64Array;
  private readonly blocksOf: Uint32Array;
  private readonly bounceOf: Int32Array;
  /** Scratch: a bounce buffer as a list of one segment. */
  private readonly bounceList = new SgList(1);
  private readonly bounceCursor = new SgCursor();

  /**
   * @param slots command slots, named 0 to slots - 1
   * @param bounceMemory all bounce buffers
   * @param bounceBytes one of them; a multiple of the block size
   * @param dmaTable memory of the process's table of DMA mappings; null: guest memory is what it is
   */
  constructor(
    share: BdevShare,
    limits: CommandLimits,
    slots: number,
    bounceMemory: Memory,
    bounceBytes: number,
    dmaTable: SharedArrayBuffer | null,
  ) {
    this.registry = dmaTable === null ? null : DmaMemoryRegistry.ofThread(dmaTable);
    this.info = { ...share.info };
    this.limits = limits;
    this.bounceMemory = bounceMemory;
    this.bounceBytes = bounceBytes;
    this.stats = claimStats(share.stats);
    this.requestOf = new Int32Array(slots).fill(-1);
    this.blockOf = new Float64Array(slots);
    this.blocksOf = new Uint32Array(slots);
    this.bounceOf = new Int32Array(slots).fill(NO_BOUNCE);
  }

  // What a device gives.

  /** This reactor's clock, nanoseconds. */
  protected abstract now(): number;
  /** OK while commands can be sent, now or later; else what everything ends with. */
  protected abstract health(): BdevStatus;
  /** A slot for a command, or -1. */
  protected abstract takeSlot(op: BdevOp): number;
  /** Give back a slot whose command is not sent. */
  protected abstract dropSlot(slot: number): void;
  /** Name up to `bytes` from the cursor on to the device. @returns bytes named, a multiple of the block size */
  protected abstract describe(slot: number, op: BdevOp, sg: SgList, at: SgCursor, bytes: number): number;
  /** Send the command; `ended` follows, once. */
  protected abstract send(slot: number, op: BdevOp, lba: number, blocks: number, fua: boolean): void;
  /** Byte offset of a bounce buffer, or -1. */
  protected abstract takeBounce(): number;
  protected abstract giveBounce(offset: number): void;
  /** Ask the device to give up this channel's commands. */
  protected abstract abort(): void;
  protected abstract release(): void;
  abstract poll(): number;

  // BdevChannel

  submit(io: BdevIo): void {
    this.inFlight++;
    const index = this.freeRequests.pop() ?? this.requests.push(new Request()) - 1;
    const request = this.requests[index];
    io.slot = index;
    request.io = io;
    request.next = 0;
    request.blocks = io.op === BdevOp.FLUSH ? 1 : io.blocks;
    request.outstanding = 0;
    request.locating = io.op === BdevOp.COMPARE && !this.limits.compare;
    request.differs = false;
    request.flushing = false;
    request.flushes =
      io.fua && !this.limits.fua && this.limits.flush && (io.op === BdevOp.WRITE || io.op === BdevOp.WRITE_ZEROES);
    request.queued = false;
    request.started = this.now();
    request.status = this.check(io);
    if (request.status !== BdevStatus.OK || request.blocks === 0 || (io.op === BdevOp.FLUSH && !this.limits.flush)) {
      this.finish(request, index);
      return;
    }
    if (this.carriesData(io.op)) request.cursor.seek(io.sg, io.sgOffset);
    if (this.waiting.length > 0 || !this.issue(request, index)) {
      this.wait(request, io);
    } else if (request.outstanding === 0) {
      this.finish(request, index); // nothing could be sent: its status says why
    }
  }

  private wait(request: Request, io: BdevIo): void {
    request.queued = true;
    this.waiting.push(io);
    this.stats.queued();
  }

  reset(): void {
    this.failWaiting(BdevStatus.ABORTED);
    this.abort();
  }

  resized(share: BdevShare): void {
    this.info.numBlocks = share.info.numBlocks;
  }

  remove(): void {
    this.removed = true;
    this.failWaiting(BdevStatus.REMOVED);
  }

  /** MemoryListener: let the device reach it; where that can't be, its bytes are bounced. */
  memoryAdded(memory: Memory): void {
    if (this.registry === null || this.registered.has(memory)) return;
    this.registered.add(memory);
    this.registry.offer(memory);
  }

  memoryRemoved(memory: Memory): void {
    if (this.registered.delete(memory)) this.registry?.remove(memory);
  }

  close(): void {
    for (const memory of [...this.registered]) this.memoryRemoved(memory);
    this.release();
    this.stats.close();
  }

  private carriesData(op: BdevOp): boolean {
    return op === BdevOp.READ || op === BdevOp.WRITE || op === BdevOp.COMPARE;
  }

  private check(io: BdevIo): BdevStatus {
    if (this.removed) return BdevStatus.REMOVED;
    const health = this.health();
    if (health !== BdevStatus.OK) return health;
    if (io.op === BdevOp.FLUSH) return BdevStatus.OK;
    if (io.lba + io.blocks > this.info.numBlocks) return BdevStatus.OUT_OF_RANGE;
    if (this.info.readOnly && io.op !== BdevOp.READ && io.op !== BdevOp.COMPARE) return BdevStatus.WRITE_PROTECTED;
    if (io.op === BdevOp.UNMAP && this.limits.maxUnmapBlocks === 0) return BdevStatus.NOT_SUPPORTED;
    if (this.carriesData(io.op) && io.sgOffset + io.blocks * this.info.blockSize > io.sg.bytes)
      return BdevStatus.IO_ERROR;
    return BdevStatus.OK;
  }

  /** Send the commands of the request. @returns false when it must wait for a slot or a bounce buffer */
  private issue(request: Request, index: number): boolean {
    while (request.next < request.blocks && request.status === BdevStatus.OK) {
      if (request.locating && request.outstanding > 0) return true; // its end sends the next
      if (!this.issueOne(request, index)) return false;
    }
    return true;
  }

  private issueOne(request: Request, index: number): boolean {
    const io = request.io as BdevIo;
    const op = request.flushing ? BdevOp.FLUSH : request.locating ? BdevOp.READ : io.op;
    const left = request.blocks - request.next;
    switch (op) {
      case BdevOp.FLUSH:
        return this.issuePlain(request, index, op, 1);
      case BdevOp.UNMAP:
        return this.issuePlain(request, index, op, Math.min(left, this.limits.maxUnmapBlocks));
      case BdevOp.WRITE_ZEROES:
        if (this.limits.maxZeroBlocks > 0) {
          return this.issuePlain(request, index, op, Math.min(left, this.limits.maxZeroBlocks));
        }
        return this.issueBounced(request, index, BdevOp.WRITE, left * this.info.blockSize, false);
      default:
        if (request.locating) return this.issueBounced(request, index, op, left * this.info.blockSize, false);
        return this.issueData(request, index, op, left * this.info.blockSize);
    }
  }

  /** A command without data. */
  private issuePlain(request: Request, index: number, op: BdevOp, blocks: number): boolean {
    const slot = this.takeSlot(op);
    if (slot < 0) return false;
    this.dispatch(request, index, slot, op, blocks, NO_BOUNCE);
    return true;
  }

  private issueData(request: Request, index: number, op: BdevOp, left: number): boolean {
    const slot = this.takeSlot(op);
    if (slot < 0) return false;
    const io = request.io as BdevIo;
    const want = Math.min(left, this.limits.maxTransfer);
    const named = this.describe(slot, op, io.sg, request.cursor, want);
    // Segments that break off early (odd places, memory out of reach) are better bounced than sent in crumbs.
    if (named === want || named >= this.bounceBytes) {
      request.cursor.advance(io.sg, named);
      this.dispatch(request, index, slot, op, named / this.info.blockSize, NO_BOUNCE);
      return true;
    }
    this.dropSlot(slot);
    if (named === 0) this.zeroCopy = false;
    return this.issueBounced(request, index, op, left, true);
  }

  /** @param copies the data is the request's: counted as a bounce, and copied to the buffer when it is written */
  private issueBounced(request: Request, index: number, op: BdevOp, left: number, copies: boolean): boolean {
    const bounce = this.takeBounce();
    if (bounce < 0) return false;
    const slot = this.takeSlot(op);
    if (slot < 0) {
      this.giveBounce(bounce);
      return false;
    }
    const io = request.io as BdevIo;
    const list = this.bounceList;
    list.reset();
    list.push(this.bounceMemory, bounce, Math.min(left, this.bounceBytes, this.limits.maxTransfer));
    this.bounceCursor.seek(list, 0);
    // Its pages may lie anywhere, and the device may take few segments: then less than a buffer goes at once.
    const bytes = this.describe(slot, op, list, this.bounceCursor, list.bytes);
    if (bytes === 0) throw new Error(`${this.info.name}: a bounce buffer is out of the device's reach`);
    if (copies) {
      this.stats.bounced(bytes);
      request.cursor.advance(io.sg, bytes);
      const from = io.sgOffset + request.next * this.info.blockSize;
      if (op !== BdevOp.READ) io.sg.gather(from, this.bounceMemory, bounce, bytes);
    } else if (op === BdevOp.WRITE) {
      this.bounceMemory.u8.fill(0, bounce, bounce + bytes);
    }
    this.dispatch(request, index, slot, op, bytes / this.info.blockSize, bounce);
    return true;
  }

  private dispatch(request: Request, index: number, slot: number, op: BdevOp, blocks: number, bounce: number): void {
    const io = request.io as BdevIo;
    const block = request.next;
    this.requestOf[slot] = index;
    this.blockOf[slot] = block;
    this.blocksOf[slot] = blocks;
    this.bounceOf[slot] = bounce;
    request.next = block + blocks;
    request.outstanding++;
    this.send(slot, op, io.lba + block, blocks, io.fua);
  }

  /** A command ended: from the device's side. The slot is free already. */
  protected ended(slot: number, status: BdevStatus): void {
    const index = this.requestOf[slot];
    const request = this.requests[index];
    const bounce = this.bounceOf[slot];
    const block = this.blockOf[slot];
    const bytes = this.blocksOf[slot] * this.info.blockSize;
    this.requestOf[slot] = -1;
    const io = request.io as BdevIo;
    if (bounce !== NO_BOUNCE) {
      if (status === BdevStatus.OK) this.takeFromBounce(request, io, block * this.info.blockSize, bounce, bytes);
      this.giveBounce(bounce);
    }
    request.outstanding--;
    if (request.status === BdevStatus.OK && status !== BdevStatus.OK) this.fail(request, status);
    // One that waits in the queue is gone on with, or ended, from there.
    if (request.outstanding > 0 || request.queued) return;
    if (request.flushes && request.status === BdevStatus.OK && request.next === request.blocks) {
      request.flushes = false;
      request.flushing = true;
      request.blocks++; // the flush counts as one more
    }
    if (request.status !== BdevStatus.OK || request.next === request.blocks) this.finish(request, index);
    else if (!this.issue(request, index)) this.wait(request, io);
    else if (request.outstanding === 0) this.finish(request, index);
  }

  private fail(request: Request, status: BdevStatus): void {
    // Another command of the request has said so before: the place is looked for when all have ended.
    if (status === BdevStatus.MISCOMPARE && request.differs) return;
    if (status === BdevStatus.MISCOMPARE && !request.locating) {
      // The device does not say where: read the blocks and look. Other commands of the request may still be out.
      request.locating = true;
      request.differs = true;
      request.next = 0;
      return;
    }
    request.status = status;
  }

  private takeFromBounce(request: Request, io: BdevIo, from: number, bounce: number, bytes: number): void {
    if (request.locating) {
      const sg = io.sg;
      let skip = io.sgOffset + from;
      let done = 0;
      for (let i = 0; i < sg.count && done < bytes; i++) {
        if (skip >= sg.length[i]) {
          skip -= sg.length[i];
          continue;
        }
        const n = Math.min(sg.length[i] - skip, bytes - done);
        const at = firstDifference(sg.memory[i], sg.offset[i] + skip, this.bounceMemory, bounce + done, n);
        if (at >= 0) {
          request.status = BdevStatus.MISCOMPARE;
          io.miscompareOffset = from + done + at;
          return;
        }
        done += n;
        skip = 0;
      }
    } else if (io.op === BdevOp.READ) {
      io.sg.scatter(io.sgOffset + from, this.bounceMemory, bounce, bytes);
    }
  }

  private finish(request: Request, index: number): void {
    const io = request.io as BdevIo;
    if (request.status === BdevStatus.OK && request.differs) {
      // The device saw a difference, and now there is none: somebody wrote meanwhile. It did differ.
      request.status = BdevStatus.MISCOMPARE;
      io.miscompareOffset = 0;
    }
    io.status = request.status;
    request.io = null;
    this.freeRequests.push(index);
    io.slot = -1;
    this.inFlight--;
    this.stats.count(io, io.op === BdevOp.FLUSH ? 0 : io.blocks * this.info.blockSize);
    this.stats.latency(io.op, this.now() - request.started);
    io.owner.ioDone(io);
  }

  /** Slots or buffers may be free again, or everything has ended: go on with those that wait. */
  resume(): void {
    const health = this.health();
    if (health !== BdevStatus.OK) {
      this.failWaiting(health);
      return;
    }
    for (let io = this.waiting.peek(); io !== null; io = this.waiting.peek()) {
      const index = io.slot;
      const request = this.requests[index];
      if (!this.issue(request, index)) return;
      this.waiting.shift();
      request.queued = false;
      if (request.outstanding === 0) this.finish(request, index);
    }
  }

  /** What waits ends with this status; a request of which commands are out when those have ended. */
  private failWaiting(status: BdevStatus): void {
    // Only those that wait now: their owners may submit new ones on the way.
    for (let n = this.waiting.length; n > 0; n--) {
      const io = this.waiting.shift() as BdevIo;
      const index = io.slot;
      const request = this.requests[index];
      request.queued = false;
      if (request.status === BdevStatus.OK) request.status = status;
      if (request.outstanding === 0) this.finish(request, index);
    }
  }
}
