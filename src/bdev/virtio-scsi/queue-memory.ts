import { IO_PAGE, ioAddressOf } from '../../memory/io-address.ts';
import type { Memory } from '../../memory/memory.ts';
import type { DmaAllocator, DmaBuffer } from '../../pci/dma.ts';
import { EventFd } from '../../sys/eventfd.ts';
import { DriverRing, type IndirectTables, tablesBytes } from '../../virtio/driver-ring.ts';
import { availBytes, descBytes, usedBytes } from '../../virtio/layout.ts';
import type { QueueAddresses } from '../../virtio/virtio-pci.ts';
import { SLOT_BYTES } from './command-ring.ts';
import type { BellShare, ScsiQueueShare } from './share.ts';

/** DMA memory of one virtqueue: the rings, and for request queues the indirect tables, slots and bounce buffers. */

/** One bounce buffer, bytes. */
export const BOUNCE_BYTES = 0x2_0000;
/** Descriptors of an indirect table at most: header, response, data. Two tables fill a page. */
const MAX_TABLE = 128;

export interface QueuePlan {
  /** Ring size, a power of two. */
  readonly size: number;
  readonly eventIdx: boolean;
  /** Descriptors of an indirect table; 0: none. */
  readonly entries: number;
  readonly segments: number;
}

/**
 * Ring size and table length that the device allows. Nothing of it takes more than a page in one piece.
 * @param deviceSize largest ring of the device
 * @param segMax data segments a request may have
 */
export function planQueue(
  deviceSize: number,
  segMax: number,
  indirect: boolean,
  eventIdx: boolean,
  wanted = 128,
): QueuePlan {
  // A ring's parts each fit in a page up to 256 entries.
  const size = 2 ** Math.floor(Math.log2(Math.max(2, Math.min(wanted, deviceSize, 256))));
  if (!indirect) {
    const segments = Math.max(1, Math.min(segMax, Math.floor(size / 4) - 2));
    return { size, eventIdx, entries: 0, segments };
  }
  const entries = Math.min(MAX_TABLE, segMax + 2);
  return { size, eventIdx, entries, segments: entries - 2 };
}

/** Rings alone: control and event queue. */
export class RingMemory {
  readonly size: number;
  readonly eventIdx: boolean;
  protected readonly buffers: DmaBuffer[] = [];
  readonly desc: DmaBuffer;
  readonly avail: DmaBuffer;
  readonly used: DmaBuffer;

  constructor(size: number, eventIdx: boolean, dma: DmaAllocator) {
    this.size = size;
    this.eventIdx = eventIdx;
    try {
      this.desc = this.take(dma, descBytes(size), true);
      this.avail = this.take(dma, availBytes(size, true), true);
      this.used = this.take(dma, usedBytes(size, true), true);
    } catch (error) {
      this.giveBack(); // not free(): what a subclass adds is not there yet
      throw error;
    }
  }

  protected take(dma: DmaAllocator, bytes: number, contiguous: boolean): DmaBuffer {
    const buffer = dma.allocate(bytes, contiguous);
    this.buffers.push(buffer);
    return buffer;
  }

  get addresses(): QueueAddresses {
    return {
      desc: ioAddressOf(this.desc.memory, 0),
      driver: ioAddressOf(this.avail.memory, 0),
      device: ioAddressOf(this.used.memory, 0),
    };
  }

  /** A driver half on cleared rings, before the device is told of them. */
  makeRing(): DriverRing {
    return makeRing(this.size, this.eventIdx, this.desc.memory, this.avail.memory, this.used.memory, undefined);
  }

  /** Cleared rings: for the first owner of the queue. */
  clear(): void {
    for (const { memory } of [this.desc, this.avail, this.used]) memory.u8.fill(0);
  }

  /** Only when the device can touch none of it. */
  free(): void {
    this.giveBack();
  }

  protected giveBack(): void {
    for (const buffer of this.buffers.splice(0)) buffer.free();
  }
}

/**
 * @param base where an idle ring stands that the device knows already; undefined: cleared rings
 * @throws Error when the parts do not fit (a bug of ours)
 */
export function makeRing(
  size: number,
  eventIdx: boolean,
  desc: Memory,
  avail: Memory,
  used: Memory,
  tables: IndirectTables | undefined,
  base?: number,
): DriverRing {
  const place = {
    desc: { memory: desc, offset: 0 },
    avail: { memory: avail, offset: 0 },
    used: { memory: used, offset: 0 },
  };
  const ring = DriverRing.create(place, {
    size,
    eventIdx,
    ...(tables === undefined ? {} : { tables }),
    ...(base === undefined ? {} : { base, live: true }),
  });
  if (typeof ring === 'string') throw new Error(ring);
  return ring;
}

export class RequestQueueMemory extends RingMemory {
  readonly index: number;
  readonly plan: QueuePlan;
  readonly wake: EventFd;
  /** Headers of the requests in flight: the main thread finds in them what is to be aborted. */
  readonly slots: DmaBuffer;
  private readonly tables: DmaBuffer | null;
  private readonly bounce: DmaBuffer;
  private readonly zeroes: DmaBuffer;

  constructor(index: number, plan: QueuePlan, bounceBuffers: number, dma: DmaAllocator) {
    super(plan.size, plan.eventIdx, dma);
    this.index = index;
    this.plan = plan;
    try {
      // A table lies within a page, and so does a slot: they are in one piece wherever the pages are.
      this.tables = plan.entries === 0 ? null : this.take(dma, tablesBytes(plan.size, plan.entries), false);
      this.slots = this.take(dma, Math.max(IO_PAGE, plan.size * SLOT_BYTES), false);
      this.bounce = this.take(dma, bounceBuffers * BOUNCE_BYTES, false);
      this.zeroes = this.take(dma, IO_PAGE, true);
      this.wake = new EventFd();
    } catch (error) {
      this.giveBack();
      throw error;
    }
  }

  share(bell: BellShare, interrupts: boolean): ScsiQueueShare {
    return {
      index: this.index,
      size: this.size,
      eventIdx: this.eventIdx,
      desc: this.desc.share(),
      avail: this.avail.share(),
      used: this.used.share(),
      tables: this.tables === null ? null : { memory: this.tables.share(), entries: this.plan.entries },
      segments: this.plan.segments,
      slots: this.slots.share(),
      bounce: this.bounce.share(),
      zeroes: this.zeroes.share(),
      bell,
      wakeFd: this.wake.fd.number,
      interrupts,
    };
  }

  override free(): void {
    super.free();
    this.wake.close();
  }
}
