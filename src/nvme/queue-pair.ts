import type { Memory } from '../memory/memory.ts';
import { AbortAsked, type CommandRing, Ended } from '../pci/reactor-queue.ts';
import { CQE_BYTES, CQE_WORDS, SQE_BYTES, SQE_WORDS, SqeWord } from './commands.ts';
import { doorbellWriter } from './doorbell.ts';
import { doNotRetry, NvmeStatus, statusOf } from './status.ts';

/**
 * One submission queue and its completion queue (NVMe Base 2.0 §3.3), admin or I/O. The one rule: a command that was
 * submitted is answered to its owner exactly once, by the device, by a retry after a reset, or by {@link giveUp}.
 *
 * A command is built in its slot (16 private words), then copied to the ring: the device can scribble over the ring and
 * a reset can lose it, and the command is still there to be sent again. The slot number is the command identifier.
 * There is one slot fewer than ring entries, so neither ring can overflow.
 */

export interface QueuePairPlace {
  /** Queue identifier; 0 is the admin queue. */
  readonly id: number;
  /** Entries of each ring, 2 or more. */
  readonly entries: number;
  /** `entries` * 64 bytes. */
  readonly sq: Memory;
  /** `entries` * 16 bytes. */
  readonly cq: Memory;
  /** The BAR (or the window of it) with the doorbells. */
  readonly doorbells: Memory;
  /** Index of the tail doorbell in `doorbells.u32`, and of the completion queue's head doorbell. */
  readonly tailDoorbell: number;
  readonly headDoorbell: number;
}

export interface CommandOwner {
  /**
   * A command ended. Its slot is free again, so its context must be read before a new command is allocated.
   * @param status NvmeStatus or Ended
   * @param dw0 command-specific result
   */
  commandDone(cid: number, status: number, dw0: number): void;
}

/** Times a command is sent before a reset or a transient status is taken as its result. */
const MAX_ATTEMPTS = 4;

/** Bit 16 of dword 3: the phase tag. */
const PHASE = 0x1_0000;

export class QueuePair implements CommandRing {
  readonly place: QueuePairPlace;
  /** Commands that can be outstanding. */
  readonly depth: number;
  /** The commands of the slots: word w of command c is `words[c * 16 + w]`. */
  readonly words: Uint32Array;
  /** When each slot's command was submitted: the caller's clock. */
  readonly started: Float64Array;
  /** Set by the owner: {@link AbortAsked}. */
  readonly abortAsked: Uint8Array;
  inFlight = 0;
  time = 0;
  /** Why the device can't be believed any more, or null. No completion is taken until {@link restart}. */
  broken: string | null = null;
  /** Commands sent again. */
  retries = 0;
  private readonly owner: CommandOwner;
  private readonly ringDoorbell: (words: Uint32Array, index: number, value: number) => void;
  private readonly busy: Uint8Array;
  private readonly attempts: Uint8Array;
  private readonly free: Uint16Array;
  private freeCount: number;
  private tail = 0;
  private head = 0;
  private phase = PHASE;
  private unrung = false;

  /** @param depth commands outstanding at most; no more than entries - 1 */
  constructor(place: QueuePairPlace, owner: CommandOwner, depth = place.entries - 1) {
    if (place.sq.length < place.entries * SQE_BYTES || place.cq.length < place.entries * CQE_BYTES) {
      throw new RangeError(`queue pair ${place.id}: ${place.entries} entries do not fit in their memory`);
    }
    if (depth < 1 || depth >= place.entries) throw new RangeError(`queue pair ${place.id}: depth ${depth}`);
    if (Math.max(place.tailDoorbell, place.headDoorbell) >= place.doorbells.u32.length) {
      throw new RangeError(`queue pair ${place.id}: its doorbells lie outside the BAR`);
    }
    this.place = place;
    this.owner = owner;
    this.depth = depth;
    this.words = new Uint32Array(depth * SQE_WORDS);
    this.started = new Float64Array(depth);
    this.abortAsked = new Uint8Array(depth);
    this.busy = new Uint8Array(depth);
    this.attempts = new Uint8Array(depth);
    this.free = new Uint16Array(depth);
    for (let i = 0; i < depth; i++) this.free[i] = depth - 1 - i;
    this.freeCount = depth;
    this.ringDoorbell = doorbellWriter();
  }

