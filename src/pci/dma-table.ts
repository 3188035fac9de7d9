import type { Memory } from '../memory/memory.ts';
import { errnoName } from '../sys/errno.ts';
import { type DmaMapper, kernelMapper, type MapperKind, type MapperPlace } from './dma-mapper.ts';

/**
 * What is mapped for DMA in this process: ranges of I/O addresses, shared by all its threads and devices. The I/O address is
 * the physical address, so two mappings of the same memory (two controllers of one VM, say) ask for the same range: the
 * first maps it, the last one unmaps it, and ranges that overlap in part share what they have in common.
 *
 * The table lies in shared memory under a lock. Threads wait for each other only here, on the control path.
 */

/** Ranges at most. The kernel's own limit for a type 1 container is 65535. */
const MAX_RANGES = 16384;

// Head, in Int32 words.
const LOCK = 0;
const KIND = 1;
const FD = 2;
const IOAS = 3;
const COUNT = 4;
/** Tells tables apart whose memory is the same under another JavaScript object: a cloned SharedArrayBuffer is one. */
const ID = 5;
const HEAD_BYTES = 64;

/** Doubles of a range: where it begins, where it ends, how many registrations lie on it. */
const START = 0;
const END = 1;
const USERS = 2;
const WIDTH = 3;

let tables = 0;

export class DmaTable {
  readonly shared: SharedArrayBuffer;
  private readonly head: Int32Array;
  /** Sorted by address, never overlapping. */
  private readonly ranges: Float64Array;
  private readonly mapper: DmaMapper;

  /** A new table, or (with its memory) another thread's. */
  constructor(shared?: SharedArrayBuffer, mapper: DmaMapper = kernelMapper) {
    this.shared = shared ?? new SharedArrayBuffer(HEAD_BYTES + MAX_RANGES * WIDTH * 8);
    this.head = new Int32Array(this.shared, 0, HEAD_BYTES / 4);
    if (shared === undefined) this.head[ID] = ++tables;
    this.ranges = new Float64Array(this.shared, HEAD_BYTES);
    this.mapper = mapper;
  }

  /** Which translation the process's devices go through. Set by the main thread, while nothing is mapped. */
  setPlace(place: MapperPlace): void {
    this.locked(() => {
      if (this.count > 0) throw new Error('DmaTable: there are mappings already');
      Atomics.store(this.head, KIND, place.kind);
      Atomics.store(this.head, FD, place.fd);
      Atomics.store(this.head, IOAS, place.ioas);
    });
  }

  get place(): MapperPlace {
    return {
      kind: Atomics.load(this.head, KIND) as MapperKind,
      fd: Atomics.load(this.head, FD),
      ioas: Atomics.load(this.head, IOAS),
    };
  }

  /** The same for every thread's view of one table. */
  get id(): number {
    return this.head[ID];
  }

  /** Mapped ranges. */
  get count(): number {
    return Atomics.load(this.head, COUNT);
  }

  /**
   * Make `bytes` of the memory reachable at I/O address `iova`, which is their physical address.
   * @returns null, or why it could not be (nothing is changed then)
   */
  add(memory: Memory, offset: number, iova: number, bytes: number): string | null {
    return this.locked(() => {
      const place = this.place;
      const end = iova + bytes;
      const made: number[] = [];
      let reason: string | null = null;
      // Map what is not covered yet, then count on everything in the range.
      for (let at = iova; at < end && reason === null; ) {
        const i = this.find(at);
        if (i < this.count && this.ranges[i * WIDTH + START] <= at) {
          at = this.ranges[i * WIDTH + END];
          continue;
        }
        const to = i < this.count ? Math.min(end, this.ranges[i * WIDTH + START]) : end;
        reason = this.mapOne(place, i, memory, offset + at - iova, at, to);
        if (reason === null) made.push(at);
        at = to;
      }
      if (reason !== null) {
        for (const start of made) this.unmapAt(place, this.find(start));
        return reason;
      }
      this.each(iova, end, (i) => {
        this.ranges[i * WIDTH + USERS]++;
      });
      return null;
    });
  }

  private mapOne(
    place: MapperPlace,
    i: number,
    memory: Memory,
    offset: number,
    from: number,
    to: number,
  ): string | null {
    if (this.count === MAX_RANGES)
      return `more than ${MAX_RANGES} pieces of physical memory are mapped; use huge pages`;
    const result = this.mapper.map(place, memory, offset, from, to - from);
    if (result < 0) {
      return `mapping ${to - from} bytes at 0x${from.toString(16)} for DMA: ${errnoName(-result)}${hint(errnoName(-result))}`;
    }
    this.ranges.copyWithin((i + 1) * WIDTH, i * WIDTH, this.count * WIDTH);
    this.ranges.set([from, to, 0], i * WIDTH);
    Atomics.add(this.head, COUNT, 1);
    return null;
  }

  /** Take back what {@link add} gave, with the same numbers. No device may be using it. */
  remove(iova: number, bytes: number): void {
    this.locked(() => {
      const place = this.place;
      const idle: number[] = [];
      this.each(iova, iova + bytes, (i) => {
        if (--this.ranges[i * WIDTH + USERS] === 0) idle.push(this.ranges[i * WIDTH + START]);
      });
      for (const start of idle) this.unmapAt(place, this.find(start));
    });
  }

  private unmapAt(place: MapperPlace, i: number): void {
    const start = this.ranges[i * WIDTH + START];
    // A refusal would mean that the kernel has forgotten the range already: nothing to be done about it.
    this.mapper.unmap(place, start, this.ranges[i * WIDTH + END] - start);
    this.ranges.copyWithin(i * WIDTH, (i + 1) * WIDTH, this.count * WIDTH);
    Atomics.sub(this.head, COUNT, 1);
  }

  private each(from: number, to: number, fn: (index: number) => void): void {
    for (let i = this.find(from); i < this.count && this.ranges[i * WIDTH + START] < to; i++) fn(i);
  }

  /** Index of the first range that ends behind this address. */
  private find(address: number): number {
    let low = 0;
    let high = this.count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ranges[middle * WIDTH + END] <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  private locked<T>(fn: () => T): T {
    while (Atomics.compareExchange(this.head, LOCK, 0, 1) !== 0) Atomics.wait(this.head, LOCK, 1, 10);
    try {
      return fn();
    } finally {
      Atomics.store(this.head, LOCK, 0);
      Atomics.notify(this.head, LOCK, 1);
    }
  }

  describe(): { iova: string; bytes: number; users: number }[] {
    return Array.from({ length: this.count }, (_, i) => {
      const [start = 0, end = 0, users = 0] = this.ranges.subarray(i * WIDTH, (i + 1) * WIDTH);
      return { iova: `0x${start.toString(16)}`, bytes: end - start, users };
    });
  }
}

function hint(code: string): string {
  if (code === 'ENOMEM') return ' (the memlock limit is too low: ulimit -l, or LimitMEMLOCK= in the unit)';
  if (code === 'ENOSPC') return ' (too many pieces: use huge pages, or raise vfio_iommu_type1 dma_entry_limit)';
  if (code === 'EINVAL') return ' (the address is beyond what the IOMMU can translate, or reserved: see its aw-bits)';
  return '';
}
