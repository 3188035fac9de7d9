import { MAX_MEMORY, type Memory } from '../../memory/memory.ts';
import { OVERHANG } from '../../sys/mapping.ts';
import type { RegionMapping } from '../../vhost/transport.ts';
import type { WindowPlace } from './device.ts';
import type { DeviceAccess, MemoryPart } from './device-access.ts';
import type { RegionRule } from './layouts.ts';

/**
 * The compute VM's memory as it appears in the BAR: where each region of a table lies, by the device's rule. Only what a table
 * names is mapped, because the BAR is 64 GiB. The memory's I/O address is the BAR's physical one, so disks of the appliance
 * can write straight into the compute VM.
 */

/** What counts of a region here: where the device's rule takes it, and how long it is. */
export interface WindowPiece {
  readonly offset: number;
  readonly size: number;
}

/** Offsets of the regions in the window, in the table's order. Sums stay exact: every term was checked to be below 2^53. */
export function regionOffsets(rule: RegionRule, regions: readonly WindowPiece[]): number[] {
  if (rule === 'placed') return regions.map((r) => r.offset);
  let sum = 0;
  return regions.map((r) => {
    const prefix = rule === 'prefixed' ? r.offset : 0;
    const at = sum + prefix;
    sum = at + r.size;
    return at;
  });
}

class WindowRegion implements RegionMapping {
  readonly key: string;
  private readonly part: MemoryPart;
  private released: (() => void) | null;

  constructor(key: string, part: MemoryPart, released: () => void) {
    this.key = key;
    this.part = part;
    this.released = released;
  }

  memoryAt(offset: number, bytes: number): Memory {
    // A ring at the edge of a window of 1 GiB lies in one piece with what follows.
    const most = Math.min(bytes + OVERHANG, MAX_MEMORY, this.part.size - offset);
    return this.part.memoryAt(offset, Math.max(bytes, most));
  }

  release(): void {
    const then = this.released;
    if (then === null) return;
    this.released = null;
    this.part.unmap();
    then();
  }
}

/**
 * @param released called once for each region: when its mapping is given up, or at once when there are none
 * @returns the mappings, or why there are none
 */
export function mapWindow(
  access: DeviceAccess,
  place: WindowPlace,
  rule: RegionRule,
  regions: readonly WindowPiece[],
  released: () => void,
): RegionMapping[] | string {
  const offsets = regionOffsets(rule, regions);
  for (const [i, r] of regions.entries()) {
    if (offsets[i] + r.size > place.size) {
      regions.forEach(released);
      return `memory region ${i} ends at ${offsets[i] + r.size} of a window of ${place.size} bytes: give the VM less memory`;
    }
  }
  const mapped: WindowRegion[] = [];
  try {
    for (const [i, r] of regions.entries()) {
      const part = access.memory(place.bar, place.base + offsets[i], r.size);
      mapped.push(new WindowRegion(`${offsets[i]}+${r.size}`, part, released));
    }
    return mapped;
  } catch (error) {
    // What was mapped counts as given up, and so does what was not.
    const missing = regions.length - mapped.length;
    for (const m of mapped) m.release();
    for (let i = 0; i < missing; i++) released();
    return `memory region ${mapped.length}: ${(error as Error).message}`;
  }
}
