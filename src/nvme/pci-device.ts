import type { Memory } from '../memory/memory.ts';
import type { BarWindow, PciAccess } from '../pci/access.ts';
import type { ControlLoop } from '../pci/control-loop.ts';
import type { DmaAllocator, DmaShare } from '../pci/dma.ts';
import type { NvmeDevice } from './device.ts';
import { DOORBELL_BASE } from './registers.ts';

/** An NVMe controller that is a PCI function, whatever the access mode. */

/** Registers and doorbells, at any stride we can use, lie in the first MiB of BAR 0. */
const MAPPED = 0x10_0000;

export class PciNvmeDevice implements NvmeDevice {
  readonly name: string;
  readonly bar: Memory;
  readonly dma: DmaAllocator;
  readonly vectors: number;
  private readonly access: PciAccess;
  private readonly loop: ControlLoop;
  private readonly window: BarWindow;

  /** @throws Error when BAR 0 is not there or too small */
  constructor(access: PciAccess, dma: DmaAllocator, loop: ControlLoop) {
    this.name = access.bdf;
    this.access = access;
    this.dma = dma;
    this.loop = loop;
    this.vectors = access.msixVectors;
    const bar = access.bar(0);
    if (bar.size < DOORBELL_BASE + 8) {
      throw new Error(`${access.bdf}: BAR 0 has ${bar.size} bytes: this is no NVMe controller, or it is cut off`);
    }
    this.window = bar.map(0, Math.min(bar.size, MAPPED));
    this.bar = this.window.memoryAt(0, this.window.size);
  }

  shareBar(): DmaShare {
    return this.window.shareRegisters();
  }

  connectInterrupts(fds: readonly number[]): void {
    this.access.connectMsix(fds);
  }

  enableDma(): void {
    this.access.setBusMaster(true);
  }

  quiet(): void {
    this.access.quiet();
  }

  onRemovalRequest(fn: () => void): void {
    this.access.onRemovalRequest(this.loop, fn);
  }
}
