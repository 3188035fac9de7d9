import { Ended } from '../pci/reactor-queue.ts';

/**
 * Status of a completion (NVMe Base 2.0 §3.3.3.2.1): code type and code by the specification's names. A status here is
 * `type << 8 | code`, and `RETRY_NOT` tells whether the device asks not to try again (DNR).
 */

/** Code types. */
const GENERIC = 0x000;
const COMMAND = 0x100;
const MEDIA = 0x200;

export const NvmeStatus = {
  SUCCESS: GENERIC | 0x00,
  INVALID_OPCODE: GENERIC | 0x01,
  INVALID_FIELD: GENERIC | 0x02,
  COMMAND_ID_CONFLICT: GENERIC | 0x03,
  DATA_TRANSFER_ERROR: GENERIC | 0x04,
  ABORTED_POWER_LOSS: GENERIC | 0x05,
  INTERNAL_ERROR: GENERIC | 0x06,
  ABORT_REQUESTED: GENERIC | 0x07,
  ABORTED_SQ_DELETION: GENERIC | 0x08,
  ABORTED_FAILED_FUSED: GENERIC | 0x09,
  ABORTED_MISSING_FUSED: GENERIC | 0x0a,
  INVALID_NAMESPACE_OR_FORMAT: GENERIC | 0x0b,
  COMMAND_SEQUENCE_ERROR: GENERIC | 0x0c,
  INVALID_SGL_SEGMENT: GENERIC | 0x0d,
  INVALID_SGL_COUNT: GENERIC | 0x0e,
  SGL_DATA_LENGTH: GENERIC | 0x0f,
  SGL_METADATA_LENGTH: GENERIC | 0x10,
  SGL_TYPE: GENERIC | 0x11,
  INVALID_PRP_OFFSET: GENERIC | 0x13,
  NAMESPACE_WRITE_PROTECTED: GENERIC | 0x20,
  COMMAND_INTERRUPTED: GENERIC | 0x21,
  LBA_OUT_OF_RANGE: GENERIC | 0x80,
  CAPACITY_EXCEEDED: GENERIC | 0x81,
  NAMESPACE_NOT_READY: GENERIC | 0x82,
  RESERVATION_CONFLICT: GENERIC | 0x83,
  FORMAT_IN_PROGRESS: GENERIC | 0x84,
  INVALID_COMPLETION_QUEUE: COMMAND | 0x00,
  INVALID_QUEUE_ID: COMMAND | 0x01,
  INVALID_QUEUE_SIZE: COMMAND | 0x02,
  ABORT_LIMIT_EXCEEDED: COMMAND | 0x03,
  AER_LIMIT_EXCEEDED: COMMAND | 0x05,
  CONFLICTING_ATTRIBUTES: COMMAND | 0x80,
  WRITE_TO_READ_ONLY_RANGE: COMMAND | 0x82,
  WRITE_FAULT: MEDIA | 0x80,
  UNRECOVERED_READ_ERROR: MEDIA | 0x81,
  GUARD_CHECK_ERROR: MEDIA | 0x82,
  COMPARE_FAILURE: MEDIA | 0x85,
  ACCESS_DENIED: MEDIA | 0x86,
  DEALLOCATED_BLOCK: MEDIA | 0x87,
} as const;

const NAMES = new Map<number, string>([
  ...Object.entries(NvmeStatus).map(([name, code]) => [code, name] as const),
  ...Object.entries(Ended).map(([name, code]) => [code, name] as const),
]);

/** `type << 8 | code` from dword 3 of a completion. */
export function statusOf(dw3: number): number {
  return (dw3 >>> 17) & 0x7ff;
}

/** Do Not Retry, bit 31 of dword 3. */
export function doNotRetry(dw3: number): boolean {
  return dw3 >>> 31 === 1;
}

/** `INVALID_FIELD (0/02h)` */
export function statusText(status: number): string {
  const name = NAMES.get(status) ?? 'vendor or reserved status';
  if (status > 0x7ff) return name;
  return `${name} (${status >> 8}/${(status & 0xff).toString(16).padStart(2, '0')}h)`;
}
