import type { Memory } from '../memory/memory.ts';
import type { EventLoop, Timer } from '../sys/event-loop.ts';
import {
  type BdevChannel,
  type BdevInfo,
  type BdevIo,
  BdevOp,
  type BdevShare,
  BdevStatus,
  type MemoryListener,
} from './bdev.ts';
import { BdevError } from './errors.ts';
import { IoFifo } from './io-fifo.ts';

/**
 * Rate limits of a disk: one set of token buckets in shared memory for all its channels, on whatever reactor. A request goes
 * when every bucket that concerns it is above zero, and may leave it below: so a large request is let through, and then
 * paid for.
 *
 * Reads and writes wait in queues of their own, first come first served. Operations that move no data of the guest's (FLUSH, UNMAP,
 * WRITE_ZEROES) are not limited.
 */

/** Per second; 0 is no limit. */
export interface QosLimits {
  /** Reads and writes. */
  readonly rwIos: number;
  /** Bytes, of both directions and of each. */
  readonly rwBytes: number;
  readonly readBytes: number;
  readonly writeBytes: number;
}

/** Words (Int32) of the shared memory. Rates and tokens: thousandths of a request, and bytes; rates a millisecond. */
const RATE = 0; // 4 words: IOS, RW, READ, WRITE
const TOKENS = 4; // 4 words, alike
/** Millisecond up to which tokens have been given; of the process's clock, wraps. */
const GIVEN = 8;
/** 1 while there is any limit. */
const ON = 9;
/** Requests that had to wait. */
const THROTTLED = 10;
const WORDS = 16;

const IOS = 0;
const RW = 1;
const READ = 2;
const WRITE = 3;
const IO_COST = 1000;
/** Unused tokens are kept for this long: a loop that wakes late loses no rate. Milliseconds. */
const BURST_MS = 20;
const MAX_RATE = 50_000_000;

/** The main thread's side. */
export class QosLimiter {
  /** Goes into the disk's share. */
  readonly shared = new SharedArrayBuffer(WORDS * 4);
  private readonly words = new Int32Array(this.shared);
  private current: QosLimits = { rwIos: 0, rwBytes: 0, readBytes: 0, writeBytes: 0 };

  get limits(): QosLimits {
    return this.current;
  }

  /** Requests that had to wait, since the start. */
  get throttled(): number {
    return Atomics.load(this.words, THROTTLED) >>> 0;
  }

  /** Takes effect at once in all channels. @throws BdevError */
  set(limits: QosLimits): void {
    const perMs = [
      rate('rwIos', limits.rwIos, 1),
      rate('rwBytes', limits.rwBytes, 1000),
      rate('readBytes', limits.readBytes, 1000),
      rate('writeBytes', limits.writeBytes, 1000),
    ];
    this.current = { ...limits };
    for (let i = 0; i < perMs.length; i++) {
      Atomics.store(this.words, RATE + i, perMs[i]);
      Atomics.store(this.words, TOKENS + i, perMs[i]);
    }
    Atomics.store(this.words, ON, perMs.some((r) => r > 0) ? 1 : 0);
  }
}

/** @param divisor 1: thousandths of a request a millisecond are requests a second; 1000: bytes a millisecond */
function rate(name: string, perSecond: number, divisor: number): number {
  if (!Number.isSafeInteger(perSecond) || perSecond < 0 || perSecond / divisor > MAX_RATE) {
    throw new BdevError(
      'EINVAL',
      `${name} ${perSecond}: expected an integer from 0 (no limit) to ${MAX_RATE * divisor} per second`,
      name,
    );
  }
  return Math.ceil(perSecond / divisor);
}

/** A channel whose reads and writes keep to the limits. Everything else goes to the channel within. */
export class QosChannel implements BdevChannel, MemoryListener {
  readonly info: BdevInfo;
  private readonly inner: BdevChannel;
  private readonly loop: EventLoop;
  private readonly words: Int32Array;
  private readonly reads = new IoFifo();
  private readonly writes = new IoFifo();
  private timer: Timer | undefined;
  /** Process clock minus loop clock, ms: the loops of two threads count from different instants. */
  private readonly clock: number;

  constructor(inner: BdevChannel, shared: SharedArrayBuffer, loop: EventLoop) {
    this.inner = inner;
    this.info = inner.info;
    this.loop = loop;
    this.words = new Int32Array(shared);
    this.clock = process.uptime() * 1000 - performance.now();
  }

