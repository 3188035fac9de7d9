import { ioAddressOf } from '../../memory/io-address.ts';
import type { DmaAllocator, DmaBuffer } from '../../pci/dma.ts';
import type { DriverRing } from '../../virtio/driver-ring.ts';
import { IoList } from '../../virtio/io-list.ts';
import { VIRTIO_SCSI_EVENT, VIRTIO_SCSI_TMF, VirtioScsiTmf } from '../../virtio/scsi-device.ts';
import { bellOf } from './bell.ts';
import { RingMemory } from './queue-memory.ts';
import type { BellShare } from './share.ts';

/** Control and event queue of an adapter: the main thread's. Task management functions out, events in. */

const SIZE = 16;
/** Event buffers kept with the device. */
const EVENTS = 8;
/** A request and its one-byte answer; places in a page. */
const TMF_STRIDE = 64;
const ANSWER_AT = 32;
const EVENT_STRIDE = 16;
const EVENTS_AT = 2048;

export interface ScsiEvent {
  /** Without the bit EVENTS_MISSED. */
  readonly event: number;
  readonly missed: boolean;
  readonly target: number;
  readonly lun: number;
  readonly reason: number;
}

export class ControlQueues {
  readonly control: RingMemory;
  readonly events: RingMemory;
  private readonly page: DmaBuffer;
  private controlRing: DriverRing | null = null;
  private eventRing: DriverRing | null = null;
  private ringControl: () => void = () => {};
  private ringEvents: () => void = () => {};
  private readonly slotOf = new Int16Array(SIZE).fill(-1);
  private readonly eventOf = new Int16Array(SIZE).fill(-1);
  private readonly freeSlots: number[] = [];
  private readonly out = new IoList(1);
  private readonly into = new IoList(1);

  constructor(dma: DmaAllocator, eventIdx: boolean) {
    this.page = dma.allocate(4096, true);
    const rings: RingMemory[] = [];
    try {
      this.control = new RingMemory(SIZE, eventIdx, dma);
      rings.push(this.control);
      this.events = new RingMemory(SIZE, eventIdx, dma);
    } catch (error) {
      this.page.free();
      for (const ring of rings) ring.free();
      throw error;
    }
  }

  /** Empty rings, before the device is told of them. */
  begin(): void {
    this.controlRing = this.control.makeRing();
    this.eventRing = this.events.makeRing();
    this.slotOf.fill(-1);
    this.eventOf.fill(-1);
    this.freeSlots.length = 0;
    for (let i = SIZE - 1; i >= 0; i--) this.freeSlots.push(i);
  }

  /** The device has the queues: where they are notified. */
  setBells(control: BellShare, events: BellShare): void {
    this.ringControl = bellOf(control);
    this.ringEvents = bellOf(events);
  }

  /** Give the device its event buffers. After DRIVER_OK. */
  fill(): void {
    for (let i = 0; i < EVENTS; i++) this.giveEvent(i);
    if (this.eventRing?.publish()) this.ringEvents();
  }

  private giveEvent(i: number): void {
    const { out, into } = this;
    out.reset();
    into.reset();
    into.pushAddress(ioAddressOf(this.page.memory, EVENTS_AT + i * EVENT_STRIDE), VIRTIO_SCSI_EVENT.size);
    const head = this.eventRing?.add(out, into, false) ?? -1;
    if (head >= 0) this.eventOf[head] = i;
  }

  /** Abort the command with this tag at this LUN (its 8 bytes). @returns false when too many are out already */
  abort(lun: Uint8Array, tagLo: number, tagHi: number): boolean {
    const slot = this.freeSlots.pop();
    if (slot === undefined || this.controlRing === null) return false;
    const { memory } = this.page;
    const at = VIRTIO_SCSI_TMF.fields;
    const base = slot * TMF_STRIDE;
    memory.u8.fill(0, base, base + TMF_STRIDE);
    memory.u32[(base + at.subtype[0]) >> 2] = VirtioScsiTmf.ABORT_TASK;
    memory.u8.set(lun, base + at.lun[0]);
    memory.u32[(base + at.id[0]) >> 2] = tagLo;
    memory.u32[(base + at.id[0] + 4) >> 2] = tagHi;
    const { out, into } = this;
    out.reset();
    into.reset();
    out.pushAddress(ioAddressOf(memory, base), VIRTIO_SCSI_TMF.size);
    into.pushAddress(ioAddressOf(memory, base + ANSWER_AT), 1);
    const head = this.controlRing.add(out, into, false);
    if (head < 0) {
      this.freeSlots.push(slot);
      return false;
    }
    this.slotOf[head] = slot;
    if (this.controlRing.publish()) this.ringControl();
    return true;
  }

  /** Take answers and events. @returns why the device can't be believed any more, or null */
  poll(onEvent: (event: ScsiEvent) => void): string | null {
    const { controlRing, eventRing } = this;
    if (controlRing === null || eventRing === null) return null;
    for (let head = controlRing.poll(); head >= 0; head = controlRing.poll()) {
      // Whether the function helped shows in the request queue: the command comes back, or it is late.
      this.freeSlots.push(this.slotOf[head]);
      this.slotOf[head] = -1;
    }
    const found: ScsiEvent[] = [];
    for (let head = eventRing.poll(); head >= 0; head = eventRing.poll()) {
      const i = this.eventOf[head];
      if (eventRing.usedLength >= VIRTIO_SCSI_EVENT.size) found.push(this.readEvent(i));
      this.giveEvent(i);
    }
    if (eventRing.publish()) this.ringEvents();
    for (const event of found) onEvent(event);
    return controlRing.broken ?? eventRing.broken;
  }

  private readEvent(i: number): ScsiEvent {
    const at = VIRTIO_SCSI_EVENT.fields;
    const base = EVENTS_AT + i * EVENT_STRIDE;
    const { u8, u32 } = this.page.memory;
    const event = u32[(base + at.event[0]) >> 2];
    return {
      event: event & 0x7fff_ffff,
      missed: event >>> 31 === 1,
      target: u8[base + at.lun[0] + 1],
      lun: ((u8[base + at.lun[0] + 2] & 0x3f) << 8) | u8[base + at.lun[0] + 3],
      reason: u32[(base + at.reason[0]) >> 2],
    };
  }

  free(): void {
    this.control.free();
    this.events.free();
    this.page.free();
  }
}
