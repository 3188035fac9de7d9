import { BdevStatus } from '../bdev/bdev.ts';
import { putBe16, putBe32, putBe64 } from './bytes.ts';

/**
 * Sense data: every triple the emulation can answer has a name here, and one function writes the bytes.
 */

/** SPC-4 4.5.6. */
export const SenseKey = {
  NO_SENSE: 0x0,
  NOT_READY: 0x2,
  MEDIUM_ERROR: 0x3,
  HARDWARE_ERROR: 0x4,
  ILLEGAL_REQUEST: 0x5,
  UNIT_ATTENTION: 0x6,
  DATA_PROTECT: 0x7,
  ABORTED_COMMAND: 0xb,
  MISCOMPARE: 0xe,
} as const;

export interface SenseCode {
  readonly key: number;
  readonly asc: number;
  readonly ascq: number;
}

function code(key: number, asc: number, ascq: number): SenseCode {
  return { key, asc, ascq };
}

const { NOT_READY, MEDIUM_ERROR, HARDWARE_ERROR, ILLEGAL_REQUEST, UNIT_ATTENTION, DATA_PROTECT } = SenseKey;

/** Names as in SPC-4 annex F.2. */
export const Sense = {
  NO_SENSE: code(SenseKey.NO_SENSE, 0x00, 0x00),
  LOGICAL_UNIT_NOT_READY: code(NOT_READY, 0x04, 0x00),
  WRITE_ERROR: code(MEDIUM_ERROR, 0x0c, 0x00),
  UNRECOVERED_READ_ERROR: code(MEDIUM_ERROR, 0x11, 0x00),
  INTERNAL_TARGET_FAILURE: code(HARDWARE_ERROR, 0x44, 0x00),
  PARAMETER_LIST_LENGTH_ERROR: code(ILLEGAL_REQUEST, 0x1a, 0x00),
  INVALID_COMMAND_OPERATION_CODE: code(ILLEGAL_REQUEST, 0x20, 0x00),
  LBA_OUT_OF_RANGE: code(ILLEGAL_REQUEST, 0x21, 0x00),
  INVALID_FIELD_IN_CDB: code(ILLEGAL_REQUEST, 0x24, 0x00),
  LOGICAL_UNIT_NOT_SUPPORTED: code(ILLEGAL_REQUEST, 0x25, 0x00),
  INVALID_FIELD_IN_PARAMETER_LIST: code(ILLEGAL_REQUEST, 0x26, 0x00),
  INVALID_RELEASE_OF_PERSISTENT_RESERVATION: code(ILLEGAL_REQUEST, 0x26, 0x04),
  SAVING_PARAMETERS_NOT_SUPPORTED: code(ILLEGAL_REQUEST, 0x39, 0x00),
  INSUFFICIENT_RESOURCES: code(ILLEGAL_REQUEST, 0x55, 0x03),
  INSUFFICIENT_REGISTRATION_RESOURCES: code(ILLEGAL_REQUEST, 0x55, 0x04),
  POWER_ON_OR_RESET: code(UNIT_ATTENTION, 0x29, 0x00),
  BUS_DEVICE_RESET_FUNCTION_OCCURRED: code(UNIT_ATTENTION, 0x29, 0x03),
  I_T_NEXUS_LOSS_OCCURRED: code(UNIT_ATTENTION, 0x29, 0x07),
  MODE_PARAMETERS_CHANGED: code(UNIT_ATTENTION, 0x2a, 0x01),
  RESERVATIONS_PREEMPTED: code(UNIT_ATTENTION, 0x2a, 0x03),
  RESERVATIONS_RELEASED: code(UNIT_ATTENTION, 0x2a, 0x04),
  REGISTRATIONS_PREEMPTED: code(UNIT_ATTENTION, 0x2a, 0x05),
  CAPACITY_DATA_HAS_CHANGED: code(UNIT_ATTENTION, 0x2a, 0x09),
  COMMANDS_CLEARED_BY_ANOTHER_INITIATOR: code(UNIT_ATTENTION, 0x2f, 0x00),
  INQUIRY_DATA_HAS_CHANGED: code(UNIT_ATTENTION, 0x3f, 0x03),
  REPORTED_LUNS_DATA_HAS_CHANGED: code(UNIT_ATTENTION, 0x3f, 0x0e),
  WRITE_PROTECTED: code(DATA_PROTECT, 0x27, 0x00),
  SOFTWARE_WRITE_PROTECTED: code(DATA_PROTECT, 0x27, 0x02),
  SPACE_ALLOCATION_FAILED: code(DATA_PROTECT, 0x27, 0x07),
  ABORTED_COMMAND: code(SenseKey.ABORTED_COMMAND, 0x00, 0x00),
  MISCOMPARE_DURING_VERIFY: code(SenseKey.MISCOMPARE, 0x1d, 0x00),
} as const;

