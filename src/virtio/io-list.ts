/**
 * A list of buffers as a device sees them: 64-bit I/O addresses in two words, with lengths. What a driver puts in
 * descriptors. Preallocated and reused; addresses may be given signed or unsigned (the low 32 bits count).
 */
export class IoList {
  readonly lo: Uint32Array;
  readonly hi: Uint32Array;
  readonly length: Uint32Array;
  /** Buffers in use. */
  count = 0;
  /** Sum of the lengths. */
  bytes = 0;

  constructor(capacity: number) {
    this.lo = new Uint32Array(capacity);
    this.hi = new Uint32Array(capacity);
    this.length = new Uint32Array(capacity);
  }

  reset(): void {
    this.count = 0;
    this.bytes = 0;
  }

  /** Append a buffer of `bytes` (below 2^32); false when the list is full. */
  push(lo: number, hi: number, bytes: number): boolean {
    const i = this.count;
    if (i === this.lo.length) return false;
    this.lo[i] = lo;
    this.hi[i] = hi;
    this.length[i] = bytes;
    this.count = i + 1;
    this.bytes += bytes;
    return true;
  }

  /** Append a buffer at an address below 2^53, as Memory.ioAddress plus an offset is. */
  pushAddress(address: number, bytes: number): boolean {
    return this.push(address % 0x1_0000_0000, Math.floor(address / 0x1_0000_0000), bytes);
  }
}
