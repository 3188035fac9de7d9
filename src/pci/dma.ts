import { Memory } from '../memory/memory.ts';
import { adopt, type Mapping, type MappingShare } from '../sys/mapping.ts';

/**
 * Memory that devices read and write: what drivers ask for, and how a reactor gets at what the main thread allocated. The
 * allocators behind it are src/pci/dma-memory.ts and, in tests, plain arrays.
 */

/** A piece of DMA memory for another thread; survives structured clone. */
export interface DmaShare {
  readonly place: { readonly mapping: MappingShare; readonly offset: number } | { readonly buffer: SharedArrayBuffer };
  readonly bytes: number;
  /** As of Memory: one of the two says where devices see it. */
  readonly ioAddress: number;
  readonly ioPages: Float64Array | null;
}

/** Zeroed memory of a driver, on page boundaries. */
export interface DmaBuffer {
  readonly memory: Memory;
  share(): DmaShare;
  /** Give it back. Only when no device can touch it any more. */
  free(): void;
}

export interface DmaAllocator {
  /**
   * @param bytes rounded up to pages of 4 KiB
   * @param contiguous one physical piece; without it every page may lie anywhere (`ioPages`). One page is always to be had,
   *   more only where memory is not fragmented: who asks for more must do with less.
   * @throws Error that says what memory is missing and how to get it
   */
  allocate(bytes: number, contiguous: boolean): DmaBuffer;
}

/** Mappings of this thread by where they lie: many pieces share one. */
const adopted = new Map<number, Mapping>();

/** The other thread's piece in this one. Valid until its owner frees it. */
export function adoptDma(share: DmaShare): Memory {
  let memory: Memory;
  if ('buffer' in share.place) {
    memory = new Memory(share.place.buffer, 0, share.bytes);
  } else {
    const { mapping, offset } = share.place;
    let mine = adopted.get(mapping.address);
    if (mine === undefined || mine.unmapped || mine.size !== mapping.size) {
      mine = adopt(mapping);
      adopted.set(mapping.address, mine);
    }
    memory = mine.memoryAt(offset, share.bytes);
  }
  memory.ioAddress = share.ioAddress;
  memory.ioPages = share.ioPages;
  return memory;
}
