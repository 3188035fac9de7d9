/**
 * A second, naive reading of the rules for descriptor chains (virtio 1.2 §2.7.5): BigInt addresses, a byte at a time,
 * no thought of speed. The tests compare the real reader with it.
 */
import type { FakeGuest } from '../support/fake-driver.ts';

export interface RefBuffer {
  addr: bigint;
  len: number;
  write: boolean;
}

/** The buffers in order (empty ones left out), or the name of the rule that was broken. */
export type RefChain = RefBuffer[] | string;

export const REF_MAX_TABLE = 1024;

function bytesAt(guest: FakeGuest, addr: bigint, len: number): Buffer | undefined {
  if (addr + BigInt(len) > 1n << 52n) return undefined;
  const bytes = Buffer.alloc(len);
  for (let i = 0; i < len; i++) {
    const at = Number(addr) + i;
    const piece = guest.pieces.find((p) => at >= p.gpa && at < p.gpa + p.size);
    if (piece === undefined) return undefined;
    bytes[i] = piece.memory.u8[at - piece.gpa];
  }
  return bytes;
}

/** Every byte from `addr` on lies in some region. */
export function inMemory(guest: FakeGuest, addr: bigint, len: number): boolean {
  let at = addr;
  const end = addr + BigInt(len);
  while (at < end) {
    const piece = guest.pieces.find((p) => at >= BigInt(p.gpa) && at < BigInt(p.gpa + p.size));
    if (piece === undefined) return false;
    at = BigInt(piece.gpa + piece.size);
  }
  return true;
}

export function referenceChain(
  guest: FakeGuest,
  desc: number,
  size: number,
  head: number,
  indirectAllowed: boolean,
): RefChain {
  const buffers: RefBuffer[] = [];
  const table = bytesAt(guest, BigInt(desc), 16 * size);
  if (table === undefined) return 'no table';
  const result = walk(guest, table, size, head, indirectAllowed, false, buffers);
  if (result !== null) return result;
  const total = buffers.reduce((sum, b) => sum + BigInt(b.len), 0n);
  return total > 1n << 32n ? 'too many bytes' : buffers;
}

function walk(
  guest: FakeGuest,
  table: Buffer,
  entries: number,
  first: number,
  indirectAllowed: boolean,
  nested: boolean,
  buffers: RefBuffer[],
): string | null {
  let i = first;
  let seenWrite = buffers.at(-1)?.write ?? false;
  for (let count = 1; ; count++) {
    if (count > entries) return 'loop';
    const addr = table.readBigUInt64LE(16 * i);
    const len = table.readUInt32LE(16 * i + 8);
    const flags = table.readUInt16LE(16 * i + 12);
    const next = table.readUInt16LE(16 * i + 14);
    if (flags & 4) {
      if (nested) return 'nested';
      if (!indirectAllowed) return 'not negotiated';
      if (flags & 1) return 'indirect with next';
      if (len === 0 || len % 16 !== 0) return 'table length';
      if (len / 16 > REF_MAX_TABLE) return 'long table';
      const inner = bytesAt(guest, addr, len);
      if (inner === undefined) return 'table outside memory';
      // An empty writable buffer still counts for the order of buffers.
      if (seenWrite) buffers.push({ addr: 0n, len: 0, write: true });
      const result = walk(guest, inner, len / 16, 0, false, true, buffers);
      buffers.splice(0, buffers.length, ...buffers.filter((b) => b.len > 0));
      return result;
    }
    const write = (flags & 2) !== 0;
    if (seenWrite && !write) return 'order';
    seenWrite ||= write;
    if (len > 0) {
      if (addr >= 1n << 52n || !inMemory(guest, addr, len)) return 'outside memory';
      buffers.push({ addr, len, write });
    }
    if ((flags & 1) === 0) return null;
    if (next >= entries) return 'next';
    i = next;
  }
}

/** What the reason of a broken ring must look like for each rule. */
export const REASONS: Readonly<Record<string, RegExp>> = {
  loop: /a loop/,
  nested: /inside an indirect table/,
  'not negotiated': /not negotiated/,
  'indirect with next': /INDIRECT and has NEXT/,
  'table length': /length is not n \* 16/,
  'long table': /more than 1024 descriptors/,
  'table outside memory': /table that does not lie/,
  order: /readable after a writable/,
  'outside memory': /does not lie in the front end's memory/,
  next: /leads out of its table/,
  'too many bytes': /more than 2\^32/,
};
