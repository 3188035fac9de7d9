import { MAX_DISK_NEXUSES } from './limits.ts';
import { type LunState, NexusFlag, NexusWord, StateWord } from './lun-state.ts';
import { isAllRegistrants, ReservationType } from './reservation-check.ts';
import { Attention } from './unit-attention.ts';

/**
 * The persistent reservation state machine (SPC-4 5.13) over the shared state: registrations, the reservation, and who
 * is told what. No CDBs here. Each operation is one critical section, so two controllers' commands never mix.
 */

export interface Key {
  /** Unsigned 32-bit halves. */
  readonly hi: number;
  readonly lo: number;
}

export const PrResult = {
  GOOD: 0,
  CONFLICT: 1,
  /** INVALID FIELD IN PARAMETER LIST (service action key). */
  INVALID_KEY: 2,
  /** INVALID RELEASE OF PERSISTENT RESERVATION. */
  INVALID_RELEASE: 3,
  NO_RESOURCES: 4,
  /** INVALID FIELD IN CDB (scope or type). */
  INVALID_TYPE: 5,
} as const;
export type PrResult = (typeof PrResult)[keyof typeof PrResult];

const { FLAGS, KEY_HI, KEY_LO, ID_HI, ID_LO, PORT, ABORTS } = NexusWord;

export class Reservations {
  private readonly state: LunState;
  private readonly words: Int32Array;

  constructor(state: LunState) {
    this.state = state;
    this.words = state.words;
  }

  // What is.

  get generation(): number {
    return this.words[StateWord.PR_GENERATION] >>> 0;
  }

  /** ReservationType.NONE without a reservation. */
  get type(): number {
    return this.words[StateWord.PR_TYPE];
  }

  /** "Activated persistence through power loss". */
  get persistent(): boolean {
    return this.words[StateWord.PR_APTPL] !== 0;
  }

  registered(nexus: number): boolean {
    return nexus >= 0 && (this.state.nexusFlags(nexus) & NexusFlag.REGISTERED) !== 0;
  }

  /** Records of the registered nexuses. */
  registrants(): number[] {
    const list: number[] = [];
    for (let i = 0; i < MAX_DISK_NEXUSES; i++) if (this.registered(i)) list.push(i);
    return list;
  }

  /** With an all-registrants type, every registrant is a holder. */
  holds(nexus: number): boolean {
    if (this.type === ReservationType.NONE || !this.registered(nexus)) return false;
    return isAllRegistrants(this.type) || this.words[StateWord.PR_HOLDER] === nexus + 1;
  }

  key(nexus: number): Key {
    return { hi: this.word(nexus, KEY_HI) >>> 0, lo: this.word(nexus, KEY_LO) >>> 0 };
  }

  /** Key of the holder; 0 without one or with an all-registrants type. */
  holderKey(): Key {
    const holder = this.words[StateWord.PR_HOLDER] - 1;
    return holder < 0 || isAllRegistrants(this.type) ? { hi: 0, lo: 0 } : this.key(holder);
  }

  initiator(nexus: number): { hi: number; lo: number; port: number } {
    return { hi: this.word(nexus, ID_HI) >>> 0, lo: this.word(nexus, ID_LO) >>> 0, port: this.word(nexus, PORT) };
  }

  // What the service actions do. `nexus` is the sender's record, -1 when the table had no room for it.

  /** REGISTER, and REGISTER AND IGNORE EXISTING KEY. A new key of 0 unregisters. */
  register(nexus: number, key: Key, newKey: Key, ignoreKey: boolean, persist: boolean): PrResult {
    return this.change(() => {
      const registered = this.registered(nexus);
      if (!ignoreKey && !(registered ? this.hasKey(nexus, key) : isZero(key))) return PrResult.CONFLICT;
      if (!registered && isZero(newKey)) return PrResult.GOOD;
      if (nexus < 0) return PrResult.NO_RESOURCES;
      if (isZero(newKey)) this.unregister(nexus, nexus);
      else {
        this.words[this.at(nexus, FLAGS)] |= NexusFlag.REGISTERED;
        this.words[this.at(nexus, KEY_HI)] = newKey.hi;
        this.words[this.at(nexus, KEY_LO)] = newKey.lo;
      }
      this.words[StateWord.PR_GENERATION]++;
      this.words[StateWord.PR_APTPL] = persist ? 1 : 0;
      return PrResult.GOOD;
    });
  }

  reserve(nexus: number, key: Key, type: number): PrResult {
    return this.change(() => {
      if (!this.hasKey(nexus, key)) return PrResult.CONFLICT;
      if (this.type === ReservationType.NONE) {
        this.establish(nexus, type);
        return PrResult.GOOD;
      }
      return this.holds(nexus) && this.type === type ? PrResult.GOOD : PrResult.CONFLICT;
    });
  }

