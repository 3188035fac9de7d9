import { ioAddressOf } from '../../memory/io-address.ts';
import type { Memory } from '../../memory/memory.ts';
import { AbortAsked, type CommandRing, Ended, type QueueOwner } from '../../pci/reactor-queue.ts';
import { SenseKey } from '../../scsi/sense.ts';
import type { DriverRing } from '../../virtio/driver-ring.ts';
import { IoList } from '../../virtio/io-list.ts';
import { putLun, VIRTIO_SCSI_REQUEST, VIRTIO_SCSI_RESPONSE, VirtioScsiResponse } from '../../virtio/scsi-device.ts';

/**
 * One request queue of the adapter: SCSI commands in slots, each with its header, response and parameters in its own piece of DMA
 * memory. The rules are QueuePair's: a command is answered once, and one that a reset has lost is sent again.
 */

/** Bytes of a slot, and what lies where: header, response, parameters (an UNMAP list). */
export const SLOT_BYTES = 256;
export const REQUEST_AT = 0;
export const RESPONSE_AT = 64;
export const PARAMETERS_AT = 192;

/** A SCSI command's end, as commandDone's status: the SAM status, or an Ended, or this for what never reached a unit. */
export const ScsiEnd = {
  GOOD: 0x00,
  CHECK_CONDITION: 0x02,
  RESERVATION_CONFLICT: 0x18,
  /** The transport's own failure; result is the virtio response code. */
  TRANSPORT: 0x100,
} as const;

const BUSY = 0x08;
const TASK_SET_FULL = 0x28;
/** Times a command is sent before a transient answer counts. Unit attentions come one a command, and there may be several. */
const MAX_ATTEMPTS = 10;
/** A unit that is busy is left alone for so long. Milliseconds. */
const BUSY_MS = 10;

const REQUEST = VIRTIO_SCSI_REQUEST.fields;
const RESPONSE = VIRTIO_SCSI_RESPONSE.fields;

export interface RingParts {
  /** Virtqueue number. */
  readonly index: number;
  readonly ring: DriverRing;
  /** A ring anew, after a reset. */
  readonly renew: () => DriverRing;
  readonly slots: Memory;
  /** Data segments of one request, at most. */
  readonly segments: number;
  readonly indirect: boolean;
  readonly notify: () => void;
  /** Call after so many milliseconds, on this thread. */
  readonly later: (ms: number, fn: () => void) => void;
}

export class ScsiCommandRing implements CommandRing {
  readonly depth: number;
  readonly abortAsked: Uint8Array;
  inFlight = 0;
  time = 0;
  /** Commands sent again. */
  retries = 0;
  /** Data of each slot: what the device reads after the header, or writes after the response. */
  readonly data: IoList[];
  readonly segments: number;
  readonly slots: Memory;
  private readonly parts: RingParts;
  private readonly owner: QueueOwner;
  private readonly busy: Uint8Array;
  /** The command is not in the ring: it waits for a busy unit. */
  private readonly paused: Uint8Array;
  private readonly attempts: Uint8Array;
  private readonly writes: Uint8Array;
  private readonly started: Float64Array;
  private readonly free: Uint16Array;
  private freeCount: number;
  private readonly slotOf: Uint16Array;
  private readonly out: IoList;
  private readonly into: IoList;
  private ring_: DriverRing;
  private sequence = 0;
  private distrust: string | null = null;

  constructor(parts: RingParts, owner: QueueOwner) {
    this.parts = parts;
    this.owner = owner;
    this.ring_ = parts.ring;
    this.segments = parts.segments;
    this.slots = parts.slots;
    // Without indirect tables a request takes as many descriptors as it has buffers: then there are fewer slots.
    const fit = parts.indirect ? parts.ring.size : Math.max(1, Math.floor(parts.ring.size / (parts.segments + 2)));
    this.depth = Math.min(fit, Math.floor(parts.slots.length / SLOT_BYTES));
    this.abortAsked = new Uint8Array(this.depth);
    this.data = Array.from({ length: this.depth }, () => new IoList(parts.segments));
    this.busy = new Uint8Array(this.depth);
    this.paused = new Uint8Array(this.depth);
    this.attempts = new Uint8Array(this.depth);
    this.writes = new Uint8Array(this.depth);
    this.started = new Float64Array(this.depth);
    this.free = Uint16Array.from({ length: this.depth }, (_, i) => this.depth - 1 - i);
    this.freeCount = this.depth;
    this.slotOf = new Uint16Array(parts.ring.size);
    this.out = new IoList(parts.segments + 1);
    this.into = new IoList(parts.segments + 1);
  }

  get broken(): string | null {
    return this.distrust ?? (this.ring_.broken === null ? null : `queue ${this.parts.index}: ${this.ring_.broken}`);
  }

  get freeSlots(): number {
    return this.freeCount;
  }

