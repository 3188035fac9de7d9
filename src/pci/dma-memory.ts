import { IO_PAGE } from '../memory/io-address.ts';
import type { Memory } from '../memory/memory.ts';
import { MAP } from '../sys/constants.ts';
import type { Fd } from '../sys/fd.ts';
import { logger } from '../sys/log.ts';
import { type Mapping, mapFile, memfd } from '../sys/mapping.ts';
import type { DmaAllocator, DmaBuffer } from './dma.ts';
import type { DmaMemoryRegistry } from './dma-memory-registry.ts';

const log = logger('dma');

/**
 * The drivers' own DMA memory, handed out in pages of 4 KiB from arenas: huge pages where there are some, else pinned small pages.
 * Main thread only; pieces go to reactors by share.
 *
 * Arenas are memfds: what holds a descriptor of one keeps its pages from being given to somebody else, even when this process
 * dies in the middle of a transfer (see guard.ts).
 */

const HUGE_PAGE = 0x20_0000;
/** Small-page arenas are made this large. */
const SMALL_ARENA = 0x40_0000;

class Arena {
  readonly huge: boolean;
  readonly fd: Fd;
  readonly mapping: Mapping;
  readonly memory: Memory;
  /** Physical address of each page. */
  readonly pages: Float64Array;
  private readonly used: Uint8Array;

  /** @throws Error when there is no such memory, or devices can't reach it */
  constructor(bytes: number, huge: boolean, registry: DmaMemoryRegistry) {
    const granule = huge ? HUGE_PAGE : IO_PAGE;
    const size = Math.ceil(bytes / granule) * granule;
    this.huge = huge;
    this.fd = memfd(huge ? 'vvu-dma-huge' : 'vvu-dma', size, { hugepages: huge });
    try {
      this.mapping = mapFile(this.fd, { size, flags: MAP.POPULATE });
    } catch (error) {
      this.fd.close();
      throw error;
    }
    this.memory = this.mapping.memoryAt(0, size);
    const reason = registry.add(this.memory);
    if (reason !== null) {
      this.mapping.unmap();
      this.fd.close();
      throw new Error(reason);
    }
    const { ioAddress, ioPages } = this.memory;
    this.pages = ioPages ?? Float64Array.from({ length: size / IO_PAGE }, (_, i) => ioAddress + i * IO_PAGE);
    this.used = new Uint8Array(size / IO_PAGE);
  }

  /** First of `count` free pages in a row, or -1. */
  find(count: number, contiguous: boolean): number {
    for (let first = 0; first + count <= this.used.length; first++) {
      let n = 0;
      while (n < count && this.used[first + n] === 0 && (n === 0 || !contiguous || this.follows(first + n))) n++;
      if (n === count) return first;
      // What broke the row may begin the next one, unless it is in use.
      first += this.used[first + n] === 0 ? Math.max(0, n - 1) : n;
    }
    return -1;
  }

  private follows(page: number): boolean {
    return this.pages[page] === this.pages[page - 1] + IO_PAGE;
  }

  take(first: number, count: number): void {
    this.used.fill(1, first, first + count);
  }

  give(first: number, count: number): void {
    this.used.fill(0, first, first + count);
  }

  get empty(): boolean {
    return this.used.every((u) => u === 0);
  }

  close(registry: DmaMemoryRegistry): void {
    registry.remove(this.memory);
    this.mapping.unmap();
    this.fd.close();
  }
}

export interface DmaMemoryOptions {
  /** false: small pages even where there are huge ones. */
  hugepages?: boolean;
  /** An arena was made or given back: for the guard. */
  onArenas?: (fds: readonly Fd[]) => void;
}

export class DmaMemory implements DmaAllocator {
  private readonly registry: DmaMemoryRegistry;
  private readonly options: DmaMemoryOptions;
  private readonly arenas: Arena[] = [];
  /** Why there are no huge pages, when there are none. */
  private noHuge = '';

  constructor(registry: DmaMemoryRegistry, options: DmaMemoryOptions = {}) {
    this.registry = registry;
    this.options = options;
    if (options.hugepages === false) this.noHuge = 'not wanted';
  }

  get usesHugePages(): boolean {
    return this.arenas.some((a) => a.huge);
  }

  allocate(bytes: number, contiguous: boolean): DmaBuffer {
    const count = Math.max(1, Math.ceil(bytes / IO_PAGE));
    for (const arena of this.arenas) {
      const first = arena.find(count, contiguous);
      if (first >= 0) return this.piece(arena, first, count);
    }
    // New memory may lie better. Where it does not, it is not kept: every long piece asked for would leave an arena behind.
    const arena = this.grow(count * IO_PAGE);
    const first = arena.find(count, contiguous);
    if (first >= 0) return this.piece(arena, first, count);
    this.arenas.pop();
    arena.close(this.registry);
    this.tell();
    throw new Error(
      `no ${count * IO_PAGE} bytes of DMA memory in one physical piece: reserve huge pages (vvu-target setup hugepages 64)`,
    );
  }

  private grow(bytes: number): Arena {
    let arena: Arena | undefined;
    if (this.noHuge === '') {
      try {
        arena = new Arena(bytes, true, this.registry);
      } catch (error) {
        this.noHuge = (error as Error).message;
        log('no huge pages, small ones instead: %s', this.noHuge);
      }
    }
    try {
      arena ??= new Arena(Math.max(bytes, SMALL_ARENA), false, this.registry);
    } catch (error) {
      throw new Error(`no DMA memory: ${(error as Error).message}; "vvu-target doctor" says what is missing`, {
        cause: error,
      });
    }
    this.arenas.push(arena);
    this.tell();
    return arena;
  }

  private tell(): void {
    this.options.onArenas?.(this.arenas.map((a) => a.fd));
  }

  private piece(arena: Arena, first: number, count: number): DmaBuffer {
    arena.take(first, count);
    const bytes = count * IO_PAGE;
    const memory = arena.mapping.memoryAt(first * IO_PAGE, bytes);
    const pages = arena.pages.slice(first, first + count);
    const linear = pages.every((p, i) => p === pages[0] + i * IO_PAGE);
    memory.ioAddress = linear ? pages[0] : -1;
    memory.ioPages = linear ? null : pages;
    memory.u8.fill(0);
    let freed = false;
    return {
      memory,
      share: () => ({
        place: { mapping: arena.mapping.share(), offset: first * IO_PAGE },
        bytes,
        ioAddress: memory.ioAddress,
        ioPages: memory.ioPages,
      }),
      free: () => {
        if (freed) return;
        freed = true;
        arena.give(first, count);
      },
    };
  }

  /** Release all arenas. Nothing of them may be in use. */
  close(): void {
    for (const arena of this.arenas.splice(0)) arena.close(this.registry);
    this.tell();
  }

  /** Bytes handed out are all back. */
  get idle(): boolean {
    return this.arenas.every((a) => a.empty);
  }
}
