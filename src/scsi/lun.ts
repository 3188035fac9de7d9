import type { BdevChannel, BdevInfo } from '../bdev/bdev.ts';
import { BdevOp, BdevStatus } from '../bdev/bdev.ts';
import { Command, type Step, Waiting } from './command.ts';
import { MAX_TRANSFER_BYTES } from './limits.ts';
import { LunState, ModeBit, NexusWord, StateWord } from './lun-state.ts';
import { NexusTable } from './nexus-table.ts';
import { Access, CommandTable, type OpcodeRow } from './opcode-row.ts';
import { OPCODES } from './opcodes.ts';
import { reservationConflict } from './reservation-check.ts';
import type { ReservationStore } from './reservation-store.ts';
import { NONE, Sense, senseOfBdevStatus } from './sense.ts';
import { COUNTERS, Counter, latencyBucket, READ_LATENCY, WRITE_LATENCY } from './statistics.ts';
import { ScsiStatus } from './status.ts';
import { type ScsiTask, TaskResponse } from './task.ts';
import { type TmfDone, TmfWait } from './task-management.ts';
import { clearResult } from './task-result.ts';
import { TaskSet } from './task-set.ts';
import { Attention, firstAttention, senseOfAttention } from './unit-attention.ts';
import { WorkBuffers } from './work-buffers.ts';

// Own copies of what the hot path uses: a constant of another module is loaded and checked at each use.
const OK: typeof TaskResponse.OK = TaskResponse.OK;
const OVERRUN: typeof TaskResponse.OVERRUN = TaskResponse.OVERRUN;
const CHANGES = StateWord.CHANGES;
const ATTENTION = NexusWord.ATTENTION;
const ALWAYS = Access.ALWAYS;
const GOOD_IO = BdevStatus.OK;
const READ = BdevOp.READ;
const CHECK_CONDITION = ScsiStatus.CHECK_CONDITION;
const CONFLICT = ScsiStatus.RESERVATION_CONFLICT;
const COMMANDS = Counter.COMMANDS;
const READ_COMMANDS = Counter.READ_COMMANDS;
const WRITE_COMMANDS = Counter.WRITE_COMMANDS;
const READ_BYTES = Counter.READ_BYTES;
const WRITE_BYTES = Counter.WRITE_BYTES;
const READ_NANOSECONDS = Counter.READ_NANOSECONDS;
const WRITE_NANOSECONDS = Counter.WRITE_NANOSECONDS;
const READ_BUCKETS = READ_LATENCY;
const WRITE_BUCKETS = WRITE_LATENCY;

/**
 * A logical unit: one disk as one controller shows it. It takes each task through the checks that all commands share
 * (unit attention, reservation, reserved bits), runs its row's handler, and hands it back exactly once.
 *
 * Single-threaded: everything is called by the reactor that owns the channel. What Luns of one disk share in other
 * reactors is in {@link LunState}.
 */

export interface Clock {
  /** Nanoseconds, any start. */
  readonly now: number;
}

/** What a unit must know of the target it is in. */
export interface LunInventory {
  /** LUNs of the target, ascending. */
  lunNumbers(): readonly number[];
  /** A nexus has read the inventory: "LUNs changed" is told. */
  lunsReported(nexus: number): void;
}

export interface LunOptions {
  channel: BdevChannel;
  /** LUN, 0 to 255. */
  id: number;
  /** Shared by all Luns of one disk; alone by default. */
  state?: LunState;
  clock?: Clock;
  /** Where to count; {@link COUNTERS} long. */
  counters?: Float64Array;
  /** One pool a reactor is enough. */
  buffers?: WorkBuffers;
  /** Of the controller: tells the target ports of one disk apart. */
  relativePort?: number;
  portName?: string;
  /** Name of the target device, for people: VPD 83h. */
  targetName?: string;
  /** Where APTPL reservations are kept. The one who makes `state` restores them. */
  reservationStore?: ReservationStore;
}

