import { be32 } from './bytes.ts';
import type { Step } from './command.ts';
import type { ResponseWriter } from './response-writer.ts';
import { responseWriter } from './task-result.ts';

/**
 * REPORT LUNS (SPC-4 6.33): the target's inventory, whichever of its units is asked. There are no well-known units,
 * so the reports that ask for those alone are empty.
 */

/** @returns false when SELECT REPORT has a value that is not one of ours */
export function writeLunList(w: ResponseWriter, luns: readonly number[], select: number): boolean {
  if (select > 0x02) return false;
  const list = select === 0x01 ? [] : luns;
  w.start()
    .u32(list.length * 8)
    .u32(0);
  // Peripheral device addressing (SAM-5 4.7.7.2) to 255, flat space addressing beyond.
  for (const lun of list) w.u16(lun < 256 ? lun : 0x4000 | lun).zeros(6);
  return true;
}

export const reportLuns: Step = (lun, command) => {
  const cdb = command.task.cdb;
  const allocation = be32(cdb, 6);
  if (allocation < 16) return command.invalidCdb(6); // SPC-4: "shall be at least 16"
  if (!writeLunList(responseWriter, lun.inventory.lunNumbers(), cdb[2])) return command.invalidCdb(2, 7);
  lun.inventory.lunsReported(command.task.nexus);
  return command.respond(allocation);
};
