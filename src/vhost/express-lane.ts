/**
 * The express lane of a request queue: plain reads and writes on disks that are memory, done in batches and at once, without a
 * slot, a task or a command. What such a request needs stands in a table, and each step is one loop over the batch, so
 * that the waits for memory (headers that the guest has just written, blocks of the disk) overlap.
 *
 * Its one rule: it does what the whole way (`RequestQueue.take`) would have done, or leaves the request to that, untouched and in
 * the ring's order. A request is plain when nothing could refuse it, hold it up or give it up; the layers say so: the shape
 * of the chain (PlainChains), the command and its unit (ScsiLane, BlkLane), the disk (`DirectAccess.locate`).
 *
 * A process that serves one kind of device has one kind of lane: what is left to a kind is called once a batch, and its loops are its own.
 */
import { BdevOp, type DirectAccess } from '../bdev/bdev.ts';
import { copyMemory } from '../memory/copy.ts';
import { type Memory, NO_MEMORY } from '../memory/memory.ts';
import {
  PLAIN_BYTES,
  PLAIN_DATA,
  PLAIN_IN,
  PLAIN_REQUEST,
  PLAIN_ROW,
  PlainChains,
  type PlainShape,
} from '../virtio/plain-chains.ts';
import { PUBLISH_EVERY } from './limits.ts';
import type { RunningRing } from './running-ring.ts';

// Own copies of what each request uses: a constant of another module is loaded and checked at each use.
const READ = BdevOp.READ;
const WRITE = BdevOp.WRITE;
const BATCH = PUBLISH_EVERY;
// Of the batch's table.
const ROW_SHIFT = 3;
const REQUEST = PLAIN_REQUEST;
const DATA = PLAIN_DATA;
const BYTES = PLAIN_BYTES;
const IN = PLAIN_IN;
if (PLAIN_ROW !== 1 << ROW_SHIFT) throw new Error('express-lane: the rows of plain chains have changed');

/** Heads that go the whole way after one has met a disk that is no memory: the look at them costs something, too. */
const DETOUR = 256;
/** Every so many batches one is timed. */
const TIMED = 63;

/** The whole way. */
export interface WholeWay {
  take(head: number): void;
  /** Requests taken, and those of them that the lane has done. */
  requests: number;
  express: number;
}

export abstract class ExpressLane {
  protected readonly chains: PlainChains;
  /** Where the blocks of a request lie. */
  protected readonly place: Memory[] = new Array<Memory>(BATCH).fill(NO_MEMORY);
  protected readonly placeAt = new Int32Array(BATCH);
  /** What its used element says. */
  protected readonly written = new Int32Array(BATCH);
  private readonly whole: WholeWay;
  protected ring!: RunningRing;
  /** Heads still to go the whole way. */
  private detour = 0;
  /** No head follows those of the batch. */
  private last = false;
  /** The memory under the ring was exchanged: what is left of the heads goes back. */
  private astray = false;
  private ticks = 0;
  /** What was loaded for no other reason than to have it in the cache. */
  private touched = 0;

  // The run that is being decided on: requests of one unit, one behind the other.
  protected direct: DirectAccess | null = null;
  protected reads = 0;
  protected readBytes = 0;
  protected writes = 0;
  protected writtenBytes = 0;

  constructor(shape: PlainShape, whole: WholeWay) {
    this.chains = new PlainChains(BATCH, shape);
    this.whole = whole;
  }

  // Of the kind of device.

  /**
   * Judge requests from number `from` on, and set what they are: each word of their headers is loaded once, here.
   * @returns the number of the first that is not plain, or is for another unit. With requests before it `performed` follows.
   */
  protected abstract decide(from: number, count: number): number;

  /** Answer them: all is well. Sets `written`. */
  protected abstract respond(from: number, end: number): void;

  /** What was decided on is over, done or not. */
  protected abstract performed(): void;

  /** So many of one kind were done: for counters of the device's own. */
  protected abstract transferred(op: BdevOp, requests: number, bytes: number): void;

  // For the kind of device.

  /** The disk is no memory. */
  protected makeDetour(): void {
    this.detour = DETOUR;
  }

  begin(ring: RunningRing): void {
    this.ring = ring;
  }

  /**
   * Something has come. At low depths drivers use the same header again and again: ask for the last one's place now, while the
   * ring is read, for the guest's processor takes its time to give it. Another place costs one load in vain.
   */
  expect(): void {
    const { memory, rows } = this.chains;
    const words = memory.u32;
    const at = rows[REQUEST];
    if (at < words.length) this.touched = (this.touched + words[at]) | 0;
  }

