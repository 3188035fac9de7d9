/**
 * A request queue of the virtio SCSI device (virtio 1.2 §5.6.6.1): the hot path from ring to SCSI task and back.
 *
 * The header is copied once into private memory and parsed there; nobody looks at the guest's copy again. A request
 * holds a slot of the session's pool from here to its response.
 */
import { copyMemory } from '../memory/copy.ts';
import { Memory } from '../memory/memory.ts';
import { VIRTIO_SCSI_REQUEST, VIRTIO_SCSI_RESPONSE, VirtioScsiResponse } from '../virtio/scsi-device.ts';
import type { ModelQueue } from './device-model.ts';
import { PUBLISH_EVERY } from './limits.ts';
import type { RunningRing } from './running-ring.ts';
import type { ScsiController } from './scsi-controller.ts';
import { ScsiLane } from './scsi-lane.ts';
import type { RequestHome, RequestPool, RequestSlot } from './scsi-request-pool.ts';
import { flatLun, MAX_TARGETS, RESPONSE_OF_TASK } from './scsi-wire.ts';
import { cutFront } from './sg-split.ts';

// Word indexes. The LUN's four bytes that count are one word; so are status_qualifier, status and response.
const LUN = VIRTIO_SCSI_REQUEST.fields.lun[0] >> 2;
const TAG = VIRTIO_SCSI_REQUEST.fields.id[0] >> 2;
const ATTR = VIRTIO_SCSI_REQUEST.fields.task_attr[0] >> 2;
const SENSE_LEN = VIRTIO_SCSI_RESPONSE.fields.sense_len[0] >> 2;
const RESIDUAL = VIRTIO_SCSI_RESPONSE.fields.residual[0] >> 2;
const STATUS_WORD = VIRTIO_SCSI_RESPONSE.fields.status_qualifier[0] >> 2;
const SENSE = VIRTIO_SCSI_RESPONSE.fields.sense[0];
// Own copies of what each request uses: a constant of another module is loaded and checked at each use.
const REQUEST_BYTES = VIRTIO_SCSI_REQUEST.size;
const RESPONSE_BYTES = VIRTIO_SCSI_RESPONSE.size;
const BATCH = PUBLISH_EVERY;
const TARGETS = MAX_TARGETS;
const CODES = RESPONSE_OF_TASK;
/** The header in whole words: 51 bytes are 13. */
const HEADER_WORDS = 13;
if (HEADER_WORDS !== Math.ceil(VIRTIO_SCSI_REQUEST.size / 4))
  throw new Error('scsi-request-queue: the header layout has changed');

/**
 * Copy an aligned header, each word once. The last word has a byte behind the header, which nobody looks at.
 * @returns false when it is not aligned, or ends with its memory
 */
function copyHeader(memory: Memory, at: number, to: Uint32Array): boolean {
  const words = memory.u32;
  const w = at >> 2;
  if ((at & 3) !== 0 || w + HEADER_WORDS > words.length) return false;
  to[0] = words[w];
  to[1] = words[w + 1];
  to[2] = words[w + 2];
  to[3] = words[w + 3];
  to[4] = words[w + 4];
  to[5] = words[w + 5];
  to[6] = words[w + 6];
  to[7] = words[w + 7];
  to[8] = words[w + 8];
  to[9] = words[w + 9];
  to[10] = words[w + 10];
  to[11] = words[w + 11];
  to[12] = words[w + 12];
  return true;
}

/** Scratch of this thread: a response between compose and copy. */
const answer = new Memory(new ArrayBuffer(112));

export class RequestQueue implements ModelQueue, RequestHome {
  /** Requests taken. */
  requests = 0;
  /** Of those, the ones that took the express lane. */
  express = 0;
  /** Requests to targets that are not there: guests scan. */
  badTargets = 0;
  private readonly controller: ScsiController;
  private readonly nexus: number;
  private readonly pool: RequestPool;
  readonly index: number;
  private readonly lane: ScsiLane;
  private readonly heads = new Uint16Array(BATCH);
  private ring!: RunningRing;

