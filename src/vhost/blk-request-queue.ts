/**
 * A request queue of the virtio block device (virtio 1.2 §5.2.6): the hot path from ring to disk and back.
 *
 * Header and ranges are copied once into private memory and parsed there. A request that makes no sense is answered
 * IOERR or UNSUPP; only a chain without room for a header or a status breaks the ring.
 */
import { BdevOp, BdevStatus } from '../bdev/bdev.ts';
import { Memory } from '../memory/memory.ts';
import type { BlkController } from './blk-controller.ts';
import { BlkLane } from './blk-lane.ts';
import type { BlkHome, BlkPool, BlkSlot } from './blk-request-pool.ts';
import {
  BLK_RANGE,
  BLK_REQUEST,
  ID_BYTES,
  MAX_DATA_BYTES,
  MAX_DISCARD_BYTES,
  MAX_RANGES,
  MAX_ZERO_BYTES,
  RANGE_UNMAP,
  SECTOR,
  VIRTIO_BLK_S,
  VIRTIO_BLK_T,
} from './blk-wire.ts';
import type { ModelQueue } from './device-model.ts';
import { PUBLISH_EVERY } from './limits.ts';
import type { RunningRing } from './running-ring.ts';
import { cutBack, cutFront } from './sg-split.ts';

const TYPE = BLK_REQUEST.fields.type[0] >> 2;
const SECTOR_WORD = BLK_REQUEST.fields.sector[0] >> 2;
const RANGE_WORDS = BLK_RANGE.size >> 2;
const RANGE_NUM = BLK_RANGE.fields.num_sectors[0] >> 2;
const RANGE_FLAGS = BLK_RANGE.fields.flags[0] >> 2;
/** A sector number with more in its high word is beyond every disk, and would not be exact. */
const MAX_HIGH_WORD = 0x1f_ffff;

const { OK, IOERR, UNSUPP } = VIRTIO_BLK_S;
const BATCH = PUBLISH_EVERY;
/** How often a request is made again that a reset by another user of the disk gave up: drivers take an error for good. */
const MAX_RETRIES = 8;

/** Scratch of this thread: a status on its way. */
const answer = new Memory(new ArrayBuffer(8));

/** What the requests of one session depend on. */
export interface BlkSession {
  readonly controller: BlkController;
  readonly pool: BlkPool;
  /** The answer to GET_ID. */
  readonly id: Memory;
  /** Every write goes to stable storage before it is answered. */
  readonly writeThrough: boolean;
}

export class BlkRequestQueue implements ModelQueue, BlkHome {
  /** Requests taken. */
  requests = 0;
  /** Of those, the ones that took the express lane, were answered IOERR, were answered UNSUPP. */
  express = 0;
  failed = 0;
  unsupported = 0;
  readonly index: number;
  private readonly session: BlkSession;
  private readonly controller: BlkController;
  private readonly pool: BlkPool;
  private readonly lane: BlkLane;
  private readonly heads = new Uint16Array(BATCH);
  private ring!: RunningRing;

  constructor(index: number, session: BlkSession) {
    this.index = index;
    this.session = session;
    this.controller = session.controller;
    this.pool = session.pool;
    this.lane = new BlkLane(session, this);
  }

  begin(ring: RunningRing): void {
    this.ring = ring;
    this.lane.begin(ring);
  }

  poll(budget: number): number {
    const { ring, lane, pool, heads } = this;
    lane.expect();
    let n = 0;
    while (n < budget) {
      // Each of them may turn out to need a slot.
      const count = ring.nextMany(heads, Math.min(BATCH, budget - n, pool.room));
      if (count === 0) break;
      n += count;
      lane.take(heads, count);
    }
    return n;
  }

