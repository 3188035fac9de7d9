import { SgList } from '../memory/sg-list.ts';
import type { Command } from './command.ts';

/**
 * One SCSI command on its way through the emulation. The transport owns and reuses it (one a ring head); between
 * `Target.execute(task)` and `owner.taskDone(task)` the emulation has it.
 */

/** Largest CDB kept, bytes. Longer (variable length) commands are refused. */
export const MAX_CDB = 32;
/** Sense bytes we produce at most (fixed format with information: 18; descriptor format: less than 64). */
export const MAX_SENSE = 96;

/** What the transport layer is told apart from the SCSI status (virtio 1.2 §5.6.6.1 has a code for each). */
export const TaskResponse = {
  /** The command reached a logical unit (or the target answered for an absent one): `status` counts. */
  OK: 0,
  BAD_TARGET: 1,
  /** Given up by a TMF or a reset. */
  ABORTED: 2,
  RESET: 3,
  BUSY: 4,
  /** The buffers are too short for the data the command must send (write direction) or the wrong way round. */
  OVERRUN: 5,
  FAILURE: 6,
} as const;
export type TaskResponse = (typeof TaskResponse)[keyof typeof TaskResponse];

export interface TaskOwner {
  taskDone(task: ScsiTask): void;
}

export class ScsiTask {
  // Set by the transport before execute.
  /** Private copy of the CDB; bytes beyond the command's length are zero. */
  readonly cdb: Uint8Array;
  /** 14-bit flat LUN. */
  lun = 0;
  /** Tag of the command, low and high word: TMFs look it up. */
  tagLo = 0;
  tagHi = 0;
  /** Task attribute: 0 simple, 1 ordered, 2 head of queue, 3 ACA. */
  attr = 0;
  /** Which initiator sent it: index of the I_T nexus in the target (persistent reservations, unit attentions). */
  nexus = 0;
  /** Buffers the command reads from (data-out) and writes to (data-in). Either may be empty. */
  dataOut: SgList = new SgList(8, 2048);
  dataIn: SgList = new SgList(8, 2048);
  readonly owner: TaskOwner;

  // Result, valid in taskDone.
  response: TaskResponse = TaskResponse.OK;
  /** SAM status byte: 00 GOOD, 02 CHECK CONDITION, 08 BUSY, 18 RESERVATION CONFLICT, 28 TASK SET FULL, 40 TASK ABORTED. */
  status = 0;
  readonly sense = new Uint8Array(MAX_SENSE);
  senseLength = 0;
  /** Bytes read from dataOut or written to dataIn. The residual is the transport's sum. */
  transferred = 0;

  /** The emulation's own half of this task, made at its first execute and kept. Transports leave it alone. */
  command: Command | null = null;

  /** @param cdb MAX_CDB private bytes for the CDB, where the transport has a place for them already */
  constructor(owner: TaskOwner, cdb: Uint8Array = new Uint8Array(MAX_CDB)) {
    this.owner = owner;
    this.cdb = cdb;
  }
}
