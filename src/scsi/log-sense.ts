import { be16 } from './bytes.ts';
import type { Step } from './command.ts';
import type { Lun } from './lun.ts';
import type { ResponseWriter } from './response-writer.ts';
import { Counter } from './statistics.ts';
import { responseWriter } from './task-result.ts';

/**
 * LOG SENSE (SPC-4 6.9, SBC-3 6.3): only pages whose numbers are true, made from the Lun's own counters. There is no
 * temperature and no start-stop count, as there is no thermometer and no spindle.
 */

interface LogParameter {
  readonly code: number;
  /** Value length and value. */
  readonly bytes: number;
  readonly write: (w: ResponseWriter, lun: Lun) => void;
}

interface LogPage {
  readonly page: number;
  readonly parameters: readonly LogParameter[];
}

function counter(code: number, index: number): LogParameter {
  return { code, bytes: 8, write: (w, lun) => w.u64(lun.counters[index]) };
}

/** Nanoseconds of one time interval (parameter 0003h of the performance page): a microsecond. */
const INTERVAL_NS = 1000;

/** Ascending. Page 00h is made from this list. */
const LOG_PAGES: readonly LogPage[] = [
  { page: 0x02, parameters: [counter(0x0006, Counter.WRITE_ERRORS)] }, // total uncorrected errors
  { page: 0x03, parameters: [counter(0x0006, Counter.READ_ERRORS)] },
  {
    page: 0x19, // General Statistics and Performance
    parameters: [
      {
        code: 0x0001,
        bytes: 64,
        write: (w, lun) => {
          const c = lun.counters;
          w.u64(c[Counter.READ_COMMANDS])
            .u64(c[Counter.WRITE_COMMANDS])
            .u64(Math.floor(c[Counter.WRITE_BYTES] / lun.info.blockSize)) // received
            .u64(Math.floor(c[Counter.READ_BYTES] / lun.info.blockSize)) // transmitted
            .u64(Math.floor(c[Counter.READ_NANOSECONDS] / INTERVAL_NS))
            .u64(Math.floor(c[Counter.WRITE_NANOSECONDS] / INTERVAL_NS))
            .zeros(16); // weighted: not kept
        },
      },
      { code: 0x0003, bytes: 8, write: (w) => w.u32(1).u32(6) }, // time interval: 1 * 10^-6 s
    ],
  },
];

export const logSense: Step = (lun, command) => {
  const cdb = command.task.cdb;
  const code = cdb[2] & 0x3f;
  const sub = cdb[3];
  const pointer = be16(cdb, 5);
  if (cdb[2] >>> 6 !== 1) return command.invalidCdb(2, 7); // cumulative values only: there are no thresholds
  const w = responseWriter.start();
  if (code === 0x00) {
    if (sub !== 0x00 && sub !== 0xff) return command.invalidCdb(3, 7);
    if (pointer !== 0) return command.invalidCdb(5, 7);
    writeSupported(w, sub === 0xff);
    return command.respond(be16(cdb, 7));
  }
  const page = LOG_PAGES.find((p) => p.page === code);
  if (page === undefined) return command.invalidCdb(2, 5);
  if (sub !== 0) return command.invalidCdb(3, 7);
  const parameters = page.parameters.filter((p) => p.code >= pointer);
  if (parameters.length === 0) return command.invalidCdb(5, 7);
  w.u8(0x80 | code) // DS: not saved
    .u8(0)
    .u16(0);
  for (const p of parameters) {
    w.u16(p.code)
      .u8(0x03) // binary list parameter
      .u8(p.bytes);
    p.write(w, lun);
  }
  w.patch16(2, w.length - 4);
  return command.respond(be16(cdb, 7));
};

function writeSupported(w: ResponseWriter, subpages: boolean): void {
  w.u8(subpages ? 0x40 : 0x00)
    .u8(subpages ? 0xff : 0x00)
    .u16(0);
  w.u8(0x00);
  if (subpages) w.u8(0x00).u8(0x00).u8(0xff);
  for (const p of LOG_PAGES) {
    w.u8(p.page);
    if (subpages) w.u8(0x00);
  }
  w.patch16(2, w.length - 4);
}
