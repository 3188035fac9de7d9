import { be16 } from './bytes.ts';
import type { Step } from './command.ts';
import { REVISION, VENDOR } from './identity.ts';
import type { ResponseWriter } from './response-writer.ts';
import { responseWriter } from './task-result.ts';
import { writeVpdPage } from './vpd.ts';

/**
 * INQUIRY (SPC-4 6.6): who we are.
 */

/** Standards we follow: SAM-5, SPC-4, SBC-3, no version claimed. (virtio has no code for its transport.) */
const VERSION_DESCRIPTORS = [0x00a0, 0x0460, 0x04c0] as const;
const STANDARD_LENGTH = 96;

/** @param peripheral byte 0: qualifier and device type; 7Fh for a LUN that is not there */
export function writeStandardInquiry(writer: ResponseWriter, peripheral: number, product: string): void {
  writer
    .start()
    .u8(peripheral)
    .u8(0x00) // not removable
    .u8(0x06) // SPC-4
    .u8(0x12) // HISUP, response data format 2
    .u8(STANDARD_LENGTH - 5)
    .u8(0x00) // no 3PC, no TPGS, no PROTECT
    .u8(0x10) // MULTIP
    .u8(0x02) // CMDQUE
    .text(VENDOR, 8)
    .text(product, 16)
    .text(REVISION, 4)
    .zeros(22);
  for (const version of VERSION_DESCRIPTORS) writer.u16(version);
  writer.zeros(STANDARD_LENGTH - writer.length);
}

export const inquiry: Step = (lun, command) => {
  const cdb = command.task.cdb;
  const page = cdb[2];
  if ((cdb[1] & 0x01) !== 0) {
    if (!writeVpdPage(responseWriter, lun, page)) return command.invalidCdb(2, 7);
  } else {
    if (page !== 0) return command.invalidCdb(2, 7);
    writeStandardInquiry(responseWriter, 0x00, lun.info.product);
  }
  return command.respond(be16(cdb, 3));
};
