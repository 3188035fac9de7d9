import { Memory } from '../memory/memory.ts';
import { type Command, type Step, Waiting } from './command.ts';
import { CHUNK_BYTES, MAX_WORK_BUFFERS } from './limits.ts';
import type { Lun } from './lun.ts';

/**
 * A bounded pool of buffers for commands that need memory of their own (WRITE SAME's pattern, VERIFY's reads, a copy
 * of a parameter list). A command holds at most one, so nobody waits for somebody who waits.
 */
export class WorkBuffers {
  private readonly free: Memory[] = [];
  private readonly queue: Command[] = [];
  private made = 0;
  private readonly allocate: (bytes: number) => Memory;
  private readonly limit: number;

  /**
   * @param allocate gives page-aligned memory that the disk's device can reach, where there is such; plain memory works
   * @param limit buffers made at most, each {@link CHUNK_BYTES}
   */
  constructor(allocate = (bytes: number) => new Memory(new ArrayBuffer(bytes)), limit = MAX_WORK_BUFFERS) {
    this.allocate = allocate;
    this.limit = limit;
  }

  /** Give `command` a buffer, now or later, and go on with `step`. The Lun takes it back when the command ends. */
  take(lun: Lun, command: Command, step: Step): boolean {
    if (this.free.length === 0 && this.made < this.limit) {
      this.free.push(this.allocate(CHUNK_BYTES));
      this.made++;
    }
    const buffer = this.free.pop();
    if (buffer === undefined) {
      command.next = step;
      command.waiting = Waiting.BUFFER;
      this.queue.push(command);
      return false;
    }
    this.give(command, buffer);
    return step(lun, command);
  }

  /** Take the buffer of an ended command; the next in line runs in its Lun's next turn. */
  release(command: Command): void {
    const buffer = command.buffer!;
    command.buffer = null;
    const next = this.queue.shift();
    if (next === undefined) {
      this.free.push(buffer);
      return;
    }
    this.give(next, buffer);
    next.lun!.later(next);
  }

  /** A waiting command is given up. */
  forget(command: Command): void {
    const at = this.queue.indexOf(command);
    if (at >= 0) this.queue.splice(at, 1);
  }

  private give(command: Command, buffer: Memory): void {
    command.buffer = buffer;
    command.work.reset();
    command.work.push(buffer, 0, CHUNK_BYTES);
  }
}
