/**
 * A request queue of the virtio SCSI device (virtio 1.2 §5.6.6.1): the hot path from ring to SCSI task and back.
 *
 * The header is copied once into private memory and parsed there; nobody looks at the guest's copy again. A request
 * holds a slot of the session's pool from here to its response.
 */
import { Memory } from '../memory/memory.ts';
import type { ModelQueue } from './device-model.ts';
import type { RunningRing } from './running-ring.ts';
import type { ScsiController } from './scsi-controller.ts';
import type { RequestHome, RequestPool, RequestSlot } from './scsi-request-pool.ts';
import { flatLun, MAX_TARGETS, REQUEST, RESPONSE, RESPONSE_OF_TASK, VIRTIO_SCSI_S } from './scsi-wire.ts';
import { cutFront } from './sg-split.ts';

const LUN = REQUEST.fields.lun[0];
const TAG = REQUEST.fields.id[0] >> 2;
const ATTR = REQUEST.fields.task_attr[0];
const SENSE_LEN = RESPONSE.fields.sense_len[0] >> 2;
const RESIDUAL = RESPONSE.fields.residual[0] >> 2;
const QUALIFIER = RESPONSE.fields.status_qualifier[0] >> 1;
const STATUS = RESPONSE.fields.status[0];
const RESPONSE_CODE = RESPONSE.fields.response[0];
const SENSE = RESPONSE.fields.sense[0];

/** Scratch of this thread: a response between compose and copy. */
const answer = new Memory(new ArrayBuffer(112));

export class RequestQueue implements ModelQueue, RequestHome {
  /** Requests taken. */
  requests = 0;
  /** Requests to targets that are not there: guests scan. */
  badTargets = 0;
  private readonly controller: ScsiController;
  private readonly nexus: number;
  private readonly pool: RequestPool;
  readonly index: number;
  private ring!: RunningRing;

  constructor(index: number, controller: ScsiController, nexus: number, pool: RequestPool) {
    this.index = index;
    this.controller = controller;
    this.nexus = nexus;
    this.pool = pool;
  }

  begin(ring: RunningRing): void {
    this.ring = ring;
  }

  poll(budget: number): number {
    const ring = this.ring;
    let n = 0;
    while (n < budget && this.pool.available) {
      const head = ring.next();
      if (head < 0) break;
      n++;
      this.take(head);
    }
    return n;
  }

  private take(head: number): void {
    const ring = this.ring;
    const slot = this.pool.take();
    const { dataOut, dataIn, place, header } = slot;
    slot.home = this;
    slot.head = head;
    if (!ring.read(head, dataOut, dataIn)) {
      this.pool.give(slot);
      return;
    }
    this.requests++;
    if (dataOut.gather(0, header, 0, REQUEST.size) < REQUEST.size) {
      this.drop(slot, `${dataOut.bytes} readable bytes, a request header has ${REQUEST.size}`);
      return;
    }
    if (dataIn.bytes < RESPONSE.size) {
      this.drop(slot, `${dataIn.bytes} writable bytes, a response has ${RESPONSE.size}`);
      return;
    }
    cutFront(dataOut, REQUEST.size, null);
    place.reset();
    cutFront(dataIn, RESPONSE.size, place);

    const bytes = header.u8;
    const target = bytes[LUN + 1];
    const entry = bytes[LUN] === 1 && target < MAX_TARGETS ? this.controller.entries[target] : null;
    if (entry === null) {
      this.badTargets++;
      this.refuse(slot, VIRTIO_SCSI_S.BAD_TARGET);
      return;
    }
    if (dataOut.bytes > 0 && dataIn.bytes > 0) {
      this.refuse(slot, VIRTIO_SCSI_S.FAILURE); // INOUT was not offered
      return;
    }
    slot.lun = flatLun(bytes[LUN + 2], bytes[LUN + 3]);
    slot.tagLo = header.u32[TAG];
    slot.tagHi = header.u32[TAG + 1];
    slot.attr = bytes[ATTR] & 3;
    slot.nexus = this.nexus;
    slot.entry = entry;
    entry.outstanding++;
    entry.target.execute(slot);
  }

  /** No request at all: the ring breaks. */
  private drop(slot: RequestSlot, reason: string): void {
    this.pool.give(slot);
    this.ring.fail(slot.head, reason);
  }

  finish(slot: RequestSlot): void {
    const entry = slot.entry;
    if (entry === null) return;
    const senseLength = slot.senseLength;
    const { u8, u32 } = answer;
    u32[SENSE_LEN] = senseLength;
    u32[RESIDUAL] = slot.dataOut.bytes + slot.dataIn.bytes - slot.transferred; // of one direction: the other is empty
    answer.u16[QUALIFIER] = 0;
    u8[STATUS] = slot.status;
    u8[RESPONSE_CODE] = RESPONSE_OF_TASK[slot.response];
    const sense = slot.sense;
    for (let i = 0; i < senseLength; i++) u8[SENSE + i] = sense[i];
    this.send(slot, SENSE + senseLength, slot.dataIn.bytes > 0 ? slot.transferred : 0);
    entry.release();
  }

  /** Answer without a target. */
  private refuse(slot: RequestSlot, code: number): void {
    answer.u32[SENSE_LEN] = 0;
    answer.u32[RESIDUAL] = slot.dataOut.bytes + slot.dataIn.bytes;
    answer.u16[QUALIFIER] = 0;
    answer.u8[STATUS] = 0;
    answer.u8[RESPONSE_CODE] = code;
    this.send(slot, SENSE, 0);
  }

  /** @param bytes of `answer` that mean something; a driver reads no more @param data bytes of data-in written */
  private send(slot: RequestSlot, bytes: number, data: number): void {
    const ring = this.ring;
    if (!ring.abandoned) slot.place.scatter(0, answer, 0, bytes);
    this.pool.give(slot);
    ring.complete(slot.head, RESPONSE.size + data);
  }

  arm(): boolean {
    // Without a slot there is nothing we could take; the completion that frees one wakes the loop.
    return this.pool.available && this.ring.ring.armNotifications();
  }

  disarm(): void {
    this.ring.ring.suppressNotifications();
  }

  stopped(): void {
    this.pool.forget();
  }
}
