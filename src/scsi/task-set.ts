import { type Command, Waiting } from './command.ts';
import { MAX_LUN_SLOTS } from './limits.ts';
import type { LunState } from './lun-state.ts';
import type { OpcodeRow } from './opcode-row.ts';
import type { ScsiTask } from './task.ts';

/**
 * The task set of one Lun: what it has, and who may run now.
 *
 * - SIMPLE tasks run at once, in any order (Control mode page: unrestricted reordering).
 * - ORDERED tasks run when all before them have ended, and those behind wait for them (SAM-5 8.6.4).
 * - HEAD OF QUEUE tasks pass those that wait.
 * - An exclusive command (COMPARE AND WRITE, ORWRITE, MODE SELECT) runs when no command that changes the medium is in flight on
 *   any controller of the disk, and such commands wait for its end.
 */

/** task.attr. ACA tasks are taken as simple: there is no ACA. */
const ORDERED = 1;
const HEAD_OF_QUEUE = 2;

export class TaskSet {
  /** The first `count` places. Its length never shrinks: an array that shrinks and grows allocates. */
  private readonly list: (Command | null)[] = [];
  /** Commands it has. */
  count = 0;
  private readonly queue: Command[] = [];
  private readonly state: LunState;
  private readonly start: (command: Command) => void;
  private readonly slot: number;
  /** Commands that change the medium, started and not ended; the exclusive one is not among them. */
  private writers = 0;
  private exclusive: Command | null = null;
  private ordered: Command | null = null;
  private orderedQueued = 0;
  private draining = false;
  /** Nothing waits, nothing holds others up: the fast way is open. */
  calm = true;

  constructor(state: LunState, start: (command: Command) => void) {
    this.state = state;
    this.start = start;
    this.slot = state.claimSlot();
    if (this.slot < 0) throw new Error(`a disk is shared by ${MAX_LUN_SLOTS} controllers already: remove one first`);
  }

  all(): Command[] {
    return this.list.slice(0, this.count) as Command[];
  }

  find(nexus: number, tagLo: number, tagHi: number): Command | undefined {
    // Tags are compared as bits: some hold them as signed words, others as unsigned ones.
    const is = (task: ScsiTask) => ((task.tagLo ^ tagLo) | (task.tagHi ^ tagHi)) === 0 && task.nexus === nexus;
    return this.all().find((c) => is(c.task));
  }

  ofNexus(nexus: number): Command[] {
    return this.all().filter((c) => c.task.nexus === nexus);
  }

  add(command: Command): void {
    const place = this.count++;
    command.place = place;
    if (place < this.list.length) this.list[place] = command;
    else this.list.push(command);
  }

  /** The command has ended. */
  remove(command: Command): void {
    const end = --this.count;
    const last = this.list[end]!;
    this.list[end] = null;
    if (last !== command) {
      this.list[command.place] = last;
      last.place = command.place;
    }
    if (command.counted) {
      command.counted = false;
      this.state.setWriters(this.slot, --this.writers);
    }
    if (!this.calm) this.letGo(command);
  }

  private letGo(command: Command): void {
    if (command === this.exclusive) {
      this.exclusive = null;
      this.state.endExclusive(this.slot);
    }
    if (command === this.ordered) this.ordered = null;
    this.settle();
  }

  private settle(): void {
    this.calm = this.queue.length === 0 && this.exclusive === null && this.ordered === null;
  }

  /** Start the command now, or when its time has come. */
  admit(command: Command, row: OpcodeRow): void {
    if (this.calm && command.task.attr !== ORDERED && !row.exclusive) {
      if (!row.writes || this.countWriter(command)) this.start(command);
      else this.enqueue(command);
    } else this.admitSlowly(command, row);
  }

  private admitSlowly(command: Command, row: OpcodeRow): void {
    const attr = command.task.attr;
    const free = !row.writes && !row.exclusive && attr !== ORDERED;
    if (free && (attr === HEAD_OF_QUEUE || (this.orderedQueued === 0 && this.ordered === null))) {
      this.start(command);
      return;
    }
    this.enqueue(command);
    this.drain();
  }

  private enqueue(command: Command): void {
    command.waiting = Waiting.QUEUE;
    if (command.task.attr === HEAD_OF_QUEUE) {
      this.queue.unshift(command);
      this.reopenGate(); // it must not wait for an exclusive command behind it
    } else this.queue.push(command);
    if (command.task.attr === ORDERED) this.orderedQueued++;
    this.calm = false;
  }

  /** A queued command is given up. */
  unqueue(command: Command): void {
    const at = this.queue.indexOf(command);
    if (at < 0) return;
    this.queue.splice(at, 1);
    if (command.task.attr === ORDERED) this.orderedQueued--;
    if (command.row!.exclusive) this.reopenGate();
    this.settle();
  }

  /** An exclusive command that waits for writers has closed the gate; it closes it again when it is its turn. */
  private reopenGate(): void {
    if (this.exclusive === null) this.state.endExclusive(this.slot);
  }

  /** Start what may start. @returns how many */
  drain(): number {
    if (this.draining) return 0;
    this.draining = true;
    let started = 0;
    while (this.queue.length > 0 && this.mayStart(this.queue[0])) {
      const command = this.queue.shift()!;
      command.waiting = Waiting.NOT;
      if (command.task.attr === ORDERED) this.orderedQueued--;
      started++;
      this.start(command);
    }
    this.draining = false;
    this.settle();
    return started;
  }

  /** The head of the queue may run; takes for it what it needs. */
  private mayStart(command: Command): boolean {
    const row = command.row!;
    const ordered = command.task.attr === ORDERED;
    if (this.ordered !== null && command.task.attr !== HEAD_OF_QUEUE) return false;
    if (ordered && this.count > this.queue.length) return false;
    if (row.exclusive) {
      if (this.exclusive !== null || this.writers > 0 || !this.state.beginExclusive(this.slot)) return false;
      this.exclusive = command;
    } else if (row.writes && !this.countWriter(command)) return false;
    if (ordered) this.ordered = command;
    return true;
  }

  private countWriter(command: Command): boolean {
    this.state.setWriters(this.slot, ++this.writers);
    if (this.state.gateClosed) {
      this.state.setWriters(this.slot, --this.writers);
      return false;
    }
    command.counted = true;
    return true;
  }

  /** Writes that are no commands here begin, and end before anything else happens. @returns false when they must not */
  beginWrites(): boolean {
    this.state.setWriters(this.slot, ++this.writers);
    if (!this.state.gateClosed) return true;
    this.endWrites();
    return false;
  }

  endWrites(): void {
    this.state.setWriters(this.slot, --this.writers);
  }

  close(): void {
    this.state.releaseSlot(this.slot);
  }
}
