/** One-shot timers in a sorted list: a loop has a handful of them. Times are those of the loop's clock, nanoseconds. */

export interface Timer {
  /** Never call it any more. Harmless when it has been called already. */
  cancel(): void;
}

class Entry implements Timer {
  readonly due: number;
  readonly fn: () => void;
  private readonly list: Entry[];

  constructor(due: number, fn: () => void, list: Entry[]) {
    this.due = due;
    this.fn = fn;
    this.list = list;
  }

  cancel(): void {
    const i = this.list.indexOf(this);
    if (i >= 0) this.list.splice(i, 1);
  }
}

export class TimerList {
  private readonly list: Entry[] = [];

  add(due: number, fn: () => void): Timer {
    const entry = new Entry(due, fn, this.list);
    let i = this.list.length;
    while (i > 0 && this.list[i - 1].due > due) i--; // equal times keep their order
    this.list.splice(i, 0, entry);
    return entry;
  }

  /** When the next is due, or Infinity. */
  get next(): number {
    return this.list.length === 0 ? Number.POSITIVE_INFINITY : this.list[0].due;
  }

  /** Take the first one that is due at `now`, or undefined. */
  takeDue(now: number): (() => void) | undefined {
    return this.list.length > 0 && this.list[0].due <= now ? this.list.shift()?.fn : undefined;
  }

  clear(): void {
    this.list.length = 0;
  }
}