  /** Slots that can be allocated. */
  get freeSlots(): number {
    return this.freeCount;
  }

  get canSubmit(): boolean {
    return this.freeCount > 0 && this.broken === null;
  }

  /** A slot for a command of this opcode, its words zeroed but for CDW0; -1 when all are taken. Goes on to submit. */
  allocate(opcode: number, nsid: number): number {
    if (this.freeCount === 0) return -1;
    const cid = this.free[--this.freeCount];
    const words = this.words;
    const base = cid * SQE_WORDS;
    words[base] = opcode | (cid << 16);
    words[base + SqeWord.NSID] = nsid;
    for (let i = 2; i < SQE_WORDS; i++) words[base + i] = 0;
    return cid;
  }

  /** Give back a slot that was allocated and not submitted. */
  unallocate(cid: number): void {
    this.free[this.freeCount++] = cid;
  }

  /** Put the command of the slot into the ring; {@link ring} tells the device. @param now the caller's clock */
  submit(cid: number, now: number): void {
    this.busy[cid] = 1;
    this.attempts[cid] = 1;
    this.abortAsked[cid] = 0;
    this.started[cid] = now;
    this.inFlight++;
    this.write(cid);
  }

  private write(cid: number): void {
    const sq = this.place.sq.u32;
    const words = this.words;
    const from = cid * SQE_WORDS;
    const to = this.tail * SQE_WORDS;
    for (let i = 0; i < SQE_WORDS; i++) sq[to + i] = words[from + i];
    this.tail = this.tail + 1 === this.place.entries ? 0 : this.tail + 1;
    this.unrung = true;
  }

  /** Tell the device of all commands submitted since the last time. */
  ring(): void {
    if (!this.unrung) return;
    this.unrung = false;
    this.ringDoorbell(this.place.doorbells.u32, this.place.tailDoorbell, this.tail);
  }

  /** Whether a completion waits to be taken. */
  get ready(): boolean {
    return (Atomics.load(this.place.cq.u32, this.head * CQE_WORDS + 3) & PHASE) === this.phase && this.broken === null;
  }

  /** Take all completions that are there. @returns how many */
  poll(): number {
    const cq = this.place.cq.u32;
    const entries = this.place.entries;
    if ((cq[this.head * CQE_WORDS + 3] & PHASE) !== this.phase || this.broken !== null) return 0;
    // Find the end of the batch with plain loads, then read its last entry once more with acquire order: the device wrote
    // the entries, and the data before them, in order, so nothing read from here on is older than that entry.
    let last = this.head;
    let phase = this.phase;
    let count = 0;
    for (let at = this.head; count < entries && (cq[at * CQE_WORDS + 3] & PHASE) === phase; count++) {
      last = at;
      at++;
      if (at === entries) {
        at = 0;
        phase ^= PHASE;
      }
    }
    Atomics.load(cq, last * CQE_WORDS + 3);
    for (let i = 0; i < count; i++) {
      const at = this.head * CQE_WORDS;
      const dw3 = cq[at + 3];
      const dw2 = cq[at + 2];
      const dw0 = cq[at];
      const cid = dw3 & 0xffff;
      if (cid >= this.depth || this.busy[cid] === 0 || dw2 >>> 16 !== this.place.id) {
        this.broken = this.distrust(cid, dw2 >>> 16);
        count = i;
        break;
      }
      this.head++;
      if (this.head === entries) {
        this.head = 0;
        this.phase ^= PHASE;
      }
      this.finish(cid, dw3, dw0);
    }
    // One doorbell a batch: the device may use the entries again.
    if (count > 0) this.ringDoorbell(this.place.doorbells.u32, this.place.headDoorbell, this.head);
    return count;
  }

  private distrust(cid: number, sqid: number): string {
    if (sqid !== this.place.id) {
      return `queue ${this.place.id}: the controller put a completion of submission queue ${sqid} into its completion queue`;
    }
    return `queue ${this.place.id}: the controller completed command ${cid}, which is not outstanding`;
  }