export class Lun {
  readonly id: number;
  readonly channel: BdevChannel;
  readonly info: BdevInfo;
  readonly state: LunState;
  readonly buffers: WorkBuffers;
  readonly counters: Float64Array;
  readonly tasks: TaskSet;
  readonly nexuses: NexusTable;
  readonly commands: CommandTable;
  readonly relativePort: number;
  readonly portName: string;
  readonly targetName: string;
  readonly reservationStore: ReservationStore | null;
  inventory: LunInventory;
  readonly clock: Clock;

  /** Blocks one data transfer may have. */
  readonly maxTransfer: number;
  /** The disk knows COMPARE; turns false when it says that it doesn't. */
  diskCompares = true;
  // Copies of what the shared state says; see refresh.
  descriptorSense = false;
  writeProtected = false;
  /** Write cache off: every write goes to stable storage. */
  forceFua = false;
  private reserved = false;
  private seenChanges = -1;
  private seenResets: number;

  /** Commands whose turn comes with the next poll. */
  private turns: Command[] = [];
  private closed = false;

  constructor(options: LunOptions) {
    this.id = options.id;
    this.channel = options.channel;
    this.info = options.channel.info;
    this.state = options.state ?? new LunState();
    this.buffers = options.buffers ?? new WorkBuffers();
    this.counters = options.counters ?? new Float64Array(COUNTERS);
    this.relativePort = options.relativePort ?? 1;
    this.nexuses = new NexusTable(this.state, this.relativePort);
    this.portName = options.portName ?? 'vhost';
    this.targetName = options.targetName ?? 'Target 0';
    this.reservationStore = options.reservationStore ?? null;
    this.clock = options.clock ?? { now: 0 };
    this.inventory = { lunNumbers: () => [this.id], lunsReported: () => {} };
    this.maxTransfer = Math.floor(MAX_TRANSFER_BYTES / this.info.blockSize);
    this.commands = new CommandTable(OPCODES.filter((r) => r.needs?.(this.info) ?? true));
    this.tasks = new TaskSet(this.state, (command) => this.start(command));
    this.seenResets = this.state.words[StateWord.RESETS];
    this.state.initialise(this.defaultMode);
  }

  /** Changeable mode parameters after power on or reset. */
  get defaultMode(): number {
    return this.info.writeCache ? ModeBit.WCE : 0;
  }

  /** Tasks that the unit has. */
  get outstanding(): number {
    return this.tasks.count;
  }

  // Commands.

  execute(task: ScsiTask): void {
    let command = task.command;
    if (command === null) {
      command = new Command(task);
      task.command = command;
    }
    if (command.lun !== null) throw new Error('a task was executed that is still under way: a bug of the transport');
    if (this.state.words[CHANGES] !== this.seenChanges) this.stateChanged();
    clearResult(task);
    const row = this.commands.find(task.cdb);
    command.lun = this;
    command.row = row;
    command.next = null;
    command.cancelled = OK;
    command.started = this.clock.now;
    this.counters[COMMANDS]++;
    this.tasks.add(command);
    if (row === null) {
      this.finishUnknown(command);
      return;
    }
    const record = this.recordOf(task.nexus);
    if (record >= 0 && row.attention) {
      const pending = this.state.words[this.state.nexusWord(record, ATTENTION)];
      if (pending !== 0) {
        this.tellAttention(command, record, pending);
        return;
      }
    }
    if (this.reserved && row.access !== ALWAYS && this.conflicts(command, row, record)) return;
    if ((task.cdb[row.length - 1] & 0x04) !== 0) {
      command.invalidCdb(row.length - 1, 2); // NACA: there is no ACA here
      this.finish(command);
      return;
    }
    if (row.strict && !this.cleanBits(command, row)) return;
    this.tasks.admit(command, row);
  }

