import { IO_PAGE } from '../../memory/io-address.ts';
import type { DmaAllocator, DmaBuffer, DmaShare } from '../../pci/dma.ts';
import type { Fd } from '../../sys/fd.ts';
import { type Mapping, mapFile, memfd } from '../../sys/mapping.ts';

/**
 * The memory that a vhost-user back end gets from us: one file, of which pages exist once they are used. Addresses in rings are
 * counted from {@link USER_BASE}; nothing else of this process can be named to the back end.
 */

/** Where the file begins, for the back end: its "guest physical" and "user" address. */
export const USER_BASE = 0x1_0000_0000;
/** Rings, slots and bounce buffers of 64 queues take less. Bytes. */
const SIZE = 0x1000_0000;
const PAGES = SIZE / IO_PAGE;

export class UserMemory implements DmaAllocator {
  readonly size = SIZE;
  readonly fd: Fd;
  private readonly mapping: Mapping;
  private readonly used = new Uint8Array(PAGES);

  constructor() {
    this.fd = memfd('vvu-user', SIZE);
    try {
      this.mapping = mapFile(this.fd, { size: SIZE });
    } catch (error) {
      this.fd.close();
      throw error;
    }
  }

  /** All of it lies in one piece. */
  allocate(bytes: number): DmaBuffer {
    const pages = Math.ceil(bytes / IO_PAGE);
    const first = this.find(pages);
    if (first < 0)
      throw new Error(`no ${bytes} bytes left of the ${SIZE} for a vhost-user back end: fewer queues (vq_count)`);
    this.used.fill(1, first, first + pages);
    const offset = first * IO_PAGE;
    const length = pages * IO_PAGE;
    const memory = this.mapping.memoryAt(offset, length);
    memory.u8.fill(0);
    memory.ioAddress = USER_BASE + offset;
    return {
      memory,
      share: (): DmaShare => ({
        place: { mapping: this.mapping.share(), offset },
        bytes: length,
        ioAddress: USER_BASE + offset,
        ioPages: null,
      }),
      free: () => this.used.fill(0, first, first + pages),
    };
  }

  private find(pages: number): number {
    for (let first = 0, run = 0, i = 0; i < PAGES; i++) {
      if (this.used[i] !== 0) run = 0;
      else if (++run === 1) first = i;
      if (run === pages) return first;
    }
    return -1;
  }

  close(): void {
    this.mapping.unmap();
    this.fd.close();
  }
}
