import type { Memory } from '../memory/memory.ts';

/**
 * The controller's registers by the names of the NVMe Base Specification (§3.1.4), declared once: offsets, fields and
 * the dump come from the table.
 *
 * Registers are read with `Atomics.load`, so that no compiler merges two looks at a status, and written with aligned
 * stores of 32 bits; 64-bit registers as two of them, low word first, which the specification allows (§3.1.1).
 */

/** [most significant bit, least significant bit] */
export type BitField = readonly [high: number, low: number];

interface RegisterRow {
  readonly offset: number;
  /** Bytes: 4 or 8. */
  readonly width: 4 | 8;
  readonly about: string;
  readonly fields: Readonly<Record<string, BitField>>;
}

export const NVME_REGISTERS = {
  CAP: {
    offset: 0x00,
    width: 8,
    about: 'controller capabilities',
    fields: {
      MQES: [15, 0],
      CQR: [16, 16],
      AMS: [18, 17],
      TO: [31, 24],
      DSTRD: [35, 32],
      NSSRS: [36, 36],
      CSS: [44, 37],
      BPS: [45, 45],
      MPSMIN: [51, 48],
      MPSMAX: [55, 52],
      PMRS: [56, 56],
      CMBS: [57, 57],
    },
  },
  VS: { offset: 0x08, width: 4, about: 'version', fields: { MJR: [31, 16], MNR: [15, 8], TER: [7, 0] } },
  INTMS: { offset: 0x0c, width: 4, about: 'interrupt mask set', fields: {} },
  INTMC: { offset: 0x10, width: 4, about: 'interrupt mask clear', fields: {} },
  CC: {
    offset: 0x14,
    width: 4,
    about: 'controller configuration',
    fields: { EN: [0, 0], CSS: [6, 4], MPS: [10, 7], AMS: [13, 11], SHN: [15, 14], IOSQES: [19, 16], IOCQES: [23, 20] },
  },
  CSTS: {
    offset: 0x1c,
    width: 4,
    about: 'controller status',
    fields: { RDY: [0, 0], CFS: [1, 1], SHST: [3, 2], NSSRO: [4, 4], PP: [5, 5] },
  },
  NSSR: { offset: 0x20, width: 4, about: 'NVM subsystem reset', fields: {} },
  AQA: { offset: 0x24, width: 4, about: 'admin queue attributes', fields: { ASQS: [11, 0], ACQS: [27, 16] } },
  ASQ: { offset: 0x28, width: 8, about: 'admin submission queue base address', fields: {} },
  ACQ: { offset: 0x30, width: 8, about: 'admin completion queue base address', fields: {} },
} as const satisfies Record<string, RegisterRow>;

export type RegisterName = keyof typeof NVME_REGISTERS;

/** First doorbell (§3.1.4): submission queue y tail at 2y, completion queue y head at 2y + 1, times the stride. */
export const DOORBELL_BASE = 0x1000;

/** What every read of a device that is no longer there gives. */
export const ALL_ONES = 0xffff_ffff;

/** A 64-bit register as its two words, both unsigned. */
export interface Words {
  readonly lo: number;
  readonly hi: number;
}

/** Bits `high` to `low` of a register value; fields are at most 32 bits wide. */
export function bits({ lo, hi }: Words, [high, low]: BitField): number {
  const width = high - low + 1;
  const mask = width === 32 ? 0xffff_ffff : 2 ** width - 1;
  if (low >= 32) return (Math.floor(hi / 2 ** (low - 32)) & mask) >>> 0;
  if (high < 32) return ((lo >>> low) & mask) >>> 0;
  return ((hi * 2 ** (32 - low) + (lo >>> low)) % 2 ** width) >>> 0;
}

export class NvmeRegisters {
  readonly bar: Memory;

  /** @param bar at least the registers up to the first doorbell. @throws Error when it is smaller. */
  constructor(bar: Memory, name = 'NVMe controller') {
    if (bar.length < DOORBELL_BASE + 8) {
      throw new Error(`${name}: BAR 0 has ${bar.length} bytes, an NVMe controller needs ${DOORBELL_BASE + 8} or more`);
    }
    this.bar = bar;
  }

  /** A 32-bit register, unsigned. */
  read(name: RegisterName): number {
    return Atomics.load(this.bar.u32, NVME_REGISTERS[name].offset >> 2);
  }

  /** A register of either width as two words. */
  words(name: RegisterName): Words {
    const { offset, width } = NVME_REGISTERS[name];
    const lo = Atomics.load(this.bar.u32, offset >> 2);
    return { lo, hi: width === 8 ? Atomics.load(this.bar.u32, (offset >> 2) + 1) : 0 };
  }

  /** A named field of a register's current value. */
  field<N extends RegisterName>(name: N, field: keyof (typeof NVME_REGISTERS)[N]['fields'] & string): number {
    const row: RegisterRow = NVME_REGISTERS[name];
    return bits(this.words(name), row.fields[field] as BitField);
  }

  write(name: RegisterName, value: number): void {
    this.bar.u32[NVME_REGISTERS[name].offset >> 2] = value;
  }

  /** A 64-bit register from an exact Number (an address). */
  write64(name: RegisterName, value: number): void {
    const at = NVME_REGISTERS[name].offset >> 2;
    this.bar.u32[at] = value % 2 ** 32;
    this.bar.u32[at + 1] = Math.floor(value / 2 ** 32);
  }

  /** The device no longer answers: surprise removal, or its memory decoding is off. */
  get gone(): boolean {
    return this.read('CSTS') === ALL_ONES;
  }

  /** Every register with its fields, for RPC and logs: `{ CSTS: { value: '0x1', RDY: 1, … } }`. */
  dump(): Record<string, Record<string, number | string>> {
    const result: Record<string, Record<string, number | string>> = {};
    for (const [name, row] of Object.entries(NVME_REGISTERS) as [RegisterName, RegisterRow][]) {
      const value = this.words(name);
      const shown: Record<string, number | string> = {
        value: `0x${(BigInt(value.hi) * 2n ** 32n + BigInt(value.lo)).toString(16)}`,
      };
      for (const [field, range] of Object.entries(row.fields)) shown[field] = bits(value, range);
      result[name] = shown;
    }
    return result;
  }
}
