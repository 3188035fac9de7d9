import { FALLOC_FL } from '../sys/constants.ts';
import { ERRNO } from '../sys/errno.ts';
import type { EventLoop } from '../sys/event-loop.ts';
import { type IoEngine, type IoHandler, PENDING, tagOf } from '../sys/io-engine.ts';
import { IovecTable, NOT_ALIGNED } from '../sys/iovec-table.ts';
import { logger } from '../sys/log.ts';
import { type Mapping, mapAnonymous } from '../sys/mapping.ts';
import { acquireEngine, preferredEngine, releaseEngine } from '../sys/shared-engine.ts';
import { type BdevChannel, type BdevInfo, type BdevIo, BdevOp, type BdevShare, BdevStatus } from './bdev.ts';
import { BouncePool } from './bounce-pool.ts';
import { differenceIn } from './compare.ts';
import { BdevError } from './errors.ts';
import type { FileShare } from './file-bdev.ts';
import { statusOfErrno } from './file-status.ts';
import { IoFifo } from './io-fifo.ts';
import { type ChannelStats, claimStats, SAMPLE_EVERY } from './io-stats.ts';

/**
 * A reactor's way to a file disk. A request takes a slot and goes to the kernel as one call or, when the kernel does less than
 * asked, or a bounce buffer holds less, as several, one after another. It registers with the event loop through its engine; nobody
 * needs to poll it.
 */

const log = logger('file');

/** Requests in the kernel at once; more wait. */
const SLOTS = 256;
const BOUNCE_BUFFERS = 16;
const BOUNCE_SIZE = 0x4_0000;
const ZEROES = 0x1_0000;
/** How long EAGAIN is taken for an answer. Nanoseconds. */
const PATIENCE_NS = 30e9;

/** Ways to zero a range, best first; a file system that does not know one is not asked again. */
const ZERO_METHODS = [FALLOC_FL.ZERO_RANGE | FALLOC_FL.KEEP_SIZE, FALLOC_FL.PUNCH_HOLE | FALLOC_FL.KEEP_SIZE] as const;
const PUNCH = 1;
const WRITE_THEM = 2;

/** Not a result of the engine: the request waits for a bounce buffer. */
const WAITING = PENDING + 1;

export class FileChannel implements BdevChannel, IoHandler {
  readonly info: BdevInfo;
  /** Without O_DIRECT the kernel copies from and to any buffer; with it, only aligned ones are reached by the device. */
  readonly zeroCopy: boolean;
  private readonly loop: EventLoop;
  private readonly engine: IoEngine;
  private readonly port: number;
  private readonly file: number;
  private readonly share: FileShare;
  private readonly memoryMask: number;
  private readonly lengthMask: number;
  private readonly stats: ChannelStats;
  private readonly iovecs = new IovecTable(SLOTS);
  private readonly bounces = new BouncePool(BOUNCE_BUFFERS, BOUNCE_SIZE);
  private zeroes: Mapping | undefined;

  // Requests by slot.
  private readonly ios = new Array<BdevIo | null>(SLOTS).fill(null);
  /** Bytes of the request, done, and in the call that runs. */
  private readonly total = new Float64Array(SLOTS);
  private readonly done = new Float64Array(SLOTS);
  private readonly piece = new Float64Array(SLOTS);
  /** Bounce buffer, or -1. */
  private readonly bounce = new Int32Array(SLOTS).fill(-1);
  /** 1 when all data is there and only the sync is missing. */
  private readonly syncing = new Uint8Array(SLOTS);
  /** 1 between an EAGAIN and the next try. */
  private readonly setAside = new Uint8Array(SLOTS);
  private readonly freeSlots = new Int32Array(SLOTS);
  private freeCount = SLOTS;
  /** Requests without a slot, and slots without a bounce buffer. */
  private readonly waiting = new IoFifo();
  private readonly needBounce: number[] = [];

  private zeroMethod: number;
  private punches: boolean;
  /** The engine does requests within the call: their time is sampled. */
  private readonly atOnce: boolean;
  private ticks = 0;
  /** O_DIRECT cannot reach the guest's memory (a BAR's pages cannot be pinned): everything goes through bounce buffers. */
  private unpinnable = false;
  private removed = false;
  private closed = false;