  /** A slot whose CDB (at REQUEST_AT + 19 of its memory) is to be filled in, and `data` with it; -1 when all are taken. */
  allocate(): number {
    if (this.freeCount === 0) return -1;
    const slot = this.free[--this.freeCount];
    this.data[slot].reset();
    return slot;
  }

  unallocate(slot: number): void {
    this.free[this.freeCount++] = slot;
  }

  /** Byte offset of a slot's CDB in `slots`. */
  cdbAt(slot: number): number {
    return slot * SLOT_BYTES + REQUEST_AT + REQUEST.cdb[0];
  }

  /** Put the slot's parameters (an UNMAP list, say) before its data. */
  addParameters(slot: number, bytes: number): void {
    this.data[slot].pushAddress(ioAddressOf(this.slots, slot * SLOT_BYTES + PARAMETERS_AT), bytes);
  }

  /** @param write the device reads the data */
  submit(slot: number, target: number, lun: number, write: boolean, now: number): void {
    const u8 = this.slots.u8;
    const at = slot * SLOT_BYTES + REQUEST_AT;
    putLun(u8, at + REQUEST.lun[0], target, lun);
    u8[at + REQUEST.task_attr[0]] = 0;
    u8[at + REQUEST.prio[0]] = 0;
    u8[at + REQUEST.crn[0]] = 0;
    this.busy[slot] = 1;
    this.paused[slot] = 0;
    this.attempts[slot] = 1;
    this.abortAsked[slot] = AbortAsked.NO;
    this.writes[slot] = write ? 1 : 0;
    this.started[slot] = now;
    this.inFlight++;
    this.send(slot);
  }

  /** Tags are never used twice in a while: an abort that comes late finds nothing. */
  private writeTag(slot: number): void {
    this.sequence = (this.sequence + 1) & 0xffff;
    const words = this.slots.u32;
    const at = (slot * SLOT_BYTES + REQUEST_AT + REQUEST.id[0]) >> 2;
    words[at] = (slot | (this.sequence << 16)) >>> 0;
    words[at + 1] = this.parts.index;
  }

  private send(slot: number): void {
    this.writeTag(slot);
    const base = slot * SLOT_BYTES;
    // A device that answers without writing is not taken for one that says OK.
    this.slots.u8[base + RESPONSE_AT + RESPONSE.response[0]] = 0xff;
    const { out, into } = this;
    out.reset();
    into.reset();
    out.pushAddress(ioAddressOf(this.slots, base + REQUEST_AT), VIRTIO_SCSI_REQUEST.size);
    into.pushAddress(ioAddressOf(this.slots, base + RESPONSE_AT), VIRTIO_SCSI_RESPONSE.size);
    const data = this.data[slot];
    const list = this.writes[slot] === 1 ? out : into;
    for (let i = 0; i < data.count; i++) list.push(data.lo[i], data.hi[i], data.length[i]);
    const head = this.ring_.add(out, into, this.parts.indirect);
    if (head < 0) {
      // There are no more slots than fit: the ring has lost descriptors to a device that lies.
      this.distrust = `queue ${this.parts.index}: no room for a command that must fit`;
      return;
    }
    this.slotOf[head] = slot;
  }

  ring(): void {
    if (this.ring_.publish()) this.parts.notify();
  }

  get ready(): boolean {
    return this.broken === null && this.ring_.arm();
  }

  wantInterrupts(wanted: boolean): void {
    if (!wanted) this.ring_.suppress(); // arming is done by `ready`, which looks again
  }

  poll(): number {
    let done = 0;
    for (; done < this.depth; done++) {
      const head = this.ring_.poll();
      if (head < 0) break;
      this.complete(this.slotOf[head]);
    }
    return done;
  }

  private complete(slot: number): void {
    const u8 = this.slots.u8;
    const at = slot * SLOT_BYTES + RESPONSE_AT;
    const response = u8[at + RESPONSE.response[0]];
    if (response !== VirtioScsiResponse.OK) {
      this.failed(slot, response);
      return;
    }
    const status = u8[at + RESPONSE.status[0]];
    if (status === BUSY || status === TASK_SET_FULL) {
      if (this.pause(slot)) return;
    } else if (status === ScsiEnd.CHECK_CONDITION && this.senseKey(slot) === SenseKey.UNIT_ATTENTION) {
      this.onUnitAttention(slot);
      if (this.again(slot)) return;
    }
    this.answer(slot, status, this.residual(slot));
  }

  /** A response that is no SCSI status. */
  private failed(slot: number, response: number): void {
    const transient =
      response === VirtioScsiResponse.BUSY ||
      response === VirtioScsiResponse.RESET ||
      response === VirtioScsiResponse.ABORTED;
    if (this.abortAsked[slot] === AbortAsked.WANTED && response !== VirtioScsiResponse.BAD_TARGET) {
      this.answer(slot, Ended.ABORTED, 0);
    } else if (response === VirtioScsiResponse.BUSY && this.pause(slot)) {
      return;
    } else if (!transient || !this.again(slot)) {
      this.answer(slot, ScsiEnd.TRANSPORT, response);
    }
  }