  private start(command: Command): void {
    if (command.cancelled !== OK) this.finishCancelled(command);
    else if (command.row!.run(this, command)) this.finish(command);
  }

  /** No row: an operation code or a service action that does not exist here. */
  private finishUnknown(command: Command): void {
    const cdb = command.task.cdb;
    if (this.commands.hasActions(cdb[0])) command.invalidCdb(1, 4);
    else command.fail(Sense.INVALID_COMMAND_OPERATION_CODE);
    this.finish(command);
  }

  private tellAttention(command: Command, record: number, pending: number): void {
    const bit = firstAttention(pending);
    this.state.clearAttention(record, bit);
    command.fail(senseOfAttention(bit));
    this.finish(command);
  }

  private conflicts(command: Command, row: OpcodeRow, record: number): boolean {
    const access = row.accessOf?.(command.task.cdb) ?? row.access;
    if (!reservationConflict(this.state, record, access)) return false;
    command.status(ScsiStatus.RESERVATION_CONFLICT);
    this.finish(command);
    return true;
  }

  /** Refuse bits that the row does not look at; vendor-specific bits of CONTROL may be set. */
  private cleanBits(command: Command, row: OpcodeRow): boolean {
    const cdb = command.task.cdb;
    const usage = row.usage;
    const last = row.length - 1;
    for (let i = 1; i <= last; i++) {
      let extra = cdb[i] & ~usage[i];
      if (i === 1 && row.length === 6) extra &= 0x1f; // the obsolete LUN field
      if (i === 1 && row.serviceAction >= 0) extra &= 0xe0;
      if (i === last) extra &= 0x3f;
      if (extra !== 0) {
        command.invalidCdb(i, 31 - Math.clz32(extra));
        this.finish(command);
        return false;
      }
    }
    return true;
  }

  // Transfers without a task: see plain-cdb.ts and the transport.

  /**
   * A plain READ or WRITE of this nexus may be done on the spot, by whoever has it, with `channel.direct`: no command is in the
   * way of another, nothing is to be told first, and no reservation asks who it is. It is never seen by a TMF, for it has
   * ended before one can come.
   */
  open(nexus: number): boolean {
    if (this.state.words[CHANGES] !== this.seenChanges) this.stateChanged();
    if (this.reserved || !this.tasks.calm) return false;
    const record = this.recordOf(nexus);
    return record < 0 || this.state.words[this.state.nexusWord(record, ATTENTION)] === 0;
  }

  /** Transfers of one kind were done on the spot. @param bytes in all */
  transferred(op: BdevOp, commands: number, bytes: number): void {
    const counters = this.counters;
    counters[COMMANDS] += commands;
    // No time has passed on the reactor's clock, as with a disk that is done within `submit`.
    if (op === READ) {
      counters[READ_COMMANDS] += commands;
      counters[READ_BYTES] += bytes;
      counters[READ_BUCKETS] += commands;
    } else {
      counters[WRITE_COMMANDS] += commands;
      counters[WRITE_BYTES] += bytes;
      counters[WRITE_BUCKETS] += commands;
    }
  }

  /** The plain transfer of a READ or WRITE came back. */
  transferDone(command: Command): void {
    if (command.cancelled !== OK) {
      this.finishCancelled(command);
      return;
    }
    const io = command.io;
    const counters = this.counters;
    const elapsed = this.clock.now - command.started;
    if (io.status === GOOD_IO) {
      const bytes = io.blocks * this.info.blockSize;
      command.task.transferred = bytes;
      if (io.op === READ) {
        counters[READ_BYTES] += bytes;
        counters[READ_NANOSECONDS] += elapsed;
        counters[READ_BUCKETS + latencyBucket(elapsed)]++;
      } else {
        counters[WRITE_BYTES] += bytes;
        counters[WRITE_NANOSECONDS] += elapsed;
        counters[WRITE_BUCKETS + latencyBucket(elapsed)]++;
      }
    } else {
      this.failIo(command);
    }
    this.finish(command);
  }

