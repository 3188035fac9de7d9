import type { Memory } from '../memory/memory.ts';

/** Registers of a device. Offsets are bytes, aligned to the width; every call is one access of exactly that width. */
export interface Registers {
  read8(at: number): number;
  read16(at: number): number;
  read32(at: number): number;
  write8(at: number, value: number): void;
  write16(at: number, value: number): void;
  write32(at: number, value: number): void;
}

/** Registers that are memory: a mapped BAR. Reads are Atomics, so that no two looks at a status become one. */
export class MemoryRegisters implements Registers {
  private readonly memory: Memory;

  constructor(memory: Memory) {
    this.memory = memory;
  }

  read8(at: number): number {
    return Atomics.load(this.memory.u8, at);
  }

  read16(at: number): number {
    return Atomics.load(this.memory.u16, at >> 1);
  }

  read32(at: number): number {
    return Atomics.load(this.memory.u32, at >> 2);
  }

  write8(at: number, value: number): void {
    this.memory.u8[at] = value;
  }

  write16(at: number, value: number): void {
    this.memory.u16[at >> 1] = value;
  }

  write32(at: number, value: number): void {
    this.memory.u32[at >> 2] = value;
  }
}
