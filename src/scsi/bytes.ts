/**
 * Big-endian fields of CDBs and parameter lists, from private copies.
 */

export function be16(b: Uint8Array, at: number): number {
  return (b[at] << 8) | b[at + 1];
}

export function be24(b: Uint8Array, at: number): number {
  return (b[at] << 16) | (b[at + 1] << 8) | b[at + 2];
}

export function be32(b: Uint8Array, at: number): number {
  return ((b[at] << 24) | (b[at + 1] << 16) | (b[at + 2] << 8) | b[at + 3]) >>> 0;
}

/**
 * A 64-bit field as a Number. From 2^53 on it is not exact, and need not be: it is only compared with capacities,
 * which are below 2^53, so such an LBA is out of range whatever its low bits say.
 */
export function be64(b: Uint8Array, at: number): number {
  return be32(b, at) * 0x1_0000_0000 + be32(b, at + 4);
}

export function putBe16(b: Uint8Array, at: number, value: number): void {
  b[at] = value >>> 8;
  b[at + 1] = value;
}

export function putBe32(b: Uint8Array, at: number, value: number): void {
  b[at] = value >>> 24;
  b[at + 1] = value >>> 16;
  b[at + 2] = value >>> 8;
  b[at + 3] = value;
}

/** @param value exact integer below 2^53 */
export function putBe64(b: Uint8Array, at: number, value: number): void {
  putBe32(b, at, Math.floor(value / 0x1_0000_0000));
  putBe32(b, at + 4, value >>> 0);
}
