import { ioAddressOf } from '../memory/io-address.ts';
import type { Memory } from '../memory/memory.ts';
import type { SgCursor } from '../memory/sg-cursor.ts';
import type { SgList } from '../memory/sg-list.ts';
import { PSDT_SGL, SqeWord } from './commands.ts';

/**
 * Data pointers (NVMe Base 2.0 §4.1): from segments in memory to PRP entries, or to SGL descriptors where the controller takes
 * them and the segments do not fall on pages. Nothing is copied here; memory that no device can reach is answered
 * with 0 bytes.
 */

const PAGE = 4096;
/** Entries of a PRP list, which is one page; the first page of the data stands in the command itself. */
const LIST_ENTRIES = PAGE / 8;
/** Descriptors of an SGL segment that is one page. */
const SGL_ENTRIES = PAGE / 16;
/** Bytes that one list page describes, whatever the offset in the first page. */
export const MAX_DESCRIBED = LIST_ENTRIES * PAGE;

/** SGL descriptor types, in the upper half of byte 15 (§4.1.2.1). */
const SGL_DATA_BLOCK = 0x00;
const SGL_LAST_SEGMENT = 0x30;

/** Where a command's words and its list page are. */
export interface PointerPlace {
  /** Words of the command slots (QueuePair.words), and the index of this command's CDW0. */
  readonly words: Uint32Array;
  /** List pages. */
  readonly lists: Memory;
}

/**
 * Name up to `bytes` of the list by PRP entries.
 * @param base index of the command's CDW0
 * @param listAt byte offset of the command's list page
 * @param granule the bytes named are a multiple of it: the block size
 * @returns bytes named; 0 when not even one granule can be. The cursor stays.
 */
export function buildPrp(
  place: PointerPlace,
  base: number,
  listAt: number,
  sg: SgList,
  at: SgCursor,
  bytes: number,
  granule: number,
): number {
  const { words } = place;
  const list = place.lists.u32;
  const listWord = listAt >> 2;
  let named = 0;
  let first = 0; // bytes in the first page
  let entry = 0;
  let open = false; // the last page named was not filled to its end
  let segment = at.segment;
  let skip = at.offset;
  walk: while (named < bytes && segment < sg.count) {
    const memory = sg.memory[segment];
    const end = Math.min(sg.length[segment], skip + bytes - named);
    while (skip < end) {
      const address = ioAddressOf(memory, sg.offset[segment] + skip);
      // Bitwise operators look at the low 32 bits of the address, which are exact.
      const inPage = address & (PAGE - 1);
      if (address < 0 || open || entry > LIST_ENTRIES) break walk;
      if (entry === 0 ? (address & 3) !== 0 : inPage !== 0) break walk;
      const n = Math.min(PAGE - inPage, end - skip);
      const hi = Math.floor(address / 4294967296);
      if (entry === 0) {
        words[base + SqeWord.PRP1] = address - hi * 4294967296;
        words[base + SqeWord.PRP1 + 1] = hi;
        first = n;
      } else {
        list[listWord + 2 * entry - 2] = address - hi * 4294967296;
        list[listWord + 2 * entry - 1] = hi;
      }
      entry++;
      named += n;
      skip += n;
      open = inPage + n !== PAGE;
    }
    if (skip === sg.length[segment]) {
      segment++;
      skip = 0;
    }
  }
  named -= named % granule;
  if (named <= first) {
    words[base + SqeWord.PRP2] = 0;
    words[base + SqeWord.PRP2 + 1] = 0;
  } else if (named <= first + PAGE) {
    words[base + SqeWord.PRP2] = list[listWord];
    words[base + SqeWord.PRP2 + 1] = list[listWord + 1];
  } else {
    putIoAddress(words, base + SqeWord.PRP2, place.lists, listAt);
  }
  return named;
}

function putIoAddress(words: Uint32Array, at: number, memory: Memory, offset: number): void {
  const address = ioAddressOf(memory, offset);
  const hi = Math.floor(address / 4294967296);
  words[at] = address - hi * 4294967296;
  words[at + 1] = hi;
}

/**
 * Name up to `bytes` of the list by SGL descriptors; arguments and result as {@link buildPrp}.
 * @param alignment of addresses and lengths: 1 or 4
 */
export function buildSgl(
  place: PointerPlace,
  base: number,
  listAt: number,
  sg: SgList,
  at: SgCursor,
  bytes: number,
  granule: number,
  alignment: number,
): number {
  const { words } = place;
  const list = place.lists.u32;
  const word = listAt >> 2;
  let named = 0;
  let count = 0;
  let next = -1; // address behind the last descriptor
  let segment = at.segment;
  let skip = at.offset;
  walk: while (named < bytes && segment < sg.count) {
    const memory = sg.memory[segment];
    const end = Math.min(sg.length[segment], skip + bytes - named);
    while (skip < end) {
      const address = ioAddressOf(memory, sg.offset[segment] + skip);
      const linear = memory.ioAddress >= 0;
      const n = linear ? end - skip : Math.min(PAGE - (address & (PAGE - 1)), end - skip);
      if (address < 0 || address % alignment !== 0 || n % alignment !== 0) break walk;
      if (address === next) {
        list[word + 4 * count - 2] += n;
      } else {
        if (count === SGL_ENTRIES) break walk;
        const hi = Math.floor(address / 4294967296);
        list[word + 4 * count] = address - hi * 4294967296;
        list[word + 4 * count + 1] = hi;
        list[word + 4 * count + 2] = n;
        list[word + 4 * count + 3] = SGL_DATA_BLOCK << 24;
        count++;
      }
      next = address + n;
      named += n;
      skip += n;
    }
    if (skip === sg.length[segment]) {
      segment++;
      skip = 0;
    }
  }
  // The descriptors must cover exactly the data: take back what is beyond the last whole granule.
  for (let over = named % granule; over > 0; ) {
    const length = list[word + 4 * count - 2];
    const cut = Math.min(over, length);
    if (cut === length) count--;
    else list[word + 4 * count - 2] = length - cut;
    over -= cut;
    named -= cut;
  }
  if (named === 0) return 0;
  words[base] |= PSDT_SGL;
  if (count === 1) {
    for (let i = 0; i < 4; i++) words[base + SqeWord.PRP1 + i] = list[word + i];
  } else {
    putIoAddress(words, base + SqeWord.PRP1, place.lists, listAt);
    words[base + SqeWord.PRP2] = count * 16;
    words[base + SqeWord.PRP2 + 1] = SGL_LAST_SEGMENT << 24;
  }
  return named;
}
