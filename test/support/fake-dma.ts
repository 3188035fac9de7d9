/**
 * Physical memory in plain arrays: what a driver allocates or registers gets made-up physical addresses, and a fake device
 * finds it again by them. An address that is nobody's is a violation: a real device would have written over a stranger's
 * memory.
 */

import type { Window } from '../../src/memory/guest-memory.ts';
import { IO_PAGE } from '../../src/memory/io-address.ts';
import { Memory } from '../../src/memory/memory.ts';
import type { DmaAllocator, DmaBuffer, DmaShare } from '../../src/pci/dma.ts';

interface Page {
  readonly memory: Memory;
  readonly offset: number;
}

/** Memory as it is without huge pages: never two pages in a row. */
export const SINGLE_PAGES = IO_PAGE;

export class FakeDma implements DmaAllocator {
  /** Accesses outside everything that is there. */
  readonly violations: string[] = [];
  /** Buffers allocated and not freed. */
  allocated = 0;
  /** Changes of what is where. */
  version = 0;
  private readonly pages = new Map<number, Page>();
  private nextPage: number;
  private seed = 12345;

  /** Longest physical piece, bytes. */
  private readonly longest: number;

  /**
   * @param longest longest physical piece that is to be had, bytes
   * @param base first physical page number handed out; beyond 2^20 the addresses do not fit in 32 bits
   */
  constructor(longest = 0x20_0000, base = 0x12_3450) {
    this.longest = longest;
    this.nextPage = base;
  }

  private random(n: number): number {
    this.seed = (Math.imul(this.seed, 1103515245) + 12345) & 0x7fff_ffff;
    return this.seed % n;
  }

  allocate(bytes: number, contiguous: boolean): DmaBuffer {
    const length = Math.ceil(bytes / IO_PAGE) * IO_PAGE;
    if (contiguous && length > this.longest) throw new Error(`no ${length} bytes in one physical piece`);
    const buffer = new SharedArrayBuffer(length);
    const memory = new Memory(buffer);
    this.register(memory, contiguous);
    this.allocated++;
    return {
      memory,
      share: (): DmaShare => ({
        place: { buffer },
        bytes: length,
        ioAddress: memory.ioAddress,
        ioPages: memory.ioPages,
      }),
      free: () => {
        this.allocated--;
        this.forget(memory);
      },
    };
  }

  /** Give a memory physical addresses: in one piece, or its pages in wild order with gaps. */
  register(memory: Memory, contiguous: boolean): void {
    const count = Math.ceil(memory.length / IO_PAGE);
    const first = this.nextPage;
    this.version++;
    if (contiguous) {
      this.nextPage += count + 1;
      memory.ioAddress = first * IO_PAGE;
      for (let i = 0; i < count; i++) this.pages.set(first + i, { memory, offset: i * IO_PAGE });
      return;
    }
    const numbers = Array.from({ length: count }, (_, i) => first + 2 * i);
    for (let i = count - 1; i > 0; i--) {
      const j = this.random(i + 1);
      [numbers[i], numbers[j]] = [numbers[j] as number, numbers[i] as number];
    }
    this.nextPage += 2 * count + 1;
    memory.ioPages = Float64Array.from(numbers, (n) => n * IO_PAGE);
    for (const [i, n] of numbers.entries()) this.pages.set(n, { memory, offset: i * IO_PAGE });
  }

  /** Everything there is, for a device that walks rings by itself. */
  windows(): Window[] {
    const windows: Window[] = [];
    let last: { gpa: number; uva: number; length: number; memory: Memory; base: number } | undefined;
    for (const [number, { memory, offset }] of [...this.pages].sort(([a], [b]) => a - b)) {
      const gpa = number * IO_PAGE;
      const whole =
        gpa % 2 ** 30 !== 0 &&
        last !== undefined &&
        last.memory === memory &&
        last.gpa + last.length === gpa &&
        last.base + last.length === offset;
      if (whole && last !== undefined) last.length += IO_PAGE;
      else {
        last = { gpa, uva: gpa, length: IO_PAGE, memory, base: offset };
        windows.push(last);
      }
    }
    return windows;
  }

  forget(memory: Memory): void {
    this.version++;
    for (const [number, page] of this.pages) if (page.memory === memory) this.pages.delete(number);
    memory.ioAddress = -1;
    memory.ioPages = null;
  }

  /** Copy between a device's array and physical memory. A wild address moves nothing and is noted. */
  access(address: number, bytes: number, device: Uint8Array, deviceAt: number, toMemory: boolean): boolean {
    let left = bytes;
    let at = address;
    let place = deviceAt;
    while (left > 0) {
      const page = this.pages.get(Math.floor(at / IO_PAGE));
      const inPage = at % IO_PAGE;
      const n = Math.min(IO_PAGE - inPage, left);
      if (page === undefined || page.offset + inPage + n > page.memory.length) {
        this.violations.push(`${toMemory ? 'write' : 'read'} of ${n} bytes at 0x${at.toString(16)}`);
        return false;
      }
      const from = page.offset + inPage;
      if (toMemory) page.memory.u8.set(device.subarray(place, place + n), from);
      else device.set(page.memory.u8.subarray(from, from + n), place);
      at += n;
      place += n;
      left -= n;
    }
    return true;
  }

  /** The memory and word index of an aligned physical address, for words that are read and written one by one. */
  word(address: number): { memory: Memory; index: number } | undefined {
    const page = this.pages.get(Math.floor(address / IO_PAGE));
    if (page === undefined || address % 4 !== 0) {
      this.violations.push(`word at 0x${address.toString(16)}`);
      return undefined;
    }
    return { memory: page.memory, index: (page.offset + (address % IO_PAGE)) >> 2 };
  }
}
