/**
 * One request queue under load. The chains are laid out once, one a slot, and only the block address changes from
 * request to request: what is left of the driver's work is an avail entry and a used entry, so that the load is not
 * what is measured.
 */
import type { Memory } from '../../src/memory/memory.ts';
import type { EventFd } from '../../src/sys/eventfd.ts';
import { VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from '../../src/virtio/features.ts';
import { availBytes, descBytes, usedBytes } from '../../src/virtio/layout.ts';
import type { Protocol } from './protocol.ts';

const PAGE = 4096;
/** Header, response and indirect table of a slot, bytes each. */
const PART = 128;
const DESCRIPTORS = 3;
/** Block addresses used in turn; a power of two. */
const ADDRESSES = 1 << 14;

export interface QueueShape {
  depth: number;
  /** Bytes a request. */
  bytes: number;
  write: boolean;
  indirect: boolean;
  eventIdx: boolean;
  /** Addresses are drawn below this many blocks. */
  blocks: number;
  blockSize: number;
  /** Seed of the addresses. */
  seed: number;
  /** Guest address of the data buffers, which this never looks into; behind everything else when left out. */
  dataAt?: number;
}

const up = (n: number, to: number) => Math.ceil(n / to) * to;

/** Ring size for a shape: a power of two that holds all its descriptors. */
export function ringSize(shape: QueueShape): number {
  let size = 1;
  while (size < shape.depth * (shape.indirect ? 1 : DESCRIPTORS)) size *= 2;
  return size;
}

/** Bytes of a queue's data buffers. */
export function dataBytes(shape: QueueShape): number {
  return shape.depth * up(shape.bytes, PAGE);
}

/** Guest memory one queue needs, its data buffers included unless they lie elsewhere. */
export function queueBytes(shape: QueueShape): number {
  const size = ringSize(shape);
  const rings = up(descBytes(size), PAGE) + up(availBytes(size, true), PAGE) + up(usedBytes(size, true), PAGE);
  return rings + up(shape.depth * PART * 3, PAGE) + (shape.dataAt === undefined ? dataBytes(shape) : 0);
}

export class QueueLoad {
  readonly size: number;
  readonly place: { desc: number; avail: number; used: number };
  /** Requests completed. */
  done = 0;
  /** Kicks sent. */
  kicks = 0;
  private readonly memory: Memory;
  private readonly protocol: Protocol;
  private readonly shape: QueueShape;
  private readonly parts: number;
  private readonly data: number;
  private readonly u16: Uint16Array;
  private readonly u32: Uint32Array;
  private readonly avail: number;
  private readonly used: number;
  private readonly used32: number;
  private readonly mask: number;
  private readonly slotOfHead: Uint16Array;
  private readonly headOfSlot: Uint16Array;
  private readonly addresses: Uint32Array;
  private nextAddress = 0;
  private availIdx = 0;
  private lastUsed = 0;
  private kick: EventFd | undefined;

  constructor(memory: Memory, at: number, protocol: Protocol, shape: QueueShape) {
    this.memory = memory;
    this.protocol = protocol;
    this.shape = shape;
    const size = ringSize(shape);
    this.size = size;
    this.mask = size - 1;
    const avail = at + up(descBytes(size), PAGE);
    const used = avail + up(availBytes(size, true), PAGE);
    this.place = { desc: at, avail, used };
    this.parts = used + up(usedBytes(size, true), PAGE);
    this.data = shape.dataAt ?? this.parts + up(shape.depth * PART * 3, PAGE);
    this.u16 = memory.u16;
    this.u32 = memory.u32;
    this.avail = avail >> 1;
    this.used = used >> 1;
    this.used32 = used >> 2;
    this.slotOfHead = new Uint16Array(size);
    this.headOfSlot = new Uint16Array(shape.depth);
    this.addresses = new Uint32Array(ADDRESSES);
    let state = shape.seed | 1;
    const perRequest = shape.bytes / shape.blockSize;
    const places = Math.floor(shape.blocks / perRequest);
    for (let i = 0; i < ADDRESSES; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      this.addresses[i] = Math.floor((state / 2 ** 32) * places) * perRequest;
    }
    for (let slot = 0; slot < shape.depth; slot++) this.layOut(slot);
    // No interrupts: we poll.
    this.u16[this.avail] = 1;
  }

  /** Guest addresses of a slot's header, response and data. */
  partsOf(slot: number): { header: number; response: number; data: number } {
    const header = this.parts + slot * PART * 3;
    return { header, response: header + PART, data: this.data + slot * up(this.shape.bytes, PAGE) };
  }

  private layOut(slot: number): void {
    const { header, response, data } = this.partsOf(slot);
    const { shape, protocol } = this;
    protocol.prepare(this.memory, header, shape.write, shape.bytes);
    const request = [header, protocol.headerBytes, 0] as const;
    const answer = [response, protocol.responseBytes, VIRTQ_DESC_F_WRITE] as const;
    const payload = [data, shape.bytes, shape.write ? 0 : VIRTQ_DESC_F_WRITE] as const;
    const chain = protocol.responseFirst && !shape.write ? [request, answer, payload] : [request, payload, answer];
    let table = this.place.desc;
    let first = slot * DESCRIPTORS;
    if (shape.indirect) {
      const indirect = header + PART * 2;
      this.descriptor(table, slot, indirect, DESCRIPTORS * 16, VIRTQ_DESC_F_INDIRECT, 0);
      this.headOfSlot[slot] = slot;
      table = indirect;
      first = 0;
    } else this.headOfSlot[slot] = first;
    this.slotOfHead[this.headOfSlot[slot]] = slot;
    chain.forEach(([address, length, flags], i) => {
      const more = i < chain.length - 1 ? VIRTQ_DESC_F_NEXT : 0;
      this.descriptor(table, first + i, address, length, flags | more, first + i + 1);
    });
  }

  private descriptor(table: number, i: number, address: number, length: number, flags: number, next: number): void {
    const at = (table >> 2) + i * 4;
    this.u32[at] = address;
    this.u32[at + 1] = Math.floor(address / 2 ** 32);
    this.u32[at + 2] = length;
    this.u32[at + 3] = (next << 16) | flags;
  }

  /** Submit every slot. */
  start(kick: EventFd): void {
    this.kick = kick;
    const old = this.availIdx;
    for (let slot = 0; slot < this.shape.depth; slot++) this.submit(slot);
    this.publish(old);
  }

  private submit(slot: number): void {
    const at = this.nextAddress;
    this.nextAddress = (at + 1) & (ADDRESSES - 1);
    this.protocol.address(this.memory, this.parts + slot * PART * 3, this.addresses[at]);
    this.u16[this.avail + 2 + (this.availIdx & this.mask)] = this.headOfSlot[slot];
    this.availIdx = (this.availIdx + 1) & 0xffff;
  }

  private publish(old: number): void {
    const now = this.availIdx;
    // Release, and a full barrier before the look at the device's wish.
    Atomics.store(this.u16, this.avail + 1, now);
    let kick: boolean;
    if (this.shape.eventIdx) {
      const event = this.u16[this.used + 2 + this.size * 4];
      kick = ((now - event - 1) & 0xffff) < ((now - old) & 0xffff);
      // The event lies half a turn ahead: no interrupt comes.
      this.u16[this.avail + 2 + this.size] = (this.lastUsed + 0x7fff) & 0xffff;
    } else kick = (this.u16[this.used] & 1) === 0;
    if (kick) {
      this.kicks++;
      this.kick?.signal();
    }
  }

  /**
   * Take what is done, and submit it anew unless `last`. @returns how many.
   * @throws Error when a request failed
   */
  turn(last: boolean): number {
    const { u16, u32 } = this;
    if (u16[this.used + 1] === this.lastUsed) return 0;
    const idx = Atomics.load(u16, this.used + 1);
    const old = this.availIdx;
    const count = (idx - this.lastUsed) & 0xffff;
    if (count > this.shape.depth) throw new Error(`used index jumped by ${count}`);
    for (let i = 0; i < count; i++) {
      const at = this.used32 + 1 + ((this.lastUsed + i) & this.mask) * 2;
      const slot = this.slotOfHead[u32[at]];
      if (!this.protocol.good(this.memory, this.parts + slot * PART * 3 + PART)) throw new Error('a request failed');
      if (!last) this.submit(slot);
    }
    this.lastUsed = idx;
    this.done += count;
    if (!last) this.publish(old);
    return count;
  }

  /** Submit slot 0 once more: for one request at a time. */
  again(): void {
    const old = this.availIdx;
    this.submit(0);
    this.publish(old);
  }

  /** Requests submitted and not yet seen done. */
  get outstanding(): number {
    return (this.availIdx - this.lastUsed) & 0xffff;
  }
}
