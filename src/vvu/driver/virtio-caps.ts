import { type Capability, type ConfigAccess, PciCap } from '../../pci/config-space.ts';

/**
 * The vendor capabilities by which a virtio function says where its structures lie (virtio 1.2 §4.1.4), with the types that
 * the virtio-vhost-user drafts add. What the device says may be a lie: a capability that breaks the format is left out.
 */
export const CapType = {
  COMMON: 1,
  NOTIFY: 2,
  ISR: 3,
  DEVICE: 4,
  PCI_ACCESS: 5,
  /** Drafts: doorbells, by which the driver interrupts the compute VM. */
  DOORBELL: 6,
  /** Drafts: which MSI-X vector tells of a kick. */
  NOTIFICATION: 7,
  /** Shared memory; the drafts' and virtio 1.2's. */
  SHARED_MEMORY: 8,
} as const;

export interface VirtioCap {
  readonly type: number;
  readonly bar: number;
  /** Of shared memory; padding elsewhere. */
  readonly id: number;
  /** Bytes in the BAR. */
  readonly offset: number;
  readonly length: number;
  /** NOTIFY and DOORBELL: bytes from one register to the next. */
  readonly multiplier: number;
}

/** Bytes of the plain form, of the one with a multiplier, and of the one with 64-bit offset and length. */
const PLAIN = 16;
const WITH_MULTIPLIER = 20;
const WIDE = 24;
const HIGH = 0x1_0000_0000;

/** All of them, in the device's order. */
export function virtioCaps(config: ConfigAccess, list: readonly Capability[]): VirtioCap[] {
  const found: VirtioCap[] = [];
  for (const { id, offset: at } of list) {
    if (id !== PciCap.VENDOR) continue;
    const length = config.read(at + 2, 1);
    if (length < PLAIN || at + length > config.size) continue;
    const type = config.read(at + 3, 1);
    const bar = config.read(at + 4, 1);
    if (bar > 5) continue;
    const hasMultiplier = type === CapType.NOTIFY || type === CapType.DOORBELL;
    // Some devices give shared memory in the plain form, others with the high words: the length tells.
    const wide = type === CapType.SHARED_MEMORY && length >= WIDE;
    found.push({
      type,
      bar,
      id: config.read(at + 5, 1),
      offset: config.read(at + 8, 4) + (wide ? config.read(at + 16, 4) * HIGH : 0),
      length: config.read(at + 12, 4) + (wide ? config.read(at + 20, 4) * HIGH : 0),
      multiplier: hasMultiplier && length >= WITH_MULTIPLIER ? config.read(at + 16, 4) : 0,
    });
  }
  return found;
}

export function capOf(caps: readonly VirtioCap[], type: number): VirtioCap | undefined {
  return caps.find((c) => c.type === type);
}
