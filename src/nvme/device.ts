import type { Memory } from '../memory/memory.ts';
import type { DmaAllocator, DmaShare } from '../pci/dma.ts';

/** What the driver needs of the function it drives: src/pci gives a real one, tests one in plain memory. */
export interface NvmeDevice {
  /** PCI address, for messages. */
  readonly name: string;
  /** BAR 0 from its beginning, as far as the doorbells reach. */
  readonly bar: Memory;
  /** The same for a reactor. */
  shareBar(): DmaShare;
  readonly dma: DmaAllocator;
  /** Interrupt vectors; 0 where the access mode has none. */
  readonly vectors: number;
  /** Connect vector i to the eventfd number `fds[i]`. */
  connectInterrupts(fds: readonly number[]): void;
  /** Let the device read and write memory. */
  enableDma(): void;
  /** The device touches no memory after this: bus mastering off, function reset where there is one. Never throws. */
  quiet(): void;
  /** Called once when the host asks for the device back (hot unplug). */
  onRemovalRequest(fn: () => void): void;
}
