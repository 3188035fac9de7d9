/**
 * A friendly fake guest: memory over plain ArrayBuffers (several regions, one above 4 GiB), and the driver's side of
 * a split ring written out by hand, byte by byte. It shares no code with src/virtio but the numbers of the spec, so
 * that it can also do everything a driver must not do.
 */
import { cutWindows, GuestMemory } from '../../src/memory/guest-memory.ts';
import { Memory } from '../../src/memory/memory.ts';
import type { RingPart, RingPlace } from '../../src/virtio/ring-place.ts';

export const NEXT = 1;
export const WRITE = 2;
export const INDIRECT = 4;

export interface FakeRegion {
  gpa: number;
  /** The front end's user address; default: gpa + 0x7f00_0000_0000. */
  uva?: number;
  size: number;
}

/** 1 MiB from 0, 1 MiB directly above it (a border to cross), 1 MiB at 5 GiB. */
export const DEFAULT_REGIONS: readonly FakeRegion[] = [
  { gpa: 0, size: 0x10_0000 },
  { gpa: 0x10_0000, size: 0x10_0000 },
  { gpa: 0x1_4000_0000, size: 0x10_0000 },
];

export const USER_BASE = 0x7f00_0000_0000;

interface Piece {
  gpa: number;
  uva: number;
  size: number;
  memory: Memory;
  /** Next free byte for `alloc`. */
  free: number;
}

/** Guest physical memory and a bump allocator in it. Addresses are Numbers below 2^52. */
export class FakeGuest {
  readonly pieces: Piece[];
  readonly memory: GuestMemory;

  /** @param shared over SharedArrayBuffers, so that a worker can change the memory meanwhile */
  constructor(regions: readonly FakeRegion[] = DEFAULT_REGIONS, shared = false) {
    this.pieces = regions.map(({ gpa, size, uva }) => ({
      gpa,
      uva: uva ?? USER_BASE + gpa,
      size,
      memory: new Memory(shared ? new SharedArrayBuffer(size) : new ArrayBuffer(size)),
      // Address 0 is nobody's buffer: mistakes show.
      free: gpa === 0 ? 0x1000 : 0,
    }));
    this.memory = this.table();
  }

  /** A GuestMemory of the regions as they are now (a new one: what a memory-table message makes). */
  table(): GuestMemory {
    return new GuestMemory(this.pieces.flatMap((p) => cutWindows(p.gpa, p.uva, p.size, (at) => under(p.memory, at))));
  }

  /** Guest address of `bytes` fresh zero bytes. @param region index of the region to take them from */
  alloc(bytes: number, align = 16, region = 0): number {
    const piece = this.pieces[region];
    const at = Math.ceil(piece.free / align) * align;
    if (at + bytes > piece.size) throw new Error(`FakeGuest: region ${region} is full`);
    piece.free = at + bytes;
    piece.memory.u8.fill(0, at, at + bytes);
    return piece.gpa + at;
  }

  /** Where one byte range lies in one piece. */
  part(gpa: number, bytes = 1): RingPart {
    const piece = this.pieces.find((p) => gpa >= p.gpa && gpa + bytes <= p.gpa + p.size);
    if (piece === undefined) throw new Error(`FakeGuest: no region has 0x${gpa.toString(16)} + ${bytes}`);
    return { memory: piece.memory, offset: gpa - piece.gpa };
  }

  /** Write bytes, over region borders too. */
  write(gpa: number, bytes: ArrayLike<number>): void {
    for (let i = 0; i < bytes.length; i++) {
      const { memory, offset } = this.part(gpa + i);
      memory.u8[offset] = bytes[i];
    }
  }

  read(gpa: number, bytes: number): Uint8Array {
    return Uint8Array.from({ length: bytes }, (_, i) => {
      const { memory, offset } = this.part(gpa + i);
      return memory.u8[offset];
    });
  }

  u16(gpa: number, value?: number): number {
    const { memory, offset } = this.part(gpa, 2);
    if (value !== undefined) memory.u16[offset >> 1] = value;
    return memory.u16[offset >> 1];
  }

  u32(gpa: number, value?: number): number {
    const { memory, offset } = this.part(gpa, 4);
    if (value !== undefined) memory.u32[offset >> 2] = value;
    return memory.u32[offset >> 2];
  }
}

function under(memory: Memory, at: number): Memory {
  return at === 0 ? memory : new Memory(memory.u8.buffer, memory.u8.byteOffset + at, memory.length - at);
}

/** One descriptor as it is written. `addr` may be a BigInt to go beyond every limit. */
export interface RawDesc {
  addr: number | bigint;
  len: number;
  flags: number;
  next: number;
}

/** One buffer of a chain. */
export interface FakeBuffer {
  addr: number | bigint;
  len: number;
  write: boolean;
}

