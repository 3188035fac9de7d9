/**
 * The vendor capabilities in which a modern virtio PCI function says where its structures lie (virtio 1.2 §4.1.4). What the device says
 * may be a lie: a capability that breaks the format is left out, and who needs it says that it is missing.
 */

export const VirtioPciCap = {
  COMMON: 1,
  NOTIFY: 2,
  ISR: 3,
  DEVICE: 4,
  PCI_ACCESS: 5,
  SHARED_MEMORY: 8,
  VENDOR: 9,
} as const;

export interface VirtioPciCapability {
  /** cfg_type */
  readonly type: number;
  readonly bar: number;
  readonly id: number;
  /** Bytes in the BAR. */
  readonly offset: number;
  readonly length: number;
  /** Of types that have one (§4.1.4.4): bytes from one register to the next; else 0. */
  readonly multiplier: number;
}

/** Reading configuration space, as far as this needs it. */
export interface ConfigReader {
  readonly size: number;
  read(offset: number, width: 1 | 2 | 4): number;
}

const PLAIN_BYTES = 16;
const MULTIPLIED_BYTES = 20;
const WIDE_BYTES = 24;
const PCI_VENDOR_CAPABILITY = 0x09;

/**
 * @param list the function's capability list, in the device's order: of several of one type the first counts (§4.1.4)
 * @param multiplied the types that have a multiplier
 */
export function virtioPciCapabilities(
  config: ConfigReader,
  list: readonly { readonly id: number; readonly offset: number }[],
  multiplied: readonly number[] = [VirtioPciCap.NOTIFY],
): VirtioPciCapability[] {
  const found: VirtioPciCapability[] = [];
  for (const { id, offset: at } of list) {
    if (id !== PCI_VENDOR_CAPABILITY || at + PLAIN_BYTES > config.size) continue;
    const length = config.read(at + 2, 1);
    const bar = config.read(at + 4, 1);
    // Values above 5 are reserved: the capability is for a newer driver (§4.1.4.1).
    if (length < PLAIN_BYTES || at + length > config.size || bar > 5) continue;
    const type = config.read(at + 3, 1);
    const wide = type === VirtioPciCap.SHARED_MEMORY && length >= WIDE_BYTES;
    found.push({
      type,
      bar,
      id: config.read(at + 5, 1),
      offset: config.read(at + 8, 4) + (wide ? config.read(at + 16, 4) * 2 ** 32 : 0),
      length: config.read(at + 12, 4) + (wide ? config.read(at + 20, 4) * 2 ** 32 : 0),
      multiplier: multiplied.includes(type) && length >= MULTIPLIED_BYTES ? config.read(at + 16, 4) : 0,
    });
  }
  return found;
}