  /** Changes with the first request that is bounced. */
  get zeroCopy(): boolean {
    return this.inner.zeroCopy;
  }

  get inFlight(): number {
    return this.inner.inFlight + this.reads.length + this.writes.length;
  }

  submit(io: BdevIo): void {
    const { op } = io;
    if (this.words[ON] === 0 || !(op === BdevOp.READ || op === BdevOp.WRITE || op === BdevOp.COMPARE)) {
      this.inner.submit(io);
      return;
    }
    const queue = op === BdevOp.WRITE ? this.writes : this.reads;
    if (queue.length === 0) {
      this.refill(this.loop.now);
      if (this.pass(io)) {
        this.inner.submit(io);
        return;
      }
    }
    Atomics.add(this.words, THROTTLED, 1);
    queue.push(io);
    this.timer ??= this.loop.after(1, this.onTimer);
  }

  /** Take the tokens of a request. False, and none are taken, when a bucket is empty. */
  private pass(io: BdevIo): boolean {
    const { words } = this;
    const own = io.op === BdevOp.WRITE ? WRITE : READ;
    if (this.empty(IOS) || this.empty(RW) || this.empty(own)) return false;
    const bytes = io.blocks * this.info.blockSize;
    if (words[RATE + IOS] > 0) Atomics.sub(words, TOKENS + IOS, IO_COST);
    if (words[RATE + RW] > 0) Atomics.sub(words, TOKENS + RW, bytes);
    if (words[RATE + own] > 0) Atomics.sub(words, TOKENS + own, bytes);
    return true;
  }

  private empty(bucket: number): boolean {
    return this.words[RATE + bucket] > 0 && Atomics.load(this.words, TOKENS + bucket) <= 0;
  }

  /** Give the tokens of the milliseconds that have passed, once for all channels: whoever moves the mark gives them. */
  private refill(now: number): void {
    const { words } = this;
    const ms = Math.floor(now / 1e6 + this.clock) | 0;
    const given = Atomics.load(words, GIVEN);
    const passed = (ms - given) | 0;
    if (passed <= 0 || Atomics.compareExchange(words, GIVEN, given, ms) !== given) return;
    const n = Math.min(passed, BURST_MS);
    for (let i = 0; i < 4; i++) {
      const perMs = words[RATE + i];
      if (perMs === 0) continue;
      const limit = Math.max(perMs * BURST_MS, IO_COST);
      const had = Atomics.load(words, TOKENS + i);
      const add = Math.min(perMs * n, limit - had);
      if (add > 0) Atomics.add(words, TOKENS + i, add);
    }
  }

  private readonly onTimer = (): void => {
    this.timer = undefined;
    this.refill(this.loop.now);
    this.drain();
    if (this.reads.length + this.writes.length > 0) this.timer ??= this.loop.after(1, this.onTimer);
  };

  /** In turn a read and a write, as long as one of them may go. */
  private drain(): void {
    let moved = true;
    while (moved) {
      const read = this.advance(this.reads);
      moved = this.advance(this.writes) || read;
    }
  }

  private advance(queue: IoFifo): boolean {
    const io = queue.peek();
    if (io === null || (this.words[ON] !== 0 && !this.pass(io))) return false;
    queue.shift();
    this.inner.submit(io);
    return true;
  }

  poll(): number {
    return this.inner.poll();
  }

  reset(): void {
    this.giveUp(BdevStatus.ABORTED);
    this.inner.reset();
  }

  resized(share: BdevShare): void {
    this.inner.resized?.(share);
  }

  remove(): void {
    this.inner.remove?.();
    this.giveUp(BdevStatus.REMOVED);
  }

  private giveUp(status: BdevStatus): void {
    for (const queue of [this.reads, this.writes]) {
      // Only those that wait now: their owners may submit others meanwhile.
      for (let n = queue.length; n > 0; n--) {
        const io = queue.shift();
        if (io === null) break;
        io.status = status;
        io.owner.ioDone(io);
      }
    }
  }

  memoryAdded(memory: Memory): void {
    (this.inner as Partial<MemoryListener>).memoryAdded?.(memory);
  }

  memoryRemoved(memory: Memory): void {
    (this.inner as Partial<MemoryListener>).memoryRemoved?.(memory);
  }

  close(): void {
    this.timer?.cancel();
    this.inner.close();
  }
}
