import { defineStruct, formatStruct } from '../memory/struct-table.ts';
import { VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from './features.ts';

/**
 * The split virtqueue in memory (virtio 1.2 §2.7). All fields are little-endian; the sizes that depend on the queue
 * size are functions here and nowhere else.
 *
 * | part             | alignment | bytes                              |
 * |------------------|-----------|------------------------------------|
 * | descriptor table | 16        | 16 * size                          |
 * | available ring   | 2         | 4 + 2 * size, then used_event (2)  |
 * | used ring        | 4         | 4 + 8 * size, then avail_event (2) |
 */

/** §2.7.5 */
export const VIRTQ_DESC = defineStruct('virtq_desc', 'virtio 1.2 §2.7.5', 16, {
  addr: [0, 'u64'],
  len: [8, 'u32'],
  flags: [12, 'u16'],
  next: [14, 'u16'],
});

/** §2.7.6: what stands before `ring[size]` (u16 heads) and `used_event`. */
export const VIRTQ_AVAIL = defineStruct('virtq_avail', 'virtio 1.2 §2.7.6', 4, { flags: [0, 'u16'], idx: [2, 'u16'] });

/** §2.7.8: what stands before `ring[size]` and `avail_event`. */
export const VIRTQ_USED = defineStruct('virtq_used', 'virtio 1.2 §2.7.8', 4, { flags: [0, 'u16'], idx: [2, 'u16'] });

/** §2.7.8: one element of the used ring. */
export const VIRTQ_USED_ELEM = defineStruct('virtq_used_elem', 'virtio 1.2 §2.7.8', 8, {
  id: [0, 'u32'],
  len: [4, 'u32'],
});

/** §2.7: alignment of each part, bytes. */
export const VIRTQ_ALIGN = { desc: 16, avail: 2, used: 4 } as const;

/** The spec's largest queue (§2.7). */
export const SPEC_MAX_QUEUE_SIZE = 32768;
/** Ours: no front end we know asks for more, and slots and tables are sized by it. */
export const MAX_QUEUE_SIZE = 1024;

/** Byte offset of used_event in the available ring (§2.7.6). */
export function usedEventOffset(size: number): number {
  return VIRTQ_AVAIL.size + 2 * size;
}

/** Byte offset of avail_event in the used ring (§2.7.8). */
export function availEventOffset(size: number): number {
  return VIRTQ_USED.size + VIRTQ_USED_ELEM.size * size;
}

export function descBytes(size: number): number {
  return VIRTQ_DESC.size * size;
}

/** The event field counts only where EVENT_IDX is negotiated: front ends map no more than the ring in use. */
export function availBytes(size: number, eventIdx: boolean): number {
  return usedEventOffset(size) + (eventIdx ? 2 : 0);
}

export function usedBytes(size: number, eventIdx: boolean): number {
  return availEventOffset(size) + (eventIdx ? 2 : 0);
}

const FLAG_NAMES = [
  [VIRTQ_DESC_F_NEXT, 'NEXT'],
  [VIRTQ_DESC_F_WRITE, 'WRITE'],
  [VIRTQ_DESC_F_INDIRECT, 'INDIRECT'],
] as const;

/** `NEXT|WRITE`, unknown bits in hex, `0` for none. */
export function descFlagNames(flags: number): string {
  const names: string[] = [];
  let rest = flags;
  for (const [bit, name] of FLAG_NAMES) {
    if ((flags & bit) !== 0) names.push(name);
    rest &= ~bit;
  }
  if (rest !== 0) names.push(`0x${rest.toString(16)}`);
  return names.length === 0 ? '0' : names.join('|');
}

/** A descriptor by its four words, as a broken ring's reason prints it. */
export function describeDesc(lo: number, hi: number, len: number, flags: number, next: number): string {
  const addr = (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
  return `addr 0x${addr.toString(16)} len ${len >>> 0} flags ${descFlagNames(flags)} next ${next}`;
}

/** Descriptors `first` to `first + count - 1` of a private copy of a table, a line each. */
export function dumpDescs(view: DataView, first: number, count: number): string[] {
  const lines: string[] = [];
  for (let i = first; i < first + count && (i + 1) * VIRTQ_DESC.size <= view.byteLength; i++) {
    const names = descFlagNames(view.getUint16(i * VIRTQ_DESC.size + VIRTQ_DESC.fields.flags[0], true));
    lines.push(`[${i}] ${formatStruct(VIRTQ_DESC, view, i * VIRTQ_DESC.size)} ${names}`);
  }
  return lines;
}
