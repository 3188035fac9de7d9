/**
 * The front end's memory: regions come and go by message while vrings run and requests are in flight.
 *
 * The one rule: a new table is checked and mapped whole before anything of the old one changes, and a mapping goes
 * only when no table and no request in flight refers to it. Each table is a *generation* that counts its requests.
 */
import type { MemoryListener } from '../bdev/bdev.ts';
import { cutWindows, GuestMemory, type Window } from '../memory/guest-memory.ts';
import type { Fd } from '../sys/fd.ts';
import { MAX_MEMORY_BYTES, MAX_TABLE_REGIONS } from './limits.ts';
import type { MemoryRegion } from './messages.ts';
import type { RegionMapping, Transport } from './transport.ts';

/** Regions lie on pages: those of the smallest page of any machine we run on. */
const PAGE_SIZE = 4096;
/** GuestMemory's limit for guest addresses. */
const MAX_GPA = 2 ** 52;

function hex(n: number): string {
  return `0x${n.toString(16)}`;
}

export function describeRegion(r: MemoryRegion): string {
  return `region gpa ${hex(r.gpa)} size ${hex(r.size)} uva ${hex(r.uva)} offset ${hex(r.offset)}`;
}

function regionError(r: MemoryRegion): string | null {
  for (const value of [r.gpa, r.size, r.uva, r.offset]) {
    if (!Number.isSafeInteger(value)) return `${hex(value)} is not below 2^53`;
    if (value % PAGE_SIZE !== 0) return `${hex(value)} is not a multiple of ${PAGE_SIZE}`;
  }
  if (r.size === 0) return 'it has no bytes';
  if (r.gpa + r.size > MAX_GPA) return 'it ends above guest address 2^52';
  if (!Number.isSafeInteger(r.uva + r.size)) return 'it ends above user address 2^53';
  if (!Number.isSafeInteger(r.offset + r.size)) return 'it ends above file offset 2^53';
  return null;
}

function overlap(a: number, aSize: number, b: number, bSize: number): boolean {
  return a < b + bSize && b < a + aSize;
}

/** What is wrong with a table, or null. Sums cannot wrap: each term is a safe integer, and so is each sum. */
export function tableError(regions: readonly MemoryRegion[], limit: number): string | null {
  if (regions.length > limit) return `${regions.length} memory regions, at most ${limit}`;
  const sum = regions.reduce((n, r) => n + r.size, 0);
  if (sum > MAX_MEMORY_BYTES) return `${sum} bytes of memory in all regions, at most ${MAX_MEMORY_BYTES}`;
  for (const [i, r] of regions.entries()) {
    const error = regionError(r);
    if (error !== null) return `${describeRegion(r)}: ${error}`;
    for (const other of regions.slice(0, i)) {
      if (overlap(r.gpa, r.size, other.gpa, other.size)) {
        return `${describeRegion(r)} overlaps ${describeRegion(other)} in guest addresses`;
      }
      if (overlap(r.uva, r.size, other.uva, other.size)) {
        return `${describeRegion(r)} overlaps ${describeRegion(other)} in user addresses`;
      }
    }
  }
  return null;
}

/** A region that is mapped. Tables share it; the last one to let go unmaps. */
class MappedRegion {
  readonly region: MemoryRegion;
  readonly windows: Window[];
  readonly mapping: RegionMapping;
  private readonly listener: MemoryListener | null;
  private tables = 0;

  constructor(region: MemoryRegion, mapping: RegionMapping, listener: MemoryListener | null) {
    this.region = region;
    this.mapping = mapping;
    this.listener = listener;
    this.windows = cutWindows(region.gpa, region.uva, region.size, (offset, bytes) => mapping.memoryAt(offset, bytes));
    for (const w of this.windows) listener?.memoryAdded(w.memory);
  }

  is(region: MemoryRegion, key: string): boolean {
    return this.mapping.key === key && this.region.gpa === region.gpa && this.region.uva === region.uva;
  }

  hold(): void {
    this.tables++;
  }

  drop(): void {
    if (--this.tables > 0) return;
    // Devices forget it before it goes: no DMA may find other memory there.
    for (const w of this.windows) this.listener?.memoryRemoved(w.memory);
    this.mapping.release();
  }
}

/** One generation of the table. Requests hold the one they were translated with. */
export class MemoryTable {
  readonly guest: GuestMemory;
  readonly mapped: readonly MappedRegion[];
  private users = 0;
  private retired = false;

