import { ERRNO } from '../sys/errno.ts';
import { BdevOp, BdevStatus } from './bdev.ts';

/** What the kernel's refusal of a request means for the guest. */
export function statusOfErrno(errno: number, op: BdevOp): BdevStatus {
  switch (errno) {
    case ERRNO.ENOSPC:
    case ERRNO.EDQUOT:
    case ERRNO.EFBIG:
      return BdevStatus.NO_SPACE;
    case ERRNO.EROFS:
    case ERRNO.EPERM:
    case ERRNO.EACCES:
      return BdevStatus.WRITE_PROTECTED;
    case ERRNO.ENODEV:
    case ERRNO.ENXIO:
      return BdevStatus.REMOVED;
    case ERRNO.ECANCELED:
      return BdevStatus.ABORTED;
    case ERRNO.EOPNOTSUPP:
    case ERRNO.ENOSYS:
      return BdevStatus.NOT_SUPPORTED;
    case ERRNO.EAGAIN:
    case ERRNO.ENOMEM:
    case ERRNO.EBUSY:
      return BdevStatus.NOT_READY;
    default:
      if (op === BdevOp.READ || op === BdevOp.COMPARE) return BdevStatus.READ_ERROR;
      return op === BdevOp.WRITE || op === BdevOp.WRITE_ZEROES ? BdevStatus.WRITE_ERROR : BdevStatus.IO_ERROR;
  }
}
