/**
 * eventfd(2): kicks, calls and mailbox bells. Always non-blocking; neither `signal` nor `drain` allocates.
 */
import { EFD } from './constants.ts';
import { check } from './errno.ts';
import { describeFd, Fd, setNonBlocking } from './fd.ts';
import * as libc from './libc.ts';

/** Scratch of drain(): the count that was read is of no use. */
const count = new Uint8Array(8);

function create(): Fd {
  return Fd.take(check(libc.eventfd(0, EFD.CLOEXEC | EFD.NONBLOCK), 'eventfd'));
}

export class EventFd {
  readonly fd: Fd;

  /** A new one; to use a descriptor that came from elsewhere, see {@link adopt}. */
  constructor(fd = create()) {
    this.fd = fd;
  }

  /**
   * Own a descriptor that came from elsewhere, also when this throws (it is closed then).
   * @throws Error when it is something else: a peer's pipe or file is not written to
   */
  static adopt(fd: Fd): EventFd {
    try {
      const kind = describeFd(fd);
      if (kind !== '' && kind !== 'anon_inode:[eventfd]') throw new Error(`expected an eventfd, got ${kind}`);
      // The flag is the open file's, so a peer could clear it again; it would stop only what it waits for itself.
      setNonBlocking(fd);
      return new EventFd(fd);
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /**
   * Add one. No failure matters: EAGAIN means a full counter, which nobody has seen yet, so no signal is lost; EBADF
   * means closed, so nobody listens.
   */
  signal(): void {
    libc.eventfd_write(this.fd.number, 1);
  }

  /** Take all signals. @returns whether there was one */
  drain(): boolean {
    return libc.read(this.fd.number, count, 8) === 8;
  }

  close(): void {
    this.fd.close();
  }
}
