import { EventFd } from '../sys/eventfd.ts';
import { pread, pwrite } from '../sys/fd.ts';
import { mapFile } from '../sys/mapping.ts';
import { BarWindow, checkBarRange, type PciAccess, type PciBar } from './access.ts';
import type { AccessMode } from './access-mode.ts';
import {
  type Capability,
  type ConfigAccess,
  capabilities,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  setCommand,
} from './config-space.ts';
import type { ControlLoop } from './control-loop.ts';
import type { PciFunction } from './sysfs.ts';
import type { VfioDevice, VfioRegion } from './vfio-device.ts';
import { VFIO_PCI_CONFIG_REGION, VfioIrqIndex } from './vfio-layout.ts';

/** A function through VFIO, whatever the IOMMU. */

class VfioConfig implements ConfigAccess {
  readonly size: number;
  private readonly device: VfioDevice;
  private readonly offset: number;
  private readonly scratch = new Uint8Array(4);
  private readonly view = new DataView(this.scratch.buffer);

  constructor(device: VfioDevice, region: VfioRegion) {
    this.device = device;
    this.offset = region.offset;
    this.size = region.size;
  }

  read(offset: number, width: 1 | 2 | 4): number {
    const n = pread(this.device.fd, this.scratch.subarray(0, width), this.offset + offset);
    if (n !== width) throw new Error(`configuration space: ${n} of ${width} bytes at 0x${offset.toString(16)}`);
    return width === 1
      ? this.view.getUint8(0)
      : width === 2
        ? this.view.getUint16(0, true)
        : this.view.getUint32(0, true);
  }

  write(offset: number, width: 1 | 2 | 4, value: number): void {
    this.view.setUint32(0, value, true);
    pwrite(this.device.fd, this.scratch.subarray(0, width), this.offset + offset);
  }
}

class VfioBar implements PciBar {
  readonly index: number;
  readonly size: number;
  readonly physical: number;
  private readonly region: VfioRegion;
  private readonly device: VfioDevice;
  private readonly bdf: string;
  private readonly windows: BarWindow[];

  constructor(fn: PciFunction, device: VfioDevice, index: number, windows: BarWindow[]) {
    const resource = fn.resources.find((r) => r.index === index);
    const region = device.region(index);
    if (resource === undefined || resource.io || region === undefined)
      throw new Error(`${fn.bdf}: no memory BAR ${index}`);
    if (!region.mappable) throw new Error(`${fn.bdf}: VFIO does not let BAR ${index} be mapped`);
    this.bdf = fn.bdf;
    this.index = index;
    this.size = region.size;
    this.physical = resource.start;
    this.region = region;
    this.device = device;
    this.windows = windows;
  }

  map(offset: number, bytes: number): BarWindow {
    checkBarRange(this.bdf, this.index, this.size, offset, bytes);
    const { areas } = this.region;
    if (areas.length > 0 && !areas.some((a) => offset >= a.offset && offset + bytes <= a.offset + a.size)) {
      const parts = areas.map((a) => `0x${a.offset.toString(16)}+0x${a.size.toString(16)}`).join(', ');
      throw new Error(`${this.bdf}: of BAR ${this.index} VFIO maps only ${parts}`);
    }
    const mapping = mapFile(this.device.fd, { offset: this.region.offset + offset, size: bytes });
    const window = new BarWindow(mapping, this.physical + offset);
    this.windows.push(window);
    return window;
  }
}

export class VfioAccess implements PciAccess {
  readonly bdf: string;
  readonly mode: AccessMode;
  readonly config: ConfigAccess;
  readonly capabilities: readonly Capability[];
  readonly msixVectors: number;
  readonly hasIntx: boolean;
  private readonly fn: PciFunction;
  private readonly device: VfioDevice;
  private readonly windows: BarWindow[] = [];
  private connected = -1;
  private request: EventFd | null = null;
  private requestWatch: { close(): void } | null = null;
  private closed = false;

  constructor(fn: PciFunction, device: VfioDevice, mode: AccessMode) {
    this.bdf = fn.bdf;
    this.fn = fn;
    this.device = device;
    this.mode = mode;
    const region = device.region(VFIO_PCI_CONFIG_REGION);
    if (region === undefined) throw new Error(`${fn.bdf}: VFIO shows no configuration space`);
    this.config = new VfioConfig(device, region);
    this.capabilities = capabilities(this.config, fn.bdf);
    this.msixVectors = device.irqCount(VfioIrqIndex.MSIX);
    this.hasIntx = device.irqCount(VfioIrqIndex.INTX) > 0;
    setCommand(this.config, PCI_COMMAND_MEMORY, PCI_COMMAND_MASTER);
  }

  bar(index: number): PciBar {
    return new VfioBar(this.fn, this.device, index, this.windows);
  }

  connectMsix(fds: readonly number[]): void {
    if (fds.length > this.msixVectors) {
      throw new Error(`${this.bdf}: ${fds.length} interrupt vectors, it has ${this.msixVectors}`);
    }
    this.disconnectInterrupts();
    if (fds.length === 0) return;
    this.device.setEventFds(VfioIrqIndex.MSIX, fds);
    this.connected = VfioIrqIndex.MSIX;
  }

  connectIntx(fd: number): void {
    this.disconnectInterrupts();
    this.device.setEventFds(VfioIrqIndex.INTX, [fd]);
    this.connected = VfioIrqIndex.INTX;
  }

  unmaskIntx(): void {
    if (this.connected === VfioIrqIndex.INTX) this.device.unmask(VfioIrqIndex.INTX);
  }

  disconnectInterrupts(): void {
    if (this.connected < 0) return;
    this.device.setEventFds(this.connected, []);
    this.connected = -1;
  }

  setBusMaster(on: boolean): void {
    if (on) setCommand(this.config, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    else setCommand(this.config, 0, PCI_COMMAND_MASTER);
  }

  reset(): boolean {
    if (!this.device.reset()) return false;
    setCommand(this.config, PCI_COMMAND_MEMORY);
    return true;
  }

  quiet(): void {
    // Each step by itself: a device that has gone refuses some of them.
    for (const step of [() => this.setBusMaster(false), () => this.reset(), () => this.setBusMaster(false)]) {
      try {
        step();
      } catch {
        // as quiet as can be
      }
    }
  }

  onRemovalRequest(loop: ControlLoop, fn: () => void): void {
    if (this.device.irqCount(VfioIrqIndex.REQ) === 0 || this.request !== null) return;
    const request = new EventFd();
    this.request = request;
    this.requestWatch = loop.watch(request.fd.number, () => {
      // The kernel asks again and again until the function is given back.
      if (request.drain()) fn();
    });
    this.device.setEventFds(VfioIrqIndex.REQ, [request.fd.number]);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.quiet();
    try {
      this.disconnectInterrupts();
      if (this.request !== null) this.device.setEventFds(VfioIrqIndex.REQ, []);
    } catch {
      // the device has gone; so have its interrupts
    }
    this.requestWatch?.close();
    this.request?.close();
    for (const window of this.windows.splice(0)) window.unmap();
    this.device.fd.close();
  }
}
