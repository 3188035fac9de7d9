import type { Memory } from '../memory/memory.ts';
import { featureMask, featureNames, hasFeature, VirtioFeature } from './features.ts';
import { MemoryRegisters, type Registers } from './registers.ts';
import { type ConfigReader, VirtioPciCap, type VirtioPciCapability, virtioPciCapabilities } from './virtio-pci-caps.ts';
import {
  CommonConfig,
  type QueueAddresses,
  VIRTIO_MSI_NO_VECTOR,
  VIRTIO_PCI_COMMON_CFG,
  VirtioStatus,
} from './virtio-pci-common.ts';

export { type QueueAddresses, VIRTIO_MSI_NO_VECTOR, VirtioStatus };

/**
 * A modern virtio device behind PCI registers (virtio 1.2 §4.1): reset, features, queues, configuration, notifications. Legacy devices, and
 * the legacy face of transitional ones, are refused with an Error that says what to change.
 *
 * What belongs to PCI itself (BARs, interrupts, bus mastering) comes from outside; all of it works on plain memory too.
 */

/** What this needs of the function. */
export interface VirtioPciFunction {
  /** For messages: the PCI address. */
  readonly name: string;
  /** PCI device id: below 0x1040 it is a transitional or legacy device. */
  readonly deviceId: number;
  readonly subsystemId: number;
  readonly config: ConfigReader;
  readonly capabilities: readonly { readonly id: number; readonly offset: number }[];
  /** Part of a memory BAR. @throws Error when it does not lie in it */
  map(bar: number, offset: number, bytes: number): Memory;
}

/** All bits: a status that no device has, but the place of one that has gone. */
const GONE = 0xff;
/** First modern device id. */
const MODERN_ID = 0x1040;
/** Tries to read a configuration that does not change meanwhile. */
const MAX_GENERATIONS = 16;

/** Where a queue is notified: a 16-bit store of `value` at byte `offset` of the notify window. */
export interface NotifyPlace {
  readonly offset: number;
  readonly value: number;
}

/** The device type (§5): a modern id carries it; a transitional device has it as its subsystem id. */
export function virtioDeviceType(deviceId: number, subsystemId: number): number {
  return deviceId >= MODERN_ID ? deviceId - MODERN_ID : subsystemId;
}

export class VirtioPci {
  readonly name: string;
  readonly type: number;
  /** The window with all notify registers; reactors map it too. */
  readonly notify: { readonly bar: number; readonly offset: number; readonly bytes: number };
  private readonly common: CommonConfig;
  private readonly device: Registers;
  private readonly deviceBytes: number;
  private readonly multiplier: number;

  /** @throws Error for legacy devices and for capabilities that can't be driven */
  constructor(fn: VirtioPciFunction) {
    this.name = fn.name;
    this.type = virtioDeviceType(fn.deviceId, fn.subsystemId);
    const caps = virtioPciCapabilities(fn.config, fn.capabilities);
    const common = this.need(
      caps,
      VirtioPciCap.COMMON,
      'common configuration',
      VIRTIO_PCI_COMMON_CFG.size,
      fn.deviceId,
    );
    const notify = this.need(caps, VirtioPciCap.NOTIFY, 'notification', 2, fn.deviceId);
    const device = caps.find((c) => c.type === VirtioPciCap.DEVICE);
    this.common = new CommonConfig(new MemoryRegisters(fn.map(common.bar, common.offset, VIRTIO_PCI_COMMON_CFG.size)));
    this.deviceBytes = device === undefined ? 0 : Math.min(device.length, 4096);
    this.device = new MemoryRegisters(
      device === undefined || this.deviceBytes === 0
        ? fn.map(common.bar, common.offset, VIRTIO_PCI_COMMON_CFG.size)
        : fn.map(device.bar, device.offset, this.deviceBytes),
    );
    this.notify = { bar: notify.bar, offset: notify.offset, bytes: notify.length };
    this.multiplier = notify.multiplier;
    if (this.multiplier % 2 !== 0)
      throw new Error(`${this.name}: notify multiplier ${this.multiplier} is odd (virtio 1.2 §4.1.4.4)`);
  }

  private need(
    caps: readonly VirtioPciCapability[],
    type: number,
    what: string,
    bytes: number,
    deviceId: number,
  ): VirtioPciCapability {
    const cap = caps.find((c) => c.type === type);
    if (cap === undefined) {
      const legacy = deviceId < MODERN_ID && caps.length === 0;
      throw new Error(
        legacy
          ? `${this.name}: a legacy virtio device (id 0x${deviceId.toString(16)}, no modern interface); in QEMU give it disable-modern=off, or better disable-legacy=on`
          : `${this.name}: no virtio capability for its ${what}`,
      );
    }
    if (cap.length < bytes) {
      throw new Error(`${this.name}: its ${what} structure has ${cap.length} bytes, ${bytes} are needed`);
    }
    return cap;
  }

