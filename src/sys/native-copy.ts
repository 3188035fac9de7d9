/**
 * Gives copyMemory the C library's copy. Loaded by mapping.ts, so whoever has a Memory with an address has it.
 * memmove rather than memcpy: the same speed, and an overlap is defined.
 */
import { useNativeCopy } from '../memory/copy.ts';
import { memmove } from './libc.ts';

useNativeCopy(memmove);
