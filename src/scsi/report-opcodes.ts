import { be16, be32 } from './bytes.ts';
import type { Step } from './command.ts';
import type { OpcodeRow } from './opcode-row.ts';
import type { ResponseWriter } from './response-writer.ts';
import { responseWriter } from './task-result.ts';

/**
 * REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.35, 6.36): the dispatch
 * table itself, as bytes.
 */

/** REPORTING OPTIONS. */
const ALL = 0;
const OPCODE = 1;
const OPCODE_AND_ACTION = 2;
const EITHER = 3;

export const reportSupportedOpcodes: Step = (lun, command) => {
  const cdb = command.task.cdb;
  const timeouts = (cdb[2] & 0x80) !== 0; // RCTD
  const option = cdb[2] & 0x07;
  const opcode = cdb[3];
  const action = be16(cdb, 4);
  const { commands } = lun;
  const w = responseWriter.start();
  if (option === ALL) {
    w.u32(0);
    for (const row of commands.rows) writeDescriptor(w, row, timeouts);
    w.patch32(0, w.length - 4);
    return command.respond(be32(cdb, 6));
  }
  let row: OpcodeRow | null;
  if (option === OPCODE) {
    if (commands.hasActions(opcode)) return command.invalidCdb(2, 2);
    row = commands.withoutAction(opcode);
  } else if (option === OPCODE_AND_ACTION) {
    if (commands.withoutAction(opcode) !== null) return command.invalidCdb(2, 2);
    row = commands.action(opcode, action);
  } else if (option === EITHER) {
    row = commands.hasActions(opcode) ? commands.action(opcode, action) : commands.withoutAction(opcode);
    if (!commands.hasActions(opcode) && action !== 0) row = null;
  } else {
    return command.invalidCdb(2, 2);
  }
  writeOne(w, row, timeouts);
  return command.respond(be32(cdb, 6));
};

function writeDescriptor(w: ResponseWriter, row: OpcodeRow, timeouts: boolean): void {
  const hasAction = row.serviceAction >= 0;
  w.u8(row.opcode)
    .u8(0)
    .u16(hasAction ? row.serviceAction : 0)
    .u8(0)
    .u8((timeouts ? 0x02 : 0) | (hasAction ? 0x01 : 0)) // CTDP, SERVACTV
    .u16(row.length);
  if (timeouts) writeTimeouts(w, row);
}

function writeOne(w: ResponseWriter, row: OpcodeRow | null, timeouts: boolean): void {
  if (row === null) {
    w.u8(0).u8(0x01).u16(0); // not supported
    return;
  }
  w.u8(0)
    .u8((timeouts ? 0x80 : 0) | 0x03) // CTDP; supported as the standard says
    .u16(row.length)
    .bytes(row.usage);
  if (timeouts) writeTimeouts(w, row);
}

/** Command timeouts descriptor: no nominal time, the recommended one in seconds. */
function writeTimeouts(w: ResponseWriter, row: OpcodeRow): void {
  w.u16(10).u8(0).u8(0).u32(0).u32(row.timeout);
}

export const reportSupportedTmfs: Step = (_lun, command) => {
  const cdb = command.task.cdb;
  const extended = (cdb[2] & 0x80) !== 0; // REPD
  const w = responseWriter
    .start()
    .u8(0xdc) // ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, QUERY TASK
    .u8(0x03) // QUERY TASK SET, I_T NEXUS RESET
    .u8(0)
    .u8(extended ? 12 : 0);
  if (extended) w.zeros(12); // no recommended timeouts
  return command.respond(be32(cdb, 6));
};
