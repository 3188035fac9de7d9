import type { Memory } from '../memory/memory.ts';
import { defineStruct } from '../memory/struct-table.ts';
import { featureNames, featuresOfWords, featureWords, hasFeature, VirtioFeature } from './features.ts';
import { MemoryRegisters, type Registers } from './registers.ts';
import { type ConfigReader, VirtioPciCap, type VirtioPciCapability, virtioPciCapabilities } from './virtio-pci-caps.ts';

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

export const VIRTIO_PCI_COMMON_CFG = defineStruct('virtio_pci_common_cfg', 'virtio 1.2 §4.1.4.3', 56, {
  device_feature_select: [0, 'u32'],
  device_feature: [4, 'u32'],
  driver_feature_select: [8, 'u32'],
  driver_feature: [12, 'u32'],
  config_msix_vector: [16, 'u16'],
  num_queues: [18, 'u16'],
  device_status: [20, 'u8'],
  config_generation: [21, 'u8'],
  queue_select: [22, 'u16'],
  queue_size: [24, 'u16'],
  queue_msix_vector: [26, 'u16'],
  queue_enable: [28, 'u16'],
  queue_notify_off: [30, 'u16'],
  queue_desc: [32, 'u64'],
  queue_driver: [40, 'u64'],
  queue_device: [48, 'u64'],
});

const AT = VIRTIO_PCI_COMMON_CFG.fields;

/** Device status (§2.1). */
export const VirtioStatus = {
  ACKNOWLEDGE: 1,
  DRIVER: 2,
  DRIVER_OK: 4,
  FEATURES_OK: 8,
  NEEDS_RESET: 0x40,
  FAILED: 0x80,
} as const;

/** All bits: a status that no device has, but the place of one that has gone. */
const GONE = 0xff;
export const VIRTIO_MSI_NO_VECTOR = 0xffff;
/** First modern device id. */
const MODERN_ID = 0x1040;
/** Tries to read a configuration that does not change meanwhile. */
const MAX_GENERATIONS = 16;

/** I/O addresses of a queue's parts. */
export interface QueueAddresses {
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
}

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
  private readonly common: Registers;
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
    this.common = new MemoryRegisters(fn.map(common.bar, common.offset, VIRTIO_PCI_COMMON_CFG.size));
    this.deviceBytes = device === undefined ? 0 : Math.min(device.length, 4096);
    this.device = new MemoryRegisters(
      device === undefined || this.deviceBytes === 0
        ? fn.map(common.bar, common.offset, VIRTIO_PCI_COMMON_CFG.size)
        : fn.map(device.bar, device.offset, this.deviceBytes),
    );
    this.notify = { bar: notify.bar, offset: notify.offset, bytes: notify.length };
    this.multiplier = notify.notifyMultiplier;
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
    return this.common.read8(AT.device_status[0]);
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
    this.common.write8(AT.device_status[0], 0);
  }

  get isReset(): boolean {
    return this.status === 0;
  }

  private addStatus(bits: number): void {
    this.common.write8(AT.device_status[0], this.status | bits);
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
    const word = (select: number) => {
      this.common.write32(AT.device_feature_select[0], select);
      return this.common.read32(AT.device_feature[0]);
    };
    return featuresOfWords(word(0), word(1));
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
    const must = (1n << BigInt(VirtioFeature.VERSION_1)) | (1n << BigInt(VirtioFeature.ACCESS_PLATFORM));
    const accepted = offered & (wanted | must);
    const { lo, hi } = featureWords(accepted);
    for (const [select, word] of [lo, hi].entries()) {
      this.common.write32(AT.driver_feature_select[0], select);
      this.common.write32(AT.driver_feature[0], word);
    }
    this.addStatus(VirtioStatus.FEATURES_OK);
    if ((this.status & VirtioStatus.FEATURES_OK) === 0) {
      throw new Error(`${this.name}: the device does not accept the features ${featureNames(accepted).join(', ')}`);
    }
    return accepted;
  }

  // Queues

  get queues(): number {
    return this.common.read16(AT.num_queues[0]);
  }

  /** Largest size of the queue; 0 when it is not there. */
  queueSize(index: number): number {
    this.common.write16(AT.queue_select[0], index);
    return this.common.read16(AT.queue_size[0]);
  }

  /** @returns whether the device took the vector for configuration changes */
  setConfigVector(vector: number): boolean {
    this.common.write16(AT.config_msix_vector[0], vector);
    return this.common.read16(AT.config_msix_vector[0]) === vector;
  }

  /**
   * Set the queue up and enable it.
   * @returns where to notify it
   * @throws Error when the device refuses the vector, or names a notify register outside its window
   */
  enableQueue(index: number, size: number, at: QueueAddresses, vector = VIRTIO_MSI_NO_VECTOR): NotifyPlace {
    const r = this.common;
    r.write16(AT.queue_select[0], index);
    r.write16(AT.queue_size[0], size);
    r.write16(AT.queue_msix_vector[0], vector);
    if (r.read16(AT.queue_msix_vector[0]) !== vector)
      throw new Error(`${this.name}: queue ${index} refuses interrupt vector ${vector}`);
    this.write64(AT.queue_desc[0], at.desc);
    this.write64(AT.queue_driver[0], at.driver);
    this.write64(AT.queue_device[0], at.device);
    const offset = r.read16(AT.queue_notify_off[0]) * this.multiplier;
    if (offset + 2 > this.notify.bytes) {
      throw new Error(
        `${this.name}: queue ${index} is notified at offset ${offset}, the window has ${this.notify.bytes} bytes`,
      );
    }
    r.write16(AT.queue_enable[0], 1);
    return { offset, value: index };
  }

  private write64(at: number, value: number): void {
    this.common.write32(at, value % 0x1_0000_0000);
    this.common.write32(at + 4, Math.floor(value / 0x1_0000_0000));
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
      const before = this.common.read8(AT.config_generation[0]);
      for (let i = 0; i < bytes; ) {
        // Fields are read in their own width; dwords where they fit.
        if ((offset + i) % 4 === 0 && i + 4 <= bytes) {
          const word = this.device.read32(offset + i);
          for (let k = 0; k < 4; k++) copy[i + k] = (word >>> (8 * k)) & 0xff;
          i += 4;
        } else copy[i] = this.device.read8(offset + i++);
      }
      if (this.common.read8(AT.config_generation[0]) === before) return copy;
    }
    throw new Error(`${this.name}: its configuration changes without end`);
  }
}
