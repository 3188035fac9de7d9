/**
 * Regions of a front end on this host: mapped from the descriptors that come with the message. Whatever the
 * descriptor is, touching the mapping must not be able to stop or kill this process. One thing cannot be had: a file that knows
 * no seals can be made shorter by its owner at any time. Such a region says so (`mayShrink`).
 */
import type { Memory } from '../memory/memory.ts';
import { type Fd, fstat } from '../sys/fd.ts';
import { type Mapping, mapFile } from '../sys/mapping.ts';
import { withheldPages } from '../sys/withheld-pages.ts';
import type { MemoryRegion } from './messages.ts';
import type { RegionMapping } from './transport.ts';

/** What an operator can do about a region that cannot be mapped. */
const HINT = 'start the VM with a shared memory backend (memory-backend-memfd,share=on)';

class FileRegion implements RegionMapping {
  readonly key: string;
  readonly mayShrink: boolean;
  private readonly mapping: Mapping;

  constructor(key: string, mapping: Mapping) {
    this.key = key;
    this.mayShrink = !mapping.sealed;
    this.mapping = mapping;
  }

  memoryAt(offset: number, bytes: number): Memory {
    return this.mapping.windowAt(offset, bytes);
  }

  release(): void {
    this.mapping.unmap();
  }
}

function mapOne(region: MemoryRegion, fd: Fd): FileRegion {
  const withheld = withheldPages(fd);
  if (withheld !== null) throw new Error(withheld);
  const stat = fstat(fd);
  if (stat.kind !== 'file') throw new Error(`its descriptor is a ${stat.kind}, not a file or memfd`);
  const mapping = mapFile(fd, { offset: region.offset, size: region.size });
  return new FileRegion(`${stat.dev}:${stat.ino}:${region.offset}+${region.size}`, mapping);
}

/** See {@link Transport.mapRegions}. */
export function mapRegionFds(regions: readonly MemoryRegion[], fds: readonly Fd[]): RegionMapping[] | string {
  if (fds.length !== regions.length) return `${regions.length} memory regions with ${fds.length} descriptors; ${HINT}`;
  const mapped: FileRegion[] = [];
  try {
    for (const [i, region] of regions.entries()) mapped.push(mapOne(region, fds[i] as Fd));
    return mapped;
  } catch (error) {
    for (const m of mapped) m.release();
    return `memory region ${mapped.length}: ${(error as Error).message}; ${HINT}`;
  }
}
