import type { Memory } from '../../memory/memory.ts';
import type { BarWindow, PciAccess } from '../../pci/access.ts';
import type { ControlLoop } from '../../pci/control-loop.ts';
import type { DmaAllocator } from '../../pci/dma.ts';
import type { PciFunction } from '../../pci/sysfs.ts';
import { VIRTIO_ID_SCSI, VIRTIO_SCSI_CONFIG } from '../../virtio/scsi-device.ts';
import { type QueueAddresses, VIRTIO_MSI_NO_VECTOR, VirtioPci } from '../../virtio/virtio-pci.ts';
import type { BellShare } from './share.ts';
import type { ScsiTransport } from './transport.ts';

/** A virtio-scsi adapter that is a PCI function. */

/** How long a reset may take. Milliseconds. */
const RESET_MS = 5000;

export class PciScsiTransport implements ScsiTransport {
  readonly name: string;
  readonly kind = 'pci';
  readonly dma: DmaAllocator;
  readonly vectors: number;
  private readonly access: PciAccess;
  private readonly device: VirtioPci;
  private readonly window: BarWindow;
  private readonly loop: ControlLoop;
  private connected = 0;

  /** @throws Error when it is no virtio-scsi device, or one that can't be driven */
  constructor(access: PciAccess, fn: PciFunction, dma: DmaAllocator, loop: ControlLoop) {
    this.name = access.bdf;
    this.access = access;
    this.dma = dma;
    this.loop = loop;
    this.vectors = access.msixVectors;
    const map = (bar: number, offset: number, bytes: number): Memory => {
      // A window begins on a page; its parts on 8 bytes.
      const lead = offset % 4096;
      const window = access.bar(bar).map(offset - lead, lead + bytes);
      return window.memoryAt(lead, bytes);
    };
    this.device = new VirtioPci({
      name: access.bdf,
      deviceId: fn.device,
      subsystemId: fn.subsystemDevice,
      config: access.config,
      capabilities: access.capabilities,
      map,
    });
    if (fn.vendor !== 0x1af4 || this.device.type !== VIRTIO_ID_SCSI) {
      throw new Error(`${access.bdf}: virtio device type ${this.device.type}, not a SCSI adapter (8)`);
    }
    const { bar, offset, bytes } = this.device.notify;
    this.window = access.bar(bar).map(offset, bytes);
  }

  async reset(): Promise<void> {
    this.device.reset();
    for (let waited = 0; !this.device.isReset; waited++) {
      if (this.device.gone) throw new Error(`${this.name}: the device has gone`);
      if (waited > RESET_MS) throw new Error(`${this.name}: its reset did not end in ${RESET_MS} ms`);
      await new Promise<void>((resolve) => {
        this.loop.after(1, resolve);
      });
    }
    this.access.setBusMaster(true);
    this.device.acknowledge();
  }

  async negotiate(wanted: bigint): Promise<bigint> {
    return this.device.negotiate(wanted);
  }

  async readConfig(): Promise<Uint8Array> {
    return this.device.readConfig(0, VIRTIO_SCSI_CONFIG.size);
  }

  async queueCount(): Promise<number> {
    return this.device.queues;
  }

  async queueSize(index: number): Promise<number> {
    return this.device.queueSize(index);
  }

  connect(main: number, queues: readonly number[]): void {
    const fds = [main, ...queues].slice(0, this.vectors);
    this.access.connectMsix(fds);
    this.connected = fds.length;
  }

  async enableQueue(index: number, size: number, at: QueueAddresses, vector: number): Promise<BellShare> {
    const place = this.device.enableQueue(index, size, at, vector < this.connected ? vector : VIRTIO_MSI_NO_VECTOR);
    return { kind: 'register', window: this.window.shareRegisters(), ...place };
  }

  async start(): Promise<void> {
    // Every reset takes the vectors away; those of the queues are set with them.
    if (this.connected > 0 && !this.device.setConfigVector(0)) {
      throw new Error(`${this.name}: refuses interrupt vector 0 for configuration changes`);
    }
    this.device.start();
  }

  health(): 'ok' | 'needs reset' | 'gone' {
    if (this.device.gone) return 'gone';
    return this.device.needsReset ? 'needs reset' : 'ok';
  }

  onLost(loop: ControlLoop, fn: (reason: string) => void): void {
    this.access.onRemovalRequest(loop, () => fn('the host asks for the device back'));
  }

  quiet(): void {
    try {
      this.device.reset();
    } catch {
      // it has gone
    }
    this.access.quiet();
  }

  close(): void {
    this.quiet();
  }
}
