import { EventFd } from '../sys/eventfd.ts';
import type { ControlLoop } from './control-loop.ts';
import { BoardState, QueueBoard } from './queue-board.ts';

/** The memory of one of a device's queues. */
export interface DeviceQueue {
  /** Wakes the reactor that has the queue. */
  readonly wake: EventFd;
  /** Only when the device can touch none of it. */
  free(): void;
}

/**
 * The main thread's end of the queues of a device, which reactors claim: their memory, the board, and the eventfds both ways. Its rule:
 * whatever the board says anew, reactors are woken to read.
 */
export class DeviceQueues<Q extends DeviceQueue> {
  /** Filled by the driver before {@link open}. */
  readonly list: Q[] = [];
  /** Each queue has an interrupt of its own. */
  interrupts = false;
  /** null until {@link open}. */
  board: QueueBoard | null = null;
  /** Rung by reactors; and by the device, for what is no queue's. */
  private readonly bell = new EventFd();
  private readonly main = new EventFd();
  private readonly watches: { close(): void }[] = [];

  /** @param look called when a reactor or the device has something to tell */
  listen(loop: ControlLoop, look: () => void): void {
    for (const event of [this.bell, this.main]) {
      this.watches.push(
        loop.watch(event.fd.number, () => {
          event.drain();
          look();
        }),
      );
    }
  }

  /**
   * How many of the queues wanted there can be. Vector 0 is the main thread's; where there are too few for all, those that exist
   * serve so many queues.
   */
  count(wanted: number, vectors: number): number {
    this.interrupts = vectors >= 2;
    return this.interrupts ? Math.min(wanted, vectors - 1) : wanted;
  }

  /** The queues are there. @param commands of the longest one */
  open(commands: number): void {
    this.board = QueueBoard.create(this.list.length, commands);
  }

  /** Eventfds for vector 0, and for the queues'. */
  get mainFd(): number {
    return this.main.fd.number;
  }

  get queueFds(): number[] {
    return this.interrupts ? this.list.map((q) => q.wake.fd.number) : [];
  }

  get bellFd(): number {
    return this.bell.fd.number;
  }

  /** Queues (by index) whose reactor has not let go since {@link hold}. */
  get unacknowledged(): number[] {
    return this.board?.unacknowledged() ?? [];
  }

  isClaimed(index: number): boolean {
    return this.board?.isClaimed(index) ?? false;
  }

  /** The device works (again). */
  run(): void {
    this.board?.run();
    this.wake();
  }

  /** Reactors let go of their queues. */
  hold(): void {
    this.board?.hold();
    this.wake();
  }

  /** Everything outstanding ends in errors. */
  end(state: 'failed' | 'removed'): void {
    this.board?.end(state === 'failed' ? BoardState.FAILED : BoardState.REMOVED);
    this.wake();
  }

  private wake(): void {
    for (const queue of this.list) queue.wake.signal();
  }

  /** No reactor has a queue any more, and the device is quiet. */
  free(): void {
    for (const watch of this.watches.splice(0)) watch.close();
    for (const queue of this.list.splice(0)) queue.free();
    this.bell.close();
    this.main.close();
  }
}
