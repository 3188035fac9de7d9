import type { Step } from './command.ts';
import { StateWord } from './lun-state.ts';
import { ReservationType } from './reservation-check.ts';
import { Reservations } from './reservations.ts';
import { ScsiStatus } from './status.ts';

/**
 * RESERVE and RELEASE (6) and (10) as SPC-2 has them: the whole unit, for one nexus. Lost at resets and with the
 * nexus. Beside persistent registrations they do nothing or conflict (CRH, SPC-3 5.6.3).
 */

export const reserve: Step = (lun, command) => {
  const record = lun.recordOf(command.task.nexus);
  const reservations = new Reservations(lun.state);
  if (reservations.registrants().length > 0) return command.status(withPersistent(reservations, record));
  if (record < 0) return command.status(ScsiStatus.RESERVATION_CONFLICT); // nobody to hold it
  const holder = Atomics.compareExchange(lun.state.words, StateWord.RESERVE_HOLDER, 0, record + 1);
  const taken = holder !== 0 && holder !== record + 1;
  lun.state.changed();
  return taken ? command.status(ScsiStatus.RESERVATION_CONFLICT) : command.good();
};

/** From a nexus that holds nothing: GOOD, and nothing changes. */
export const release: Step = (lun, command) => {
  const record = lun.recordOf(command.task.nexus);
  const reservations = new Reservations(lun.state);
  if (reservations.registrants().length > 0) return command.status(withPersistent(reservations, record));
  if (record >= 0) lun.state.releaseReserve(record);
  return command.good();
};

function withPersistent(reservations: Reservations, record: number): ScsiStatus {
  const part =
    reservations.holds(record) ||
    (reservations.registered(record) && reservations.type >= ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY);
  return part ? ScsiStatus.GOOD : ScsiStatus.RESERVATION_CONFLICT;
}
