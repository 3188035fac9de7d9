import type { PciAccess } from '../../pci/access.ts';
import type { AccessMode } from '../../pci/access-mode.ts';
import type { ControlLoop } from '../../pci/control-loop.ts';
import { PciHost } from '../../pci/host.ts';
import { MemoryRegisters, type Registers } from '../../virtio/registers.ts';
import type { DeviceAccess, MemoryPart } from './device-access.ts';

/**
 * A real PCI function for the vvu driver. It belongs to the reactor that runs the controller, with DMA memory of its own: the vvu
 * device reaches memory by physical addresses whatever the machine's IOMMU does for others.
 */

class PciDevice implements DeviceAccess {
  private readonly host: PciHost;
  private readonly pci: PciAccess;

  constructor(host: PciHost, pci: PciAccess) {
    this.host = host;
    this.pci = pci;
  }

  get bdf(): string {
    return this.pci.bdf;
  }

  get config() {
    return this.pci.config;
  }

  get capabilities() {
    return this.pci.capabilities;
  }

  get dma() {
    return this.host.dma;
  }

  get vectors(): number {
    return this.pci.msixVectors;
  }

  barSize(bar: number): number {
    try {
      return this.pci.bar(bar).size;
    } catch {
      return 0; // none of this number, or not memory
    }
  }

  registers(bar: number, offset: number, bytes: number): Registers {
    return new MemoryRegisters(this.pci.bar(bar).map(offset, bytes).memoryAt(0, bytes));
  }

  memory(bar: number, offset: number, bytes: number): MemoryPart {
    return this.pci.bar(bar).map(offset, bytes);
  }

  connectInterrupts(fds: readonly number[]): void {
    this.pci.connectMsix(fds);
  }

  setBusMaster(on: boolean): void {
    this.pci.setBusMaster(on);
  }

  close(): void {
    this.host.release(this.pci);
    this.host.close();
  }
}

/** @throws Error that says what stands in the way, and the next step */
export function openPciDevice(address: string, loop: ControlLoop, mode?: AccessMode): DeviceAccess {
  const host = new PciHost(loop);
  try {
    return new PciDevice(host, host.open(address, mode));
  } catch (error) {
    host.close();
    throw error;
  }
}
