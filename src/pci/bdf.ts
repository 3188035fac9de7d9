/** PCI addresses: DOMAIN:BUS:DEVICE.FUNCTION, as sysfs names its folders. */

const FULL = /^([0-9a-f]{4,8})[:.]([0-9a-f]{2})[:.]([0-9a-f]{2})\.([0-7])$/i;
const SHORT = /^([0-9a-f]{2})[:.]([0-9a-f]{2})\.([0-7])$/i;

/**
 * The canonical form (`0000:00:05.0`) of what an operator types: the domain may be left out, and the dots that older
 * tools write between the numbers are taken too.
 * @returns undefined when it is no PCI address.
 */
export function parseBdf(text: string): string | undefined {
  const full = FULL.exec(text.trim());
  const parts = full !== null ? full.slice(1) : ['0000', ...(SHORT.exec(text.trim())?.slice(1) ?? [])];
  if (parts.length !== 4) return undefined;
  const [domain, bus, device, fn] = parts as [string, string, string, string];
  if (Number.parseInt(device, 16) > 31) return undefined;
  return `${domain}:${bus}:${device}.${fn}`.toLowerCase();
}

/** {@link parseBdf} for a value that must be an address. @throws Error that shows the expected form. */
export function requireBdf(text: string): string {
  const bdf = parseBdf(text);
  if (bdf === undefined)
    throw new Error(`"${text}" is no PCI address: expected DOMAIN:BUS:DEVICE.FUNCTION, as 0000:00:05.0`);
  return bdf;
}
