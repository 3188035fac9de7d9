/**
 * A contiguous piece of mapped memory: the one object by which the layers name bytes that another agent may
 * touch at the same time (guest memory, BARs, DMA buffers, the malloc disk).
 *
 * It works over any ArrayBuffer, so everything above runs in tests on plain memory. Pieces are at most
 * {@link MAX_MEMORY} bytes: offsets stay small integers, and Node 20 refuses larger views.
 */

/** Largest length of one Memory, bytes: a window of 1 GiB plus an overhang that keeps a ring in one piece. */
export const MAX_MEMORY = 0x4000_0000 + 0x10_0000;

/** Where the bytes of a Memory lie; `byteOffset` is a multiple of 8. */
export interface MemoryViews {
  readonly buffer: ArrayBufferLike;
  readonly byteOffset: number;
}

const EMPTY = new ArrayBuffer(0);

export class Memory {
  /** Byte view. Bulk data only: single bytes do not tear, wider values go through u16 and u32. */
  u8: Uint8Array;
  /** Little-endian 16-bit words (the hosts we run on are little-endian), index = byte offset >> 1. */
  u16: Uint16Array;
  /** 32-bit words, index = byte offset >> 2. */
  u32: Uint32Array;
  /** Length in bytes. 0 once the owner has revoked it. */
  length: number;
  /**
   * Where the memory lies in this process; 0 when unknown (a plain ArrayBuffer). Belongs to src/sys: no other
   * folder computes with it.
   */
  readonly address: number;
  /** Where a PCI device sees offset 0 (a physical address, see design), or -1 when no device can reach it. */
  ioAddress: number;
  /**
   * For memory that a device can reach but not as one piece: the I/O address of each 4 KiB page, entry 0 being the page
   * of offset 0 (which then lies on a page boundary). null when `ioAddress` says it all.
   */
  ioPages: Float64Array | null;
  /** Makes the views; null when they are made. */
  private makeViews: (() => MemoryViews) | null = null;

  /** @param byteOffset must be a multiple of 8, so that the word views are aligned for every agent. */
  constructor(buffer: ArrayBufferLike, byteOffset = 0, length = buffer.byteLength - byteOffset, address = 0) {
    if (byteOffset % 8 !== 0) throw new RangeError(`Memory: byteOffset ${byteOffset} is not a multiple of 8`);
    if (length > MAX_MEMORY) throw new RangeError(`Memory: ${length} bytes are more than ${MAX_MEMORY}`);
    this.u8 = new Uint8Array(buffer, byteOffset, length);
    this.u16 = new Uint16Array(buffer, byteOffset, length >>> 1);
    this.u32 = new Uint32Array(buffer, byteOffset, length >>> 2);
    this.length = length;
    this.address = address;
    this.ioAddress = -1;
    this.ioPages = null;
  }

  /**
   * Memory whose views are made when {@link open} is first called. Until then its bytes cannot be read or written, though its
   * length and address are known. For memory of which most may never be touched, since each view is work.
   */
  static unopened(length: number, address: number, makeViews: () => MemoryViews): Memory {
    if (length > MAX_MEMORY) throw new RangeError(`Memory: ${length} bytes are more than ${MAX_MEMORY}`);
    const memory = new Memory(EMPTY, 0, 0, address);
    memory.length = length;
    memory.makeViews = makeViews;
    return memory;
  }

  /** Make the views, if they are not there. Not for the hot path. @throws what making them throws */
  open(): void {
    if (this.makeViews === null) return;
    const { buffer, byteOffset } = this.makeViews();
    this.u8 = new Uint8Array(buffer, byteOffset, this.length);
    this.u16 = new Uint16Array(buffer, byteOffset, this.length >>> 1);
    this.u32 = new Uint32Array(buffer, byteOffset, this.length >>> 2);
    this.makeViews = null;
  }

  /** Make every later access harmless: the views become empty. The owner calls it before it unmaps. */
  revoke(): void {
    this.u8 = NOTHING.u8;
    this.u16 = NOTHING.u16;
    this.u32 = NOTHING.u32;
    this.makeViews = null;
    this.length = 0;
    this.ioAddress = -1;
    this.ioPages = null;
  }
}

const NOTHING = { u8: new Uint8Array(EMPTY), u16: new Uint16Array(EMPTY), u32: new Uint32Array(EMPTY) };

/** The Memory of no bytes: fills unused places in preallocated tables. */
export const NO_MEMORY = new Memory(new ArrayBuffer(0));
