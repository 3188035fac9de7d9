/**
 * File I/O through io_uring. What the pollers of one pass ask for goes to the kernel in one call at the beginning of the next;
 * completions that are there already come back from the same call.
 */
import { ERRNO } from './errno.ts';
import type { EventLoop, Watch } from './event-loop.ts';
import { type IoEngine, type IoHandler, LaterList, PENDING, Ports, RWF_DSYNC, slotOf } from './io-engine.ts';
import { FSYNC_DATASYNC, IORING_OP, IOSQE_FIXED_FILE, IoUring } from './io-uring.ts';
import type { IovecTable } from './iovec-table.ts';
import { logger } from './log.ts';

const log = logger('io-uring');

/** Entries between two submits; when they are used up, an extra submit makes room. */
const ENTRIES = 256;
/** Completions waiting at most before the kernel has to keep some aside (it does, at a cost). */
const CQ_ENTRIES = 2048;
const FILES = 256;
/** Registered files are told from descriptors by this bit of a `file`. */
const REGISTERED = 0x4000_0000;
/** BLOCK_URING_CMD_DISCARD, linux/blkdev.h: _IO(0x12, 0). */
const BLOCK_URING_CMD_DISCARD = 0x1200;

export class IoUringEngine implements IoEngine {
  readonly kind = 'io_uring';
  private readonly ring: IoUring;
  private readonly ports = new Ports();
  private readonly deferred = new LaterList();
  private readonly loop: EventLoop;
  private readonly watch: Watch;
  private readonly commands: boolean;
  private polling = false;

  /** @throws SysError where io_uring is not to be had */
  constructor(loop: EventLoop) {
    this.loop = loop;
    this.ring = new IoUring(ENTRIES, CQ_ENTRIES);
    this.ring.reserveFiles(FILES);
    this.commands = this.ring.knows(IORING_OP.URING_CMD);
    const { eventFd } = this.ring;
    this.watch = loop.watch(eventFd.fd.number, () => eventFd.drain());
    loop.addPoller(this);
  }

  attach(handler: IoHandler): number {
    return this.ports.attach(handler);
  }

  detach(port: number): void {
    this.ports.detach(port);
  }

  addFile(fd: number): number {
    const index = this.ring.addFile(fd);
    return index >= 0 ? REGISTERED | index : fd;
  }

  removeFile(file: number): void {
    if ((file & REGISTERED) !== 0) this.ring.removeFile(file & ~REGISTERED);
  }

  readv(tag: number, file: number, iovecs: IovecTable): number {
    return this.transfer(IORING_OP.READV, tag, file, iovecs, 0);
  }

  writev(tag: number, file: number, iovecs: IovecTable, dsync: boolean): number {
    return this.transfer(IORING_OP.WRITEV, tag, file, iovecs, dsync ? RWF_DSYNC : 0);
  }

  private transfer(op: number, tag: number, file: number, iovecs: IovecTable, opFlags: number): number {
    if (!this.makeRoom()) return this.later(tag);
    const flags = (file & REGISTERED) !== 0 ? IOSQE_FIXED_FILE : 0;
    this.ring.putVector(op, flags, file & ~REGISTERED, iovecs, slotOf(tag), opFlags, tag);
    return PENDING;
  }

  fdatasync(tag: number, file: number): number {
    return this.put(IORING_OP.FSYNC, file, 0, 0, 0, FSYNC_DATASYNC, tag);
  }

  fallocate(tag: number, file: number, mode: number, position: number, bytes: number): number {
    return this.put(IORING_OP.FALLOCATE, file, position, bytes, mode, 0, tag);
  }

  discard(tag: number, file: number, position: number, bytes: number): number {
    if (!this.commands) return -ERRNO.EOPNOTSUPP;
    if (!this.makeRoom()) return this.later(tag);
    const flags = (file & REGISTERED) !== 0 ? IOSQE_FIXED_FILE : 0;
    this.ring.putDiscard(BLOCK_URING_CMD_DISCARD, flags, file & ~REGISTERED, position, bytes, tag);
    return PENDING;
  }

  later(tag: number): number {
    this.deferred.add(tag);
    return PENDING;
  }

  private put(
    op: number,
    file: number,
    position: number,
    address: number,
    length: number,
    opFlags: number,
    tag: number,
  ): number {
    if (!this.makeRoom()) return this.later(tag);
    const flags = (file & REGISTERED) !== 0 ? IOSQE_FIXED_FILE : 0;
    this.ring.put(op, flags, file & ~REGISTERED, position, address, length, opFlags, tag);
    return PENDING;
  }

  private makeRoom(): boolean {
    if (this.ring.room > 0) return true;
    this.ring.submit(); // what goes wrong here goes wrong again in poll, which tells the requests
    return this.ring.room > 0;
  }

  completion(tag: number, result: number): void {
    this.ports.complete(tag, result);
  }

  /** Called by the loop in every pass, and by whoever wants its requests to go sooner. */
  poll(): number {
    if (this.polling) return 0; // a handler of ours asks: the completions are being taken already
    this.polling = true;
    try {
      return this.pass();
    } finally {
      this.polling = false;
    }
  }

  private pass(): number {
    let work = this.deferred.length > 0 ? this.deferred.run(this.ports, -ERRNO.EAGAIN) : 0;
    const waiting = this.ring.waiting;
    if (waiting > 0) {
      const error = this.ring.submit();
      if (error !== 0 && error !== ERRNO.EAGAIN && error !== ERRNO.EBUSY) this.refuse(error);
      work += waiting - this.ring.waiting;
    }
    return work + this.ring.reap(this);
  }

  /** The kernel takes no entries any more: say so to those who asked. */
  private refuse(error: number): void {
    log.warn(`io_uring_enter failed with errno ${error}; its requests fail`);
    const tags: number[] = [];
    this.ring.dropUnsubmitted((tag) => tags.push(tag));
    for (const tag of tags) this.ports.complete(tag, -error);
  }

  arm(): boolean {
    return this.ring.arm() || this.deferred.length > 0;
  }

  disarm(): void {
    this.ring.disarm();
  }

  close(): void {
    this.loop.removePoller(this);
    this.watch.close();
    this.ring.close();
  }
}