  /** @throws SysError when the host refuses the engine */
  constructor(share: BdevShare, loop: EventLoop) {
    const data = share.data as FileShare;
    this.info = { ...share.info };
    this.share = data;
    this.loop = loop;
    this.memoryMask = data.memoryAlign - 1;
    this.lengthMask = data.lengthAlign - 1;
    this.zeroCopy = data.lengthAlign > 1;
    this.zeroMethod = data.fallocate ? 0 : WRITE_THEM;
    this.punches = data.unmap === 'punch';
    for (let i = 0; i < SLOTS; i++) this.freeSlots[i] = SLOTS - 1 - i;
    this.engine = acquireEngine(loop, data.engine ?? preferredEngine());
    this.atOnce = this.engine.kind === 'inline';
    this.port = this.engine.attach(this);
    this.file = this.engine.addFile(data.fd);
    this.stats = claimStats(share.stats);
    if (log.enabled)
      log('%s: %s, alignment %d/%d', this.info.name, this.engine.kind, data.memoryAlign, data.lengthAlign);
  }

  /** "io_uring", "threads" or "inline". */
  get engineKind(): string {
    return this.engine.kind;
  }

  get inFlight(): number {
    return SLOTS - this.freeCount + this.waiting.length;
  }

  submit(io: BdevIo): void {
    io.started = this.loop.now;
    const status = this.check(io);
    if (status !== BdevStatus.OK || (io.blocks === 0 && io.op !== BdevOp.FLUSH)) {
      this.end(io, status);
    } else if (this.freeCount === 0 || this.waiting.length > 0) {
      this.stats.queued();
      this.waiting.push(io);
    } else if (this.atOnce && (this.ticks++ & (SAMPLE_EVERY - 1)) === 0) {
      // The loop's clock stands still while a request is done at once.
      const began = performance.now();
      const { op } = io; // the owner may use it for another when this returns
      this.start(io);
      this.stats.latency(op, (performance.now() - began) * 1e6);
    } else {
      this.start(io);
    }
  }

  private check(io: BdevIo): BdevStatus {
    const info = this.info;
    if (this.removed) return BdevStatus.REMOVED;
    if (io.lba + io.blocks > info.numBlocks) return BdevStatus.OUT_OF_RANGE;
    switch (io.op) {
      case BdevOp.WRITE:
        if (info.readOnly) return BdevStatus.WRITE_PROTECTED;
        return this.hasBuffers(io) ? BdevStatus.OK : BdevStatus.IO_ERROR;
      case BdevOp.READ:
      case BdevOp.COMPARE:
        return this.hasBuffers(io) ? BdevStatus.OK : BdevStatus.IO_ERROR;
      case BdevOp.UNMAP:
        if (info.readOnly) return BdevStatus.WRITE_PROTECTED;
        return info.unmap ? BdevStatus.OK : BdevStatus.NOT_SUPPORTED;
      case BdevOp.WRITE_ZEROES:
        return info.readOnly ? BdevStatus.WRITE_PROTECTED : BdevStatus.OK;
      case BdevOp.FLUSH:
        return BdevStatus.OK;
      default:
        return BdevStatus.NOT_SUPPORTED;
    }
  }

  /** A list that is shorter than the transfer is the caller's mistake. */
  private hasBuffers(io: BdevIo): boolean {
    return io.sgOffset + io.blocks * this.info.blockSize <= io.sg.bytes;
  }

  private start(io: BdevIo): void {
    const slot = this.freeSlots[--this.freeCount];
    this.ios[slot] = io;
    io.slot = slot;
    this.total[slot] = io.op === BdevOp.FLUSH ? 0 : io.blocks * this.info.blockSize;
    this.done[slot] = 0;
    this.setAside[slot] = 0;
    this.syncing[slot] = io.op === BdevOp.FLUSH ? 1 : 0;
    this.run(slot);
  }

  /** Make calls for the slot until one is pending or the request has ended. */
  private run(slot: number): void {
    for (;;) {
      const result = this.issue(slot, this.ios[slot] as BdevIo);
      if (result === PENDING || result === WAITING) return;
      if (this.took(slot, result)) return;
    }
  }

  ioComplete(slot: number, result: number): void {
    if (!this.took(slot, result)) this.run(slot);
  }

  /** Make the next call. @returns its result, PENDING or WAITING */
  private issue(slot: number, io: BdevIo): number {
    const tag = tagOf(this.port, slot);
    if (this.syncing[slot] === 1) return this.engine.fdatasync(tag, this.file);
    const left = this.total[slot] - this.done[slot];
    this.iovecs.position[slot] = io.lba * this.info.blockSize + this.done[slot];
    switch (io.op) {
      case BdevOp.READ:
      case BdevOp.WRITE:
        return this.transfer(slot, io, tag, left);
      case BdevOp.COMPARE:
        return this.transferBounced(slot, io, tag, left);
      default:
        return this.deallocate(slot, io, tag, left);
    }
  }

