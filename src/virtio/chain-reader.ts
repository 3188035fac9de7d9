import { type GuestMemory, offsetOf } from '../memory/guest-memory.ts';
import { Memory, NO_MEMORY } from '../memory/memory.ts';
import { SgList } from '../memory/sg-list.ts';
import { VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from './features.ts';
import { describeDesc, MAX_QUEUE_SIZE, VIRTQ_DESC } from './layout.ts';

/**
 * Walks a descriptor chain (virtio 1.2 §2.7.5) and turns it into two lists of places. Its one rule: each word of the
 * driver's is loaded once, then judged, then used; nothing is looked at twice, because the driver may change it in
 * between.
 *
 * Flag bits the spec does not define are ignored, as every device does: drivers may leave anything in them.
 */

// Own copies: a constant of another module is loaded and checked at each use, one of this module is part of the code.
const NEXT = VIRTQ_DESC_F_NEXT;
const WRITE = VIRTQ_DESC_F_WRITE;
const INDIRECT = VIRTQ_DESC_F_INDIRECT;
const WORDS_SHIFT = 2; // a descriptor is 4 u32 words
const LEN_WORD = VIRTQ_DESC.fields.len[0] >> 2;
/** One word holds flags (low half) and next (high half): one load, so the two belong together. */
const FLAGS_WORD = VIRTQ_DESC.fields.flags[0] >> 2;
if (VIRTQ_DESC.size !== 4 << WORDS_SHIFT || VIRTQ_DESC.fields.next[0] !== (FLAGS_WORD << 2) + 2) {
  throw new Error('chain-reader: the descriptor layout has changed');
}

/**
 * Longest indirect table, entries. §2.7.5.3.1 forbids chains longer than the queue size, but drivers of short queues
 * with long scatter lists make them, and every device takes them: our limit is that of our largest queue.
 */
export const MAX_TABLE = MAX_QUEUE_SIZE;
const MAX_TABLE_BYTES = MAX_TABLE * VIRTQ_DESC.size;

/** A chain has at most this many bytes in total (§2.7.5.2); the few of headers that a frame took are not counted. */
const MAX_CHAIN_BYTES = 0x1_0000_0000;

/**
 * Private copy of an indirect table that does not lie aligned in one window. One a thread: it is used only within
 * one `read`, which calls nobody back.
 */
const tableCopy = new Memory(new ArrayBuffer(MAX_TABLE_BYTES));
const tableParts = new SgList(4, 64);

/**
 * Where the parts of a chain go. Protocols whose chains begin with a request header, and whose writable half begins
 * with a response, name the two lengths: a first descriptor of just that length that lies in one piece, as every driver
 * makes it, becomes a place of its own, and nothing has to be cut off the data. Any other cut leaves `requestAt` or
 * `responseAt` at -1, and the header at the front of `out` or `into`.
 */
export class ChainFrame {
  /** Device-readable and device-writable buffers. */
  out: SgList;
  into: SgList;
  readonly requestBytes: number;
  readonly responseBytes: number;
  requestMemory: Memory = NO_MEMORY;
  requestAt = -1;
  responseMemory: Memory = NO_MEMORY;
  responseAt = -1;

  /** @param requestBytes length of the header, -1 for none @param responseBytes likewise */
  constructor(out: SgList, into: SgList, requestBytes = -1, responseBytes = -1) {
    this.out = out;
    this.into = into;
    this.requestBytes = requestBytes;
    this.responseBytes = responseBytes;
  }

  reset(): void {
    this.out.reset();
    this.into.reset();
    this.requestAt = -1;
    this.responseAt = -1;
  }

  /** As SgList.forget. */
  forget(): void {
    this.reset();
    this.out.forget();
    this.into.forget();
    this.requestMemory = NO_MEMORY;
    this.responseMemory = NO_MEMORY;
  }
}

export class ChainReader {
  guest: GuestMemory;
  /** Why the last `read` returned false. */
  error = '';
  private readonly indirect: boolean;
  // The table that openTable opened.
  private table: Uint32Array = tableCopy.u32;
  private base = 0;

  /** @param indirect VIRTIO_F_INDIRECT_DESC was negotiated */
  constructor(guest: GuestMemory, indirect: boolean) {
    this.guest = guest;
    this.indirect = indirect;
  }

  /**
   * Read the chain that starts at `head` (checked by the caller).
   * @param desc view with the descriptor table, `descAt` its first word, `size` its entries
   * @param frame gets the buffers; is reset first
   * @returns false when the chain is wrong; `error` says why, with the descriptor's values.
   */
  read(desc: Uint32Array, descAt: number, size: number, head: number, frame: ChainFrame): boolean {
    frame.reset();
    const guest = this.guest;
    let table = desc;
    let base = descAt;
    let entries = size;
    let left = size; // descriptors the chain may still have in this table: a loop ends here
    let inTable = false;
    let reading = false; // a readable one was seen, a writable one
    let writing = false;
    let i = head;
    for (;;) {
      const at = base + (i << WORDS_SHIFT);
      const word = table[at + FLAGS_WORD] | 0;
      // As signed words: a u32 of 2^31 or more would become a heap number on its way through a call.
      const len = table[at + LEN_WORD] | 0;
      const lo = table[at] | 0;
      const hi = table[at + 1] | 0;
      if ((word & INDIRECT) !== 0) {
        const n = inTable ? -1 : this.openTable(lo, hi, len, word);
        if (n < 0) return this.fail(i, inTable, lo, hi, len, word, this.tableError(inTable, len >>> 0, word));
        table = this.table;
        base = this.base;
        entries = n;
        left = n;
        inTable = true;
        i = 0;
        continue;
      }
      let list: SgList;
      let first: boolean;
      if ((word & WRITE) !== 0) {
        first = !writing && len === frame.responseBytes;
        writing = true;
        list = frame.into;
      } else if (!writing) {
        first = !reading && len === frame.requestBytes;
        reading = true;
        list = frame.out;
      } else {
        return this.fail(i, inTable, lo, hi, len, word, 'is readable after a writable one (§2.7.4.2)');
      }
      const row = guest.whole(lo, hi, len);
      if (row !== null && first) {
        if (writing) {
          frame.responseMemory = row.memory;
          frame.responseAt = offsetOf(row, lo);
        } else {
          frame.requestMemory = row.memory;
          frame.requestAt = offsetOf(row, lo);
        }
      } else if (row === null || !list.push(row.memory, offsetOf(row, lo), len)) {
        // A buffer of no bytes says nothing and harms nobody: some drivers leave them in, so they are skipped.
        // They are not translated: their address need not exist.
        if (len !== 0 && (list.full || !guest.translate(lo, hi, len, list))) {
          const why = list.full ? 'is one segment too many' : "does not lie in the front end's memory";
          return this.fail(i, inTable, lo, hi, len, word, why);
        }
      }
      if ((word & NEXT) === 0) break;
      const next = word >>> 16;
      if (next >= entries) return this.fail(i, inTable, lo, hi, len, word, `leads out of its table of ${entries}`);
      if (--left === 0)
        return this.fail(i, inTable, lo, hi, len, word, `is number ${entries} of the chain and goes on: a loop`);
      i = next;
    }
    const { out, into } = frame;
    if (out.bytes + into.bytes > MAX_CHAIN_BYTES) {
      this.error = `the chain has ${out.bytes + into.bytes} bytes, more than 2^32 (§2.7.5.2)`;
      return false;
    }
    return true;
  }

  /**
   * Make an indirect table readable (§2.7.5.3): in place where it lies word-aligned in one window, else as a private
   * copy. The table need not be aligned, and its WRITE flag means nothing (§2.7.5.3.2).
   * @returns number of entries (`table` and `base` are set), or -1.
   */
  private openTable(lo: number, hi: number, len: number, word: number): number {
    if (!this.indirect || (word & VIRTQ_DESC_F_NEXT) !== 0) return -1;
    if (len <= 0 || (len & (VIRTQ_DESC.size - 1)) !== 0 || len > MAX_TABLE_BYTES) return -1;
    const guest = this.guest;
    const window = guest.windowOf(lo, hi, len);
    if (window >= 0) {
      const offset = guest.offsetIn(window, lo);
      if ((offset & 3) === 0) {
        this.table = guest.memoryOf(window).u32;
        this.base = offset >> 2;
        return len / VIRTQ_DESC.size;
      }
    }
    tableParts.reset();
    if (!guest.translate(lo, hi, len, tableParts)) return -1;
    tableParts.gather(0, tableCopy, 0, len);
    this.table = tableCopy.u32;
    this.base = 0;
    return len / VIRTQ_DESC.size;
  }

  /** Why `openTable` refused these words. */
  private tableError(inTable: boolean, len: number, word: number): string {
    if (inTable) return 'is INDIRECT inside an indirect table (§2.7.5.3.1)';
    if (!this.indirect) return 'is INDIRECT, which was not negotiated (§2.7.5.3.1)';
    if ((word & VIRTQ_DESC_F_NEXT) !== 0) return 'is INDIRECT and has NEXT (§2.7.5.3.1)';
    if (len === 0 || len % VIRTQ_DESC.size !== 0) return `names a table whose length is not n * ${VIRTQ_DESC.size}`;
    if (len > MAX_TABLE_BYTES) return `names a table of more than ${MAX_TABLE} descriptors`;
    return "names a table that does not lie in the front end's memory";
  }

  private fail(index: number, inTable: boolean, lo: number, hi: number, len: number, word: number, why: string): false {
    const which = inTable ? 'indirect descriptor' : 'descriptor';
    this.error = `${which} ${index} (${describeDesc(lo, hi, len >>> 0, word & 0xffff, word >>> 16)}) ${why}`;
    return false;
  }
}
