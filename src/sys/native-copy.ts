/**
 * Gives copyMemory the fastest copy there is. Loaded by mapping.ts, so whoever has a Memory with an address has it.
 *
 * Mappings lie in the second gigabyte of the address space while there is room (see mapping.ts). One view covers it,
 * holes included, and `copyWithin` of that view is the C library's memmove behind a call of V8's own, which costs
 * half of one through the FFI. The view is never read or written otherwise: copyMemory has checked both ranges against
 * the Memory they belong to, and one that was revoked has no bytes. Everything else goes through the FFI.
 */
import { useNativeCopy } from '../memory/copy.ts';
import { memmove, viewOf } from './libc.ts';

/** What the view covers: addresses below 2^31 are small integers to V8. */
const LOW = 0x4000_0000;
const LOW_BYTES = 0x4000_0000;

const low = new Uint8Array(viewOf(LOW, LOW_BYTES));

function copy(dst: number, src: number, bytes: number): void {
  const to = dst - LOW;
  const from = src - LOW;
  if (to >= 0 && from >= 0 && to + bytes <= LOW_BYTES && from + bytes <= LOW_BYTES) {
    low.copyWithin(to, from, from + bytes);
  } else memmove(dst, src, bytes);
}

useNativeCopy(copy);
