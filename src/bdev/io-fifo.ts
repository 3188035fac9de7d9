import type { BdevIo } from './bdev.ts';

/**
 * Requests that wait their turn, first come first served. A circular array that doubles when it is full: it never has more
 * than the rings can hold, so it stops growing and nothing is allocated a request.
 */
export class IoFifo {
  private items: (BdevIo | null)[];
  private head = 0;
  length = 0;

  /** @param capacity a power of two */
  constructor(capacity = 64) {
    this.items = new Array<BdevIo | null>(capacity).fill(null);
  }

  push(io: BdevIo): void {
    if (this.length === this.items.length) this.grow();
    this.items[(this.head + this.length) & (this.items.length - 1)] = io;
    this.length++;
  }

  peek(): BdevIo | null {
    return this.length === 0 ? null : this.items[this.head];
  }

  shift(): BdevIo | null {
    if (this.length === 0) return null;
    const io = this.items[this.head];
    this.items[this.head] = null;
    this.head = (this.head + 1) & (this.items.length - 1);
    this.length--;
    return io;
  }

  private grow(): void {
    const mask = this.items.length - 1;
    const next = new Array<BdevIo | null>(this.items.length * 2).fill(null);
    for (let i = 0; i < this.length; i++) next[i] = this.items[(this.head + i) & mask];
    this.items = next;
    this.head = 0;
  }
}
