import { defineStruct } from '../memory/struct-table.ts';
import { featuresOfWords, featureWords } from './features.ts';
import type { Registers } from './registers.ts';

/** The common configuration of a modern virtio PCI function (virtio 1.2 §4.1.4.3), register by register. */

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

/** Device status (virtio 1.2 §2.1). */
export const VirtioStatus = {
  ACKNOWLEDGE: 1,
  DRIVER: 2,
  DRIVER_OK: 4,
  FEATURES_OK: 8,
  NEEDS_RESET: 0x40,
  FAILED: 0x80,
} as const;

/** No vector; reading it back means that the device refused one. */
export const VIRTIO_MSI_NO_VECTOR = 0xffff;

/** I/O addresses of a queue's parts. */
export interface QueueAddresses {
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
}

export class CommonConfig {
  private readonly registers: Registers;

  constructor(registers: Registers) {
    this.registers = registers;
  }

  get status(): number {
    return this.registers.read8(AT.device_status[0]);
  }

  set status(value: number) {
    this.registers.write8(AT.device_status[0], value);
  }

  get queues(): number {
    return this.registers.read16(AT.num_queues[0]);
  }

  get generation(): number {
    return this.registers.read8(AT.config_generation[0]);
  }

  deviceFeatures(): bigint {
    const word = (select: number) => {
      this.registers.write32(AT.device_feature_select[0], select);
      return this.registers.read32(AT.device_feature[0]) >>> 0;
    };
    return featuresOfWords(word(0), word(1));
  }

  acceptFeatures(features: bigint): void {
    const { lo, hi } = featureWords(features);
    for (const [select, word] of [lo, hi].entries()) {
      this.registers.write32(AT.driver_feature_select[0], select);
      this.registers.write32(AT.driver_feature[0], word);
    }
  }

  /** @returns whether the device took it */
  setConfigVector(vector: number): boolean {
    this.registers.write16(AT.config_msix_vector[0], vector);
    return this.registers.read16(AT.config_msix_vector[0]) === vector;
  }

  /** Largest size of queue `index`; 0 when there is no such queue. */
  queueSize(index: number): number {
    this.registers.write16(AT.queue_select[0], index);
    return this.registers.read16(AT.queue_size[0]);
  }

  /** Set queue `index` up, but for enabling it. @returns its queue_notify_off, or -1 when the vector was refused */
  setUpQueue(index: number, size: number, at: QueueAddresses, vector: number): number {
    const r = this.registers;
    r.write16(AT.queue_select[0], index);
    r.write16(AT.queue_size[0], size);
    r.write16(AT.queue_msix_vector[0], vector);
    if (vector !== VIRTIO_MSI_NO_VECTOR && r.read16(AT.queue_msix_vector[0]) !== vector) return -1;
    this.write64(AT.queue_desc[0], at.desc);
    this.write64(AT.queue_driver[0], at.driver);
    this.write64(AT.queue_device[0], at.device);
    return r.read16(AT.queue_notify_off[0]);
  }

  /** Enable the queue that was set up last. */
  enableQueue(): void {
    this.registers.write16(AT.queue_enable[0], 1);
  }

  private write64(at: number, value: number): void {
    this.registers.write32(at, value % 0x1_0000_0000);
    this.registers.write32(at + 4, Math.floor(value / 0x1_0000_0000));
  }
}
