/**
 * A memory BAR as a device with a moving memory window has it: files appear in it and vanish under the views that a driver holds.
 * What is not covered reads zeroes.
 */
import { Memory } from '../../src/memory/memory.ts';
import { MAP, PROT } from '../../src/sys/constants.ts';
import type { Fd } from '../../src/sys/fd.ts';
import * as libc from '../../src/sys/libc.ts';
import { type Mapping, mapAnonymous } from '../../src/sys/mapping.ts';
import type { MemoryPart } from '../../src/vvu/driver/device-access.ts';

const PAGE = 4096;

export class FakeBar {
  /** Bytes that can really be covered; the BAR claims more. */
  readonly bytes: number;
  readonly physical: number;
  /** Parts mapped by the driver and not unmapped. */
  parts = 0;
  private readonly mapping: Mapping;
  private readonly address: number;

  constructor(bytes = 0x1000_0000, physical = 0x10_0000_0000) {
    this.bytes = bytes;
    this.physical = physical;
    this.mapping = mapAnonymous(bytes, { noReserve: true });
    this.address = this.mapping.memoryAt(0, 8).address;
  }

  /** Put part of a file there. */
  place(at: number, fd: Fd, fileOffset: number, bytes: number): void {
    const length = Math.ceil(bytes / PAGE) * PAGE;
    if (at + length > this.bytes) throw new Error('FakeBar: it does not fit');
    const flags = MAP.SHARED | MAP.FIXED;
    if (libc.mmap(this.address + at, length, PROT.READ | PROT.WRITE, flags, fd.number, fileOffset) < 0) {
      throw new Error(`FakeBar: mmap ${libc.errno()}`);
    }
  }

  /** Nothing there any more. */
  clear(at = 0, bytes = this.bytes): void {
    const flags = MAP.PRIVATE | MAP.ANONYMOUS | MAP.NORESERVE | MAP.FIXED;
    libc.mmap(this.address + at, Math.ceil(bytes / PAGE) * PAGE, PROT.READ | PROT.WRITE, flags, -1, 0);
  }

  /** What a driver gets. */
  part(offset: number, bytes: number): MemoryPart {
    if (offset + bytes > this.bytes) throw new Error(`FakeBar: ${bytes} bytes at ${offset}`);
    this.parts++;
    let open = true;
    return {
      size: bytes,
      memoryAt: (at, length) => {
        if (!open || at + length > bytes) throw new RangeError(`FakeBar: ${at}+${length} of ${bytes}`);
        // One of its own, as every mapping of a real BAR gives: two generations of the memory table may lie at one place.
        const { u8, address } = this.mapping.memoryAt(offset + at, length);
        const memory = new Memory(u8.buffer, u8.byteOffset, length, address);
        memory.ioAddress = this.physical + offset + at;
        return memory;
      },
      unmap: () => {
        if (open) this.parts--;
        open = false;
      },
    };
  }

  close(): void {
    this.mapping.unmap();
  }
}
