import { MAX_NEXUSES } from './limits.ts';
import { type LunState, NexusWord } from './lun-state.ts';
import { initiatorId } from './names.ts';

/**
 * A Lun's I_T nexuses: the transport's small numbers to records in the shared state. A nexus gets its record with its
 * first command.
 */

const UNKNOWN = -2;

export class NexusTable {
  /** Record of each nexus; -1: the disk's table was full, UNKNOWN: not seen yet. */
  private readonly records = new Int16Array(MAX_NEXUSES).fill(UNKNOWN);
  private readonly names: string[] = [];
  /** ABORTS of each record as last seen. */
  private readonly aborts = new Int32Array(MAX_NEXUSES);
  private readonly state: LunState;
  private readonly port: number;

  constructor(state: LunState, port: number) {
    this.state = state;
    this.port = port;
  }

  name(nexus: number, name: string): void {
    this.names[nexus] = name;
  }

  /** Record of a nexus, made now if need be; -1 when there is none for it. */
  recordOf(nexus: number): number {
    const record = this.records[nexus];
    return record === UNKNOWN ? this.connect(nexus) : (record ?? -1);
  }

  private connect(nexus: number): number {
    const id = initiatorId(this.names[nexus] ?? `initiator ${nexus}`);
    const record = this.state.connectNexus(id.hi, id.lo, this.port);
    this.records[nexus] = record;
    if (record >= 0) this.aborts[nexus] = this.abortsOf(record);
    return record;
  }

  disconnect(nexus: number): void {
    const record = this.records[nexus] ?? UNKNOWN;
    if (record >= 0) this.state.disconnectNexus(record);
    if (nexus < MAX_NEXUSES) this.records[nexus] = UNKNOWN;
  }

  disconnectAll(): void {
    for (let nexus = 0; nexus < MAX_NEXUSES; nexus++) this.disconnect(nexus);
  }

  /** Establish a unit attention for the nexuses that are connected here. */
  attend(bits: number): void {
    for (const record of this.records) if (record >= 0) this.state.attend(record, bits);
  }

  /** A nexus learned of a condition by other means. */
  told(nexus: number, bits: number): void {
    const record = this.records[nexus] ?? -1;
    if (record >= 0) this.state.clearAttention(record, bits);
  }

  /** Nexuses whose tasks a PREEMPT AND ABORT gave up since the last call. */
  takeAborted(): number[] {
    const list: number[] = [];
    this.records.forEach((record, nexus) => {
      if (record < 0 || this.abortsOf(record) === this.aborts[nexus]) return;
      this.aborts[nexus] = this.abortsOf(record);
      list.push(nexus);
    });
    return list;
  }

  private abortsOf(record: number): number {
    return this.state.words[this.state.nexusWord(record, NexusWord.ABORTS)];
  }
}