  release(nexus: number, key: Key, type: number): PrResult {
    return this.change(() => {
      if (!this.hasKey(nexus, key)) return PrResult.CONFLICT;
      if (!this.holds(nexus)) return PrResult.GOOD;
      if (this.type !== type) return PrResult.INVALID_RELEASE;
      this.dissolve(nexus);
      return PrResult.GOOD;
    });
  }

  clear(nexus: number, key: Key): PrResult {
    return this.change(() => {
      if (!this.hasKey(nexus, key)) return PrResult.CONFLICT;
      this.words[StateWord.PR_TYPE] = ReservationType.NONE;
      this.words[StateWord.PR_HOLDER] = 0;
      for (const other of this.registrants()) {
        if (other !== nexus) this.state.attend(other, Attention.RESERVATIONS_PREEMPTED);
        this.words[this.at(other, FLAGS)] &= ~NexusFlag.REGISTERED;
      }
      this.words[StateWord.PR_GENERATION]++;
      return PrResult.GOOD;
    });
  }

  /**
   * PREEMPT, and PREEMPT AND ABORT: SPC-4 5.13.11.4, 5.13.11.5.
   * @param type of the new reservation, where one is taken over; -1: the scope or type asked for does not exist
   * @param abort the tasks of preempted nexuses are to be aborted; their Luns see it by the record's ABORTS count
   */
  preempt(nexus: number, key: Key, victim: Key, type: number, abort: boolean): PrResult {
    return this.change(() => {
      if (!this.hasKey(nexus, key)) return PrResult.CONFLICT;
      const reserved = this.type !== ReservationType.NONE;
      const all = reserved && isAllRegistrants(this.type);
      if (isZero(victim) && !all) return PrResult.INVALID_KEY;
      const takeOver = all ? isZero(victim) : reserved && this.hasKey(this.words[StateWord.PR_HOLDER] - 1, victim);
      const victims = this.registrants().filter((n) =>
        takeOver ? n !== nexus && (isZero(victim) || this.hasKey(n, victim)) : this.hasKey(n, victim),
      );
      if (!takeOver && victims.length === 0) return PrResult.CONFLICT;
      if (takeOver && type < 0) return PrResult.INVALID_TYPE;
      const oldType = this.type;
      for (const n of victims) {
        if (n !== nexus) this.state.attend(n, Attention.REGISTRATIONS_PREEMPTED);
        if (abort && n !== nexus) this.words[this.at(n, ABORTS)]++;
        this.words[this.at(n, FLAGS)] &= ~NexusFlag.REGISTERED;
      }
      if (takeOver) {
        this.establish(nexus, type);
        if (oldType !== type) this.tellRegistrants(nexus, Attention.RESERVATIONS_RELEASED);
      } else if (all && this.registrants().length === 0) {
        this.establish(-1, ReservationType.NONE);
      }
      this.words[StateWord.PR_GENERATION]++;
      return PrResult.GOOD;
    });
  }

  // Parts.

  private change(operation: () => PrResult): PrResult {
    const result = this.state.locked(operation);
    if (result === PrResult.GOOD) this.state.changed();
    return result;
  }

  private at(nexus: number, word: number): number {
    return this.state.nexusWord(nexus, word);
  }

  private word(nexus: number, word: number): number {
    return this.words[this.at(nexus, word)];
  }

  /** The nexus is registered with this key. */
  private hasKey(nexus: number, key: Key): boolean {
    return (
      this.registered(nexus) && this.word(nexus, KEY_HI) === (key.hi | 0) && this.word(nexus, KEY_LO) === (key.lo | 0)
    );
  }

  /** @param nexus the holder; counts for nothing with an all-registrants type, -1 with ReservationType.NONE */
  private establish(nexus: number, type: number): void {
    this.words[StateWord.PR_TYPE] = type;
    this.words[StateWord.PR_HOLDER] = isAllRegistrants(type) ? 0 : nexus + 1;
  }

  /** The reservation ends; registrants who had a part in it are told (SPC-4 5.13.11.2.2). */
  private dissolve(nexus: number): void {
    const type = this.type;
    this.establish(-1, ReservationType.NONE);
    if (type >= ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY) {
      this.tellRegistrants(nexus, Attention.RESERVATIONS_RELEASED);
    }
  }

  private unregister(nexus: number, teller: number): void {
    const held = this.holds(nexus);
    this.words[this.at(nexus, FLAGS)] &= ~NexusFlag.REGISTERED;
    if (!held || (isAllRegistrants(this.type) && this.registrants().length > 0)) return;
    this.dissolve(teller);
  }

  private tellRegistrants(except: number, bits: number): void {
    for (const n of this.registrants()) if (n !== except) this.state.attend(n, bits);
  }
}

export function isZero(key: Key): boolean {
  return key.hi === 0 && key.lo === 0;
}
