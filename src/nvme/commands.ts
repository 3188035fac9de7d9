/**
 * Opcodes and the submission queue entry (NVMe Base 2.0 §3.3.3.1, NVM Command Set 1.0 §3). An entry is 16 little-endian
 * words; builders write all of them, so nothing of an older command survives.
 */

export const AdminOpcode = {
  DELETE_IO_SQ: 0x00,
  CREATE_IO_SQ: 0x01,
  GET_LOG_PAGE: 0x02,
  DELETE_IO_CQ: 0x04,
  CREATE_IO_CQ: 0x05,
  IDENTIFY: 0x06,
  ABORT: 0x08,
  SET_FEATURES: 0x09,
  GET_FEATURES: 0x0a,
  ASYNC_EVENT_REQUEST: 0x0c,
} as const;

export const NvmOpcode = {
  FLUSH: 0x00,
  WRITE: 0x01,
  READ: 0x02,
  COMPARE: 0x05,
  WRITE_ZEROES: 0x08,
  DATASET_MANAGEMENT: 0x09,
} as const;

/** Identify: CNS values (§5.17.1). */
export const IdentifyCns = { NAMESPACE: 0x00, CONTROLLER: 0x01, ACTIVE_NAMESPACES: 0x02, DESCRIPTORS: 0x03 } as const;

/** Features (§5.27.1). */
export const FeatureId = {
  NUMBER_OF_QUEUES: 0x07,
  INTERRUPT_COALESCING: 0x08,
  ASYNC_EVENT_CONFIGURATION: 0x0b,
} as const;

/** Words of an entry. */
export const SQE_WORDS = 16;
export const SQE_BYTES = 64;
export const CQE_WORDS = 4;
export const CQE_BYTES = 16;

/** Word numbers within an entry. */
export const SqeWord = { CDW0: 0, NSID: 1, PRP1: 6, PRP2: 8, CDW10: 10, CDW11: 11, CDW12: 12 } as const;

/** CDW0 bits 15:14, PSDT: the data pointer is an SGL (metadata pointer: a contiguous buffer, unused here). */
export const PSDT_SGL = 1 << 14;

/** CDW12 of READ, WRITE and WRITE ZEROES: force unit access; deallocate (WRITE ZEROES only). */
export const CDW12_FUA = 1 << 30;
export const CDW12_DEAC = 1 << 25;

/** CDW11 of DATASET MANAGEMENT: deallocate. */
export const DSM_ATTRIBUTE_DEALLOCATE = 1 << 2;

/** A 64-bit word pair from an exact Number. */
export function putAddress(words: Uint32Array, at: number, value: number): void {
  const hi = Math.floor(value / 4294967296);
  words[at] = value - hi * 4294967296;
  words[at + 1] = hi;
}
