import type { Memory } from './memory.ts';

/**
 * The one place that moves bulk bytes between two pieces of memory. Bounds are checked here for both sides, so a
 * wrong offset is an error of ours and never a wild write.
 */

/** Both ranges were checked. By Memory and offset, not by address: those are small integers, which no call turns into objects. */
type NativeCopy = (dst: Memory, dstOff: number, src: Memory, srcOff: number, bytes: number) => void;
let nativeCopy: NativeCopy | undefined;

/** Shorter copies than this cost less as a loop than as a call. Bytes. */
const NATIVE_FROM = 64;

/** src/sys gives its copy between mapped memories here when it is loaded; without it typed arrays do the work. */
export function useNativeCopy(fn: NativeCopy | undefined): void {
  nativeCopy = fn;
}

/**
 * Copy `bytes` from `src` at `srcOff` to `dst` at `dstOff`. The ranges may overlap only when both lie in one Memory
 * and the copy is done by typed arrays; callers do not rely on it.
 * @throws RangeError when either range is outside its memory (a bug of ours: guest values are checked before).
 */
export function copyMemory(dst: Memory, dstOff: number, src: Memory, srcOff: number, bytes: number): void {
  if (!(dstOff >= 0 && srcOff >= 0 && bytes >= 0 && dstOff + bytes <= dst.length && srcOff + bytes <= src.length)) {
    throw new RangeError(`copyMemory: ${dstOff}+${bytes} of ${dst.length} from ${srcOff}+${bytes} of ${src.length}`);
  }
  if (bytes < NATIVE_FROM) {
    let i = 0;
    if (((dstOff | srcOff) & 3) === 0) {
      const words = bytes >> 2;
      const d = dst.u32;
      const s = src.u32;
      const to = dstOff >> 2;
      const from = srcOff >> 2;
      for (let w = 0; w < words; w++) d[to + w] = s[from + w];
      i = words << 2;
    }
    const d = dst.u8;
    const s = src.u8;
    for (; i < bytes; i++) d[dstOff + i] = s[srcOff + i];
  } else if (nativeCopy !== undefined && dst.address !== 0 && src.address !== 0) {
    nativeCopy(dst, dstOff, src, srcOff, bytes);
  } else {
    dst.u8.set(src.u8.subarray(srcOff, srcOff + bytes), dstOff);
  }
}