  /** Set the result from `command.io.status`, which is not OK. */
  failIo(command: Command): boolean {
    const status = command.io.status;
    if (status === BdevStatus.RESERVATION_CONFLICT) return command.status(ScsiStatus.RESERVATION_CONFLICT);
    if (command.io.op === READ) this.counters[Counter.READ_ERRORS]++;
    else this.counters[Counter.WRITE_ERRORS]++;
    return command.fail(senseOfBdevStatus(status), status === BdevStatus.OUT_OF_RANGE ? command.io.lba : NONE);
  }

  /** Give the task back. Its result is set. */
  finish(command: Command): void {
    const task = command.task;
    if (task.response === OK) {
      if (task.status === CHECK_CONDITION) this.counters[Counter.CHECK_CONDITIONS]++;
      else if (task.status === CONFLICT) this.counters[Counter.RESERVATION_CONFLICTS]++;
    } else if (task.response === OVERRUN) this.counters[Counter.OVERRUNS]++;
    this.tasks.remove(command);
    if (command.buffer !== null) this.buffers.release(command);
    const waiters = command.waiters;
    command.waiters = null;
    command.lun = null;
    task.owner.taskDone(task);
    if (waiters !== null) TmfWait.ended(waiters);
    if (this.tasks.calm) return;
    // What waited meets the mode that the command before it has set.
    if (this.state.words[CHANGES] !== this.seenChanges) this.stateChanged();
    this.tasks.drain();
  }

  /** Give a task back that a TMF or a reset has given up. */
  finishCancelled(command: Command): void {
    clearResult(command.task);
    command.task.response = command.cancelled;
    command.task.status = ScsiStatus.TASK_ABORTED;
    this.counters[Counter.ABORTED_COMMANDS]++;
    this.finish(command);
  }

  /** Continue `command` in the next poll. */
  later(command: Command): void {
    command.waiting = Waiting.TURN;
    this.turns.push(command);
  }

  /** A work buffer for `command`, then `step`. */
  withBuffer(command: Command, step: Step): boolean {
    return this.buffers.take(this, command, step);
  }

  // The reactor's side.

  /** There is work that no completion announces: call `poll` before you sleep, and do not sleep while it is true. */
  get wantsPoll(): boolean {
    return this.turns.length > 0 || !this.tasks.calm;
  }

  /** Let waiting commands go on. @returns how many got a turn */
  poll(): number {
    if (this.state.words[CHANGES] !== this.seenChanges) this.stateChanged();
    const turns = this.turns;
    if (turns.length > 0) {
      this.turns = [];
      for (const command of turns) if (command.waiting === Waiting.TURN) command.resume();
    }
    return turns.length + (this.tasks.calm ? 0 : this.tasks.drain());
  }

  // Task management: the functions themselves are in target.ts.

  /**
   * Give up `commands`: those without a disk request at once, the others when it has come back.
   * @param done FUNCTION COMPLETE when the last has ended
   */
  cancel(commands: readonly Command[], response: TaskResponse, done: TmfDone): void {
    TmfWait.forAll(commands, done);
    for (const command of commands) command.cancelled = response;
    // Ending one may let another start, or be reused: look again at each.
    for (const command of commands) {
      if (command.cancelled !== OK && command.waiting !== Waiting.NOT) this.finishWaiting(command);
    }
  }

  private finishWaiting(command: Command): void {
    if (command.waiting === Waiting.BUFFER) this.buffers.forget(command);
    else if (command.waiting === Waiting.QUEUE) this.tasks.unqueue(command);
    else this.turns = this.turns.filter((c) => c !== command);
    command.waiting = Waiting.NOT;
    this.finishCancelled(command);
  }

