import { type LunState, NexusFlag, NexusWord, StateWord } from './lun-state.ts';
import { isAllRegistrants } from './reservation-check.ts';
import { Reservations } from './reservations.ts';

/**
 * Persistence through power loss (APTPL): the reservation state as a plain object, to be written before a command
 * that changes it ends, and put back when the disk is served again.
 */

export interface SavedReservations {
  /** Rises with each change: a store keeps the newest, whatever order saves of several reactors arrive in. */
  sequence: number;
  /** ReservationType; 0 without a reservation. */
  type: number;
  registrants: { initiator: string; port: number; key: string; holder: boolean }[];
}

/** Where the state is kept; given to the Luns of a disk. Without one, APTPL is refused. */
export interface ReservationStore {
  /**
   * Write `saved` (null: forget what was kept).
   * @param done exactly once, when it is on stable storage, or could not be brought there
   */
  save(saved: SavedReservations | null, sequence: number, done: (ok: boolean) => void): void;
}

function hex64(hi: number, lo: number): string {
  return hi.toString(16).padStart(8, '0') + lo.toString(16).padStart(8, '0');
}

/** The state as it is now, or null when persistence is not activated. Each call has a new sequence number. */
export function saveReservations(state: LunState): { saved: SavedReservations | null; sequence: number } {
  return state.locked(() => {
    const reservations = new Reservations(state);
    const sequence = ++state.words[StateWord.PR_SAVES];
    if (!reservations.persistent) return { saved: null, sequence };
    const registrants = reservations.registrants().map((nexus) => {
      const { hi, lo, port } = reservations.initiator(nexus);
      const key = reservations.key(nexus);
      return { initiator: hex64(hi, lo), port, key: hex64(key.hi, key.lo), holder: reservations.holds(nexus) };
    });
    return { saved: { sequence, type: reservations.type, registrants }, sequence };
  });
}

/** Put saved state into a new LunState, before any Lun uses it. @throws Error when it is not of this form */
export function restoreReservations(state: LunState, saved: SavedReservations): void {
  state.locked(() => {
    const { words } = state;
    for (const r of saved.registrants) {
      const [idHi, idLo] = halves(r.initiator);
      const [keyHi, keyLo] = halves(r.key);
      const nexus = state.addNexus(idHi, idLo, r.port);
      if (nexus < 0) throw new Error('saved reservations have more registrants than a disk can have');
      words[state.nexusWord(nexus, NexusWord.FLAGS)] = NexusFlag.REGISTERED;
      words[state.nexusWord(nexus, NexusWord.KEY_HI)] = keyHi;
      words[state.nexusWord(nexus, NexusWord.KEY_LO)] = keyLo;
      if (r.holder && !isAllRegistrants(saved.type)) words[StateWord.PR_HOLDER] = nexus + 1;
    }
    const holders = saved.registrants.filter((r) => r.holder).length;
    if (holders > 0 && [1, 3, 5, 6, 7, 8].includes(saved.type)) words[StateWord.PR_TYPE] = saved.type;
    words[StateWord.PR_APTPL] = 1;
    words[StateWord.PR_SAVES] = saved.sequence;
  });
  state.changed();
}

function halves(text: string): [number, number] {
  if (!/^[0-9a-f]{16}$/.test(text)) throw new Error(`saved reservations: "${text}" is not 16 hexadecimal digits`);
  return [Number.parseInt(text.slice(0, 8), 16), Number.parseInt(text.slice(8), 16)];
}