  /** A head as `next` gave it goes all the way. */
  take(head: number): void {
    const ring = this.ring;
    const slot = this.pool.take();
    const { dataOut, dataIn, header, status } = slot;
    slot.home = this;
    slot.head = head;
    slot.retries = 0;
    if (!ring.read(head, dataOut, dataIn)) {
      this.pool.give(slot);
      return;
    }
    this.requests++;
    if (dataOut.gather(0, header, 0, BLK_REQUEST.size) < BLK_REQUEST.size) {
      this.drop(slot, `${dataOut.bytes} readable bytes, a request header has ${BLK_REQUEST.size}`);
      return;
    }
    if (dataIn.bytes === 0) {
      this.drop(slot, 'no writable byte for the status');
      return;
    }
    if (ring.astray) {
      this.startOver(slot); // the header may be other memory's: it must not reach the disk
      return;
    }
    cutFront(dataOut, BLK_REQUEST.size, null);
    status.reset();
    cutBack(dataIn, status);
    slot.type = header.u32[TYPE];
    switch (slot.type) {
      case VIRTIO_BLK_T.IN:
        this.transfer(slot, BdevOp.READ);
        return;
      case VIRTIO_BLK_T.OUT:
        if (this.controller.readOnly) this.finish(slot, IOERR, 0);
        else this.transfer(slot, BdevOp.WRITE);
        return;
      case VIRTIO_BLK_T.FLUSH:
        this.flush(slot);
        return;
      case VIRTIO_BLK_T.GET_ID:
        this.identify(slot);
        return;
      case VIRTIO_BLK_T.DISCARD:
      case VIRTIO_BLK_T.WRITE_ZEROES:
        this.giveUp(slot);
        return;
      default:
        this.finish(slot, UNSUPP, 0);
    }
  }

  /** No request at all: the ring breaks. */
  private drop(slot: BlkSlot, reason: string): void {
    this.pool.give(slot);
    this.ring.fail(slot.head, reason);
  }

  /** The memory was exchanged: what was read of it is nothing, and the head comes again. */
  private startOver(slot: BlkSlot): void {
    this.pool.give(slot);
    this.ring.redo(slot.head);
  }

  private transfer(slot: BlkSlot, op: BdevOp): void {
    const { controller } = this;
    const { io, header } = slot;
    const data = op === BdevOp.READ ? slot.dataIn : slot.dataOut;
    const other = op === BdevOp.READ ? slot.dataOut : slot.dataIn;
    const { blockSize } = controller.info;
    const { bytes } = data;
    // Data in the other direction: the driver means something that we do not know.
    if (other.bytes > 0 || bytes % blockSize !== 0 || bytes > MAX_DATA_BYTES) {
      this.finish(slot, IOERR, 0);
      return;
    }
    if (!this.locate(slot, header, SECTOR_WORD, bytes / SECTOR)) {
      this.finish(slot, IOERR, 0);
      return;
    }
    if (bytes === 0) {
      this.finish(slot, OK, 0);
      return;
    }
    io.op = op;
    io.sg = data;
    io.sgOffset = 0;
    io.fua = op === BdevOp.WRITE && this.session.writeThrough;
    this.submit(slot);
  }

  /**
   * Where a range lies on the disk: sets the request's block numbers.
   * @param word where its first sector's number stands @param sectors how many
   * @returns false when it is not within the disk, or not whole blocks
   */
  private locate(slot: BlkSlot, from: Memory, word: number, sectors: number): boolean {
    const { info } = this.controller;
    const { io } = slot;
    const high = from.u32[word + 1];
    if (high > MAX_HIGH_WORD) return false;
    const perBlock = info.blockSize / SECTOR;
    io.lba = (high * 0x1_0000_0000 + from.u32[word]) / perBlock;
    io.blocks = sectors / perBlock;
    return Number.isInteger(io.lba) && Number.isInteger(io.blocks) && io.lba + io.blocks <= info.numBlocks;
  }

  private flush(slot: BlkSlot): void {
    const { io } = slot;
    io.op = BdevOp.FLUSH;
    io.lba = io.blocks = 0;
    io.fua = false;
    this.submit(slot);
  }

  private identify(slot: BlkSlot): void {
    const { dataIn } = slot;
    const bytes = dataIn.bytes < ID_BYTES ? dataIn.bytes : ID_BYTES;
    if (!this.ring.abandoned) dataIn.scatter(0, this.session.id, 0, bytes);
    this.finish(slot, OK, bytes);
  }

