import { type GuestMemory, offsetOf, PAGE_BITS, PAGE_MASK, Row, TOO_HIGH } from '../memory/guest-memory.ts';
import { type Memory, NO_MEMORY } from '../memory/memory.ts';
import { VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from './features.ts';
import { VIRTQ_DESC } from './layout.ts';

/**
 * A batch of chains of the shape that nearly all have: a header, a response and one data buffer, a descriptor each, in the
 * ring's table or in an indirect one, each buffer in one window of the guest's memory. They are read into rows of one table, so that a
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

/** What the batch knows of a chain: a row of numbers, `PLAIN_ROW` of them. Only rows below `count` mean anything. */
export const PLAIN_ROW = 8;
/** Where the header lies in `memory`, in words: headers are aligned, and lie with the words asked for in it. */
export const PLAIN_REQUEST = 0;
/** Where the response lies in `memory`, bytes: Linux puts it where the header ends, which is aligned to nothing. */
export const PLAIN_RESPONSE = 1;
/** Where the data lies in its `dataMemory`, bytes. */
export const PLAIN_DATA = 2;
/** Bytes of data: 1 to 2^30. */
export const PLAIN_BYTES = 3;
/** 1 when the data is device-writable. */
export const PLAIN_IN = 4;
/** Index of the window in which the data lies. */
const FAR = 5;
/** In FAR: no window's index. */
const NONE = -2;

const ROW_SHIFT = 3;
const REQUEST_ = PLAIN_REQUEST;
const RESPONSE_ = PLAIN_RESPONSE;
const DATA_ = PLAIN_DATA;
const BYTES_ = PLAIN_BYTES;
const IN_ = PLAIN_IN;

// What the scan needs is in an array, too: a number from there is a machine word for V8, one from a field may be anything, and is
// looked at again each time it is used.
const NEAR_PAGE = 0;
const NEAR_START = 1;
const NEAR_END = 2;
const NEAR_BASE = 3;
const FAR_PAGE = 4;
const FAR_START = 5;
const FAR_END = 6;
const FAR_BASE = 7;
const FAR_INDEX = 8;
const REQUEST_BYTES = 9;
const RESPONSE_BYTES = 10;
const REQUEST_WORDS = 11;
/** VIRTQ_DESC_F_WRITE where the response stands before device-writable data, 0 where it is always last. */
const RESPONSE_FIRST = 12;
const DESC_AT = 13;
const ENTRIES = 14;
const INDIRECT_TOO = 15;
const NUMBERS = 16;

/** A window in which nothing lies. */
const NOWHERE = new Row({ gpa: 0, uva: 0, length: 0, memory: NO_MEMORY, base: 0 }, -1, [null]);

export interface PlainShape {
  readonly requestBytes: number;
  /** Words from the header's begin on that must be readable: whole words, so perhaps beyond its end. */
  readonly requestWords: number;
  readonly responseBytes: number;
  /** The response stands before device-writable data; else it is always last. */
  readonly responseFirst: boolean;
}

export class PlainChains {
  /** Chains in the batch. */
  count = 0;
  readonly capacity: number;
  /** Of each chain. */
  readonly head: Uint16Array;
  readonly dataMemory: Memory[];
  readonly rows: Int32Array;

  private readonly numbers = new Int32Array(NUMBERS);
  private readonly requestBytes: number;
  private readonly requestWords: number;
  private readonly responseBytes: number;
  private readonly responseFirst: boolean;
  private guest: GuestMemory | null = null;
  /** Where the last chain had its header and response, and where its data. */
  private near: Row = NOWHERE;
  private far: Row = NOWHERE;

  constructor(capacity: number, shape: PlainShape) {
    this.capacity = capacity;
    this.requestBytes = shape.requestBytes;
    this.requestWords = shape.requestWords;
    this.responseBytes = shape.responseBytes;
    this.responseFirst = shape.responseFirst;
    this.numbers[REQUEST_BYTES] = shape.requestBytes;
    this.numbers[REQUEST_WORDS] = shape.requestWords;
    this.numbers[RESPONSE_BYTES] = shape.responseBytes;
    this.numbers[RESPONSE_FIRST] = shape.responseFirst ? WRITE : 0;
    this.head = new Uint16Array(capacity);
    this.dataMemory = new Array<Memory>(capacity).fill(NO_MEMORY);
    this.rows = new Int32Array(capacity * PLAIN_ROW);
    this.lieNowhere();
  }

  /** Where all headers and responses of the batch lie. */
  get memory(): Memory {
    return this.near.memory;
  }

  private lieNowhere(): void {
    this.setNear(NOWHERE);
    this.setFar(NOWHERE);
    for (let i = 0; i < this.capacity; i++) this.rows[i * PLAIN_ROW + FAR] = NONE;
  }

  private setNear(row: Row): void {
    const { numbers } = this;
    this.near = row;
    numbers[NEAR_PAGE] = row.page;
    numbers[NEAR_START] = row.start;
    numbers[NEAR_END] = row.end;
    numbers[NEAR_BASE] = row.base;
  }

  private setFar(row: Row): void {
    const { numbers } = this;
    this.far = row;
    numbers[FAR_PAGE] = row.page;
    numbers[FAR_START] = row.start;
    numbers[FAR_END] = row.end;
    numbers[FAR_BASE] = row.base;
    numbers[FAR_INDEX] = row.index;
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
      this.lieNowhere();
    }
    const { numbers } = this;
    numbers[DESC_AT] = descAt;
    numbers[ENTRIES] = size;
    numbers[INDIRECT_TOO] = indirect ? 1 : 0;
    for (;;) {
      this.scan(desc, heads, from, end);
      const at = from + this.count;
      // A chain that lies elsewhere stops the scan: it is read the long way, and the scan goes on where that one lies.
      if (at >= end || !this.readOne(desc, descAt, size, indirect, heads[at])) return this.count;
    }
  }

  /** Read the chains that lie where the last one did: all but the data in one window. No call and no look-up in the loop. */
  private scan(desc: Uint32Array, heads: Uint16Array, from: number, end: number): void {
    const { numbers, near, far, head, rows, dataMemory } = this;
    const nearWords = near.memory.u32;
    const farMemory = far.memory;
    const nearPage = numbers[NEAR_PAGE];
    const nearStart = numbers[NEAR_START];
    const nearBase = numbers[NEAR_BASE];
    const requestBytes = numbers[REQUEST_BYTES];
    const responseBytes = numbers[RESPONSE_BYTES];
    const lastRequest = (numbers[NEAR_END] - requestBytes) | 0;
    const lastResponse = (numbers[NEAR_END] - responseBytes) | 0;
    const lastTable = (numbers[NEAR_END] - TABLE_BYTES) | 0;
    const lastWord = (nearWords.length - numbers[REQUEST_WORDS]) | 0;
    const farPage = numbers[FAR_PAGE];
    const farStart = numbers[FAR_START];
    const farEnd = numbers[FAR_END];
    const farBase = numbers[FAR_BASE];
    const farIndex = numbers[FAR_INDEX];
    const responseFirst = numbers[RESPONSE_FIRST];
    const descBase = numbers[DESC_AT];
    const descEntries = numbers[ENTRIES];
    const indirect = numbers[INDIRECT_TOO];
    // "| 0" in sums of small numbers: V8 need not look whether they are still small.
    let i = this.count | 0;
    const stop = end | 0;
    for (let at = (from + i) | 0; at < stop; at = (at + 1) | 0, i = (i + 1) | 0) {
      const chain = heads[at];
      let table = desc;
      let base = descBase;
      let entries = descEntries;
      let d = (base + (chain << WORDS_SHIFT)) | 0;
      let first = table[(d + FLAGS_WORD) | 0] | 0;
      let lo: number;
      let hi: number;
      let offset: number;
      if ((first & INDIRECT) !== 0) {
        if (indirect === 0 || (first & NEXT) !== 0 || (table[(d + LEN_WORD) | 0] | 0) !== TABLE_BYTES) break;
        lo = table[d] | 0;
        hi = table[(d + 1) | 0] | 0;
        offset = lo & PAGE_MASK_;
        if (((hi & TOO_HIGH_) | (((hi << 2) | (lo >>> BITS)) ^ nearPage)) !== 0) break;
        if (offset < nearStart || offset > lastTable || ((offset + nearBase) & 3) !== 0) break;
        table = nearWords;
        d = base = ((offset + nearBase) | 0) >> 2;
        entries = DESCRIPTORS;
        first = table[(d + FLAGS_WORD) | 0] | 0;
      }

      // The header.
      if ((first & FLAGS) !== NEXT || (table[(d + LEN_WORD) | 0] | 0) !== requestBytes) break;
      lo = table[d] | 0;
      hi = table[(d + 1) | 0] | 0;
      offset = lo & PAGE_MASK_;
      if (((hi & TOO_HIGH_) | (((hi << 2) | (lo >>> BITS)) ^ nearPage)) !== 0) break;
      if (offset < nearStart || offset > lastRequest) break;
      const request = (offset + nearBase) | 0;
      if ((request & 3) !== 0 || request >> 2 > lastWord) break;

      // The other two, in one of the two orders.
      let next = first >>> 16;
      if (next >= entries) break;
      const second = (base + (next << WORDS_SHIFT)) | 0;
      const secondFlags = table[(second + FLAGS_WORD) | 0] | 0;
      if ((secondFlags & (NEXT | INDIRECT)) !== NEXT) break;
      next = secondFlags >>> 16;
      if (next >= entries) break;
      const third = (base + (next << WORDS_SHIFT)) | 0;
      if ((table[(third + FLAGS_WORD) | 0] & FLAGS) !== WRITE) break;
      const early = secondFlags & responseFirst;

      d = early !== 0 ? second : third;
      if ((table[(d + LEN_WORD) | 0] | 0) !== responseBytes) break;
      lo = table[d] | 0;
      hi = table[(d + 1) | 0] | 0;
      offset = lo & PAGE_MASK_;
      if (((hi & TOO_HIGH_) | (((hi << 2) | (lo >>> BITS)) ^ nearPage)) !== 0) break;
      if (offset < nearStart || offset > lastResponse) break;
      const response = (offset + nearBase) | 0;

      d = early !== 0 ? third : second;
      const bytes = table[(d + LEN_WORD) | 0] | 0;
      lo = table[d] | 0;
      hi = table[(d + 1) | 0] | 0;
      offset = lo & PAGE_MASK_;
      if (((hi & TOO_HIGH_) | (((hi << 2) | (lo >>> BITS)) ^ farPage)) !== 0) break;
      if (offset < farStart || bytes <= 0 || bytes > ((farEnd - offset) | 0)) break;

      head[i] = chain;
      const r = i << ROW_SHIFT;
      rows[r | REQUEST_] = request >> 2;
      rows[r | RESPONSE_] = response;
      rows[r | DATA_] = offset + farBase;
      rows[r | BYTES_] = bytes;
      rows[r | IN_] = (secondFlags >>> 1) & 1;
      // Comparing costs less than storing a reference.
      if (rows[r | FAR] !== farIndex) {
        rows[r | FAR] = farIndex;
        dataMemory[i] = farMemory;
      }
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
    const r = i << ROW_SHIFT;
    this.rows[r + REQUEST_] = offset >> 2;

    // Response and data, or data and response.
    let next = word >>> 16;
    if (next >= entries) return false;
    at = base + (next << WORDS_SHIFT);
    word = table[at + FLAGS_WORD] | 0;
    if ((word & (NEXT | INDIRECT)) !== NEXT) return false;
    const dataIn = word & WRITE;
    const early = dataIn !== 0 && this.responseFirst;
    if (early) {
      if (!this.readResponse(table, at, i, guest, row)) return false;
    } else if (!this.readData(table, at, i, guest)) return false;
    next = word >>> 16;
    if (next >= entries) return false;
    at = base + (next << WORDS_SHIFT);
    word = table[at + FLAGS_WORD] | 0;
    if ((word & FLAGS) !== WRITE) return false;
    if (early) {
      if (!this.readData(table, at, i, guest)) return false;
    } else if (!this.readResponse(table, at, i, guest, row)) return false;

    if (row !== this.near) this.setNear(row);
    this.head[i] = head;
    this.rows[r + IN_] = dataIn >> 1;
    this.count = i + 1;
    return true;
  }

  private readResponse(table: Uint32Array, at: number, i: number, guest: GuestMemory, near: Row): boolean {
    if (table[at + LEN_WORD] !== this.responseBytes) return false;
    const lo = table[at] | 0;
    if (guest.whole(lo, table[at + 1] | 0, this.responseBytes) !== near) return false;
    this.rows[(i << ROW_SHIFT) + RESPONSE_] = offsetOf(near, lo);
    return true;
  }

  private readData(table: Uint32Array, at: number, i: number, guest: GuestMemory): boolean {
    const bytes = table[at + LEN_WORD] | 0;
    const lo = table[at] | 0;
    const row = guest.whole(lo, table[at + 1] | 0, bytes);
    if (row === null) return false;
    if (row !== this.far) this.setFar(row);
    const r = i << ROW_SHIFT;
    this.rows[r | FAR] = row.index;
    this.rows[r + DATA_] = offsetOf(row, lo);
    this.rows[r + BYTES_] = bytes;
    this.dataMemory[i] = row.memory;
    return true;
  }

  /** As SgList.forget: name no memory any more. Control path. */
  forget(): void {
    this.count = 0;
    this.guest = null;
    this.lieNowhere();
    this.dataMemory.fill(NO_MEMORY);
  }
}
