import { be16, be32 } from './bytes.ts';
import { writeStandardInquiry } from './inquiry.ts';
import { writeLunList } from './report-luns.ts';
import { fieldPointer, NONE, Sense, type SenseCode, writeSense } from './sense.ts';
import type { ScsiTask } from './task.ts';
import { clearResult, responseWriter, sendResponse, setCheckCondition } from './task-result.ts';

/**
 * What a target answers for a LUN that it has not (SAM-5 4.7.4, SPC-4 6.6.2, 6.33, 6.39): INQUIRY says "not here",
 * REPORT LUNS says what is, REQUEST SENSE and all else say LOGICAL UNIT NOT SUPPORTED.
 */

const NOT_HERE = 0x7f;

/** Set the result of `task`. */
export function answerMissingLun(task: ScsiTask, luns: readonly number[]): void {
  clearResult(task);
  const cdb = task.cdb;
  switch (cdb[0]) {
    case 0x12:
      inquire(task, cdb);
      return;
    case 0xa0:
      reportLuns(task, cdb, luns);
      return;
    case 0x03: {
      const bytes = new Uint8Array(32);
      const length = writeSense(bytes, Sense.LOGICAL_UNIT_NOT_SUPPORTED, (cdb[1] & 0x01) !== 0);
      responseWriter.start().bytes(bytes, 0, length);
      sendResponse(task, responseWriter, cdb[4]);
      return;
    }
    default:
      refuse(task, Sense.LOGICAL_UNIT_NOT_SUPPORTED);
  }
}

function inquire(task: ScsiTask, cdb: Uint8Array): void {
  const vital = (cdb[1] & 0x01) !== 0;
  if (cdb[2] !== 0) {
    refuse(task, Sense.INVALID_FIELD_IN_CDB, fieldPointer(true, 2, 7));
    return;
  }
  if (vital) responseWriter.start().u8(NOT_HERE).u8(0).u16(1).u8(0);
  else writeStandardInquiry(responseWriter, NOT_HERE, '');
  sendResponse(task, responseWriter, be16(cdb, 3));
}

function reportLuns(task: ScsiTask, cdb: Uint8Array, luns: readonly number[]): void {
  const allocation = be32(cdb, 6);
  if (allocation < 16) refuse(task, Sense.INVALID_FIELD_IN_CDB, fieldPointer(true, 6));
  else if (!writeLunList(responseWriter, luns, cdb[2])) refuse(task, Sense.INVALID_FIELD_IN_CDB, fieldPointer(true, 2));
  else sendResponse(task, responseWriter, allocation);
}

function refuse(task: ScsiTask, sense: SenseCode, specific: number = NONE): void {
  setCheckCondition(task, sense, false, NONE, specific);
}