  // Status

  get status(): number {
    return this.common.status;
  }

  get gone(): boolean {
    return this.status === GONE;
  }

  get needsReset(): boolean {
    const status = this.status;
    return status !== GONE && (status & VirtioStatus.NEEDS_RESET) !== 0;
  }

  /** Begin a reset; the device has done it when {@link isReset}. */
  reset(): void {
    this.common.status = 0;
  }

  get isReset(): boolean {
    return this.status === 0;
  }

  private addStatus(bits: number): void {
    this.common.status = this.status | bits;
  }

  /** We know what it is and can drive it. After a reset. */
  acknowledge(): void {
    this.addStatus(VirtioStatus.ACKNOWLEDGE);
    this.addStatus(VirtioStatus.DRIVER);
  }

  /** Queues are set up: go. */
  start(): void {
    this.addStatus(VirtioStatus.DRIVER_OK);
  }

  fail(): void {
    this.addStatus(VirtioStatus.FAILED);
  }

  // Features

  offered(): bigint {
    return this.common.deviceFeatures();
  }

  /**
   * Take those of the wanted features that are offered; VERSION_1 always, and ACCESS_PLATFORM where it is offered.
   * @throws Error when the device is not modern, or does not agree
   */
  negotiate(wanted: bigint): bigint {
    const offered = this.offered();
    if (!hasFeature(offered, VirtioFeature.VERSION_1)) {
      throw new Error(
        `${this.name}: the device does not offer VERSION_1: its legacy interface is not driven (in QEMU: disable-legacy=on)`,
      );
    }
    const accepted = offered & (wanted | featureMask(VirtioFeature.VERSION_1, VirtioFeature.ACCESS_PLATFORM));
    this.common.acceptFeatures(accepted);
    this.addStatus(VirtioStatus.FEATURES_OK);
    if ((this.status & VirtioStatus.FEATURES_OK) === 0) {
      throw new Error(`${this.name}: the device does not accept the features ${featureNames(accepted).join(', ')}`);
    }
    return accepted;
  }

  // Queues

  get queues(): number {
    return this.common.queues;
  }

  /** Largest size of the queue; 0 when it is not there. */
  queueSize(index: number): number {
    return this.common.queueSize(index);
  }

  /** @returns whether the device took the vector for configuration changes */
  setConfigVector(vector: number): boolean {
    return this.common.setConfigVector(vector);
  }

  /**
   * Set the queue up and enable it.
   * @returns where to notify it
   * @throws Error when the device refuses the vector, or names a notify register outside its window
   */
  enableQueue(index: number, size: number, at: QueueAddresses, vector = VIRTIO_MSI_NO_VECTOR): NotifyPlace {
    const notify = this.common.setUpQueue(index, size, at, vector);
    if (notify < 0) throw new Error(`${this.name}: queue ${index} refuses interrupt vector ${vector}`);
    const offset = notify * this.multiplier;
    if (offset + 2 > this.notify.bytes) {
      throw new Error(
        `${this.name}: queue ${index} is notified at offset ${offset}, the window has ${this.notify.bytes} bytes`,
      );
    }
    this.common.enableQueue();
    return { offset, value: index };
  }

  // Configuration

  /**
   * Bytes of the device's configuration, all of one moment (§4.1.4.3.1).
   * @throws Error when it has fewer, or does not stop changing
   */
  readConfig(offset: number, bytes: number): Uint8Array {
    if (offset + bytes > this.deviceBytes) {
      throw new Error(`${this.name}: its configuration has ${this.deviceBytes} bytes, ${offset + bytes} are needed`);
    }
    const copy = new Uint8Array(bytes);
    for (let attempt = 0; attempt < MAX_GENERATIONS; attempt++) {
      const before = this.common.generation;
      for (let i = 0; i < bytes; ) {
        // Fields are read in their own width; dwords where they fit.
        if ((offset + i) % 4 === 0 && i + 4 <= bytes) {
          const word = this.device.read32(offset + i);
          for (let k = 0; k < 4; k++) copy[i + k] = (word >>> (8 * k)) & 0xff;
          i += 4;
        } else copy[i] = this.device.read8(offset + i++);
      }
      if (this.common.generation === before) return copy;
    }
    throw new Error(`${this.name}: its configuration changes without end`);
  }
}
