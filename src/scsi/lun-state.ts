import { MAX_DISK_NEXUSES, MAX_LUN_SLOTS } from './limits.ts';

/**
 * What all {@link Lun}s of one disk share: mode parameters, unit attentions, reservations, and the gate that makes
 * COMPARE AND WRITE atomic. It is an array of 32-bit words over an ArrayBuffer, or over a SharedArrayBuffer when Luns
 * of several reactors share the disk; post `buffer` to a reactor and make a LunState over it there.
 *
 * Rule: state changes that take several words happen in {@link locked}; single words by Atomics.
 */

/** Word offsets of the header. */
export const StateWord = {
  /** Spin lock: 0 free. */
  LOCK: 0,
  /** Counts changes to anything a Lun caches (mode parameters, reservations): compare it, then refresh. */
  CHANGES: 1,
  /** Slot + 1 of the Lun that runs an exclusive command, 0 when none does. */
  EXCLUSIVE: 2,
  /** Changeable mode parameters, {@link ModeBit}. */
  MODE: 3,
  /** Counts LOGICAL UNIT RESETs: the Luns of other controllers see that their tasks are to be aborted. */
  RESETS: 4,
  /** Record + 1 of the SPC-2 RESERVE's holder in the nexus table, 0 when none. */
  RESERVE_HOLDER: 5,
  /** Persistent reservations: PRGENERATION, type (0 none), record + 1 of the holder (0 for all registrants), APTPL, save sequence. */
  PR_GENERATION: 6,
  PR_TYPE: 7,
  PR_HOLDER: 8,
  PR_APTPL: 9,
  PR_SAVES: 10,
  /** 1 once the first Lun has set the defaults. */
  READY: 11,
} as const;

/** Mode parameters that MODE SELECT can change. */
export const ModeBit = { WCE: 1, D_SENSE: 2, SWP: 4 } as const;

/** Words of one nexus record. */
export const NexusWord = {
  /** {@link NexusFlag}; 0 is a free record. */
  FLAGS: 0,
  /** Initiator port: 64-bit identifier (see initiatorId in names.ts). */
  ID_HI: 1,
  ID_LO: 2,
  /** Relative target port identifier. */
  PORT: 3,
  /** Reservation key; means something when REGISTERED. */
  KEY_HI: 4,
  KEY_LO: 5,
  /** Pending unit attentions, a mask of Attention. */
  ATTENTION: 6,
  /** Counts PREEMPT AND ABORTs against this nexus: its Lun aborts its tasks. */
  ABORTS: 7,
  /** Luns that the nexus reaches the disk through: two targets of one controller may show the same disk. */
  CONNECTIONS: 8,
} as const;

export const NexusFlag = { CONNECTED: 1, REGISTERED: 2 } as const;

const HEADER = 16;
const SLOTS = HEADER;
/** Words a Lun slot: in use, writes in flight. */
const SLOT_WORDS = 2;
const NEXUSES = SLOTS + MAX_LUN_SLOTS * SLOT_WORDS;
const NEXUS_WORDS = 12;
const WORDS = NEXUSES + MAX_DISK_NEXUSES * NEXUS_WORDS;

export const LUN_STATE_BYTES = WORDS * 4;

export class LunState {
  readonly buffer: ArrayBufferLike;
  readonly words: Int32Array;
  /** Luns of other threads may look on: the gate needs barriers. */
  readonly shared: boolean;

  /** @param buffer {@link LUN_STATE_BYTES} long, all zero when new */
  constructor(buffer: ArrayBufferLike = new ArrayBuffer(LUN_STATE_BYTES)) {
    this.buffer = buffer;
    this.words = new Int32Array(buffer, 0, WORDS);
    this.shared = !(buffer instanceof ArrayBuffer);
  }

  /** A new state that reactors can share. */
  static forReactors(): LunState {
    return new LunState(new SharedArrayBuffer(LUN_STATE_BYTES));
  }

  /**
   * Run `fn` while no other thread changes the state. Short and never nested: other reactors spin meanwhile.
   */
  locked<T>(fn: () => T): T {
    while (Atomics.compareExchange(this.words, StateWord.LOCK, 0, 1) !== 0);
    try {
      return fn();
    } finally {
      Atomics.store(this.words, StateWord.LOCK, 0);
    }
  }

  /** The first Lun of the disk sets the mode parameters' defaults. */
  initialise(mode: number): void {
    if (Atomics.compareExchange(this.words, StateWord.READY, 0, 1) === 0) this.setMode(mode);
  }

  /** Tell every Lun to refresh what it caches. */
  changed(): void {
    Atomics.add(this.words, StateWord.CHANGES, 1);
  }

  // Lun slots and the write gate.

  /** @returns a slot for a Lun, or -1 when {@link MAX_LUN_SLOTS} share the disk already. */
  claimSlot(): number {
    for (let slot = 0; slot < MAX_LUN_SLOTS; slot++) {
      if (Atomics.compareExchange(this.words, SLOTS + slot * SLOT_WORDS, 0, 1) === 0) return slot;
    }
    return -1;
  }

  releaseSlot(slot: number): void {
    this.setWriters(slot, 0);
    this.endExclusive(slot);
    Atomics.store(this.words, SLOTS + slot * SLOT_WORDS, 0);
  }