  private finish(cid: number, dw3: number, dw0: number): void {
    const status = statusOf(dw3);
    if (status !== NvmeStatus.SUCCESS && this.transient(cid, status) && !doNotRetry(dw3)) {
      this.attempts[cid]++;
      this.retries++;
      this.abortAsked[cid] = AbortAsked.NO;
      this.started[cid] = this.time;
      this.write(cid);
      return;
    }
    this.answer(cid, status, dw0);
  }

  /** Not the command's own fault: an abort that hit the wrong command, a queue torn down, a busy controller. */
  private transient(cid: number, status: number): boolean {
    if (this.attempts[cid] >= MAX_ATTEMPTS || this.abortAsked[cid] === AbortAsked.WANTED || this.place.id === 0)
      return false;
    return (
      status === NvmeStatus.ABORT_REQUESTED ||
      status === NvmeStatus.ABORTED_SQ_DELETION ||
      status === NvmeStatus.COMMAND_INTERRUPTED
    );
  }

  private answer(cid: number, status: number, dw0: number): void {
    this.busy[cid] = 0;
    this.inFlight--;
    this.free[this.freeCount++] = cid;
    this.owner.commandDone(cid, status, dw0);
  }

  /** Whether the slot's command is outstanding. */
  isBusy(cid: number): boolean {
    return this.busy[cid] !== 0;
  }

  /** Slot of the first outstanding command from `from` on that was submitted before `time`, or -1. */
  olderThan(time: number, from = 0): number {
    for (let cid = from; cid < this.depth; cid++) {
      if (this.busy[cid] !== 0 && this.started[cid] < time) return cid;
    }
    return -1;
  }

  /** This thread did not run for so long: the time is not held against the device. Nanoseconds. */
  forgive(ns: number): void {
    for (let cid = 0; cid < this.depth; cid++) if (this.busy[cid] !== 0) this.started[cid] += ns;
  }

  /**
   * The controller has been reset and knows this queue anew, with zeroed rings: begin at their start and send again
   * what is outstanding. What was asked to be aborted, or was sent too often, ends as aborted.
   */
  restart(now: number): void {
    this.tail = 0;
    this.head = 0;
    this.phase = PHASE;
    this.broken = null;
    this.unrung = false;
    // Only those outstanding now: an owner's callback may submit new ones on the way.
    const again: number[] = [];
    for (let cid = 0; cid < this.depth; cid++) if (this.busy[cid] !== 0) again.push(cid);
    const over = again.filter(
      (cid) => this.abortAsked[cid] === AbortAsked.WANTED || this.attempts[cid] >= MAX_ATTEMPTS,
    );
    for (const cid of again) {
      if (over.includes(cid)) continue;
      this.abortAsked[cid] = AbortAsked.NO;
      this.attempts[cid]++;
      this.retries++;
      this.started[cid] = now;
      this.write(cid);
    }
    for (const cid of over) this.answer(cid, Ended.ABORTED, 0);
    this.ring();
  }

  /** End every outstanding command with this status. Only when the device can no longer touch their memory. */
  giveUp(status: number): void {
    for (let cid = 0; cid < this.depth; cid++) if (this.busy[cid] !== 0) this.answer(cid, status, 0);
  }

  /** Where the rings stand when nothing is outstanding: for the queue's next owner. */
  get position(): readonly [tail: number, head: number, phase: number] {
    return [this.tail, this.head, this.phase];
  }

  /** Go on where another owner left an idle queue. */
  resumeAt([tail, head, phase]: readonly [number, number, number]): void {
    this.tail = tail;
    this.head = head;
    this.phase = phase;
  }

  dump(): Record<string, unknown> {
    const commands: Record<string, number>[] = [];
    for (let cid = 0; cid < this.depth; cid++) {
      if (this.busy[cid] === 0) continue;
      const at = cid * SQE_WORDS;
      commands.push({ cid, opcode: this.words[at] & 0xff, nsid: this.words[at + 1], attempts: this.attempts[cid] });
    }
    const { id, entries } = this.place;
    return {
      id,
      entries,
      tail: this.tail,
      head: this.head,
      phase: this.phase === PHASE ? 1 : 0,
      broken: this.broken,
      commands,
    };
  }
}
