/**
 * The compute VM's memory as its QEMU holds it: memfds mapped here and sent to the back end by descriptor. A bump
 * allocator gives guest addresses; reads and writes go by guest address, as a driver's do.
 */
import type { Memory } from '../../src/memory/memory.ts';
import type { Fd } from '../../src/sys/fd.ts';
import { type Mapping, mapFile, memfd } from '../../src/sys/mapping.ts';
import type { RingPart } from '../../src/virtio/ring-place.ts';

export interface RegionSpec {
  gpa: number;
  size: number;
  /** Front end's user address; default gpa + USER_BASE. */
  uva?: number;
  /** Where the region begins in its file; default 0. */
  offset?: number;
}

export const USER_BASE = 0x7f12_0000_0000;

/** What QEMU makes of a PC with 2 MiB: below and above the VGA hole; here with a third region above 4 GiB. */
export const PC_REGIONS: readonly RegionSpec[] = [
  { gpa: 0, size: 0xa_0000 },
  { gpa: 0xc_0000, size: 0x14_0000 },
  { gpa: 0x1_0000_0000, size: 0x20_0000, offset: 0x20_0000 },
];

/** Of a region that a test reads and writes. Bytes. */
const MOST = 2 ** 30;

export class SharedRegion {
  readonly gpa: number;
  readonly size: number;
  readonly uva: number;
  readonly offset: number;
  readonly fd: Fd;
  readonly memory: Memory;
  /** Next free byte. */
  free: number;
  private readonly mapping: Mapping;

  constructor(spec: RegionSpec) {
    this.gpa = spec.gpa;
    this.size = spec.size;
    this.uva = spec.uva ?? USER_BASE + spec.gpa;
    this.offset = spec.offset ?? 0;
    this.fd = memfd('front-end', this.offset + this.size, { seal: false });
    // Of a large one the rest is only announced.
    const used = Math.min(this.size, MOST);
    this.mapping = mapFile(this.fd, { offset: this.offset, size: used });
    this.memory = this.mapping.memoryAt(0, used);
    this.free = spec.gpa === 0 ? 0x1000 : 0; // address 0 is nobody's buffer
  }

  close(): void {
    this.mapping.unmap();
    this.fd.close();
  }
}

export class SharedGuest {
  readonly regions: SharedRegion[];

  constructor(specs: readonly RegionSpec[] = PC_REGIONS) {
    this.regions = specs.map((s) => new SharedRegion(s));
  }

  /** Guest address of `bytes` fresh zero bytes in one piece. */
  alloc(bytes: number, align = 16, region = this.regions.length - 1): number {
    const r = this.regions[region];
    const at = Math.ceil(r.free / align) * align;
    if (at + bytes > r.size) throw new Error(`SharedGuest: region ${region} is full`);
    r.free = at + bytes;
    r.memory.u8.fill(0, at, at + bytes);
    return r.gpa + at;
  }

  /** Forget all allocations: the guest was reset. */
  reset(): void {
    for (const r of this.regions) r.free = r.gpa === 0 ? 0x1000 : 0;
  }

  private regionOf(gpa: number): SharedRegion {
    const r = this.regions.find((x) => gpa >= x.gpa && gpa < x.gpa + x.size);
    if (r === undefined) throw new Error(`SharedGuest: no memory at 0x${gpa.toString(16)}`);
    return r;
  }

  part(gpa: number): RingPart {
    const r = this.regionOf(gpa);
    return { memory: r.memory, offset: gpa - r.gpa };
  }

  /** The front end's user address of a guest address. */
  uva(gpa: number): number {
    const r = this.regionOf(gpa);
    return r.uva + (gpa - r.gpa);
  }

  write(gpa: number, bytes: ArrayLike<number>): void {
    const { memory, offset } = this.part(gpa);
    memory.u8.set(bytes, offset);
  }

  read(gpa: number, bytes: number): Uint8Array {
    const { memory, offset } = this.part(gpa);
    return memory.u8.slice(offset, offset + bytes);
  }

  u16(gpa: number, value?: number): number {
    const { memory, offset } = this.part(gpa);
    if (value !== undefined) Atomics.store(memory.u16, offset >> 1, value);
    return Atomics.load(memory.u16, offset >> 1);
  }

  /** A hash-like sum of everything, to see whether a byte changed. */
  snapshot(): Uint8Array[] {
    return this.regions.map((r) => r.memory.u8.slice());
  }

  close(): void {
    for (const r of this.regions) r.close();
  }
}