  /** Publish how many writing commands a Lun has started and not finished. */
  setWriters(slot: number, writers: number): void {
    const at = SLOTS + slot * SLOT_WORDS + 1;
    // Full barrier: the count must be seen before we read EXCLUSIVE, as the other side reads them in reverse order.
    if (this.shared) Atomics.store(this.words, at, writers);
    else this.words[at] = writers;
  }

  /** Someone runs an exclusive command, or waits for writers to drain: no new write may start. */
  get gateClosed(): boolean {
    return (this.shared ? Atomics.load(this.words, StateWord.EXCLUSIVE) : this.words[StateWord.EXCLUSIVE]) !== 0;
  }

  /**
   * Close the gate for `slot` and see whether all writes have drained. Call again until it says true; the gate stays
   * closed meanwhile, so writers can't starve an exclusive command.
   */
  beginExclusive(slot: number): boolean {
    const was = Atomics.compareExchange(this.words, StateWord.EXCLUSIVE, 0, slot + 1);
    if (was !== 0 && was !== slot + 1) return false;
    for (let i = 0; i < MAX_LUN_SLOTS; i++) {
      if (Atomics.load(this.words, SLOTS + i * SLOT_WORDS + 1) !== 0) return false;
    }
    return true;
  }

  /** Open the gate, if it is `slot` that holds it. */
  endExclusive(slot: number): void {
    Atomics.compareExchange(this.words, StateWord.EXCLUSIVE, slot + 1, 0);
  }

  // Mode parameters.

  get mode(): number {
    return Atomics.load(this.words, StateWord.MODE);
  }

  setMode(bits: number): void {
    Atomics.store(this.words, StateWord.MODE, bits);
    this.changed();
  }

  // Nexuses and unit attentions.

  /** Index of a word of a nexus record. */
  nexusWord(nexus: number, word: number): number {
    return NEXUSES + nexus * NEXUS_WORDS + word;
  }

  nexusFlags(nexus: number): number {
    return this.words[this.nexusWord(nexus, NexusWord.FLAGS)];
  }

  /**
   * Record of an I_T nexus: the one it had (registrants survive a disconnection), else a free one.
   * @returns -1 when the table is full: such a nexus can read and write, and neither register nor be told attentions
   */
  connectNexus(idHi: number, idLo: number, port: number): number {
    return this.locked(() => {
      const record = this.findNexus(idHi, idLo, port) ?? this.addNexus(idHi, idLo, port);
      if (record >= 0) {
        this.words[this.nexusWord(record, NexusWord.FLAGS)] |= NexusFlag.CONNECTED;
        this.words[this.nexusWord(record, NexusWord.CONNECTIONS)]++;
      }
      return record;
    });
  }

  /** Forget a nexus, except for its registration; its RESERVE is released (SPC-2 5.5.1). */
  disconnectNexus(nexus: number): void {
    this.locked(() => {
      const connections = this.nexusWord(nexus, NexusWord.CONNECTIONS);
      if (--this.words[connections] > 0) return;
      this.words[connections] = 0;
      this.words[this.nexusWord(nexus, NexusWord.FLAGS)] &= ~NexusFlag.CONNECTED;
      this.words[this.nexusWord(nexus, NexusWord.ATTENTION)] = 0;
    });
    if ((this.nexusFlags(nexus) & NexusFlag.CONNECTED) === 0) this.releaseReserve(nexus);
  }

  /** End the SPC-2 RESERVE, if it is this nexus that holds it. */
  releaseReserve(nexus: number): void {
    if (Atomics.compareExchange(this.words, StateWord.RESERVE_HOLDER, nexus + 1, 0) === nexus + 1) this.changed();
  }

  /** Call within {@link locked}. */
  findNexus(idHi: number, idLo: number, port: number): number | undefined {
    for (let i = 0; i < MAX_DISK_NEXUSES; i++) {
      if (
        this.nexusFlags(i) !== 0 &&
        this.words[this.nexusWord(i, NexusWord.ID_HI)] === (idHi | 0) &&
        this.words[this.nexusWord(i, NexusWord.ID_LO)] === (idLo | 0) &&
        this.words[this.nexusWord(i, NexusWord.PORT)] === port
      ) {
        return i;
      }
    }
    return undefined;
  }

  /** Call within {@link locked}. The caller sets a flag, or the record stays free. */
  addNexus(idHi: number, idLo: number, port: number): number {
    for (let i = 0; i < MAX_DISK_NEXUSES; i++) {
      if (this.nexusFlags(i) !== 0) continue;
      this.words.fill(0, this.nexusWord(i, 0), this.nexusWord(i + 1, 0));
      this.words[this.nexusWord(i, NexusWord.ID_HI)] = idHi;
      this.words[this.nexusWord(i, NexusWord.ID_LO)] = idLo;
      this.words[this.nexusWord(i, NexusWord.PORT)] = port;
      return i;
    }
    return -1;
  }

  /** Establish a unit attention for one connected nexus. */
  attend(nexus: number, bits: number): void {
    if ((this.nexusFlags(nexus) & NexusFlag.CONNECTED) !== 0) {
      Atomics.or(this.words, this.nexusWord(nexus, NexusWord.ATTENTION), bits);
    }
  }

  /** Establish a unit attention for every connected nexus but `except` (-1: for all). */
  attendOthers(except: number, bits: number): void {
    for (let i = 0; i < MAX_DISK_NEXUSES; i++) if (i !== except) this.attend(i, bits);
  }

  clearAttention(nexus: number, bits: number): void {
    Atomics.and(this.words, this.nexusWord(nexus, NexusWord.ATTENTION), ~bits);
  }
}