  private transfer(slot: number, io: BdevIo, tag: number, left: number): number {
    // Once bounced, always bounced: the buffer's contents belong to the call that runs.
    if (this.bounce[slot] >= 0 || this.unpinnable) return this.transferBounced(slot, io, tag, left);
    const { iovecs } = this;
    const from = io.sgOffset + this.done[slot];
    const count = iovecs.fill(slot, io.sg, from, left, this.memoryMask, this.lengthMask);
    if (count === NOT_ALIGNED) return this.transferBounced(slot, io, tag, left);
    this.piece[slot] = iovecs.bytes[slot];
    if (io.op === BdevOp.READ) return this.engine.readv(tag, this.file, iovecs);
    return this.engine.writev(tag, this.file, iovecs, io.fua);
  }

  /** Through a buffer of ours, as much as it holds. */
  private transferBounced(slot: number, io: BdevIo, tag: number, left: number): number {
    if (this.bounce[slot] < 0) {
      const buffer = this.bounces.take();
      if (buffer < 0) {
        this.stats.queued();
        this.needBounce.push(slot);
        return WAITING;
      }
      this.bounce[slot] = buffer;
    }
    const { memory, size } = this.bounces;
    const at = this.bounce[slot] * size;
    const n = Math.min(left, size);
    if (io.op !== BdevOp.COMPARE) this.stats.bounced(n);
    this.piece[slot] = n;
    this.iovecs.fillOne(slot, memory, at, n);
    if (io.op !== BdevOp.WRITE) return this.engine.readv(tag, this.file, this.iovecs);
    if (this.move(slot, io, n) !== n) return -ERRNO.EFAULT;
    return this.engine.writev(tag, this.file, this.iovecs, io.fua);
  }

  /** Copy between the request's buffers and its bounce buffer. @returns bytes; fewer when a buffer has been revoked */
  private move(slot: number, io: BdevIo, bytes: number): number {
    const { memory, size } = this.bounces;
    const at = this.bounce[slot] * size;
    const from = io.sgOffset + this.done[slot];
    try {
      return io.op === BdevOp.WRITE ? io.sg.gather(from, memory, at, bytes) : io.sg.scatter(from, memory, at, bytes);
    } catch {
      return -1;
    }
  }

  /** UNMAP and WRITE_ZEROES. */
  private deallocate(slot: number, io: BdevIo, tag: number, left: number): number {
    const position = this.iovecs.position[slot];
    this.piece[slot] = left;
    if (io.op === BdevOp.UNMAP) {
      if (this.share.unmap === 'discard') return this.engine.discard(tag, this.file, position, left);
      if (this.punches) return this.engine.fallocate(tag, this.file, ZERO_METHODS[PUNCH], position, left);
    } else if (this.zeroMethod < WRITE_THEM) {
      return this.engine.fallocate(tag, this.file, ZERO_METHODS[this.zeroMethod], position, left);
    }
    this.zeroes ??= mapAnonymous(ZEROES);
    this.iovecs.fillRepeated(slot, this.zeroes.memoryAt(0, ZEROES), left);
    this.piece[slot] = this.iovecs.bytes[slot];
    return this.engine.writev(tag, this.file, this.iovecs, io.fua);
  }

  /** Take the result of the last call. @returns whether the request has ended (or waits elsewhere) */
  private took(slot: number, result: number): boolean {
    const io = this.ios[slot] as BdevIo;
    if (result < 0) return this.failed(slot, io, -result);
    if (this.syncing[slot] === 1) return this.finish(slot, BdevStatus.OK);
    switch (io.op) {
      case BdevOp.READ:
      case BdevOp.COMPARE:
        // Nothing read means that the file has become shorter than the disk.
        if (result === 0) return this.finish(slot, BdevStatus.READ_ERROR);
        if (this.bounce[slot] >= 0 && !this.deliver(slot, io, result)) return true;
        break;
      case BdevOp.WRITE:
        if (result === 0) return this.finish(slot, BdevStatus.WRITE_ERROR);
        break;
      default:
        // fallocate and discard answer 0 for all of it; written zeroes answer bytes.
        if (result === 0) result = this.piece[slot];
    }
    this.done[slot] += result;
    if (this.done[slot] < this.total[slot]) return false;
    if (io.op === BdevOp.WRITE_ZEROES && io.fua) {
      this.syncing[slot] = 1;
      return false;
    }
    return this.finish(slot, BdevStatus.OK);
  }

  /** What was read into the bounce buffer goes to the request, or is compared with it. False when that ended it. */
  private deliver(slot: number, io: BdevIo, bytes: number): boolean {
    if (io.op === BdevOp.READ) {
      if (this.move(slot, io, bytes) === bytes) return true;
      this.finish(slot, BdevStatus.IO_ERROR);
      return false;
    }
    const at = this.bounce[slot] * this.bounces.size;
    const difference = differenceIn(io.sg, io.sgOffset + this.done[slot], this.bounces.memory, at, bytes);
    if (difference < 0) return true;
    io.miscompareOffset = this.done[slot] + difference;
    this.finish(slot, BdevStatus.MISCOMPARE);
    return false;
  }

