import type { PciAccess } from '../pci/access.ts';
import { ACCESS_MODES, type AccessMode } from '../pci/access-mode.ts';
import { parseBdf } from '../pci/bdf.ts';
import type { PciHost } from '../pci/host.ts';
import { BdevError, type BdevErrorCode, deviceError } from './errors.ts';

/** The PCI function that an operator names for a driver: `traddr`, and `mode` where the fitting one is not wanted. */
export interface PciPlace {
  readonly traddr: string;
  readonly mode?: AccessMode | undefined;
}

/** @param example an address @returns the address in full @throws BdevError for what is no address or mode */
export function checkPciPlace({ traddr, mode }: PciPlace, example: string): string {
  const bdf = parseBdf(traddr);
  if (bdf === undefined) {
    throw new BdevError('EINVAL', `traddr "${traddr}" is no PCI address: expected ${example}`, 'traddr');
  }
  if (mode !== undefined && !ACCESS_MODES.includes(mode)) {
    throw new BdevError('EINVAL', `mode "${mode}": expected one of ${ACCESS_MODES.join(', ')}`, 'mode');
  }
  return bdf;
}

/** A function that was taken, what drives it, and how it is given back. */
export interface TakenFunction<T> {
  readonly driver: T;
  readonly mode: AccessMode;
  release(): void;
}

/**
 * Take a function.
 * @param host null where there is none: in tests
 * @param otherwise what a failure of `drive` is, unless it says so
 * @throws BdevError that says what stands in the way; the function is then as it was
 */
export function takeFunction<T>(
  host: PciHost | null,
  bdf: string,
  mode: AccessMode | undefined,
  otherwise: BdevErrorCode,
  drive: (access: PciAccess, host: PciHost) => T,
): TakenFunction<T> {
  if (host === null) throw new BdevError('ENOTSUP', 'no PCI here');
  let access: PciAccess;
  try {
    access = host.open(bdf, mode);
  } catch (error) {
    throw deviceError(error, 'EBUSY', 'traddr');
  }
  const release = () => host.release(access);
  try {
    return { driver: drive(access, host), mode: access.mode, release };
  } catch (error) {
    release();
    throw deviceError(error, otherwise, 'traddr');
  }
}
