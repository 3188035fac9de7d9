/** CDBs that the initiator sends (SPC-4, SBC-3), written in place; all numbers big-endian. Bytes beyond the command are zeroed. */

export const ScsiOpcode = {
  TEST_UNIT_READY: 0x00,
  INQUIRY: 0x12,
  MODE_SENSE_6: 0x1a,
  READ_CAPACITY_10: 0x25,
  SYNCHRONIZE_CACHE_10: 0x35,
  UNMAP: 0x42,
  READ_16: 0x88,
  WRITE_16: 0x8a,
  WRITE_SAME_16: 0x93,
  SERVICE_ACTION_IN_16: 0x9e,
  REPORT_LUNS: 0xa0,
} as const;

/** CDB bytes in a request (cdb_size). */
export const CDB_BYTES = 32;
/** SERVICE ACTION IN(16): READ CAPACITY(16). */
const READ_CAPACITY_16 = 0x10;
const FUA = 0x08;

function begin(cdb: Uint8Array, at: number, opcode: number): void {
  cdb.fill(0, at, at + CDB_BYTES);
  cdb[at] = opcode;
}

export function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value & 0xff;
}

export function put32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = (value >>> 16) & 0xff;
  bytes[at + 2] = (value >>> 8) & 0xff;
  bytes[at + 3] = value & 0xff;
}

/** @param value exact below 2^53 */
export function put64(bytes: Uint8Array, at: number, value: number): void {
  const hi = Math.floor(value / 4294967296);
  put32(bytes, at, hi);
  put32(bytes, at + 4, value - hi * 4294967296);
}

export function get32(bytes: Uint8Array, at: number): number {
  return (bytes[at] * 2 ** 24 + (bytes[at + 1] << 16) + (bytes[at + 2] << 8) + bytes[at + 3]) >>> 0;
}

/** Infinity above 2^53. */
export function get64(bytes: Uint8Array, at: number): number {
  const value = get32(bytes, at) * 2 ** 32 + get32(bytes, at + 4);
  return value <= Number.MAX_SAFE_INTEGER ? value : Number.POSITIVE_INFINITY;
}

/** READ(16) or WRITE(16): every disk of at least SBC-3 has them, and one form is enough. */
export function readWrite16(
  cdb: Uint8Array,
  at: number,
  write: boolean,
  lba: number,
  blocks: number,
  fua: boolean,
): void {
  begin(cdb, at, write ? ScsiOpcode.WRITE_16 : ScsiOpcode.READ_16);
  if (fua) cdb[at + 1] = FUA;
  put64(cdb, at + 2, lba);
  put32(cdb, at + 10, blocks);
}

/** All of the cache. */
export function synchronizeCache10(cdb: Uint8Array, at: number): void {
  begin(cdb, at, ScsiOpcode.SYNCHRONIZE_CACHE_10);
}

/** One block of data, over so many blocks. */
export function writeSame16(cdb: Uint8Array, at: number, lba: number, blocks: number): void {
  begin(cdb, at, ScsiOpcode.WRITE_SAME_16);
  put64(cdb, at + 2, lba);
  put32(cdb, at + 10, blocks);
}

/** Bytes of an UNMAP parameter list with one descriptor. */
export const UNMAP_LIST_BYTES = 24;

export function unmap(cdb: Uint8Array, at: number): void {
  begin(cdb, at, ScsiOpcode.UNMAP);
  put16(cdb, at + 7, UNMAP_LIST_BYTES);
}

/** The parameter list that goes with it (SBC-3 5.28.2). */
export function unmapList(bytes: Uint8Array, at: number, lba: number, blocks: number): void {
  bytes.fill(0, at, at + UNMAP_LIST_BYTES);
  put16(bytes, at, UNMAP_LIST_BYTES - 2);
  put16(bytes, at + 2, 16);
  put64(bytes, at + 8, lba);
  put32(bytes, at + 16, blocks);
}

/** @param page VPD page, or -1 for the standard data */
export function inquiry(cdb: Uint8Array, at: number, page: number, length: number): void {
  begin(cdb, at, ScsiOpcode.INQUIRY);
  if (page >= 0) {
    cdb[at + 1] = 1;
    cdb[at + 2] = page;
  }
  put16(cdb, at + 3, length);
}

export function reportLuns(cdb: Uint8Array, at: number, length: number): void {
  begin(cdb, at, ScsiOpcode.REPORT_LUNS);
  put32(cdb, at + 6, length);
}

export function readCapacity16(cdb: Uint8Array, at: number, length: number): void {
  begin(cdb, at, ScsiOpcode.SERVICE_ACTION_IN_16);
  cdb[at + 1] = READ_CAPACITY_16;
  put32(cdb, at + 10, length);
}

export function readCapacity10(cdb: Uint8Array, at: number): void {
  begin(cdb, at, ScsiOpcode.READ_CAPACITY_10);
}

export function testUnitReady(cdb: Uint8Array, at: number): void {
  begin(cdb, at, ScsiOpcode.TEST_UNIT_READY);
}

export function modeSense6(cdb: Uint8Array, at: number, page: number, length: number): void {
  begin(cdb, at, ScsiOpcode.MODE_SENSE_6);
  cdb[at + 1] = 0x08; // DBD: no block descriptors
  cdb[at + 2] = page;
  cdb[at + 4] = length;
}
