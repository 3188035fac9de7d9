import { IO_PAGE } from '../memory/io-address.ts';
import type { DmaAllocator, DmaBuffer } from '../pci/dma.ts';
import { EventFd } from '../sys/eventfd.ts';
import type { Capabilities } from './capabilities.ts';
import { CQE_BYTES, SQE_BYTES } from './commands.ts';
import { DOORBELL_BASE } from './registers.ts';
import type { NvmeQueueShare } from './share.ts';

/** DMA memory of one I/O queue pair: rings, list pages, bounce buffers, and the eventfd that wakes its reactor. */

/** One bounce buffer, bytes. */
export const BOUNCE_BYTES = 0x2_0000;
/** Ring entries wanted; a controller, or memory in single pages, may allow fewer. */
const WANTED_ENTRIES = 128;

export class QueueMemory {
  readonly id: number;
  readonly entries: number;
  readonly wake = new EventFd();
  readonly sq: DmaBuffer;
  readonly cq: DmaBuffer;
  private readonly lists: DmaBuffer;
  private readonly bounce: DmaBuffer;
  private readonly stride: number;

  /** @throws Error of the allocator */
  constructor(id: number, entries: number, bounceBuffers: number, stride: number, dma: DmaAllocator) {
    this.id = id;
    this.entries = entries;
    this.stride = stride;
    const got: DmaBuffer[] = [];
    const take = (bytes: number, contiguous: boolean) => {
      const buffer = dma.allocate(bytes, contiguous);
      got.push(buffer);
      return buffer;
    };
    try {
      this.sq = take(entries * SQE_BYTES, true);
      this.cq = take(entries * CQE_BYTES, true);
      this.lists = take((entries - 1) * IO_PAGE, false);
      this.bounce = take(bounceBuffers * BOUNCE_BYTES, false);
    } catch (error) {
      for (const buffer of got) buffer.free();
      this.wake.close();
      throw error;
    }
  }

  /** Empty rings: before the controller is told of them (again). */
  clear(): void {
    this.sq.memory.u8.fill(0);
    this.cq.memory.u8.fill(0);
  }

  share(interrupts: boolean): NvmeQueueShare {
    const tail = (DOORBELL_BASE + 2 * this.id * this.stride) >> 2;
    return {
      id: this.id,
      entries: this.entries,
      sq: this.sq.share(),
      cq: this.cq.share(),
      lists: this.lists.share(),
      bounce: this.bounce.share(),
      tailDoorbell: tail,
      headDoorbell: tail + (this.stride >> 2),
      wakeFd: this.wake.fd.number,
      interrupts,
    };
  }

  /** Only when the device can touch none of it. */
  free(): void {
    for (const buffer of [this.sq, this.cq, this.lists, this.bounce]) buffer.free();
    this.wake.close();
  }
}

/** Ring entries that controller and memory allow. @param wanted at most so many */
export function ringEntries(capabilities: Capabilities, dma: DmaAllocator, wanted = WANTED_ENTRIES): number {
  const fits = Math.floor(dma.largestContiguous / SQE_BYTES);
  return Math.max(2, Math.min(wanted, capabilities.maxEntries, fits));
}
