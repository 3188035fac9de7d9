import { accessSync, constants, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { O } from '../sys/constants.ts';
import { type Fd, open, pread, pwrite } from '../sys/fd.ts';
import { lockFile } from '../sys/file-lock.ts';
import { mapFile } from '../sys/mapping.ts';
import { BarWindow, checkBarRange, type PciAccess, type PciBar } from './access.ts';
import {
  type Capability,
  type ConfigAccess,
  capabilities,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  setCommand,
} from './config-space.ts';
import type { PciFunction, SysfsPci } from './sysfs.ts';

/**
 * A function through its files in sysfs: `config`, `resourceN`, `enable`, `reset`. No VFIO, no interrupts, no IOMMU: the driver polls,
 * and nothing but its own care keeps the device off other memory.
 *
 * What stays out of reach in this mode: a function that is unplugged while its BAR is mapped takes its mapping away, and the next
 * access ends the process (SIGBUS). Detach first; VFIO asks before it lets go.
 */

class FileConfig implements ConfigAccess {
  readonly size: number;
  private readonly fd: Fd;
  private readonly scratch = new Uint8Array(4);
  private readonly view = new DataView(this.scratch.buffer);
  private readonly bdf: string;

  constructor(fd: Fd, bdf: string) {
    this.fd = fd;
    this.bdf = bdf;
    // The file always claims 256 or 4096 bytes; who may not see all of it reads fewer.
    const probe = new Uint8Array(4096);
    this.size = Math.max(0, pread(fd, probe, 0));
  }

  read(offset: number, width: 1 | 2 | 4): number {
    const n = pread(this.fd, this.scratch.subarray(0, width), offset);
    if (n !== width) throw new Error(`${this.bdf}: configuration space ends before 0x${offset.toString(16)}`);
    return width === 1
      ? this.view.getUint8(0)
      : width === 2
        ? this.view.getUint16(0, true)
        : this.view.getUint32(0, true);
  }

  write(offset: number, width: 1 | 2 | 4, value: number): void {
    this.view.setUint32(0, value, true);
    pwrite(this.fd, this.scratch.subarray(0, width), offset);
  }
}

class SysfsBar implements PciBar {
  readonly index: number;
  readonly size: number;
  readonly physical: number;
  private readonly path: string;
  private readonly bdf: string;
  private readonly windows: BarWindow[];

  constructor(fn: PciFunction, index: number, windows: BarWindow[]) {
    const resource = fn.resources.find((r) => r.index === index);
    if (resource === undefined || resource.io) throw new Error(`${fn.bdf}: no memory BAR ${index}`);
    this.bdf = fn.bdf;
    this.index = index;
    this.size = resource.size;
    this.physical = resource.start;
    this.path = join(fn.path, `resource${index}`);
    this.windows = windows;
  }

  map(offset: number, bytes: number): BarWindow {
    checkBarRange(this.bdf, this.index, this.size, offset, bytes);
    const fd = open(this.path, O.RDWR);
    try {
      const window = new BarWindow(mapFile(fd, { offset, size: bytes }), this.physical + offset);
      this.windows.push(window);
      return window;
    } finally {
      fd.close();
    }
  }
}

export class SysfsAccess implements PciAccess {
  readonly bdf: string;
  readonly mode = 'sysfs';
  readonly config: ConfigAccess;
  readonly capabilities: readonly Capability[];
  readonly msixVectors = 0;
  readonly hasIntx = false;
  private readonly fn: PciFunction;
  private readonly fd: Fd;
  private readonly windows: BarWindow[] = [];

  /** @throws Error when a driver has the function, another process drives it, or the files can't be opened */
  constructor(sysfs: SysfsPci, bdf: string) {
    this.bdf = bdf;
    this.fn = sysfs.read(bdf);
    const { driver, path } = this.fn;
    if (driver !== null && !IDLE_DRIVERS.has(driver)) {
      throw new Error(
        `${bdf}: the kernel driver ${driver} has the device; "vvu-target setup bind ${bdf}" takes it away`,
      );
    }
    this.fd = open(join(path, 'config'), O.RDWR);
    try {
      if (!lockFile(this.fd, true, 100)) throw new Error(`${bdf}: another process drives this device`);
      writeFileSync(join(path, 'enable'), '1');
      this.config = new FileConfig(this.fd, bdf);
      this.capabilities = capabilities(this.config, bdf);
      // The pin would interrupt a kernel that has no handler for it.
      setCommand(this.config, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE, PCI_COMMAND_MASTER);
    } catch (error) {
      this.fd.close();
      throw error;
    }
  }

  bar(index: number): PciBar {
    return new SysfsBar(this.fn, index, this.windows);
  }

  connectMsix(fds: readonly number[]): void {
    if (fds.length > 0) throw new Error(`${this.bdf}: no interrupts in sysfs mode`);
  }

  connectIntx(): void {
    throw new Error(`${this.bdf}: no interrupts in sysfs mode`);
  }

  unmaskIntx(): void {}

  disconnectInterrupts(): void {}

  setBusMaster(on: boolean): void {
    if (on) setCommand(this.config, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    else setCommand(this.config, 0, PCI_COMMAND_MASTER);
  }

  reset(): boolean {
    const path = join(this.fn.path, 'reset');
    try {
      accessSync(path, constants.W_OK);
      writeFileSync(path, '1');
      // A reset may have cleared the command register.
      setCommand(this.config, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
      return true;
    } catch {
      return false;
    }
  }

  quiet(): void {
    try {
      this.setBusMaster(false);
      this.reset();
      this.setBusMaster(false);
    } catch {
      // It has gone: as quiet as can be.
    }
  }

  onRemovalRequest(): void {}

  close(): void {
    if (this.fd.closed) return;
    this.quiet();
    for (const window of this.windows.splice(0)) window.unmap();
    this.fd.close();
  }
}

/** Drivers that do nothing with the device by themselves. */
const IDLE_DRIVERS = new Set(['vfio-pci', 'uio_pci_generic', 'pci-stub']);
