import { type GuestMemory, offsetOf } from '../memory/guest-memory.ts';
import { type Memory, NO_MEMORY } from '../memory/memory.ts';
import { VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from './features.ts';
import { VIRTQ_DESC } from './layout.ts';

/**
 * A batch of chains of the shape that nearly all have: a header, a response and one data buffer, a descriptor each, in the
 * ring's table or in an indirect one, each buffer in one window of the guest's memory. They are read into columns, so that a
 * request costs no object.
 *
 * Its one rule: it takes a chain that is plain, or says no and keeps nothing of it. ChainReader then reads the chain anew and
 * judges it, so what is wrong is found in one place. As there, each word of the driver's is loaded once.
 */

// Own copies: a constant of another module is loaded and checked at each use, one of this module is part of the code.
const NEXT = VIRTQ_DESC_F_NEXT;
const WRITE = VIRTQ_DESC_F_WRITE;
const INDIRECT = VIRTQ_DESC_F_INDIRECT;
const FLAGS = NEXT | WRITE | INDIRECT;
const WORDS_SHIFT = 2; // a descriptor is 4 u32 words
const LEN_WORD = VIRTQ_DESC.fields.len[0] >> 2;
/** One word holds flags (low half) and next (high half). */
const FLAGS_WORD = VIRTQ_DESC.fields.flags[0] >> 2;
const DESCRIPTORS = 3;
const TABLE_BYTES = DESCRIPTORS * VIRTQ_DESC.size;

export class PlainChains {
  /** Chains in the batch. */
  count = 0;
  readonly capacity: number;
  readonly requestBytes: number;
  readonly responseBytes: number;

  // Columns. Only indices below `count` mean anything.
  readonly head: Uint16Array;
  /** Where the header lies: memory, and the word in it; headers are aligned, and lie with the words asked for in it. */
  readonly requestMemory: Memory[];
  readonly requestWord: Int32Array;
  /** Memory and byte: Linux puts the response where the header ends, which is aligned to nothing. */
  readonly responseMemory: Memory[];
  readonly responseAt: Int32Array;
  readonly dataMemory: Memory[];
  readonly dataAt: Int32Array;
  /** Bytes: 1 to 2^30. */
  readonly dataBytes: Int32Array;
  /** 1 when the data is device-writable. */
  readonly dataIn: Uint8Array;

  private readonly requestWords: number;

  /** @param requestWords words from the header's begin on that must be readable: whole words, so perhaps beyond its end */
  constructor(capacity: number, requestBytes: number, requestWords: number, responseBytes: number) {
    this.capacity = capacity;
    this.requestBytes = requestBytes;
    this.requestWords = requestWords;
    this.responseBytes = responseBytes;
    const memories = () => new Array<Memory>(capacity).fill(NO_MEMORY);
    this.head = new Uint16Array(capacity);
    this.requestMemory = memories();
    this.requestWord = new Int32Array(capacity);
    this.responseMemory = memories();
    this.responseAt = new Int32Array(capacity);
    this.dataMemory = memories();
    this.dataAt = new Int32Array(capacity);
    this.dataBytes = new Int32Array(capacity);
    this.dataIn = new Uint8Array(capacity);
  }

  /**
   * Read the chain that starts at `head` (checked by the caller) to the end of the batch, which has room.
   * @param desc view with the descriptor table, `descAt` its first word, `size` its entries
   * @param indirect VIRTIO_F_INDIRECT_DESC was negotiated
   * @returns false when the chain is not plain; the batch is as it was
   */
  read(desc: Uint32Array, descAt: number, size: number, indirect: boolean, head: number, guest: GuestMemory): boolean {
    let table = desc;
    let base = descAt;
    let entries = size;
    let at = base + (head << WORDS_SHIFT);
    let word = table[at + FLAGS_WORD] | 0;
    if ((word & INDIRECT) !== 0) {
      if (!indirect || (word & NEXT) !== 0 || table[at + LEN_WORD] !== TABLE_BYTES) return false;
      const lo = table[at] | 0;
      const row = guest.whole(lo, table[at + 1] | 0, TABLE_BYTES);
      if (row === null) return false;
      const offset = offsetOf(row, lo);
      if ((offset & 3) !== 0) return false;
      table = row.memory.u32;
      base = offset >> 2;
      entries = DESCRIPTORS;
      at = base;
      word = table[at + FLAGS_WORD] | 0;
    }
    const i = this.count;

    // The header.
    if ((word & FLAGS) !== NEXT || table[at + LEN_WORD] !== this.requestBytes) return false;
    const lo = table[at] | 0;
    const row = guest.whole(lo, table[at + 1] | 0, this.requestBytes);
    if (row === null) return false;
    const offset = offsetOf(row, lo);
    const { memory } = row;
    if ((offset & 3) !== 0 || (offset >> 2) + this.requestWords > memory.u32.length) return false;
    this.requestMemory[i] = memory;
    this.requestWord[i] = offset >> 2;

    // Response and data, or data and response.
    let next = word >>> 16;
    if (next >= entries) return false;
    at = base + (next << WORDS_SHIFT);
    word = table[at + FLAGS_WORD] | 0;
    if ((word & (NEXT | INDIRECT)) !== NEXT) return false;
    const dataIn = word & WRITE;
    if (dataIn !== 0) {
      if (!this.readResponse(table, at, i, guest)) return false;
    } else if (!this.readData(table, at, i, guest)) return false;
    next = word >>> 16;
    if (next >= entries) return false;
    at = base + (next << WORDS_SHIFT);
    word = table[at + FLAGS_WORD] | 0;
    if ((word & FLAGS) !== WRITE) return false;
    if (dataIn !== 0) {
      if (!this.readData(table, at, i, guest)) return false;
    } else if (!this.readResponse(table, at, i, guest)) return false;

    this.head[i] = head;
    this.dataIn[i] = dataIn >> 1;
    this.count = i + 1;
    return true;
  }

  private readResponse(table: Uint32Array, at: number, i: number, guest: GuestMemory): boolean {
    if (table[at + LEN_WORD] !== this.responseBytes) return false;
    const lo = table[at] | 0;
    const row = guest.whole(lo, table[at + 1] | 0, this.responseBytes);
    if (row === null) return false;
    this.responseMemory[i] = row.memory;
    this.responseAt[i] = offsetOf(row, lo);
    return true;
  }

  private readData(table: Uint32Array, at: number, i: number, guest: GuestMemory): boolean {
    const bytes = table[at + LEN_WORD] | 0;
    const lo = table[at] | 0;
    const row = guest.whole(lo, table[at + 1] | 0, bytes);
    if (row === null) return false;
    this.dataMemory[i] = row.memory;
    this.dataAt[i] = offsetOf(row, lo);
    this.dataBytes[i] = bytes;
    return true;
  }

  /** As SgList.forget: name no memory any more. Control path. */
  forget(): void {
    this.count = 0;
    this.requestMemory.fill(NO_MEMORY);
    this.responseMemory.fill(NO_MEMORY);
    this.dataMemory.fill(NO_MEMORY);
  }
}
