import type { Memory } from '../../memory/memory.ts';
import type { Capability, ConfigAccess } from '../../pci/config-space.ts';
import type { DmaAllocator } from '../../pci/dma.ts';
import type { Registers } from '../../virtio/registers.ts';

export type { Registers };

/**
 * What the vvu driver needs of its PCI function. pci-device.ts makes it of a real one; tests give a device in this process,
 * whose registers act when they are written.
 */

/** A mapped part of a BAR that is memory. */
export interface MemoryPart {
  readonly size: number;
  /** `ioAddress` of what it gives is the physical address. @param offset multiple of 8, from the part's beginning */
  memoryAt(offset: number, bytes: number): Memory;
  /** Every Memory given out is revoked. */
  unmap(): void;
}

export interface DeviceAccess {
  readonly bdf: string;
  readonly config: ConfigAccess;
  readonly capabilities: readonly Capability[];
  /** Bytes of a memory BAR; 0 when there is none of this number. */
  barSize(bar: number): number;
  /** @throws Error when the range does not lie in the BAR */
  registers(bar: number, offset: number, bytes: number): Registers;
  /** @throws Error when the range does not lie in the BAR */
  memory(bar: number, offset: number, bytes: number): MemoryPart;
  readonly dma: DmaAllocator;
  /** MSI-X vectors that can be connected to eventfds; 0: the driver polls. */
  readonly vectors: number;
  connectInterrupts(fds: readonly number[]): void;
  /** Let the device read and write memory, or not. */
  setBusMaster(on: boolean): void;
  /** Quiet and given back. */
  close(): void;
}
