import type { Memory } from '../memory/memory.ts';
import { type Mapping, mapAnonymous } from '../sys/mapping.ts';

/**
 * A fixed number of page-aligned buffers for requests whose own memory the kernel or the device cannot use. Mapped when the first
 * one is needed; a disk that never bounces has none.
 */

export class BouncePool {
  /** Bytes of a buffer; larger requests go piece by piece. */
  readonly size: number;
  private readonly free: number[] = [];
  private readonly count: number;
  private mapping: Mapping | undefined;
  private whole: Memory | undefined;

  constructor(count: number, size: number) {
    this.count = count;
    this.size = size;
    for (let i = count - 1; i >= 0; i--) this.free.push(i);
  }

  /** @returns a buffer's number, or -1 when all are taken */
  take(): number {
    return this.free.pop() ?? -1;
  }

  give(buffer: number): void {
    this.free.push(buffer);
  }

  /** All buffers, one behind another: number n starts at `n * size`. */
  get memory(): Memory {
    if (this.whole === undefined) {
      this.mapping = mapAnonymous(this.count * this.size);
      this.whole = this.mapping.memoryAt(0, this.count * this.size);
    }
    return this.whole;
  }

  close(): void {
    this.mapping?.unmap();
  }
}
