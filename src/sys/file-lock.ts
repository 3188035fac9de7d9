/**
 * Open-file-description locks, fcntl(2): the lock belongs to the open file, so all threads and duplicates of the descriptor have
 * it, and it ends with the last of them, however the process ends. QEMU takes the same kind on its images.
 */
import { ERRNO, SysError } from './errno.ts';
import type { Fd } from './fd.ts';
import * as libc from './libc.ts';

const F_OFD_SETLK = 37;
/** l_type */
const F_RDLCK = 0;
const F_WRLCK = 1;

/** How often a lock that somebody holds is tried again. Milliseconds. */
const RETRY_MS = 20;

function sleep(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/**
 * Lock the whole file. A killed program's lock can outlive it for an instant (the kernel closes its rings later), hence the
 * waiting, which blocks this thread.
 * @param exclusive else shared: others may have shared locks too
 * @param waitMs how long to go on trying
 * @returns false when somebody else has it. True also where the file system knows no locks.
 */
export function lockFile(fd: Fd, exclusive: boolean, waitMs: number): boolean {
  // struct flock {i16 type, i16 whence, u32 pad, i64 start, i64 length (0: all), i32 pid (0 for these locks), pad}
  const flock = new Uint8Array(32);
  new Int16Array(flock.buffer)[0] = exclusive ? F_WRLCK : F_RDLCK;
  const end = performance.now() + waitMs;
  for (;;) {
    if (libc.fcntlBytes(fd.number, F_OFD_SETLK, flock) === 0) return true;
    const error = libc.errno();
    if (error === ERRNO.ENOLCK || error === ERRNO.EOPNOTSUPP || error === ERRNO.EINVAL || error === ERRNO.ENOSYS)
      return true;
    if (error !== ERRNO.EAGAIN && error !== ERRNO.EACCES && error !== ERRNO.EINTR)
      throw new SysError('fcntl', error, 'F_OFD_SETLK');
    if (performance.now() >= end) return false;
    sleep(RETRY_MS);
  }
}
