import type { BdevInfo } from '../bdev/bdev.ts';
import type { Step } from './command.ts';

/**
 * One row an opcode (and service action): what the dispatcher, REPORT SUPPORTED OPERATION CODES, traces, documents and
 * tests know of a command.
 */

/** What a command does to the medium or the unit, for persistent reservations (SPC-4 5.13, SBC-3 4.19). */
export const Access = {
  /** Allowed whoever holds a reservation. */
  ALWAYS: 0,
  /** Allowed to others under Write Exclusive types. */
  READ: 1,
  /** Conflicts for others under every type. */
  WRITE: 2,
  /** Like ALWAYS for persistent reservations; conflicts with an SPC-2 RESERVE of another nexus. */
  ALWAYS_BUT_RESERVED: 3,
  /** The handler decides (PERSISTENT RESERVE OUT, RESERVE, RELEASE). */
  OWN: 4,
} as const;
export type Access = (typeof Access)[keyof typeof Access];

export interface OpcodeRow {
  readonly opcode: number;
  /** Service action, or -1. */
  readonly serviceAction: number;
  readonly name: string;
  /** CDB length, bytes. */
  readonly length: number;
  /** CDB usage data as SPC-4 6.35.3 returns it: opcode, then a mask of the bits that are looked at. */
  readonly usage: Uint8Array;
  readonly data: 'none' | 'in' | 'out';
  readonly access: Access;
  /** When the access depends on more of the CDB (START STOP UNIT, PREVENT ALLOW). */
  readonly accessOf?: (cdb: Uint8Array) => Access;
  /** A pending unit attention is told first; INQUIRY, REPORT LUNS and REQUEST SENSE run anyway. */
  readonly attention: boolean;
  /** Changes the medium: waits while an exclusive command runs. */
  readonly writes: boolean;
  /** Runs alone among the commands that change the medium, on all controllers of the disk. */
  readonly exclusive: boolean;
  /** Bits outside `usage` are refused. Off for READ and WRITE, which look at their own bits only. */
  readonly strict: boolean;
  /** The disk must have this for the command to exist. */
  readonly needs?: (info: BdevInfo) => boolean;
  readonly run: Step;
  /** Recommended timeout for RSOC's command timeouts descriptor, seconds. */
  readonly timeout: number;
}

/** What most rows leave at its default. */
export interface RowOptions {
  serviceAction?: number;
  data?: 'in' | 'out';
  access?: Access;
  accessOf?: (cdb: Uint8Array) => Access;
  attention?: false;
  writes?: true;
  exclusive?: true;
  strict?: false;
  needs?: (info: BdevInfo) => boolean;
  timeout?: number;
}

/** @param usage the whole CDB usage map in hex, opcode included: its length is the CDB's */
export function row(name: string, usage: string, run: Step, options: RowOptions = {}): OpcodeRow {
  const map = Uint8Array.from(usage.split(' '), (byte) => Number.parseInt(byte, 16));
  return {
    opcode: map[0],
    serviceAction: options.serviceAction ?? -1,
    name,
    length: map.length,
    usage: map,
    data: options.data ?? 'none',
    access: options.access ?? Access.READ,
    ...(options.accessOf !== undefined && { accessOf: options.accessOf }),
    attention: options.attention ?? true,
    writes: options.writes ?? false,
    exclusive: options.exclusive ?? false,
    strict: options.strict ?? true,
    ...(options.needs !== undefined && { needs: options.needs }),
    run,
    timeout: options.timeout ?? 30,
  };
}

/** Length of a CDB by its group code (SPC-4 4.2.5.1); 0 for groups 3 (variable), 6 and 7 (vendor). */
export function cdbLength(opcode: number): number {
  return GROUP_LENGTH[opcode >>> 5];
}
const GROUP_LENGTH = [6, 10, 10, 0, 16, 12, 0, 0];

/** Rows by opcode and service action. */
export class CommandTable {
  readonly rows: readonly OpcodeRow[];
  private readonly plain: (OpcodeRow | null)[] = new Array<OpcodeRow | null>(256).fill(null);
  private readonly actions: ((OpcodeRow | null)[] | null)[] = new Array<(OpcodeRow | null)[] | null>(256).fill(null);

  constructor(rows: readonly OpcodeRow[]) {
    this.rows = rows;
    for (const r of rows) {
      if (r.serviceAction < 0) this.plain[r.opcode] = r;
      else {
        this.actions[r.opcode] ??= new Array<OpcodeRow | null>(32).fill(null);
        this.actions[r.opcode]![r.serviceAction] = r;
      }
    }
  }

  /** The row of a CDB, or null. */
  find(cdb: Uint8Array): OpcodeRow | null {
    const opcode = cdb[0];
    return this.plain[opcode] ?? this.action(opcode, cdb[1] & 0x1f);
  }

  /** The row of an opcode with a service action, or null. */
  action(opcode: number, serviceAction: number): OpcodeRow | null {
    const actions = this.actions[opcode];
    return actions === null ? null : (actions[serviceAction] ?? null);
  }

  /** The row of an opcode that has no service actions, or null. */
  withoutAction(opcode: number): OpcodeRow | null {
    return this.plain[opcode];
  }

  /** The opcode exists with some service action. */
  hasActions(opcode: number): boolean {
    return this.actions[opcode] !== null;
  }
}