  /** Do the requests of these heads, as `next` gave them, in their order, or send them the whole way. */
  take(heads: Uint16Array, count: number): void {
    this.astray = false;
    for (let i = 0; i < count; ) {
      let read = 0;
      if (this.detour > 0) this.detour--;
      else if (this.ring.ring.broken === null) read = this.ring.readPlain(heads, i, count, this.chains);
      if (read > 0) {
        this.last = i + read === count;
        i += this.run(read);
      } else if (read === 0) this.leave(heads[i++]);
      else this.astray = true;
      if (this.astray) {
        this.ring.again(heads, i, count);
        return;
      }
    }
  }

  /** Do the batch. @returns how many are done or have gone the whole way: all, unless the memory went away */
  private run(count: number): number {
    if (count > 1) this.touchHeaders(count);
    for (let i = 0; i < count; ) {
      const decided = this.ring.ring.broken === null ? this.decide(i, count) : i;
      const done = decided > i ? this.perform(i, decided) : i;
      if (done > i && done === decided) i = done;
      else if (this.astray) return i;
      else {
        this.leave(this.chains.head[done]);
        i = done + 1;
        if (this.astray) return i;
      }
    }
    return count;
  }

  /** Ask for all headers at once: the guest's processor has each in its cache, and takes its time to give it. */
  private touchHeaders(count: number): void {
    const { memory, rows } = this.chains;
    const words = memory.u32;
    const end = count | 0;
    let sum = this.touched | 0;
    for (let i = 0; i < end; i = (i + 1) | 0) sum = (sum + words[rows[(i << ROW_SHIFT) | REQUEST]]) | 0;
    this.touched = sum;
  }

  /** One goes the whole way; but behind one that broke the ring there nothing is done: it was never taken. */
  private leave(head: number): void {
    const { ring } = this.ring;
    if (ring.broken !== null) {
      ring.unpop(head);
      return;
    }
    this.whole.take(head);
    // It came back, for the memory went away: those behind it come after it again. (Where heads were waiting before, it was alone.)
    if (ring.recovering > 0) this.astray = true;
  }

  /**
   * Do requests that were decided on. @returns the number of the first that was not done. None, when the memory went away: before they
   * began, since the commands may have been read from other memory, or before they ended, since the data may be.
   */
  private perform(from: number, decided: number): number {
    const { direct } = this;
    if (direct === null) return from;
    if (this.ring.astray) return this.giveUp(from);
    let end = decided;
    let ns = -1;
    this.ring.ring.claim(decided - from);
    // A response may lie in what a write reads: only reads get theirs before the data is moved.
    const early = this.writes === 0;
    if (early) this.respond(from, decided);
    if (direct.memory !== null) {
      const timed = (this.ticks++ & TIMED) === 0;
      const began = timed ? performance.now() : 0;
      end = this.move(from, decided);
      if (timed) ns = (((performance.now() - began) * 1e6) / (decided - from)) | 0;
    }
    if (!early) this.respond(from, end);
    if (this.ring.astray) return this.giveUp(from);
    this.ring.completePlain(this.chains.head, this.written, from, end);
    // Nothing is on its way behind these: let the driver have them before they are counted.
    if (this.last && end === this.chains.count && end < BATCH) this.ring.flush();
    this.performed();
    this.whole.requests += end - from;
    this.whole.express += end - from;
    if (end < decided) return end;
    if (this.reads > 0) {
      this.transferred(READ, this.reads, this.readBytes);
      direct.done(READ, this.reads, this.readBytes, ns);
    }
    if (this.writes > 0) {
      this.transferred(WRITE, this.writes, this.writtenBytes);
      direct.done(WRITE, this.writes, this.writtenBytes, ns);
    }
    return end;
  }

  /** The guest was not told of these: they are done again, and counted then. */
  private giveUp(from: number): number {
    this.performed();
    this.astray = true;
    return from;
  }

  /** Move the data. @returns the number of the first request whose data could not be moved */
  private move(from: number, end: number): number {
    const { place, placeAt } = this;
    const { dataMemory, rows } = this.chains;
    let i = from;
    try {
      // Blocks at random places are in no cache: ask for all of them, before the first copy has to wait for its own.
      let sum = this.touched;
      if (end - from > 1) for (let j = from; j < end; j++) sum = (sum + place[j].u32[placeAt[j] >> 2]) | 0;
      this.touched = sum;
      for (; i < end; i++) {
        const r = i << ROW_SHIFT;
        const at = rows[r | DATA];
        const bytes = rows[r | BYTES];
        if (rows[r | IN] !== 0) copyMemory(dataMemory[i], at, place[i], placeAt[i], bytes);
        else copyMemory(place[i], placeAt[i], dataMemory[i], at, bytes);
      }
    } catch {
      // Only when memory was revoked under a request, which its owner should have prevented: the disk says what becomes of it.
    }
    return i;
  }

  /** Name no memory any more. */
  forget(): void {
    this.chains.forget();
    this.place.fill(NO_MEMORY);
    this.direct = null;
  }
}
