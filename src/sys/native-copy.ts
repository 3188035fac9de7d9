/**
 * Gives copyMemory the fastest copy there is that leaves nothing behind. Loaded by mapping.ts, so whoever has a Memory
 * with an address has it.
 *
 * A number beyond 2^31 is a heap number to V8 as soon as it is an argument: calling memmove with two addresses makes
 * 32 bytes of garbage, besides what the FFI costs. What is called must therefore be told small integers only:
 *
 * 1. Low memory. Small mappings lie in the second gigabyte of the address space while there is room (see mapping.ts).
 *    One view covers it, holes included, and `copyWithin` of that view is the C library's memmove behind a call of
 *    V8's own. The fastest, by some 5 ns.
 * 2. From Node 22.11 on, `Buffer.prototype.copy` is a call of Node's with two views and the offsets in them. (Earlier
 *    ones make a view for each copy, which is more garbage than two numbers.)
 * 3. Before, mappings of any size are put below 5 GiB while there is room, and a view of eight-byte elements covers
 *    that: the longest that Node 20 can make. Its indexes are small, and `copyWithin` moves bytes, whatever the elements
 *    are said to be. For ranges that lie on multiples of eight, as blocks and guests' buffers do.
 * 4. Everything else goes through the FFI.
 *
 * The two views over addresses are never read or written otherwise: copyMemory has checked both ranges against the
 * Memory they belong to, and one that was revoked has no bytes.
 */
import { useNativeCopy } from '../memory/copy.ts';
import type { Memory } from '../memory/memory.ts';
import { memmove, viewOf } from './libc.ts';

/** What the views cover: addresses from here on, ... */
const LOW = 0x4000_0000;
/** ... those below 2^31, ... */
const LOW_BYTES = 0x4000_0000;
/** ... and as many as one view of Node 20 can have. */
const WIDE_BYTES = 0x1_0000_0000;

const low = new Uint8Array(viewOf(LOW, LOW_BYTES));
/** Made when it is first wanted: V8 takes it for 4 GiB that it could free, and collects the heap once to see. */
let wide: Float64Array | undefined;

const [major, minor] = process.versions.node.split('.').map(Number);
/** Whether Node copies from one view to another, at any place, without making views of the pieces. */
const buffersCopy = major > 22 || (major === 22 && minor >= 11);
const copyBuffer = Buffer.prototype.copy;

/** Addresses where mappings of any size should lie, so that copies are cheap; null when it does not matter. */
export const WIDE_RANGE = buffersCopy ? null : { from: LOW + LOW_BYTES, to: LOW + WIDE_BYTES };

function copy(dst: Memory, dstOff: number, src: Memory, srcOff: number, bytes: number): void {
  const to = dst.address + dstOff - LOW;
  const from = src.address + srcOff - LOW;
  if (to >= 0 && from >= 0 && to + bytes <= LOW_BYTES && from + bytes <= LOW_BYTES) {
    // Integers by `| 0`, so that the compiler need not look whether they are.
    low.copyWithin(to | 0, from | 0, ((from | 0) + bytes) | 0);
  } else far(dst, dstOff, src, srcOff, bytes);
}

/** Decided once, so that only one of them is compiled into the callers. */
const far = buffersCopy ? copyViews : copyWide;

function copyViews(dst: Memory, dstOff: number, src: Memory, srcOff: number, bytes: number): void {
  // Memory that nobody opened has no views yet, of which less is copied than was asked for.
  if (copyBuffer.call(src.u8, dst.u8, dstOff, srcOff, srcOff + bytes) !== bytes) {
    memmove(dst.address + dstOff, src.address + srcOff, bytes);
  }
}

function copyWide(dst: Memory, dstOff: number, src: Memory, srcOff: number, bytes: number): void {
  const to = dst.address + dstOff - LOW;
  const from = src.address + srcOff - LOW;
  const toIndex = (to / 8) | 0;
  const index = (from / 8) | 0;
  const inside = to >= 0 && from >= 0 && to + bytes <= WIDE_BYTES && from + bytes <= WIDE_BYTES;
  if (inside && toIndex * 8 === to && index * 8 === from && (bytes & 7) === 0) {
    wide ??= new Float64Array(viewOf(LOW, WIDE_BYTES));
    wide.copyWithin(toIndex, index, (index + (bytes >>> 3)) | 0);
  } else memmove(dst.address + dstOff, src.address + srcOff, bytes);
}

useNativeCopy(copy);
