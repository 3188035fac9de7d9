import { IO_PAGE } from '../memory/io-address.ts';
import type { DmaAllocator, DmaBuffer } from '../pci/dma.ts';
import { EventFd } from '../sys/eventfd.ts';
import { logger } from '../sys/log.ts';
import { CQE_BYTES, SQE_BYTES } from './commands.ts';
import { DOORBELL_BASE } from './registers.ts';
import type { NvmeQueueShare } from './share.ts';

const log = logger('nvme');

/** DMA memory of one I/O queue pair: rings, list pages, bounce buffers, and the eventfd that wakes its reactor. */

/** One bounce buffer, bytes. */
export const BOUNCE_BYTES = 0x2_0000;
/** Entries of a submission queue that is one page: what can be had wherever the pages lie. */
const PAGE_ENTRIES = IO_PAGE / SQE_BYTES;

export class QueueMemory {
  readonly id: number;
  /** Of each ring: as many as wanted, or fewer when there is no piece of memory for them. */
  readonly entries: number;
  readonly wake = new EventFd();
  readonly sq: DmaBuffer;
  readonly cq: DmaBuffer;
  private readonly lists: DmaBuffer;
  private readonly bounce: DmaBuffer;
  private readonly stride: number;

  /** @param wanted entries, 2 or more @throws Error of the allocator */
  constructor(id: number, wanted: number, bounceBuffers: number, stride: number, dma: DmaAllocator) {
    this.id = id;
    this.stride = stride;
    const got: DmaBuffer[] = [];
    const take = (bytes: number) => {
      const buffer = dma.allocate(bytes, false);
      got.push(buffer);
      return buffer;
    };
    try {
      got.push(...takeRings(wanted, dma));
      [this.sq, this.cq] = got as [DmaBuffer, DmaBuffer];
      this.entries = Math.min(wanted, Math.floor(this.sq.memory.length / SQE_BYTES));
      this.lists = take((this.entries - 1) * IO_PAGE);
      this.bounce = take(bounceBuffers * BOUNCE_BYTES);
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

/**
 * Submission and completion ring of so many entries, or of fewer: controllers want each in one physical piece (CAP.CQR), and
 * nothing longer than a page is sure to be had.
 */
function takeRings(wanted: number, dma: DmaAllocator): [sq: DmaBuffer, cq: DmaBuffer] {
  for (let entries = wanted; ; entries = Math.max(PAGE_ENTRIES, Math.ceil(entries / 2))) {
    let sq: DmaBuffer | undefined;
    try {
      sq = dma.allocate(entries * SQE_BYTES, true);
      return [sq, dma.allocate(entries * CQE_BYTES, true)];
    } catch (error) {
      sq?.free();
      if (entries <= PAGE_ENTRIES) throw error;
      log('%s; a shorter queue', (error as Error).message);
    }
  }
}
