import type { Memory } from '../memory/memory.ts';
import { availBytes, descBytes, MAX_QUEUE_SIZE, SPEC_MAX_QUEUE_SIZE, usedBytes, VIRTQ_ALIGN } from './layout.ts';

/**
 * Where the three parts of a split ring lie, and whether a ring can be there. The front end names the places, so a
 * bad one is a reason to be told, not an exception.
 */

export interface RingPart {
  readonly memory: Memory;
  /** Byte offset in `memory`. */
  readonly offset: number;
}

/** Each part lies in one piece of memory (GuestMemory.windowOfUser finds it). */
export interface RingPlace {
  readonly desc: RingPart;
  readonly avail: RingPart;
  readonly used: RingPart;
}

/** Why there can be no ring of this size, or null. */
export function ringSizeError(size: number): string | null {
  if (!Number.isInteger(size) || size < 1 || size > SPEC_MAX_QUEUE_SIZE || (size & (size - 1)) !== 0) {
    return `queue size ${size} is not a power of two from 1 to ${SPEC_MAX_QUEUE_SIZE} (virtio 1.2 §2.7)`;
  }
  if (size > MAX_QUEUE_SIZE) return `queue size ${size} is more than the ${MAX_QUEUE_SIZE} this target serves`;
  return null;
}

function partError(name: keyof typeof VIRTQ_ALIGN, part: RingPart, bytes: number): string | null {
  const { memory, offset } = part;
  if (!Number.isInteger(offset) || offset < 0 || offset + bytes > memory.length) {
    return `${name}: ${bytes} bytes at offset ${offset} do not lie in a memory of ${memory.length} bytes`;
  }
  if (offset % VIRTQ_ALIGN[name] !== 0) {
    return `${name}: offset ${offset} is not a multiple of ${VIRTQ_ALIGN[name]} (virtio 1.2 §2.7)`;
  }
  return null;
}

/**
 * Why no ring can be at this place, or null.
 *
 * A used ring that overlaps another part is refused: some front ends park rings they never set up with all three
 * parts on guest address 0, and the device would write over whatever lies there.
 */
export function ringPlaceError(place: RingPlace, size: number, eventIdx: boolean): string | null {
  const bytes = { desc: descBytes(size), avail: availBytes(size, eventIdx), used: usedBytes(size, eventIdx) };
  for (const name of ['desc', 'avail', 'used'] as const) {
    const error = partError(name, place[name], bytes[name]);
    if (error !== null) return error;
  }
  const used = place.used;
  for (const name of ['desc', 'avail'] as const) {
    const part = place[name];
    if (part.memory.u8.buffer !== used.memory.u8.buffer) continue;
    const from = part.memory.u8.byteOffset + part.offset;
    const usedFrom = used.memory.u8.byteOffset + used.offset;
    if (from < usedFrom + bytes.used && usedFrom < from + bytes[name]) {
      return `used ring at offset ${used.offset} overlaps ${name} at offset ${part.offset}: the ring is not set up`;
    }
  }
  return null;
}