  constructor(mapped: readonly MappedRegion[]) {
    this.mapped = mapped;
    this.guest = new GuestMemory(mapped.flatMap((m) => m.windows));
    for (const m of mapped) m.hold();
  }

  /** A request in flight refers to it. Hot path. */
  hold(): void {
    this.users++;
  }

  drop(): void {
    if (--this.users === 0 && this.retired) this.release();
  }

  /** The same memory at the same places. */
  mapsLike(other: MemoryTable): boolean {
    if (other === this) return true;
    const { mapped } = this;
    return mapped.length === other.mapped.length && mapped.every((m, i) => m === other.mapped[i]);
  }

  /** No new request will hold it. */
  retire(): void {
    if (this.retired) return;
    this.retired = true;
    if (this.users === 0) this.release();
  }

  private release(): void {
    for (const m of this.mapped) m.drop();
  }
}

/** The session's memory over time. The methods return null, or why they changed nothing. */
export class MemoryTables {
  current = new MemoryTable([]);
  /** Changes so far; 0 means that the front end has not told its memory yet. */
  changes = 0;
  private readonly transport: Transport;
  private readonly slots: number;
  private readonly listener: MemoryListener | null;

  constructor(transport: Transport, slots: number, listener: MemoryListener | null) {
    this.transport = transport;
    this.slots = slots;
    this.listener = listener;
  }

  /** SET_MEM_TABLE. A region that was there before, mapped alike, is kept as it is. */
  replace(regions: readonly MemoryRegion[], fds: readonly Fd[]): string | null {
    const error = tableError(regions, MAX_TABLE_REGIONS);
    if (error !== null) return error;
    const mapped = this.map(regions, fds, true);
    if (typeof mapped === 'string') return mapped;
    this.swap(mapped);
    return null;
  }

  /** ADD_MEM_REG */
  add(region: MemoryRegion, fds: readonly Fd[]): string | null {
    const old = this.current.mapped;
    const error = tableError([...old.map((m) => m.region), region], this.slots);
    if (error !== null) return error;
    const mapped = this.map([region], fds, false);
    if (typeof mapped === 'string') return mapped;
    this.swap([...old, ...mapped]);
    return null;
  }

  /** REM_MEM_REG: named by guest address, user address and size; the offset does not count. */
  remove(region: MemoryRegion): string | null {
    const old = this.current.mapped;
    const rest = old.filter(
      (m) => !(m.region.gpa === region.gpa && m.region.uva === region.uva && m.region.size === region.size),
    );
    if (rest.length === old.length) return `${describeRegion(region)} is not in the table`;
    this.swap(rest);
    return null;
  }

  /** The session ends: let go as soon as nothing is in flight. */
  clear(): void {
    this.swap([]);
    this.changes = 0;
  }

  private map(regions: readonly MemoryRegion[], fds: readonly Fd[], whole: boolean): MappedRegion[] | string {
    const mappings = this.transport.mapRegions(regions, fds, whole);
    if (typeof mappings === 'string') return mappings;
    const made: MappedRegion[] = [];
    try {
      return regions.map((region, i) => {
        const mapping = mappings[i] as RegionMapping;
        const known = this.current.mapped.find((m) => m.is(region, mapping.key));
        if (known !== undefined) {
          mapping.release();
          return known;
        }
        const fresh = new MappedRegion(region, mapping, this.listener);
        made.push(fresh);
        return fresh;
      });
    } catch (error) {
      // Views could not be made, or a device could not reach the memory: nothing of the new table stays.
      for (const m of made) {
        m.hold();
        m.drop();
      }
      const kept = new Set(made.map((m) => m.mapping));
      for (const mapping of mappings) if (!kept.has(mapping)) mapping.release();
      return (error as Error).message;
    }
  }

  private swap(mapped: readonly MappedRegion[]): void {
    const old = this.current;
    this.current = new MemoryTable(mapped);
    this.changes++;
    old.retire();
  }

  /** The first region that its owner could make shorter (RegionMapping.mayShrink), for the operator; or null. */
  get unsealed(): string | null {
    const found = this.current.mapped.find((m) => m.mapping.mayShrink === true);
    return found === undefined ? null : describeRegion(found.region);
  }

  describe(): Record<string, unknown>[] {
    return this.current.mapped.map(({ region: r, mapping }) => ({
      guest_phys_addr: hex(r.gpa),
      size: r.size,
      userspace_addr: hex(r.uva),
      mmap_offset: hex(r.offset),
      may_shrink: mapping.mayShrink === true,
    }));
  }
}