  /** Send it once more. @returns false when it was sent often enough */
  private again(slot: number): boolean {
    if (this.attempts[slot] >= MAX_ATTEMPTS || this.abortAsked[slot] === AbortAsked.WANTED) return false;
    this.attempts[slot]++;
    this.retries++;
    this.abortAsked[slot] = AbortAsked.NO;
    this.started[slot] = this.time;
    this.send(slot);
    return true;
  }

  /** Send it again in a moment. A reset meanwhile sends it with the others. */
  private pause(slot: number): boolean {
    if (this.attempts[slot] >= MAX_ATTEMPTS || this.abortAsked[slot] === AbortAsked.WANTED) return false;
    this.paused[slot] = 1;
    this.parts.later(BUSY_MS, () => {
      if (this.busy[slot] === 0 || this.paused[slot] === 0 || this.broken !== null) return;
      this.paused[slot] = 0;
      if (this.again(slot)) this.ring();
      else this.answer(slot, Ended.ABORTED, 0);
    });
    return true;
  }

  /** Set by the queue: a unit has news. Sense code as ASC << 8 | ASCQ. */
  onAttention: (target: number, lun: number, code: number) => void = () => {};

  private onUnitAttention(slot: number): void {
    const u8 = this.slots.u8;
    const at = slot * SLOT_BYTES + REQUEST_AT + REQUEST.lun[0];
    this.onAttention(u8[at + 1], ((u8[at + 2] & 0x3f) << 8) | u8[at + 3], this.senseCode(slot));
  }

  /** Sense key of the slot's last response; 0 when it has none. Valid until the slot is used again. */
  senseKey(slot: number): number {
    const at = slot * SLOT_BYTES + RESPONSE_AT + RESPONSE.sense[0];
    const format = this.slots.u8[at] & 0x7f;
    if (format === 0x70 || format === 0x71) return this.slots.u8[at + 2] & 0x0f;
    return format === 0x72 || format === 0x73 ? this.slots.u8[at + 1] & 0x0f : 0;
  }

  /** ASC << 8 | ASCQ, as {@link senseKey}. */
  senseCode(slot: number): number {
    const at = slot * SLOT_BYTES + RESPONSE_AT + RESPONSE.sense[0];
    const u8 = this.slots.u8;
    const descriptor = (u8[at] & 0x7e) === 0x72;
    return descriptor ? (u8[at + 2] << 8) | u8[at + 3] : (u8[at + 12] << 8) | u8[at + 13];
  }

  private residual(slot: number): number {
    return this.slots.u32[(slot * SLOT_BYTES + RESPONSE_AT + RESPONSE.residual[0]) >> 2];
  }

  private answer(slot: number, status: number, result: number): void {
    this.busy[slot] = 0;
    this.paused[slot] = 0;
    this.inFlight--;
    this.free[this.freeCount++] = slot;
    this.owner.commandDone(slot, status, result);
  }

  isBusy(slot: number): boolean {
    return this.busy[slot] !== 0;
  }

  olderThan(time: number, from = 0): number {
    for (let slot = from; slot < this.depth; slot++) {
      if (this.busy[slot] !== 0 && this.started[slot] < time) return slot;
    }
    return -1;
  }

  forgive(ns: number): void {
    for (let slot = 0; slot < this.depth; slot++) if (this.busy[slot] !== 0) this.started[slot] += ns;
  }

  restart(now: number): void {
    this.ring_ = this.parts.renew();
    this.distrust = null;
    const again: number[] = [];
    for (let slot = 0; slot < this.depth; slot++) if (this.busy[slot] !== 0) again.push(slot);
    const over = again.filter((s) => this.abortAsked[s] === AbortAsked.WANTED || this.attempts[s] >= MAX_ATTEMPTS);
    for (const slot of again) {
      if (over.includes(slot)) continue;
      this.paused[slot] = 0;
      this.attempts[slot]++;
      this.abortAsked[slot] = AbortAsked.NO;
      this.retries++;
      this.started[slot] = now;
      this.send(slot);
    }
    for (const slot of over) this.answer(slot, Ended.ABORTED, 0);
    this.ring();
  }

  giveUp(status: number): void {
    for (let slot = 0; slot < this.depth; slot++) if (this.busy[slot] !== 0) this.answer(slot, status, 0);
  }

  get position(): readonly number[] {
    return [this.ring_.index];
  }

  dump(): Record<string, unknown> {
    return {
      index: this.parts.index,
      depth: this.depth,
      in_flight: this.inFlight,
      broken: this.broken,
      ring: this.ring_.dump(),
    };
  }
}
