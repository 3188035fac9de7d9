/**
 * Words by which the main thread and the reactors speak of one logical unit's size: the main thread hears events and asks for a
 * look; a reactor that is told of a change by the unit itself looks, and leaves the new size.
 */
const LOOK = 0;
const FOUND = 1;

export class UnitState {
  readonly shared: SharedArrayBuffer;
  private readonly words: Int32Array;
  private readonly size: Float64Array;

  constructor(shared = new SharedArrayBuffer(16)) {
    this.shared = shared;
    this.words = new Int32Array(shared, 0, 2);
    this.size = new Float64Array(shared, 8, 1);
  }

  /** Main thread: somebody shall look. */
  askLook(): void {
    Atomics.store(this.words, LOOK, 1);
  }

  /** Reactor: whether one shall; the answer is given once. */
  takeLook(): boolean {
    return Atomics.load(this.words, LOOK) !== 0 && Atomics.exchange(this.words, LOOK, 0) !== 0;
  }

  /** Reactor: what it found. */
  leave(numBlocks: number): void {
    this.size[0] = numBlocks;
    Atomics.store(this.words, FOUND, 1);
  }

  /** Main thread: the size that was found since the last time, or -1. */
  take(): number {
    return Atomics.exchange(this.words, FOUND, 0) === 0 ? -1 : this.size[0];
  }
}
