import { bits, DOORBELL_BASE, NVME_REGISTERS, type NvmeRegisters } from './registers.ts';

/** What the CAP register promises, checked against what the driver needs and what the BAR can hold. */

export interface Capabilities {
  /** Entries of an I/O queue, at most. */
  readonly maxEntries: number;
  /** Queues must be physically contiguous. */
  readonly contiguous: boolean;
  /** Milliseconds the controller may take to become ready or to stop. */
  readonly readyMs: number;
  /** Bytes from one doorbell to the next. */
  readonly doorbellStride: number;
  /** Smallest memory page, bytes. */
  readonly minPage: number;
  readonly version: string;
}

/** The memory page the driver works with: that of the machine. Bytes. */
export const NVME_PAGE = 4096;

/** @throws Error that names the device and the promise it can't be driven with */
export function readCapabilities(registers: NvmeRegisters, name: string): Capabilities {
  const cap = registers.words('CAP');
  const field = NVME_REGISTERS.CAP.fields;
  if (registers.gone || (cap.lo === 0xffff_ffff && cap.hi === 0xffff_ffff)) {
    throw new Error(`${name}: registers read all ones: the device has gone, or its memory decoding is off`);
  }
  const minPage = 2 ** (12 + bits(cap, field.MPSMIN));
  if (minPage > NVME_PAGE) {
    throw new Error(
      `${name}: the controller wants memory pages of ${minPage} bytes or more; this driver uses ${NVME_PAGE}`,
    );
  }
  if ((bits(cap, field.CSS) & 1) === 0) {
    throw new Error(
      `${name}: the controller has no NVM command set (CAP.CSS is 0x${bits(cap, field.CSS).toString(16)})`,
    );
  }
  const mqes = bits(cap, field.MQES);
  if (mqes < 1) throw new Error(`${name}: CAP.MQES is ${mqes}: queues of one entry can't work`);
  const stride = 4 * 2 ** bits(cap, field.DSTRD);
  if (DOORBELL_BASE + 4 * stride > registers.bar.length) {
    throw new Error(
      `${name}: a doorbell stride of ${stride} bytes puts the first I/O queue's doorbells outside BAR 0 (${registers.bar.length} bytes)`,
    );
  }
  const version = registers.words('VS');
  const vs = NVME_REGISTERS.VS.fields;
  return {
    maxEntries: mqes + 1,
    contiguous: bits(cap, field.CQR) === 1,
    readyMs: Math.max(1, bits(cap, field.TO)) * 500,
    doorbellStride: stride,
    minPage,
    version: `${bits(version, vs.MJR)}.${bits(version, vs.MNR)}.${bits(version, vs.TER)}`,
  };
}

/** I/O queue pairs whose doorbells lie in the BAR. */
export function queuesInBar(barBytes: number, stride: number): number {
  return Math.floor((barBytes - DOORBELL_BASE) / (2 * stride)) - 1;
}
