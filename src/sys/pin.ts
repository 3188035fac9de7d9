/**
 * Pinned memory: pages that stay where they are until `release`, for devices that reach them by physical address without an IOMMU.
 * (mlock keeps pages in RAM, but the kernel may still move them about.) What pins them is an io_uring that has them as registered
 * buffers and is never used otherwise.
 */
import type { Memory } from '../memory/memory.ts';
import { ERRNO, SysError } from './errno.ts';
import { Fd } from './fd.ts';
import * as libc from './libc.ts';

/** IORING_REGISTER_BUFFERS */
const REGISTER_BUFFERS = 0;
/** Largest registered buffer, bytes. */
const MAX_BUFFER = 0x4000_0000;
/** struct io_uring_params */
const PARAMS_BYTES = 120;

export interface Pin {
  /** The pages may move again. Harmless when called twice. */
  release(): void;
}

/**
 * Pin all pages of the memory (which are allocated by it where they are not there yet).
 * @throws SysError: ENOMEM when the memlock limit is too low, ENOSYS or EPERM where io_uring is off, EFAULT or EOPNOTSUPP for memory that can't be pinned
 */
export function pinMemory(memory: Memory): Pin {
  if (memory.address === 0) throw new RangeError('pinMemory: the memory has no address');
  const number = libc.io_uring_setup(1, new Uint8Array(PARAMS_BYTES));
  if (number < 0) {
    throw new SysError(
      'io_uring_setup',
      libc.errno(),
      'for pinning memory (sysctl kernel.io_uring_disabled=0 allows it)',
    );
  }
  const fd = Fd.take(number);
  const count = Math.ceil(memory.length / MAX_BUFFER);
  // struct iovec {void *base; size_t length}
  const vector = new BigUint64Array(2 * count);
  for (let i = 0; i < count; i++) {
    vector[2 * i] = BigInt(memory.address + i * MAX_BUFFER);
    vector[2 * i + 1] = BigInt(Math.min(MAX_BUFFER, memory.length - i * MAX_BUFFER));
  }
  if (libc.io_uring_register(fd.number, REGISTER_BUFFERS, new Uint8Array(vector.buffer), count) < 0) {
    const error = libc.errno();
    fd.close();
    const hint = error === ERRNO.ENOMEM ? ' (raise the memlock limit: ulimit -l, or LimitMEMLOCK= in the unit)' : '';
    throw new SysError('io_uring_register', error, `pinning ${memory.length} bytes${hint}`);
  }
  return { release: () => fd.close() };
}
