import { BdevIo, type BdevIoOwner, type BdevOp } from '../bdev/bdev.ts';
import type { Memory } from '../memory/memory.ts';
import { SgList } from '../memory/sg-list.ts';
import { MAX_BYTES_A_TURN, MAX_STEPS_A_TURN } from './limits.ts';
import type { Lun } from './lun.ts';
import type { OpcodeRow } from './opcode-row.ts';
import { fieldPointer, NONE, Sense, type SenseCode } from './sense.ts';
import { ScsiStatus } from './status.ts';
import { type ScsiTask, TaskResponse } from './task.ts';
import type { TmfWait } from './task-management.ts';
import { responseWriter, sendResponse, setCheckCondition } from './task-result.ts';

// Own copies of what the hot path uses: a constant of another module is loaded and checked at each use.
const OK: typeof TaskResponse.OK = TaskResponse.OK;
const GOOD = ScsiStatus.GOOD;

/**
 * A task while a logical unit has it: one a ScsiTask, made once, used for each of its commands.
 *
 * Handlers and steps return true when the result is set ("finish me now") and false when the command goes on by
 * itself (its disk request is under way, or it waits). After returning true they do not touch the command again:
 * the transport may have reused it.
 */

/** A part of a command that runs between two disk requests. */
export type Step = (lun: Lun, command: Command) => boolean;

/** Where a command waits that has no disk request in flight. */
export const Waiting = {
  NOT: 0,
  /** In the task set's queue: not started. */
  QUEUE: 1,
  /** For a work buffer. */
  BUFFER: 2,
  /** For its next turn. */
  TURN: 3,
} as const;
export type Waiting = (typeof Waiting)[keyof typeof Waiting];

export class Command implements BdevIoOwner {
  readonly task: ScsiTask;
  readonly io: BdevIo;
  /** The unit that has the command now. */
  lun: Lun | null = null;
  row: OpcodeRow | null = null;
  /** Index in the task set. */
  place = -1;
  waiting: Waiting = Waiting.NOT;
  /** Counted by the write gate. */
  counted = false;
  /** Not OK: a TMF gave it up; this is its response once its disk request has come back. */
  cancelled: TaskResponse = OK;
  /** TMFs that wait for its end. */
  waiters: TmfWait | null = null;
  /** When it began: reactor clock, nanoseconds. */
  started = 0;

  // Scratch of multi-step commands; each handler says what it keeps here.
  /** First block and number of blocks of the whole command; blocks done so far. */
  lba = 0;
  blocks = 0;
  progress = 0;
  fua = false;
  /** Byte of dataOut from which the data comes. */
  dataOffset = 0;
  /** What follows when a part that several commands share has succeeded. */
  after: Step | null = null;
  buffer: Memory | null = null;
  /** `buffer` as a list of one segment. */
  readonly work = new SgList(1);

  /** What follows the disk request in flight; null for the plain transfer of READ and WRITE. */
  next: Step | null = null;
  private running = false;
  private again = false;
  private submitting = false;
  private completed = false;

  constructor(task: ScsiTask) {
    this.task = task;
    this.io = new BdevIo(this, task.dataIn);
  }

  // Results. All return true, so that a handler can say `return command.good()`.

  good(): boolean {
    this.task.status = GOOD;
    return true;
  }

  status(status: ScsiStatus): boolean {
    this.task.status = status;
    return true;
  }

  fail(sense: SenseCode, information: number = NONE, specific: number = NONE): boolean {
    setCheckCondition(this.task, sense, this.lun?.descriptorSense ?? false, information, specific);
    return true;
  }

  /** INVALID FIELD IN CDB, pointing at a byte and, where given, the field's most significant bit. */
  invalidCdb(byte: number, bit: number = NONE): boolean {
    return this.fail(Sense.INVALID_FIELD_IN_CDB, NONE, fieldPointer(true, byte, bit));
  }

  /** INVALID FIELD IN PARAMETER LIST. */
  invalidParameter(byte: number, bit: number = NONE): boolean {
    return this.fail(Sense.INVALID_FIELD_IN_PARAMETER_LIST, NONE, fieldPointer(false, byte, bit));
  }

  /** The buffers are shorter than what the command must move: nothing has been moved. */
  overrun(): boolean {
    this.task.response = TaskResponse.OVERRUN;
    return true;
  }

  /** Send the parameter data composed in the thread's writer. */
  respond(allocation: number): boolean {
    sendResponse(this.task, responseWriter, allocation);
    return true;
  }

  /** Begin a command of many disk requests. */
  begin(lba: number, blocks: number, fua: boolean): void {
    this.lba = lba;
    this.blocks = blocks;
    this.fua = fua;
    this.progress = 0;
    this.dataOffset = 0;
  }

  // Disk requests.

  /** Submit `io` (op, lba, blocks, sg set by the caller), then go on with `step`. @returns false */
  submit(step: Step): boolean {
    this.next = step;
    if (this.running) this.again = true;
    else this.run();
    return false;
  }

  /** Prepare `io` for blocks at `lba` that lie in the work buffer. */
  useBuffer(op: BdevOp, lba: number, blocks: number): void {
    const io = this.io;
    io.op = op;
    io.lba = lba;
    io.blocks = blocks;
    io.sg = this.work;
    io.sgOffset = 0;
    io.fua = this.fua;
  }

  /** Prepare `io` for blocks at `lba` that lie in dataOut from `offset` on. */
  useDataOut(op: BdevOp, lba: number, blocks: number, offset: number): void {
    const io = this.io;
    io.op = op;
    io.lba = lba;
    io.blocks = blocks;
    io.sg = this.task.dataOut;
    io.sgOffset = offset;
    io.fua = this.fua;
  }

  /** Take part again after a wait: for the work buffer pool and the list of those who had their turn. */
  resume(): void {
    this.waiting = Waiting.NOT;
    if (this.again) this.run();
    else this.advance();
  }

  /**
   * The submit loop. A disk may complete within `submit` (memory does): then the next step runs here and not in a
   * deeper stack frame; after some steps others get a turn.
   */
  private run(): void {
    const lun = this.lun!;
    const blockSize = lun.info.blockSize;
    let bytes = 0;
    for (let turn = 0; ; turn++) {
      if (turn === MAX_STEPS_A_TURN || bytes >= MAX_BYTES_A_TURN) {
        this.again = true;
        lun.later(this);
        return;
      }
      bytes += this.io.blocks * blockSize;
      this.again = false;
      this.completed = false;
      this.submitting = true;
      lun.channel.submit(this.io);
      this.submitting = false;
      if (!this.completed) return;
      if (!this.step(lun) || !this.again) return;
    }
  }

  /** The disk request came back, or the wait ended. */
  private advance(): void {
    if (this.step(this.lun!) && this.again) this.run();
  }

  /** Run the next step. @returns false when the command is finished and must not be touched any more. */
  private step(lun: Lun): boolean {
    if (this.cancelled !== OK) {
      lun.finishCancelled(this);
      return false;
    }
    this.running = true;
    const over = this.next!(lun, this);
    this.running = false;
    if (over) lun.finish(this);
    return !over;
  }

  ioDone(io: BdevIo): void {
    const lun = this.lun;
    if (lun === null || io !== this.io) return; // a second completion of one request: the disk's bug, not the guest's
    if (this.next === null) lun.transferDone(this);
    else if (this.submitting) this.completed = true;
    else this.advance();
  }
}