export const readable = (addr: number | bigint, len: number): FakeBuffer => ({ addr, len, write: false });
export const writable = (addr: number | bigint, len: number): FakeBuffer => ({ addr, len, write: true });

export interface FakeRingOptions {
  eventIdx?: boolean;
  /** Region the ring lies in. */
  region?: number;
  /** avail.idx and used.idx to begin with. */
  base?: number;
}

/** The driver's side of one ring. Heads and descriptors are the caller's business; `chain` takes free ones in turn. */
export class FakeRing {
  readonly guest: FakeGuest;
  readonly size: number;
  readonly eventIdx: boolean;
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  /** Next available index to write. */
  availIndex: number;
  /** Used elements seen so far, mod 2^16. */
  usedSeen: number;
  private nextDesc = 0;

  constructor(guest: FakeGuest, size: number, options: FakeRingOptions = {}) {
    const { eventIdx = false, region = 0, base = 0 } = options;
    this.guest = guest;
    this.size = size;
    this.eventIdx = eventIdx;
    this.desc = guest.alloc(16 * size, 16, region);
    this.avail = guest.alloc(6 + 2 * size, 2, region);
    this.used = guest.alloc(6 + 8 * size, 4, region);
    this.availIndex = base;
    this.usedSeen = base;
    guest.u16(this.avail + 2, base);
    guest.u16(this.used + 2, base);
  }

  get place(): RingPlace {
    const { guest } = this;
    return { desc: guest.part(this.desc), avail: guest.part(this.avail), used: guest.part(this.used) };
  }

  /** Write descriptor `i` of the ring's table, or of a table at `table`. */
  raw(i: number, { addr, len, flags, next }: RawDesc, table = this.desc): void {
    const at = table + 16 * i;
    const bytes = Buffer.alloc(16);
    bytes.writeBigUInt64LE(BigInt(addr), 0);
    bytes.writeUInt32LE(len, 8);
    bytes.writeUInt16LE(flags, 12);
    bytes.writeUInt16LE(next, 14);
    this.guest.write(at, bytes);
  }

  /**
   * Write a chain into the next free descriptors.
   * @param table how many of the last buffers go to an indirect table behind the direct ones (default none)
   * @returns its head; not yet available
   */
  chain(buffers: readonly FakeBuffer[], { table = 0, tableAt }: { table?: number; tableAt?: number } = {}): number {
    const direct = buffers.length - table;
    const count = direct + (table > 0 ? 1 : 0);
    const places = Array.from({ length: count }, () => this.nextDesc++ % this.size);
    buffers.slice(0, direct).forEach((b, k) => {
      const last = k === count - 1;
      this.raw(places[k], { addr: b.addr, len: b.len, flags: flagsOf(b, last), next: last ? 0 : places[k + 1] });
    });
    if (table > 0) {
      const at = tableAt ?? this.guest.alloc(16 * table);
      buffers.slice(direct).forEach((b, k) => {
        const last = k === table - 1;
        this.raw(k, { addr: b.addr, len: b.len, flags: flagsOf(b, last), next: last ? 0 : k + 1 }, at);
      });
      this.raw(places[direct], { addr: at, len: 16 * table, flags: INDIRECT, next: 0 });
    }
    return places[0];
  }

  /** Put heads into the available ring and move avail.idx on. */
  offer(...heads: number[]): void {
    for (const head of heads) {
      this.guest.u16(this.avail + 4 + 2 * (this.availIndex % this.size), head);
      this.availIndex = (this.availIndex + 1) & 0xffff;
    }
    this.availIdx = this.availIndex;
  }

  /** Used elements since the last call. */
  collect(): { id: number; len: number }[] {
    const found: { id: number; len: number }[] = [];
    for (; this.usedSeen !== this.usedIdx; this.usedSeen = (this.usedSeen + 1) & 0xffff) {
      const at = this.used + 4 + 8 * (this.usedSeen % this.size);
      found.push({ id: this.guest.u32(at), len: this.guest.u32(at + 4) });
    }
    return found;
  }

  // The shared words, as one sees and sets them from the driver's side.
  get availIdx(): number {
    return this.guest.u16(this.avail + 2);
  }
  set availIdx(value: number) {
    this.guest.u16(this.avail + 2, value);
  }
  get usedIdx(): number {
    return this.guest.u16(this.used + 2);
  }
  get usedFlags(): number {
    return this.guest.u16(this.used);
  }
  get availEvent(): number {
    return this.guest.u16(this.used + 4 + 8 * this.size);
  }
  /** used_event: the driver wants an interrupt when this entry is used. */
  set usedEvent(value: number) {
    this.guest.u16(this.avail + 4 + 2 * this.size, value);
  }
  set noInterrupt(value: boolean) {
    this.guest.u16(this.avail, value ? 1 : 0);
  }
}

function flagsOf(buffer: FakeBuffer, last: boolean): number {
  return (buffer.write ? WRITE : 0) | (last ? 0 : NEXT);
}
