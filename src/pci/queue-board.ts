/**
 * The words by which the main thread, which owns a device, and the reactors, which own a queue each, speak of that
 * device. Shared memory and Atomics only: a reactor never waits for a message to get at its disk.
 *
 * A reactor claims a queue and releases it. The main thread holds all queues before it resets the device: each reactor
 * stops touching its queue and acknowledges; with a new generation they begin anew. What a reactor wants of the
 * main thread it notes here and rings the bell (an eventfd that goes beside the board).
 */

export const BoardState = {
  /** The device works; queues may be used. */
  RUN: 0,
  /** Stop using the queues, acknowledge, wait. */
  HOLD: 1,
  /** The device failed for good: everything ends in errors. */
  FAILED: 2,
  /** The device has gone: everything ends in errors. */
  REMOVED: 3,
} as const;
export type BoardState = (typeof BoardState)[keyof typeof BoardState];

/** Words of the head. */
const STATE = 0;
const GENERATION = 1;
const HOLDS = 2;
const RESET_ASKED = 3;
const QUEUES = 4;
const COMMANDS = 5;
/** Counts every change of the state: a state that came back between two looks is not taken for the one that was seen. */
const CHANGES = 6;
const HEAD = 8;

/** Words of a queue, before its commands' words. */
const CLAIMED = 0;
const ACKED = 1;
const NOTE = 2;
/** Where the last owner left the rings: generation, then what the driver keeps. */
const LEFT = 3;
const LEFT_WORDS = 4;
const QUEUE_HEAD = 8;

export class QueueBoard {
  readonly shared: SharedArrayBuffer;
  readonly queues: number;
  readonly commands: number;
  private readonly words: Int32Array;

  /** A new board, or another thread's. */
  static create(queues: number, commands: number): QueueBoard {
    const shared = new SharedArrayBuffer((HEAD + queues * (QUEUE_HEAD + commands)) * 4);
    const words = new Int32Array(shared);
    words[QUEUES] = queues;
    words[COMMANDS] = commands;
    return new QueueBoard(shared);
  }

  constructor(shared: SharedArrayBuffer) {
    this.shared = shared;
    this.words = new Int32Array(shared);
    this.queues = this.words[QUEUES] as number;
    this.commands = this.words[COMMANDS] as number;
  }

  private at(queue: number): number {
    return HEAD + queue * (QUEUE_HEAD + this.commands);
  }

  // Both sides.

  get state(): BoardState {
    return Atomics.load(this.words, STATE) as BoardState;
  }

  /** How often the state has changed. */
  get changes(): number {
    return Atomics.load(this.words, CHANGES);
  }

  /** The same by a plain look, for the hot path: may be late by a moment, never wrong for good. */
  get changesHint(): number {
    return this.words[CHANGES] as number;
  }

  private set(state: BoardState): void {
    Atomics.store(this.words, STATE, state);
    Atomics.add(this.words, CHANGES, 1); // after the state: who sees the count sees the state
  }

  /** Rises with every start of the device. */
  get generation(): number {
    return Atomics.load(this.words, GENERATION);
  }

  isClaimed(queue: number): boolean {
    return Atomics.load(this.words, this.at(queue) + CLAIMED) !== 0;
  }

  // A reactor's side.

  /** Take a free queue. @returns its index or -1 */
  claim(): number {
    for (let queue = 0; queue < this.queues; queue++) {
      if (Atomics.compareExchange(this.words, this.at(queue) + CLAIMED, 0, 1) === 0) {
        // Whatever hold is under way has not been seen by this reactor: it looks at the state before it touches the queue.
        Atomics.store(this.words, this.at(queue) + ACKED, 0);
        return queue;
      }
    }
    return -1;
  }

  /**
   * Nothing of the queue is in flight and this reactor will not touch it again.
   * @param positions up to three numbers that the next owner in this generation needs to go on
   */
  release(queue: number, positions: readonly number[] = []): void {
    const left = this.at(queue) + LEFT;
    for (let i = 0; i < LEFT_WORDS - 1; i++) this.words[left + 1 + i] = positions[i] ?? 0;
    this.words[left] = this.generation;
    Atomics.store(this.words, this.at(queue) + CLAIMED, 0);
  }

  /** What {@link release} left, or undefined when the device was started since. Asked once, by the new owner. */
  leftBy(queue: number): readonly [number, number, number] | undefined {
    const left = this.at(queue) + LEFT;
    const generation = this.words[left];
    if (generation === 0 || generation !== this.generation) return undefined;
    return [this.words[left + 1], this.words[left + 2], this.words[left + 3]] as [number, number, number];
  }

  /** "I do not touch the queue until the state is RUN again." */
  acknowledgeHold(queue: number): void {
    Atomics.store(this.words, this.at(queue) + ACKED, Atomics.load(this.words, HOLDS));
  }

  askReset(): void {
    Atomics.store(this.words, RESET_ASKED, 1);
  }

  /** Ask to have a command aborted; `note` is the queue's own (a LUN, say). */
  askAbort(queue: number, command: number): void {
    Atomics.store(this.words, this.at(queue) + QUEUE_HEAD + command, 1);
  }

  /** Leave a word for the main thread; it is overwritten by the next. Not 0. */
  leaveNote(queue: number, note: number): void {
    Atomics.store(this.words, this.at(queue) + NOTE, note);
  }

  // The main thread's side.

  /** Stop all queues. */
  hold(): void {
    Atomics.add(this.words, HOLDS, 1);
    this.set(BoardState.HOLD);
  }

  /** Queues whose reactor has not answered the last hold. */
  unacknowledged(): number[] {
    const holds = Atomics.load(this.words, HOLDS);
    const open: number[] = [];
    for (let queue = 0; queue < this.queues; queue++) {
      const at = this.at(queue);
      if (Atomics.load(this.words, at + CLAIMED) !== 0 && Atomics.load(this.words, at + ACKED) !== holds)
        open.push(queue);
    }
    return open;
  }

  /** The device works (again): queues begin anew. */
  run(): void {
    Atomics.add(this.words, GENERATION, 1);
    this.set(BoardState.RUN);
  }

  end(state: typeof BoardState.FAILED | typeof BoardState.REMOVED): void {
    this.set(state);
  }

  takeResetAsked(): boolean {
    return Atomics.exchange(this.words, RESET_ASKED, 0) !== 0;
  }

  takeNote(queue: number): number {
    return Atomics.exchange(this.words, this.at(queue) + NOTE, 0);
  }

  /** Commands of the queue asked to be aborted since the last time. */
  takeAborts(queue: number): number[] {
    const found: number[] = [];
    const at = this.at(queue) + QUEUE_HEAD;
    for (let command = 0; command < this.commands; command++) {
      if (Atomics.load(this.words, at + command) !== 0 && Atomics.exchange(this.words, at + command, 0) !== 0) {
        found.push(command);
      }
    }
    return found;
  }
}
