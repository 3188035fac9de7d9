/**
 * The express lane of a request queue: plain READs and WRITEs on disks that are memory, done in batches and at once, without a
 * slot, a task or a command. What such a request needs stands in a table, and each step is one loop over the batch, so
 * that the waits for memory (headers that the guest has just written, blocks of the disk) overlap.
 *
 * Its one rule: it does what the whole way (`RequestQueue.take`) would have done, or leaves the request to that, untouched and in
 * the ring's order. A request is plain when nothing could refuse it, hold it up or give it up; the layers say so: the shape
 * of the chain (PlainChains), the command (PlainCdb), the unit (`Lun.open`), the disk (`DirectAccess.locate`).
 */
import { BdevOp, type DirectAccess } from '../bdev/bdev.ts';
import { copyMemory } from '../memory/copy.ts';
import { type Memory, NO_MEMORY } from '../memory/memory.ts';
import type { Lun } from '../scsi/lun.ts';
import { PlainCdb } from '../scsi/plain-cdb.ts';
import {
  PLAIN_BYTES,
  PLAIN_DATA,
  PLAIN_IN,
  PLAIN_REQUEST,
  PLAIN_RESPONSE,
  PLAIN_ROW,
  PlainChains,
} from '../virtio/plain-chains.ts';
import { VIRTIO_SCSI_REQUEST, VIRTIO_SCSI_RESPONSE } from '../virtio/scsi-device.ts';
import { PUBLISH_EVERY } from './limits.ts';
import type { RunningRing } from './running-ring.ts';
import type { ScsiController } from './scsi-controller.ts';
import { flatLun, MAX_TARGETS } from './scsi-wire.ts';

// Own copies of what each request uses: a constant of another module is loaded and checked at each use.
const READ = BdevOp.READ;
const WRITE = BdevOp.WRITE;
const BATCH = PUBLISH_EVERY;
const TARGETS = MAX_TARGETS;
const RESPONSE_BYTES = VIRTIO_SCSI_RESPONSE.size;
// Word indexes. The LUN's four bytes that count are one word; so are status_qualifier, status and response.
const LUN = VIRTIO_SCSI_REQUEST.fields.lun[0] >> 2;
/** Its lowest byte is the task attribute, its highest the operation code. */
const ATTR_TO_OPCODE = VIRTIO_SCSI_REQUEST.fields.task_attr[0] >> 2;
const SENSE_LEN = VIRTIO_SCSI_RESPONSE.fields.sense_len[0] >> 2;
const RESIDUAL = VIRTIO_SCSI_RESPONSE.fields.residual[0] >> 2;
const STATUS_WORD = VIRTIO_SCSI_RESPONSE.fields.status_qualifier[0] >> 2;
/** What there is of a response without sense data. */
const GOOD_BYTES = VIRTIO_SCSI_RESPONSE.fields.sense[0];
/** The header in whole words: 51 bytes are 13. */
const HEADER_WORDS = 13;
const SIMPLE = 0;
// Of the batch's table.
const ROW_SHIFT = 3;
const REQUEST = PLAIN_REQUEST;
const RESPONSE = PLAIN_RESPONSE;
const DATA = PLAIN_DATA;
const BYTES = PLAIN_BYTES;
const IN = PLAIN_IN;
if (
  HEADER_WORDS !== Math.ceil(VIRTIO_SCSI_REQUEST.size / 4) ||
  VIRTIO_SCSI_REQUEST.fields.cdb[0] !== ATTR_TO_OPCODE * 4 + 3 ||
  PLAIN_ROW !== 1 << ROW_SHIFT
) {
  throw new Error('express-lane: the header layout has changed');
}

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

export class ExpressLane {
  private readonly chains = new PlainChains(BATCH, {
    requestBytes: VIRTIO_SCSI_REQUEST.size,
    requestWords: HEADER_WORDS,
    responseBytes: VIRTIO_SCSI_RESPONSE.size,
    responseFirst: true,
  });
  private readonly cdb = new PlainCdb();
  /** Where the blocks of a request lie. */
  private readonly place: Memory[] = new Array<Memory>(BATCH).fill(NO_MEMORY);
  private readonly placeAt = new Int32Array(BATCH);
  /** What its used element says. */
  private readonly written = new Int32Array(BATCH);
  private readonly controller: ScsiController;
  private readonly nexus: number;
  private readonly whole: WholeWay;
  private ring!: RunningRing;
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
  private lun: Lun | null = null;
  private direct: DirectAccess | null = null;
  private reads = 0;
  private readBytes = 0;
  private writes = 0;
  private writtenBytes = 0;

