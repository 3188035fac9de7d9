/**
 * Feature bits of every virtio device and the flag words of the split ring, by the spec's names.
 * Device-specific bits (0-23, 50 and up) belong to the device models, vhost's own (26, 30) to src/vhost.
 *
 * Section numbers are those of virtio 1.2. Feature words are BigInt: they live on the control path only.
 */

/** Bit numbers. */
export const VirtioFeature = {
  /** Legacy: interrupt when the ring runs empty even if suppressed (§6.3). We never offer it. */
  NOTIFY_ON_EMPTY: 24,
  /** Legacy: no demands on how a request is cut into descriptors (§6.3). VERSION_1 implies it. */
  ANY_LAYOUT: 27,
  /** Indirect descriptors (§2.7.5.3). */
  INDIRECT_DESC: 28,
  /** used_event and avail_event (§2.7.7, §2.7.10). */
  EVENT_IDX: 29,
  /** Not a legacy device (§6.1). */
  VERSION_1: 32,
  /** Addresses are those of an IOMMU (§6.1). */
  ACCESS_PLATFORM: 33,
  /** Packed ring (§2.8). We have the split ring only. */
  RING_PACKED: 34,
  /** Buffers are used in the order they were made available (§2.7.9). */
  IN_ORDER: 35,
  /** Memory accesses are ordered as for a real device (§6.1). */
  ORDER_PLATFORM: 36,
  /** SR-IOV (§6.1). */
  SR_IOV: 37,
  /** Extra data in notifications (§6.1). */
  NOTIFICATION_DATA: 38,
  /** The driver reads the value to notify with from the device (§6.1). */
  NOTIF_CONFIG_DATA: 39,
  /** One queue can be reset (§2.6.1). */
  RING_RESET: 40,
} as const;
export type VirtioFeature = (typeof VirtioFeature)[keyof typeof VirtioFeature];

/** Descriptor flags (§2.7.5). */
export const VIRTQ_DESC_F_NEXT = 1;
export const VIRTQ_DESC_F_WRITE = 2;
export const VIRTQ_DESC_F_INDIRECT = 4;

/** avail.flags: the driver asks for no interrupt; means nothing with EVENT_IDX (§2.7.6). */
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;
/** used.flags: the device asks for no notification; means nothing with EVENT_IDX (§2.7.8). */
export const VIRTQ_USED_F_NO_NOTIFY = 1;

/** The feature word with the given bits. */
export function featureMask(...bits: readonly number[]): bigint {
  return bits.reduce((word, bit) => word | (1n << BigInt(bit)), 0n);
}

export function hasFeature(features: bigint, bit: number): boolean {
  return ((features >> BigInt(bit)) & 1n) === 1n;
}

/** The two 32-bit words in which registers hold a feature word (§4.1.4.3 device_feature_select). */
export function featureWords(features: bigint): { lo: number; hi: number } {
  return { lo: Number(features & 0xffff_ffffn), hi: Number((features >> 32n) & 0xffff_ffffn) };
}

export function featuresOfWords(lo: number, hi: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}

/** Names for logs and RPC: the common ones, then `own` (a device model's bit numbers), else `bit N`. */
export function featureNames(features: bigint, own: Readonly<Record<string, number>> = {}): string[] {
  const byBit = new Map<number, string>();
  for (const [name, bit] of [...Object.entries(VirtioFeature), ...Object.entries(own)]) byBit.set(bit, name);
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) if (hasFeature(features, bit)) names.push(byBit.get(bit) ?? `bit ${bit}`);
  return names;
}
