import { type GuestMemory, offsetOf, PAGE_BITS, PAGE_MASK, Row, TOO_HIGH } from '../memory/guest-memory.ts';
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
const BITS = PAGE_BITS;
const PAGE_MASK_ = PAGE_MASK;
const TOO_HIGH_ = TOO_HIGH;
const DESCRIPTORS = 3;
const TABLE_BYTES = DESCRIPTORS * VIRTQ_DESC.size;

/** A window in which nothing lies. */
const NOWHERE = new Row({ gpa: 0, uva: 0, length: 0, memory: NO_MEMORY, base: 0 }, -1, [null]);

export class PlainChains {
  /** Chains in the batch. */
  count = 0;
  readonly capacity: number;
  readonly requestBytes: number;
  readonly responseBytes: number;

  // Columns. Only indices below `count` mean anything.
  readonly head: Uint16Array;
  /** Where the header lies in `memory`, in words: headers are aligned, and lie with the words asked for in it. */
  readonly requestWord: Int32Array;
  /** In bytes: Linux puts the response where the header ends, which is aligned to nothing. */
  readonly responseAt: Int32Array;
  readonly dataMemory: Memory[];
  readonly dataAt: Int32Array;
  /** Bytes: 1 to 2^30. */
  readonly dataBytes: Int32Array;
  /** 1 when the data is device-writable. */
  readonly dataIn: Uint8Array;

  private readonly requestWords: number;
  private guest: GuestMemory | null = null;
  /** Where the last chain had its header and response, and where its data. */
  private near: Row = NOWHERE;
  private far: Row = NOWHERE;

  /** @param requestWords words from the header's begin on that must be readable: whole words, so perhaps beyond its end */
  constructor(capacity: number, requestBytes: number, requestWords: number, responseBytes: number) {
    this.capacity = capacity;
    this.requestBytes = requestBytes;
    this.requestWords = requestWords;
    this.responseBytes = responseBytes;
    this.head = new Uint16Array(capacity);
    this.requestWord = new Int32Array(capacity);
    this.responseAt = new Int32Array(capacity);
    this.dataMemory = new Array<Memory>(capacity).fill(NO_MEMORY);
    this.dataAt = new Int32Array(capacity);
    this.dataBytes = new Int32Array(capacity);
    this.dataIn = new Uint8Array(capacity);
  }

  /** Where all headers and responses of the batch lie. */
  get memory(): Memory {
    return this.near.memory;
  }

  /**
   * Read chains into the emptied batch, as long as they are plain and have their headers and responses in one window.
   * @param desc view with the descriptor table, `descAt` its first word, `size` its entries
   * @param indirect VIRTIO_F_INDIRECT_DESC was negotiated
   * @param heads the chains' heads, checked by the caller, from index `from` to `end`: no more than the batch holds
   * @returns how many are in the batch. When that is none, `heads[from]` is not plain; else the next may be, in another batch.
   */
  read(
    desc: Uint32Array,
    descAt: number,
    size: number,
    indirect: boolean,
    guest: GuestMemory,
    heads: Uint16Array,
    from: number,
    end: number,
  ): number {
    this.count = 0;
    if (guest !== this.guest) {
      this.guest = guest;
      this.near = this.far = NOWHERE;
    }
    for (;;) {
      this.scan(desc, descAt, size, indirect, heads, from, end);
      const at = from + this.count;
      // A chain that lies elsewhere stops the scan: it is read the long way, and the scan goes on where that one lies.
      if (at >= end || !this.readOne(desc, descAt, size, indirect, heads[at])) return this.count;
    }
  }