  /** DISCARD and WRITE_ZEROES: all ranges are checked before the first is touched. */
  private giveUp(slot: BlkSlot): void {
    const { info, readOnly } = this.controller;
    const { dataOut, ranges } = slot;
    const discard = slot.type === VIRTIO_BLK_T.DISCARD;
    if (readOnly || (discard && !info.unmap)) {
      this.finish(slot, UNSUPP, 0);
      return;
    }
    const { bytes } = dataOut;
    if (bytes === 0 || bytes % BLK_RANGE.size !== 0 || bytes > MAX_RANGES * BLK_RANGE.size || slot.dataIn.bytes > 0) {
      this.finish(slot, IOERR, 0);
      return;
    }
    dataOut.gather(0, ranges, 0, bytes);
    if (this.ring.astray) {
      this.startOver(slot); // and so may the ranges
      return;
    }
    slot.rangeCount = bytes / BLK_RANGE.size;
    const known = discard ? 0 : RANGE_UNMAP;
    const most = (discard ? MAX_DISCARD_BYTES : MAX_ZERO_BYTES) / SECTOR;
    for (let i = 0; i < slot.rangeCount; i++) {
      const word = i * RANGE_WORDS;
      if ((ranges.u32[word + RANGE_FLAGS] & ~known) !== 0) {
        this.finish(slot, UNSUPP, 0);
        return;
      }
      const sectors = ranges.u32[word + RANGE_NUM];
      if (sectors > most || !this.locate(slot, ranges, word, sectors)) {
        this.finish(slot, IOERR, 0);
        return;
      }
    }
    slot.nextRange = 0;
    this.nextRange(slot);
  }

  /** The next range that is not empty, or the end. */
  private nextRange(slot: BlkSlot): void {
    const { io, ranges } = slot;
    const { info } = this.controller;
    while (slot.nextRange < slot.rangeCount) {
      const word = slot.nextRange++ * RANGE_WORDS;
      const sectors = ranges.u32[word + RANGE_NUM];
      if (sectors === 0) continue;
      // Looked up again, for the disk may have shrunk since the check.
      if (!this.locate(slot, ranges, word, sectors)) {
        this.finish(slot, IOERR, 0);
        return;
      }
      const { writeThrough } = this.session;
      // Disks give blocks up without telling when that has reached the medium: not while every write must.
      const mayUnmap =
        (ranges.u32[word + RANGE_FLAGS] & RANGE_UNMAP) !== 0 && info.unmap && info.unmapZeroes && !writeThrough;
      io.op = slot.type === VIRTIO_BLK_T.DISCARD || mayUnmap ? BdevOp.UNMAP : BdevOp.WRITE_ZEROES;
      io.fua = io.op === BdevOp.WRITE_ZEROES && writeThrough;
      this.submit(slot);
      return;
    }
    this.finish(slot, OK, 0);
  }

  private submit(slot: BlkSlot): void {
    const { controller } = this;
    const { channel } = controller;
    if (channel === null) {
      this.finish(slot, IOERR, 0); // the disk has gone
      return;
    }
    if (!slot.busy) slot.started = controller.loop.now;
    slot.busy = true;
    controller.outstanding++;
    channel.submit(slot.io);
  }

  ioDone(slot: BlkSlot): void {
    const { io } = slot;
    const ok = io.status === BdevStatus.OK;
    if (io.status === BdevStatus.ABORTED && !this.ring.abandoned && slot.retries++ < MAX_RETRIES) {
      this.submit(slot);
    } else if (ok && (slot.type === VIRTIO_BLK_T.DISCARD || slot.type === VIRTIO_BLK_T.WRITE_ZEROES)) {
      this.nextRange(slot);
    } else {
      const refused = io.status === BdevStatus.NOT_SUPPORTED ? UNSUPP : IOERR;
      this.finish(slot, ok ? OK : refused, ok && slot.type === VIRTIO_BLK_T.IN ? slot.dataIn.bytes : 0);
    }
    this.controller.release();
  }

  /** @param data bytes of data-in that are surely written */
  private finish(slot: BlkSlot, status: number, data: number): void {
    const ring = this.ring;
    if (status === IOERR) this.failed++;
    else if (status === UNSUPP) this.unsupported++;
    answer.u8[0] = status;
    if (!ring.abandoned) slot.status.scatter(0, answer, 0, 1);
    // A used length promises that so many bytes are written from the beginning on (§2.7.8.2). The status is the last
    // byte: it counts only where nothing before it was left out.
    const written = data === slot.dataIn.bytes ? data + 1 : data;
    const { head } = slot;
    this.pool.give(slot);
    ring.complete(head, written);
  }

  arm(): boolean {
    // Without a slot there is nothing we could take; the completion that frees one wakes the loop.
    return this.pool.available && this.ring.ring.armNotifications();
  }

  disarm(): void {
    this.ring.ring.suppressNotifications();
  }

  stopped(): void {
    this.lane.forget();
    this.pool.forget();
  }
}