/** "No value" for the optional parts of sense data. */
export const NONE = -1;

/**
 * SENSE KEY SPECIFIC of an ILLEGAL REQUEST: which byte was refused (SPC-4 4.5.2.4.2).
 * @param inCdb the CDB, else the parameter list
 * @param bit most significant bit of the field, or NONE
 */
export function fieldPointer(inCdb: boolean, byte: number, bit: number = NONE): number {
  const flags = 0x80 | (inCdb ? 0x40 : 0) | (bit >= 0 ? 0x08 | bit : 0);
  return flags * 0x1_0000 + (byte & 0xffff);
}

/**
 * Write sense data for a current error.
 * @param descriptor descriptor format (D_SENSE of the Control mode page), else fixed
 * @param information INFORMATION field: exact integer, or NONE. Left out of fixed format when over 32 bits.
 * @param specific three bytes of sense key specific as {@link fieldPointer} makes them, or NONE
 * @returns bytes written: 18 (fixed), 8 to 28 (descriptor)
 */
export function writeSense(
  out: Uint8Array,
  sense: SenseCode,
  descriptor: boolean,
  information: number = NONE,
  specific: number = NONE,
): number {
  if (descriptor) {
    let length = 8;
    out.fill(0, 0, 28);
    out[0] = 0x72;
    out[1] = sense.key;
    out[2] = sense.asc;
    out[3] = sense.ascq;
    if (information >= 0) {
      out[length + 1] = 0x0a; // descriptor 00h information, 10 bytes follow
      out[length + 2] = 0x80; // VALID
      putBe64(out, length + 4, information);
      length += 12;
    }
    if (specific >= 0) {
      out[length] = 0x02; // descriptor 02h sense key specific, 6 bytes follow
      out[length + 1] = 0x06;
      out[length + 4] = specific >>> 16;
      putBe16(out, length + 5, specific & 0xffff);
      length += 8;
    }
    out[7] = length - 8;
    return length;
  }
  out.fill(0, 0, 18);
  out[0] = 0x70;
  if (information >= 0 && information <= 0xffff_ffff) {
    out[0] = 0xf0; // VALID
    putBe32(out, 3, information);
  }
  out[2] = sense.key;
  out[7] = 10; // additional sense length
  out[12] = sense.asc;
  out[13] = sense.ascq;
  if (specific >= 0) {
    out[15] = specific >>> 16;
    putBe16(out, 16, specific & 0xffff);
  }
  return 18;
}

/**
 * What a disk's failure is to the guest. RESERVATION_CONFLICT has no sense (it is a status of its own), and OK is
 * not a failure; neither belongs here.
 */
export function senseOfBdevStatus(status: BdevStatus): SenseCode {
  switch (status) {
    case BdevStatus.IO_ERROR:
      return Sense.INTERNAL_TARGET_FAILURE;
    case BdevStatus.NOT_SUPPORTED:
      return Sense.INVALID_COMMAND_OPERATION_CODE;
    case BdevStatus.MISCOMPARE:
      return Sense.MISCOMPARE_DURING_VERIFY;
    case BdevStatus.NO_SPACE:
      return Sense.SPACE_ALLOCATION_FAILED;
    case BdevStatus.REMOVED:
      return Sense.LOGICAL_UNIT_NOT_SUPPORTED;
    case BdevStatus.OUT_OF_RANGE:
      return Sense.LBA_OUT_OF_RANGE;
    case BdevStatus.WRITE_PROTECTED:
      return Sense.WRITE_PROTECTED;
    case BdevStatus.READ_ERROR:
      return Sense.UNRECOVERED_READ_ERROR;
    case BdevStatus.WRITE_ERROR:
      return Sense.WRITE_ERROR;
    case BdevStatus.NOT_READY:
      return Sense.LOGICAL_UNIT_NOT_READY;
    default:
      return Sense.ABORTED_COMMAND; // ABORTED: the initiator may send it again
  }
}
