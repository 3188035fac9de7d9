import { Memory } from '../memory/memory.ts';
import type { Command } from './command.ts';
import { MAX_PARAMETER_LIST } from './limits.ts';

/**
 * A private copy of a parameter list, for commands that parse it within one call (copy, then parse: the guest may
 * change its buffer meanwhile). UNMAP, which takes longer, copies its list into a work buffer.
 */

/** The thread's one. */
const copy = new Memory(new ArrayBuffer(MAX_PARAMETER_LIST));

/**
 * @param length PARAMETER LIST LENGTH, checked by the caller to be at most MAX_PARAMETER_LIST
 * @returns the copy, valid within this call; undefined when dataOut is shorter than the list
 */
export function copyParameterList(command: Command, length: number): Uint8Array | undefined {
  const out = command.task.dataOut;
  if (out.bytes < length) return undefined;
  out.gather(0, copy, 0, length);
  command.task.transferred = length;
  return copy.u8.subarray(0, length);
}
