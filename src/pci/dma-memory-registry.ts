import { IO_PAGE, linearAddress } from '../memory/io-address.ts';
import type { Memory } from '../memory/memory.ts';
import { logger } from '../sys/log.ts';
import { isHugePage, physicalPages } from '../sys/physical.ts';
import { type Pin, pinMemory } from '../sys/pin.ts';
import { DmaAllowance } from './dma-allowance.ts';
import { MapperKind } from './dma-mapper.ts';
import { DmaTable } from './dma-table.ts';

const log = logger('dma');

/**
 * Memory that a thread lets devices reach: guest memory, BARs of other devices, the driver's own. `add` finds out where it lies and sets
 * `ioAddress` or `ioPages`; where that fails the memory stays out of reach, and its bytes are bounced. Per thread,
 * over the process's one {@link DmaTable}.
 */

interface Registration {
  users: number;
  pin: Pin | null;
  /** Address and length of each physical piece. */
  runs: [iova: number, bytes: number][];
  /** The memory is a BAR's: its address was known before. */
  bar: boolean;
}

/** Why memory is out of reach: told once a reason, so that a log is not flooded. */
const told = new Set<string>();

/** This thread's registries, for channels. A process has one table, tests have more. */
const ofThread = new Map<number, DmaMemoryRegistry>();

export class DmaMemoryRegistry {
  /** The thread's registry over the table with this memory. */
  static ofThread(shared: SharedArrayBuffer): DmaMemoryRegistry {
    const table = new DmaTable(shared);
    let registry = ofThread.get(table.id);
    if (registry === undefined) {
      registry = new DmaMemoryRegistry(table);
      ofThread.set(table.id, registry);
    }
    return registry;
  }

  private readonly table: DmaTable;
  private readonly known = new Map<Memory, Registration>();
  /** Users of memory that was offered and is out of reach. */
  private readonly refused = new Map<Memory, number>();
  private readonly allowance: DmaAllowance;

  constructor(table: DmaTable, allowance: DmaAllowance = new DmaAllowance()) {
    this.table = table;
    this.allowance = allowance;
  }

  /**
   * As {@link add}, for memory that somebody else has announced and may have announced beyond all measure. Who offers it is its user
   * from then on, also when it is refused, and removes it once: another user may be luckier, and all see the addresses.
   * @returns null, or why it can't be, or is not done
   */
  offer(memory: Memory): string | null {
    const reason = this.tryToAdd(memory);
    if (reason === null) return null;
    this.tell(memory, reason);
    const known = this.known.get(memory);
    if (known !== undefined) known.users++;
    else this.refused.set(memory, (this.refused.get(memory) ?? 0) + 1);
    return reason;
  }

  private tryToAdd(memory: Memory): string | null {
    // What is known, and what lies in a device, is not pinned.
    if (this.known.has(memory) || memory.ioAddress >= 0) return this.add(memory);
    try {
      return this.allowance.spend(memory, () => this.add(memory));
    } catch (error) {
      return (error as Error).message;
    }
  }

  /**
   * Let devices reach the memory; again for every user.
   * A memory with an `ioAddress` already is a BAR (or other memory at a known physical address).
   * @returns null, or why it can't be
   */
  add(memory: Memory): string | null {
    const known = this.known.get(memory);
    if (known !== undefined) {
      // It may have come before the first device behind an IOMMU.
      const reason = known.runs.length > 0 ? null : this.map(memory, known, this.piecesOf(memory));
      if (reason === null) known.users++;
      return reason;
    }
    const bar = memory.ioAddress >= 0;
    const registration: Registration = { users: 1, pin: null, runs: [], bar };
    let reason: string | null;
    try {
      reason = bar
        ? this.map(memory, registration, [[memory.ioAddress, memory.length]])
        : this.addRam(memory, registration);
    } catch (error) {
      reason = (error as Error).message;
    }
    if (reason === null) {
      registration.users += this.refused.get(memory) ?? 0;
      this.refused.delete(memory);
      this.known.set(memory, registration);
      return null;
    }
    this.undo(registration);
    memory.ioAddress = -1;
    memory.ioPages = null;
    this.tell(memory, reason);
    return reason;
  }