  private failed(slot: number, io: BdevIo, errno: number): boolean {
    if (errno === ERRNO.EINTR) return false;
    if (errno === ERRNO.EAGAIN && this.loop.now - io.started < PATIENCE_NS) {
      // First the kernel's EAGAIN, which sets the request aside; then that of `later`, a pass after: try again.
      this.setAside[slot] ^= 1;
      if (this.setAside[slot] === 0) return false;
      this.engine.later(tagOf(this.port, slot));
      return true;
    }
    if (errno === ERRNO.EFAULT && this.zeroCopy && this.bounce[slot] < 0 && this.syncing[slot] === 0) {
      if (!this.unpinnable) log('%s: memory that O_DIRECT cannot reach; using bounce buffers', this.info.name);
      this.unpinnable = true;
      return false;
    }
    if (errno === ERRNO.EOPNOTSUPP && this.syncing[slot] === 0 && this.downgrade(io)) {
      return io.op === BdevOp.UNMAP && this.share.unmap === 'discard' ? this.finish(slot, BdevStatus.OK) : false;
    }
    log('%s: op %d at %d+%d: errno %d', this.info.name, io.op, io.lba, io.blocks, errno);
    return this.finish(slot, statusOfErrno(errno, io.op));
  }

  /** The host cannot do it this way: note that. @returns whether there is another way */
  private downgrade(io: BdevIo): boolean {
    if (io.op === BdevOp.WRITE_ZEROES && this.zeroMethod < WRITE_THEM) {
      this.zeroMethod++;
      return true;
    }
    if (io.op !== BdevOp.UNMAP) return false;
    // A discard promises nothing, so doing nothing keeps the promise; a hole must read as zeroes, so they are written.
    const other = this.share.unmap === 'discard' || this.punches;
    this.punches = false;
    return other;
  }

  private finish(slot: number, status: BdevStatus): true {
    const io = this.ios[slot] as BdevIo;
    this.ios[slot] = null;
    io.slot = -1;
    const buffer = this.bounce[slot];
    this.bounce[slot] = -1;
    this.freeSlots[this.freeCount++] = slot;
    if (buffer >= 0) this.releaseBounce(buffer);
    this.end(io, status);
    // The owner may have submitted more, or closed us.
    while (!this.closed && this.waiting.length > 0 && this.freeCount > 0) this.start(this.waiting.shift() as BdevIo);
    return true;
  }

  private releaseBounce(buffer: number): void {
    this.bounces.give(buffer);
    const next = this.needBounce.shift();
    if (next !== undefined) this.run(next);
  }

  private end(io: BdevIo, status: BdevStatus): void {
    io.status = status;
    this.stats.count(io, io.op === BdevOp.FLUSH ? 0 : io.blocks * this.info.blockSize);
    if (!this.atOnce) this.stats.latency(io.op, this.loop.now - io.started);
    io.owner.ioDone(io);
  }

  /** The loop polls the engine anyway; this sends what was submitted in this pass, and takes what is there. */
  poll(): number {
    return this.freeCount < SLOTS ? this.engine.poll() : 0;
  }

  /** What waits is given up; the kernel's calls cannot be, and end soon. */
  reset(): void {
    this.giveUpWaiting(BdevStatus.ABORTED);
  }

  resized(share: BdevShare): void {
    this.info.numBlocks = share.info.numBlocks;
  }

  remove(): void {
    this.removed = true;
    this.giveUpWaiting(BdevStatus.REMOVED);
  }

  private giveUpWaiting(status: BdevStatus): void {
    // Only those that wait now: their owners may submit others meanwhile.
    for (let n = this.waiting.length; n > 0; n--) {
      const io = this.waiting.shift();
      if (io === null) return;
      this.end(io, status);
    }
  }

  close(): void {
    if (this.closed) return;
    if (this.inFlight > 0) throw new Error(`disk ${this.info.name}: closed with ${this.inFlight} requests in flight`);
    this.closed = true;
    this.engine.removeFile(this.file);
    this.engine.detach(this.port);
    releaseEngine(this.loop, this.engine);
    this.iovecs.close();
    this.bounces.close();
    this.zeroes?.unmap();
    this.stats.close();
  }
}

/** @throws BdevError when the share is another kind's */
export function openFileChannel(share: BdevShare, loop: EventLoop): FileChannel {
  if (share.kind !== 'aio') throw new BdevError('EINVAL', `a ${share.kind} disk is no file disk`);
  return new FileChannel(share, loop);
}