  /** LOGICAL UNIT RESET (SAM-5 6.3.3): every task of every nexus ends, the unit is as after power on. */
  reset(done: () => void): void {
    const others = this.tasks.all();
    this.state.setMode(this.defaultMode);
    Atomics.store(this.state.words, StateWord.RESERVE_HOLDER, 0);
    this.state.attendOthers(-1, Attention.BUS_DEVICE_RESET);
    this.seenResets = Atomics.add(this.state.words, StateWord.RESETS, 1) + 1;
    this.state.changed();
    this.cancel(others, TaskResponse.RESET, done);
    this.channel.reset();
  }

  /**
   * Give up everything, as the front end has gone or the disk is taken away: no attention, no other effect.
   * @param done when the last task has come back
   */
  abandon(done: () => void): void {
    this.cancel(this.tasks.all(), TaskResponse.RESET, done);
    this.channel.reset();
  }

  /** CLEAR TASK SET: the tasks of all nexuses; the others are told. */
  clearTaskSet(nexus: number, done: TmfDone): void {
    const record = this.recordOf(nexus);
    const tasks = this.tasks.all();
    for (const command of tasks) {
      const other = this.recordOf(command.task.nexus);
      if (other >= 0 && other !== record) this.state.attend(other, Attention.COMMANDS_CLEARED);
    }
    this.cancel(tasks, TaskResponse.ABORTED, done);
  }

  /** I_T NEXUS RESET: the nexus's tasks end, its RESERVE is released, it is told of the loss. */
  resetNexus(nexus: number, done: () => void): void {
    const record = this.recordOf(nexus);
    if (record >= 0) {
      this.state.releaseReserve(record);
      this.state.attend(record, Attention.I_T_NEXUS_LOSS);
    }
    // ABORTED is kept for ABORT TASK and ABORT TASK SET (virtio 1.2 §5.6.6.1); this is a reset.
    this.cancel(this.tasks.ofNexus(nexus), TaskResponse.RESET, done);
  }

  /** The unit was reset through another controller. */
  private followReset(): void {
    this.seenResets = this.state.words[StateWord.RESETS];
    this.cancel(this.tasks.all(), TaskResponse.RESET, () => {});
    this.channel.reset();
  }

  // Nexuses and shared state.

  /** Name an initiator before its first command. Unnamed ones are called "initiator N". */
  nameNexus(nexus: number, name: string): void {
    this.nexuses.name(nexus, name);
  }

  /** The I_T nexus is lost: a RESERVE of it goes, its registration stays. */
  disconnectNexus(nexus: number): void {
    this.nexuses.disconnect(nexus);
  }

  /** Record of a nexus in the shared state, -1 when it has none. */
  recordOf(nexus: number): number {
    return this.nexuses.recordOf(nexus);
  }

  /** `info.numBlocks` has changed. */
  capacityChanged(): void {
    this.nexuses.attend(Attention.CAPACITY_CHANGED);
  }

  /** The shared state has changed: see what it means for this Lun. */
  stateChanged(): void {
    this.refresh();
    if (this.state.words[StateWord.RESETS] !== this.seenResets) this.followReset();
    for (const nexus of this.nexuses.takeAborted()) {
      this.cancel(this.tasks.ofNexus(nexus), TaskResponse.ABORTED, () => {});
    }
  }

  private refresh(): void {
    const words = this.state.words;
    this.seenChanges = words[CHANGES];
    const mode = this.state.mode;
    this.descriptorSense = (mode & ModeBit.D_SENSE) !== 0;
    this.writeProtected = this.info.readOnly || (mode & ModeBit.SWP) !== 0;
    this.forceFua = this.info.writeCache && (mode & ModeBit.WCE) === 0;
    this.reserved = words[StateWord.RESERVE_HOLDER] !== 0 || words[StateWord.PR_TYPE] !== 0;
  }

  /** Leave the shared state. Call when no task is outstanding. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.nexuses.disconnectAll();
    this.tasks.close();
  }
}
