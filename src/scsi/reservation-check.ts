import { type LunState, NexusFlag, StateWord } from './lun-state.ts';
import { Access } from './opcode-row.ts';

/** SPC-4 table 58: persistent reservation types. */
export const ReservationType = {
  NONE: 0,
  WRITE_EXCLUSIVE: 1,
  EXCLUSIVE_ACCESS: 3,
  WRITE_EXCLUSIVE_REGISTRANTS_ONLY: 5,
  EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: 6,
  WRITE_EXCLUSIVE_ALL_REGISTRANTS: 7,
  EXCLUSIVE_ACCESS_ALL_REGISTRANTS: 8,
} as const;

export function isAllRegistrants(type: number): boolean {
  return type >= ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS;
}

/**
 * Does a command of this access conflict with the unit's reservation (SPC-4 5.13.1, SPC-2 5.5.1)?
 * @param record the nexus's record, -1 when it has none
 */
export function reservationConflict(state: LunState, record: number, access: Access): boolean {
  if (access === Access.ALWAYS) return false;
  const words = state.words;
  const reserver = words[StateWord.RESERVE_HOLDER];
  if (reserver !== 0 && reserver !== record + 1) return true;
  const type = words[StateWord.PR_TYPE];
  if (type === ReservationType.NONE || access === Access.ALWAYS_BUT_RESERVED || access === Access.OWN) return false;
  const registered = record >= 0 && (state.nexusFlags(record) & NexusFlag.REGISTERED) !== 0;
  if (registered && type >= ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY) return false;
  if (words[StateWord.PR_HOLDER] === record + 1) return false;
  const writeExclusive =
    type === ReservationType.WRITE_EXCLUSIVE ||
    type === ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY ||
    type === ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS;
  return !(writeExclusive && access === Access.READ);
}
