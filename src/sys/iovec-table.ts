/**
 * The kernel's form of a segment list: arrays of struct iovec {u64 base, u64 length}, one preallocated per request slot, in
 * mapped memory so that they stay where they are while the kernel reads them. Here the addresses of buffers are made; callers
 * know slots only.
 */
import type { Memory } from '../memory/memory.ts';
import type { SgList } from '../memory/sg-list.ts';
import { type Mapping, mapAnonymous } from './mapping.ts';

/** Most segments of one readv or writev (UIO_MAXIOV). */
export const MAX_IOVECS = 1024;
const IOVEC_WORDS = 4;
/** Slots lie a cache line more than their size apart, so that the first entries of all do not compete for one cache set. */
const STRIDE_WORDS = MAX_IOVECS * IOVEC_WORDS + 16;
/** Largest transfer of one call that the kernel does not cut short: 2^31 minus a page, rounded down. Bytes. */
const MAX_TRANSFER = 0x7fff_0000;

/** Why {@link IovecTable.fill} gave no iovecs. */
export const NOT_ALIGNED = -1;

export class IovecTable {
  /** Entries of each slot's array, as last filled. */
  readonly count: Int32Array;
  /** Bytes they cover: fewer than asked for when the list has more segments than an array holds. */
  readonly bytes: Float64Array;
  /** Where in the file each slot's transfer begins, bytes. The caller sets it. */
  readonly position: Float64Array;
  /**
   * Address of each slot's array, for src/sys only. Not a typed array: an element of this one is a number object that exists
   * already, so that handing it to a function or to the C library makes no new one.
   */
  readonly address: readonly number[];
  private readonly mapping: Mapping;
  private readonly u32: Uint32Array;

  /** @param slots memory is only used by those that are */
  constructor(slots: number) {
    this.count = new Int32Array(slots);
    this.bytes = new Float64Array(slots);
    this.position = new Float64Array(slots);
    this.mapping = mapAnonymous(slots * STRIDE_WORDS * 4, { noReserve: true });
    const memory = this.mapping.memoryAt(0, slots * STRIDE_WORDS * 4);
    this.u32 = memory.u32;
    // The string makes the array one of objects, not of bare doubles.
    const address: unknown[] = [''];
    for (let slot = 0; slot < slots; slot++) address[slot] = memory.address + slot * STRIDE_WORDS * 4;
    this.address = address as number[];
  }

  /**
   * Name bytes [from, from + bytes) of `sg`, as far as the array goes. Neighbours in memory become one entry.
   * @param memoryMask required alignment of addresses, minus 1
   * @param lengthMask required alignment of lengths, minus 1
   * @returns entries; NOT_ALIGNED when a segment breaks the alignment or the kernel cannot reach it (it is in no mapping)
   */
  fill(slot: number, sg: SgList, from: number, bytes: number, memoryMask: number, lengthMask: number): number {
    const words = this.u32;
    const first = slot * STRIDE_WORDS;
    const limit = Math.min(bytes, MAX_TRANSFER);
    let skip = from;
    let total = 0;
    let count = 0;
    let lastEnd = 0;
    let lastLength = 0;
    for (let i = 0; i < sg.count && total < limit; i++) {
      const length = sg.length[i];
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const memory = sg.memory[i];
      const n = Math.min(length - skip, limit - total);
      const at = sg.offset[i] + skip;
      // A revoked Memory has length 0: its address must not reach the kernel.
      if (memory.address === 0 || at + n > memory.length) return NOT_ALIGNED;
      const address = memory.address + at;
      if (((address & memoryMask) | (n & lengthMask)) !== 0) return NOT_ALIGNED;
      if (address === lastEnd) {
        lastLength += n;
        words[first + (count - 1) * IOVEC_WORDS + 2] = lastLength;
      } else {
        if (count === MAX_IOVECS) break;
        this.put(first + count * IOVEC_WORDS, address, n);
        lastLength = n;
        count++;
      }
      lastEnd = address + n;
      total += n;
      skip = 0;
    }
    this.count[slot] = count;
    this.bytes[slot] = total;
    return count;
  }

  /** Name one piece of memory: a bounce buffer. */
  fillOne(slot: number, memory: Memory, offset: number, bytes: number): void {
    if (memory.address === 0 || !(offset >= 0 && bytes > 0 && offset + bytes <= memory.length)) {
      throw new RangeError(`IovecTable: ${offset}+${bytes} of ${memory.length}`);
    }
    this.put(slot * STRIDE_WORDS, memory.address + offset, bytes);
    this.count[slot] = 1;
    this.bytes[slot] = bytes;
  }

  /** Name the whole of `memory` again and again until `bytes` are covered or the array is full: to write zeroes. */
  fillRepeated(slot: number, memory: Memory, bytes: number): void {
    if (memory.address === 0 || memory.length === 0) throw new RangeError('IovecTable: no memory to repeat');
    const limit = Math.min(bytes, MAX_TRANSFER);
    let total = 0;
    let count = 0;
    while (total < limit && count < MAX_IOVECS) {
      const n = Math.min(memory.length, limit - total);
      this.put(slot * STRIDE_WORDS + count * IOVEC_WORDS, memory.address, n);
      total += n;
      count++;
    }
    this.count[slot] = count;
    this.bytes[slot] = total;
  }

  close(): void {
    this.mapping.unmap();
  }

  private put(word: number, address: number, bytes: number): void {
    const words = this.u32;
    words[word] = address; // stored modulo 2^32: the low word
    words[word + 1] = address / 0x1_0000_0000;
    words[word + 2] = bytes;
    words[word + 3] = 0;
  }
}
