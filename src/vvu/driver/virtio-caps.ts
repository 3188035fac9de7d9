import type { Capability, ConfigAccess } from '../../pci/config-space.ts';
import { VirtioPciCap, type VirtioPciCapability, virtioPciCapabilities } from '../../virtio/virtio-pci-caps.ts';

/** The capabilities of a virtio function, with the types that the virtio-vhost-user drafts add. */
export const CapType = {
  ...VirtioPciCap,
  /** Doorbells, by which the driver interrupts the compute VM; with a multiplier, as NOTIFY has. */
  DOORBELL: 6,
  /** Which MSI-X vector tells of a kick. */
  NOTIFICATION: 7,
} as const;

export type VirtioCap = VirtioPciCapability;

/** All of them, in the device's order. */
export function virtioCaps(config: ConfigAccess, list: readonly Capability[]): VirtioCap[] {
  return virtioPciCapabilities(config, list, [CapType.NOTIFY, CapType.DOORBELL]);
}

export function capOf(caps: readonly VirtioCap[], type: number): VirtioCap | undefined {
  return caps.find((c) => c.type === type);
}
