import { ResponseWriter } from './response-writer.ts';
import { NONE, type SenseCode, writeSense } from './sense.ts';
import { ScsiStatus } from './status.ts';
import { type ScsiTask, TaskResponse } from './task.ts';

// Own copies of what the hot path uses: a constant of another module is loaded and checked at each use.
const OK: typeof TaskResponse.OK = TaskResponse.OK;
const GOOD = ScsiStatus.GOOD;

/**
 * The ways in which a task gets its result. They set fields only; who calls them then hands the task back.
 */

/** The thread's one scratch for parameter data: composed and sent within one call. */
export const responseWriter = new ResponseWriter();

/** Back to "no result yet". */
export function clearResult(task: ScsiTask): void {
  task.response = OK;
  task.status = GOOD;
  task.senseLength = 0;
  task.transferred = 0;
}

export function setCheckCondition(
  task: ScsiTask,
  sense: SenseCode,
  descriptor: boolean,
  information: number = NONE,
  specific: number = NONE,
): void {
  task.response = TaskResponse.OK;
  task.status = ScsiStatus.CHECK_CONDITION;
  task.senseLength = writeSense(task.sense, sense, descriptor, information, specific);
}

/**
 * Send what the writer holds, cut at `allocation` (the CDB's ALLOCATION LENGTH: that is no error, SPC-4 4.3.5.6).
 * A buffer too short for the rest is one: the guest said that it had room, so it gets OVERRUN (virtio 1.2 §5.6.6.1).
 */
export function sendResponse(task: ScsiTask, writer: ResponseWriter, allocation: number): void {
  const wanted = Math.min(writer.length, allocation, writer.scratch.length);
  const sent = task.dataIn.scatter(0, writer.scratch, 0, wanted);
  task.transferred = sent;
  task.status = ScsiStatus.GOOD;
  task.response = sent < wanted ? TaskResponse.OVERRUN : TaskResponse.OK;
}
