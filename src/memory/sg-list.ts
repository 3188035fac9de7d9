import { copyMemory } from './copy.ts';
import { type Memory, NO_MEMORY } from './memory.ts';

/**
 * A scatter-gather list: where the bytes of one transfer lie. Preallocated and reused; segments are valid until
 * the owner's next `reset()`.
 *
 * Each segment i is `length[i]` bytes at `offset[i]` of `memory[i]`; only indices below `count` mean anything.
 */
export class SgList {
  readonly memory: Memory[];
  offset: Int32Array;
  length: Int32Array;
  /** Segments in use. */
  count = 0;
  /** Sum of the lengths. */
  bytes = 0;
  private readonly limit: number;

  /**
   * @param capacity segments allocated now
   * @param limit segments it may grow to (growth happens outside the steady state and never beyond this)
   */
  constructor(capacity: number, limit = capacity) {
    this.memory = new Array<Memory>(capacity).fill(NO_MEMORY);
    this.offset = new Int32Array(capacity);
    this.length = new Int32Array(capacity);
    this.limit = limit;
  }

  reset(): void {
    this.count = 0;
    this.bytes = 0;
  }

  /** Drop the references to memory too, so that a replaced memory table can be unmapped. Not for the hot path. */
  forget(): void {
    this.reset();
    this.memory.fill(NO_MEMORY);
  }

  /** Append a segment; false when the limit is reached. The caller has checked that the range lies in the memory. */
  push(memory: Memory, offset: number, bytes: number): boolean {
    const i = this.count;
    if (i === this.memory.length && !this.grow()) return false;
    this.memory[i] = memory;
    this.offset[i] = offset;
    this.length[i] = bytes;
    this.count = i + 1;
    this.bytes += bytes;
    return true;
  }

  /** No further segment fits: tells a failed `push` from an address that was wrong. */
  get full(): boolean {
    return this.count === this.limit;
  }

  private grow(): boolean {
    const now = this.memory.length;
    const next = Math.min(this.limit, Math.max(8, now * 2));
    if (next <= now) return false;
    for (let i = now; i < next; i++) this.memory.push(NO_MEMORY);
    const offset = new Int32Array(next);
    offset.set(this.offset);
    this.offset = offset;
    const length = new Int32Array(next);
    length.set(this.length);
    this.length = length;
    return true;
  }

  /**
   * Copy bytes of the list, from its byte `from` on, into `dst`: the "copy" of copy-then-parse.
   * @returns bytes copied: less than asked when the list ends.
   */
  gather(from: number, dst: Memory, dstOff: number, bytes: number): number {
    return this.transfer(from, dst, dstOff, bytes, false);
  }

  /** Copy `bytes` of `src` into the list from its byte `from` on. @returns bytes copied, as {@link gather}. */
  scatter(from: number, src: Memory, srcOff: number, bytes: number): number {
    return this.transfer(from, src, srcOff, bytes, true);
  }

  private transfer(from: number, other: Memory, otherOff: number, bytes: number, intoList: boolean): number {
    // Nearly always all of it lies in the first segment.
    if (this.count > 0 && from + bytes <= this.length[0]) {
      const offset = this.offset[0] + from;
      if (intoList) copyMemory(this.memory[0], offset, other, otherOff, bytes);
      else copyMemory(other, otherOff, this.memory[0], offset, bytes);
      return bytes;
    }
    let skip = from;
    let left = bytes;
    let at = otherOff;
    for (let i = 0; i < this.count && left > 0; i++) {
      const length = this.length[i];
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const n = Math.min(length - skip, left);
      const offset = this.offset[i] + skip;
      if (intoList) copyMemory(this.memory[i], offset, other, at, n);
      else copyMemory(other, at, this.memory[i], offset, n);
      at += n;
      left -= n;
      skip = 0;
    }
    return bytes - left;
  }
}
