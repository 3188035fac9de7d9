import type { Memory } from '../memory/memory.ts';
import { adopt, type Mapping, type MappingShare } from '../sys/mapping.ts';
import type { AccessMode } from './access-mode.ts';
import type { Capability, ConfigAccess } from './config-space.ts';
import type { ControlLoop } from './control-loop.ts';
import type { DmaShare } from './dma.ts';

/** A PCI function that this process drives: what every access mode gives. Drivers know nothing of VFIO or sysfs. */
export interface PciAccess {
  readonly bdf: string;
  readonly mode: AccessMode;
  readonly config: ConfigAccess;
  readonly capabilities: readonly Capability[];
  /** A memory BAR. @throws Error when there is none of this number, or it is an I/O BAR */
  bar(index: number): PciBar;
  /** MSI-X vectors that can be connected to eventfds; 0 where the mode has no interrupts. */
  readonly msixVectors: number;
  /** Connect vector i to eventfd number fds[i] (-1: none). Replaces what was connected. */
  connectMsix(fds: readonly number[]): void;
  /** The function has a pin interrupt that can be connected to an eventfd. */
  readonly hasIntx: boolean;
  /** Connect the pin. It is masked whenever it has fired: call {@link unmaskIntx} after serving it. */
  connectIntx(fd: number): void;
  unmaskIntx(): void;
  disconnectInterrupts(): void;
  /** Let the function read and write memory, or not. */
  setBusMaster(on: boolean): void;
  /** Function reset. @returns false when it has none, or it failed */
  reset(): boolean;
  /** Nothing of the function touches memory after this: bus mastering off, interrupts off, function reset. Never throws. */
  quiet(): void;
  /** The host asks for the function back (hot unplug): be quick, and close. */
  onRemovalRequest(loop: ControlLoop, fn: () => void): void;
  /** Quiet, unmap, give the function back. Harmless when called twice. */
  close(): void;
}

/** A memory BAR. Nothing of it is mapped before it is asked for: a BAR can be 64 GiB. */
export interface PciBar {
  readonly index: number;
  /** Bytes. */
  readonly size: number;
  /** Physical address of its first byte. */
  readonly physical: number;
  /** Map a part: page aligned or not. @throws Error that names the BAR when the part lies outside */
  map(offset: number, bytes: number): BarWindow;
}

/** For another thread of this process. */
export interface BarWindowShare {
  readonly mapping: MappingShare;
  readonly physical: number;
}

/** A mapped part of a BAR. */
export class BarWindow {
  readonly mapping: Mapping;
  /** Physical address of its first byte: where other devices find it. */
  readonly physical: number;

  constructor(mapping: Mapping, physical: number) {
    this.mapping = mapping;
    this.physical = physical;
  }

  static adopt(share: BarWindowShare): BarWindow {
    return new BarWindow(adopt(share.mapping), share.physical);
  }

  get size(): number {
    return this.mapping.size;
  }

  /** @param offset multiple of 8, from the window's beginning */
  memoryAt(offset: number, bytes: number): Memory {
    const memory = this.mapping.memoryAt(offset, bytes);
    memory.ioAddress = this.physical + offset;
    return memory;
  }

  share(): BarWindowShare {
    return { mapping: this.mapping.share(), physical: this.physical };
  }

  /** The window as a piece that adoptDma takes: for registers, whose place other devices never learn. */
  shareRegisters(): DmaShare {
    return { place: { mapping: this.mapping.share(), offset: 0 }, bytes: this.size, ioAddress: -1, ioPages: null };
  }

  unmap(): void {
    this.mapping.unmap();
  }
}

/** @throws Error that names the BAR */
export function checkBarRange(bdf: string, index: number, size: number, offset: number, bytes: number): void {
  if (!(offset >= 0 && bytes > 0 && offset + bytes <= size)) {
    throw new Error(`${bdf}: BAR ${index} has ${size} bytes; ${bytes} bytes at offset ${offset} do not lie in it`);
  }
}