  /** Read the chains that lie where the last one did: all but the data in one window. No call and no look-up in the loop. */
  private scan(
    desc: Uint32Array,
    descAt: number,
    size: number,
    indirect: boolean,
    heads: Uint16Array,
    from: number,
    end: number,
  ): void {
    const { near, far, head, requestBytes, responseBytes, requestWords, dataMemory } = this;
    const { requestWord, responseAt, dataAt, dataBytes, dataIn } = this;
    const { page: nearPage, start: nearStart, end: nearEnd, base: nearBase, memory: nearMemory } = near;
    const { page: farPage, start: farStart, end: farEnd, base: farBase, memory: farMemory } = far;
    const nearWords = nearMemory.u32;
    const lastRequest = nearWords.length - requestWords;
    let i = this.count;
    for (let at = from + i; at < end; at++, i++) {
      let table = desc;
      let base = descAt;
      let entries = size;
      let d = base + (heads[at] << WORDS_SHIFT);
      let first = table[d + FLAGS_WORD];
      let lo: number;
      let hi: number;
      let offset: number;
      if ((first & INDIRECT) !== 0) {
        if (!indirect || (first & NEXT) !== 0 || table[d + LEN_WORD] !== TABLE_BYTES) break;
        lo = table[d];
        hi = table[d + 1];
        offset = lo & PAGE_MASK_;
        if (((hi & TOO_HIGH_) | (((hi << 2) | (lo >>> BITS)) ^ nearPage)) !== 0) break;
        if (offset < nearStart || TABLE_BYTES > nearEnd - offset || ((offset + nearBase) & 3) !== 0) break;
        table = nearWords;
        d = base = (offset + nearBase) >> 2;
        entries = DESCRIPTORS;
        first = table[d + FLAGS_WORD];
      }

      // The header.
      if ((first & FLAGS) !== NEXT || table[d + LEN_WORD] !== requestBytes) break;
      lo = table[d];
      hi = table[d + 1];
      offset = lo & PAGE_MASK_;
      if (((hi & TOO_HIGH_) | (((hi << 2) | (lo >>> BITS)) ^ nearPage)) !== 0) break;
      if (offset < nearStart || requestBytes > nearEnd - offset) break;
      const request = offset + nearBase;
      if ((request & 3) !== 0 || request >> 2 > lastRequest) break;

      // The other two, in one of the two orders.
      let next = first >>> 16;
      if (next >= entries) break;
      const second = base + (next << WORDS_SHIFT);
      const secondFlags = table[second + FLAGS_WORD];
      if ((secondFlags & (NEXT | INDIRECT)) !== NEXT) break;
      next = secondFlags >>> 16;
      if (next >= entries) break;
      const third = base + (next << WORDS_SHIFT);
      if ((table[third + FLAGS_WORD] & FLAGS) !== WRITE) break;
      const reads = (secondFlags & WRITE) !== 0;

      d = reads ? second : third;
      if (table[d + LEN_WORD] !== responseBytes) break;
      lo = table[d];
      hi = table[d + 1];
      offset = lo & PAGE_MASK_;
      if (((hi & TOO_HIGH_) | (((hi << 2) | (lo >>> BITS)) ^ nearPage)) !== 0) break;
      if (offset < nearStart || responseBytes > nearEnd - offset) break;
      const response = offset + nearBase;

      d = reads ? third : second;
      const bytes = table[d + LEN_WORD] | 0;
      lo = table[d];
      hi = table[d + 1];
      offset = lo & PAGE_MASK_;
      if (((hi & TOO_HIGH_) | (((hi << 2) | (lo >>> BITS)) ^ farPage)) !== 0) break;
      if (offset < farStart || bytes <= 0 || bytes > farEnd - offset) break;

      head[i] = heads[at];
      // Comparing costs less than storing a reference.
      if (dataMemory[i] !== farMemory) dataMemory[i] = farMemory;
      requestWord[i] = request >> 2;
      responseAt[i] = response;
      dataAt[i] = offset + farBase;
      dataBytes[i] = bytes;
      dataIn[i] = reads ? 1 : 0;
    }
    this.count = i;
  }

  /** Read one chain to the end of the batch, which has room, wherever it lies. @returns false when it is not plain */
  private readOne(desc: Uint32Array, descAt: number, size: number, indirect: boolean, head: number): boolean {
    const { guest } = this;
    if (guest === null) return false;
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
    if (row === null || (i > 0 && row !== this.near)) return false;
    const offset = offsetOf(row, lo);
    if ((offset & 3) !== 0 || (offset >> 2) + this.requestWords > row.memory.u32.length) return false;
    this.requestWord[i] = offset >> 2;

    // Response and data, or data and response.
    let next = word >>> 16;
    if (next >= entries) return false;
    at = base + (next << WORDS_SHIFT);
    word = table[at + FLAGS_WORD] | 0;
    if ((word & (NEXT | INDIRECT)) !== NEXT) return false;
    const dataIn = word & WRITE;
    if (dataIn !== 0) {
      if (!this.readResponse(table, at, i, guest, row)) return false;
    } else if (!this.readData(table, at, i, guest)) return false;
    next = word >>> 16;
    if (next >= entries) return false;
    at = base + (next << WORDS_SHIFT);
    word = table[at + FLAGS_WORD] | 0;
    if ((word & FLAGS) !== WRITE) return false;
    if (dataIn !== 0) {
      if (!this.readData(table, at, i, guest)) return false;
    } else if (!this.readResponse(table, at, i, guest, row)) return false;

    this.near = row;
    this.head[i] = head;
    this.dataIn[i] = dataIn >> 1;
    this.count = i + 1;
    return true;
  }

  private readResponse(table: Uint32Array, at: number, i: number, guest: GuestMemory, near: Row): boolean {
    if (table[at + LEN_WORD] !== this.responseBytes) return false;
    const lo = table[at] | 0;
    if (guest.whole(lo, table[at + 1] | 0, this.responseBytes) !== near) return false;
    this.responseAt[i] = offsetOf(near, lo);
    return true;
  }

  private readData(table: Uint32Array, at: number, i: number, guest: GuestMemory): boolean {
    const bytes = table[at + LEN_WORD] | 0;
    const lo = table[at] | 0;
    const row = guest.whole(lo, table[at + 1] | 0, bytes);
    if (row === null) return false;
    this.far = row;
    this.dataMemory[i] = row.memory;
    this.dataAt[i] = offsetOf(row, lo);
    this.dataBytes[i] = bytes;
    return true;
  }

  /** As SgList.forget: name no memory any more. Control path. */
  forget(): void {
    this.count = 0;
    this.guest = null;
    this.near = this.far = NOWHERE;
    this.dataMemory.fill(NO_MEMORY);
  }
}