  constructor(controller: ScsiController, nexus: number, whole: WholeWay) {
    this.controller = controller;
    this.nexus = nexus;
    this.whole = whole;
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

  /** The unit that a request's LUN word names, where plain requests may be done at once; else null. */
  private unitOf(word: number): Lun | null {
    const target = (word >>> 8) & 0xff;
    const entry = (word & 0xff) === 1 && target < TARGETS ? this.controller.entries[target] : null;
    if (entry === null) return null;
    const lun = entry.target.unit(flatLun((word >>> 16) & 0xff, word >>> 24));
    if (lun === null) return null;
    const { direct } = lun.channel;
    if (direct === undefined) {
      this.detour = DETOUR;
      return null;
    }
    this.direct = direct;
    return lun.open(this.nexus) ? lun : null;
  }

  /**
   * Judge requests from number `from` on: each word of their headers is loaded once, here.
   * @returns the number of the first that is not plain, or is for another unit. With writes before it, `beginWrites` was said.
   */
  private decide(from: number, count: number): number {
    const { chains, cdb, place, placeAt } = this;
    const { rows } = chains;
    const words = chains.memory.u32;
    const unit = words[rows[(from << ROW_SHIFT) | REQUEST] + LUN] | 0;
    const lun = this.unitOf(unit);
    const { direct } = this;
    if (lun === null || direct === null) return from;
    const { writeProtected } = lun;
    const maxTransfer = lun.maxTransfer | 0;
    const blockSize = lun.info.blockSize | 0;
    // "| 0": known to be small from here on, where a parameter or a field would be looked at in each round. So are the sums, which
    // are of one batch.
    const begin = from | 0;
    const end = count | 0;
    let readBytes = 0;
    let writes = 0;
    let writtenBytes = 0;
    let i = begin;
    for (; i < end; i = (i + 1) | 0) {
      const r = i << ROW_SHIFT;
      const w = rows[r | REQUEST];
      if (i !== begin && (words[(w + LUN) | 0] | 0) !== unit) break;
      const first = words[(w + ATTR_TO_OPCODE) | 0] | 0;
      if ((first & 0xff) !== SIMPLE || !cdb.read(first >>> 24, words, (w + ATTR_TO_OPCODE + 1) | 0)) break;
      const { blocks, dataIn } = cdb;
      const bytes = rows[r | BYTES];
      if (blocks > maxTransfer || Math.imul(blocks, blockSize) !== bytes) break;
      if (rows[r | IN] !== dataIn || !direct.locate(cdb.lba >>> 0, blocks)) break;
      if (dataIn === 0) {
        if (writeProtected || (writes === 0 && !lun.tasks.beginWrites())) break;
        writes = (writes + 1) | 0;
        writtenBytes = (writtenBytes + bytes) | 0;
      } else readBytes = (readBytes + bytes) | 0;
      const { memory } = direct;
      if (memory !== null) {
        if (place[i] !== memory) place[i] = memory; // comparing costs less than storing a reference
        placeAt[i] = direct.offset;
      }
    }
    this.lun = lun;
    this.reads = (i - begin - writes) | 0;
    this.readBytes = readBytes;
    this.writes = writes;
    this.writtenBytes = writtenBytes;
    return i;
  }

  /**
   * Do requests that were decided on. @returns the number of the first that was not done. None, when the memory went away: before they
   * began, since the commands may have been read from other memory, or before they ended, since the data may be.
   */
  private perform(from: number, decided: number): number {
    const { lun, direct } = this;
    if (lun === null || direct === null) return from;
    if (this.ring.astray) return this.giveUp(lun, from);
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
    if (this.ring.astray) return this.giveUp(lun, from);
    this.ring.completePlain(this.chains.head, this.written, from, end);
    // Nothing is on its way behind these: let the driver have them before they are counted.
    if (this.last && end === this.chains.count && end < BATCH) this.ring.flush();
    if (this.writes > 0) lun.tasks.endWrites();
    this.whole.requests += end - from;
    this.whole.express += end - from;
    if (end < decided) return end;
    if (this.reads > 0) {
      lun.transferred(READ, this.reads, this.readBytes);
      direct.done(READ, this.reads, this.readBytes, ns);
    }
    if (this.writes > 0) {
      lun.transferred(WRITE, this.writes, this.writtenBytes);
      direct.done(WRITE, this.writes, this.writtenBytes, ns);
    }
    return end;
  }

  /** The guest was not told of these: they are done again, and counted then. */
  private giveUp(lun: Lun, from: number): number {
    if (this.writes > 0) lun.tasks.endWrites();
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

  /**
   * GOOD, and no residual. The guest's processor has to give up each line, which takes its time: all are asked for before the
   * data is moved. Nobody looks at them before the used elements are there.
   */
  private respond(from: number, end: number): void {
    const { memory, rows } = this.chains;
    const words = memory.u32;
    const bytes = memory.u8;
    const { written } = this;
    const stop = end | 0;
    for (let i = from | 0; i < stop; i = (i + 1) | 0) {
      const r = i << ROW_SHIFT;
      written[i] = rows[r | IN] !== 0 ? RESPONSE_BYTES + rows[r | BYTES] : RESPONSE_BYTES;
      const at = rows[r | RESPONSE];
      if ((at & 3) === 0) {
        const w = at >> 2;
        words[(w + SENSE_LEN) | 0] = 0;
        words[(w + RESIDUAL) | 0] = 0;
        words[(w + STATUS_WORD) | 0] = 0;
      } else {
        for (let b = 0; b < GOOD_BYTES; b++) bytes[at + b] = 0;
      }
    }
  }

  /** Name no memory any more. */
  forget(): void {
    this.chains.forget();
    this.place.fill(NO_MEMORY);
    this.lun = null;
    this.direct = null;
  }
}