  constructor(index: number, controller: ScsiController, nexus: number, pool: RequestPool) {
    this.index = index;
    this.controller = controller;
    this.nexus = nexus;
    this.pool = pool;
    this.lane = new ScsiLane(controller, nexus, this);
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
    const { frame, dataOut, dataIn } = slot;
    slot.home = this;
    slot.head = head;
    if (!ring.readFrame(head, frame)) {
      this.pool.give(slot);
      return;
    }
    this.requests++;
    const header = slot.header.u32;
    const plain = frame.requestAt >= 0 && frame.responseAt >= 0;
    if (!(plain && copyHeader(frame.requestMemory, frame.requestAt, header)) && !this.cutHeaders(slot)) return;
    if (ring.astray) {
      // The command may be other memory's: it must not reach the disk.
      this.pool.give(slot);
      ring.redo(head);
      return;
    }

    const lun = header[LUN];
    const target = (lun >>> 8) & 0xff;
    const entry = (lun & 0xff) === 1 && target < TARGETS ? this.controller.entries[target] : null;
    if (entry === null) {
      this.badTargets++;
      this.refuse(slot, VirtioScsiResponse.BAD_TARGET);
      return;
    }
    if (dataOut.bytes > 0 && dataIn.bytes > 0) {
      this.refuse(slot, VirtioScsiResponse.FAILURE); // INOUT was not offered
      return;
    }
    slot.lun = flatLun((lun >>> 16) & 0xff, lun >>> 24);
    // As signed words: a tag is a kernel address in many drivers, whose upper half would become a heap number.
    slot.tagLo = header[TAG] | 0;
    slot.tagHi = header[TAG + 1] | 0;
    slot.attr = header[ATTR] & 3;
    slot.nexus = this.nexus;
    slot.entry = entry;
    entry.hold();
    entry.target.execute(slot);
  }

  /** Find the headers however the driver has cut and placed them. @returns false when they are not there */
  private cutHeaders(slot: RequestSlot): boolean {
    const { frame, dataOut, dataIn, pieces } = slot;
    if (frame.requestAt >= 0) copyMemory(slot.header, 0, frame.requestMemory, frame.requestAt, REQUEST_BYTES);
    else if (dataOut.gather(0, slot.header, 0, REQUEST_BYTES) === REQUEST_BYTES) cutFront(dataOut, REQUEST_BYTES, null);
    else {
      this.drop(slot, `${dataOut.bytes} readable bytes, a request header has ${REQUEST_BYTES}`);
      return false;
    }
    pieces.reset();
    if (frame.responseAt < 0 && (dataIn.bytes < RESPONSE_BYTES || !cutFront(dataIn, RESPONSE_BYTES, pieces))) {
      this.drop(slot, `${dataIn.bytes} writable bytes, a response has ${RESPONSE_BYTES}`);
      return false;
    }
    return true;
  }

  /** No request at all: the ring breaks. */
  private drop(slot: RequestSlot, reason: string): void {
    this.pool.give(slot);
    this.ring.fail(slot.head, reason);
  }

  finish(slot: RequestSlot): void {
    const entry = slot.entry;
    if (entry === null) return;
    const dataIn = slot.dataIn.bytes;
    const residual = slot.dataOut.bytes + dataIn - slot.transferred; // of one direction: the other is empty
    const data = dataIn > 0 ? slot.transferred : 0;
    this.send(slot, slot.senseLength, residual, (CODES[slot.response] << 24) | (slot.status << 16), data);
    entry.release();
  }

  /** Answer without a target. */
  private refuse(slot: RequestSlot, code: number): void {
    this.send(slot, 0, slot.dataOut.bytes + slot.dataIn.bytes, code << 24, 0);
  }

  /**
   * @param word status_qualifier (0), status and response
   * @param data bytes of data-in written
   */
  private send(slot: RequestSlot, senseLength: number, residual: number, word: number, data: number): void {
    const ring = this.ring;
    if (!ring.abandoned) {
      const { responseAt, responseMemory } = slot.frame;
      if (responseAt >= 0 && (responseAt & 3) === 0 && senseLength === 0) {
        const words = responseMemory.u32;
        const w = responseAt >> 2;
        words[w + SENSE_LEN] = 0;
        words[w + RESIDUAL] = residual;
        words[w + STATUS_WORD] = word;
      } else this.sendPieces(slot, senseLength, residual, word);
    }
    this.pool.give(slot);
    ring.complete(slot.head, RESPONSE_BYTES + data);
  }

  /** As a driver has cut and placed it, or with sense data: only the bytes that mean something. */
  private sendPieces(slot: RequestSlot, senseLength: number, residual: number, word: number): void {
    const { u8, u32 } = answer;
    u32[SENSE_LEN] = senseLength;
    u32[RESIDUAL] = residual;
    u32[STATUS_WORD] = word;
    for (let i = 0; i < senseLength; i++) u8[SENSE + i] = slot.sense[i];
    const { responseAt, responseMemory } = slot.frame;
    if (responseAt >= 0) copyMemory(responseMemory, responseAt, answer, 0, SENSE + senseLength);
    else slot.pieces.scatter(0, answer, 0, SENSE + senseLength);
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