  private tell(memory: Memory, reason: string): void {
    // Those that differ in figures alone are one.
    const what = reason.replace(/\d+/g, '#');
    if (told.has(what)) return;
    told.add(what);
    log('memory of %d bytes is out of reach of devices and will be bounced: %s', memory.length, reason);
  }

  /** Map what is here already, for the first device behind an IOMMU. @returns null, or why something can't be */
  mapAll(): string | null {
    for (const [memory, registration] of this.known) {
      const reason = registration.runs.length > 0 ? null : this.map(memory, registration, this.piecesOf(memory));
      if (reason !== null) return reason;
    }
    return null;
  }

  /** The last device behind an IOMMU has gone: nothing is mapped, until {@link mapAll} for the next. */
  unmapAll(): void {
    for (const { runs } of this.known.values()) {
      for (const [iova, bytes] of runs.splice(0)) this.table.remove(iova, bytes);
    }
  }

  private piecesOf(memory: Memory): [number, number][] {
    if (memory.ioPages === null) return [[memory.ioAddress, memory.length]];
    return runsOf(memory.ioPages, memory.length);
  }

  /** One user fewer. Nothing of that user may be in flight. Unknown memory is none of our business. */
  remove(memory: Memory): void {
    const registration = this.known.get(memory);
    if (registration === undefined) {
      const users = this.refused.get(memory) ?? 0;
      if (users > 1) this.refused.set(memory, users - 1);
      else this.refused.delete(memory);
      return;
    }
    if (--registration.users > 0) return;
    this.known.delete(memory);
    this.undo(registration);
    if (registration.bar) return;
    memory.ioAddress = -1;
    memory.ioPages = null;
  }

  private addRam(memory: Memory, registration: Registration): string | null {
    // Pages must stay where they are from before we ask where that is. With type 1 and iommufd the kernel pins what it maps, but the
    // addresses must be right before that.
    const pages = this.pinned(memory, registration);
    if (pages.some((p) => p < 0)) return 'not all its pages are present';
    const reason = this.map(memory, registration, runsOf(pages, memory.length));
    if (reason !== null) return reason;
    const linear = linearAddress(pages);
    if (linear >= 0) memory.ioAddress = linear;
    else memory.ioPages = pages;
    return null;
  }

  private pinned(memory: Memory, registration: Registration): Float64Array {
    try {
      registration.pin = pinMemory(memory);
    } catch (error) {
      // Huge pages stay where they are by themselves.
      const pages = physicalPages(memory);
      if (pages.every((p) => p >= 0) && isHugePage(pages[0])) return pages;
      throw error;
    }
    return physicalPages(memory);
  }

  private map(memory: Memory, registration: Registration, runs: [number, number][]): string | null {
    if (this.table.place.kind === MapperKind.NONE) return null;
    let offset = 0;
    for (const [iova, bytes] of runs) {
      const reason = this.table.add(memory, offset, iova, bytes);
      if (reason !== null) {
        for (const [start, length] of registration.runs.splice(0)) this.table.remove(start, length);
        return reason;
      }
      registration.runs.push([iova, bytes]);
      offset += bytes;
    }
    return null;
  }

  private undo(registration: Registration): void {
    for (const [iova, bytes] of registration.runs.splice(0)) this.table.remove(iova, bytes);
    registration.pin?.release();
    registration.pin = null;
  }

  get size(): number {
    return this.known.size;
  }
}

/** Physical pieces of memory whose pages these are; the last one ends with its page. */
export function runsOf(pages: Float64Array, bytes: number): [iova: number, bytes: number][] {
  const runs: [number, number][] = [];
  const count = Math.ceil(bytes / IO_PAGE);
  for (let i = 0; i < count; i++) {
    const last = runs[runs.length - 1];
    const page = pages[i];
    if (last !== undefined && last[0] + last[1] === page) last[1] += IO_PAGE;
    else runs.push([page, IO_PAGE]);
  }
  return runs;
}
