/**
 * eventfd(2): kicks, calls and mailbox bells. Always non-blocking; neither `signal` nor `drain` allocates.
 */
import { EFD } from './constants.ts';
import { check, ERRNO } from './errno.ts';
import { describeFd, Fd, setNonBlocking } from './fd.ts';
import * as libc from './libc.ts';
import { callBegins, callEnds } from './stall-guard.ts';

/** Scratch of drain(): the count that was read is of no use. */
const count = new Uint8Array(8);

function create(): Fd {
  return Fd.take(check(libc.eventfd(0, EFD.CLOEXEC | EFD.NONBLOCK), 'eventfd'));
}

export class EventFd {
  readonly fd: Fd;
  /** The peer has made it block, and us wait: it is not used any more. */
  private blocks = false;
  private readonly onBlocked: () => void;

  /** A new one; to use a descriptor that came from elsewhere, see {@link adopt}. */
  constructor(fd = create(), onBlocked: () => void = () => {}) {
    this.fd = fd;
    this.onBlocked = onBlocked;
  }

  /**
   * Own a descriptor that came from elsewhere, also when this throws (it is closed then).
   * @param onBlocked called once, when the peer has held up this thread by it (see stall-guard.ts)
   * @throws Error when it is something else: a peer's pipe or file is not written to
   */
  static adopt(fd: Fd, onBlocked?: () => void): EventFd {
    try {
      const kind = describeFd(fd);
      if (kind !== '' && kind !== 'anon_inode:[eventfd]') throw new Error(`expected an eventfd, got ${kind}`);
      // The flag is the open file's, so a peer can clear it again: that is what the stall guard is for.
      setNonBlocking(fd);
      return new EventFd(fd, onBlocked);
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
    if (this.blocks) return;
    callBegins();
    const result = libc.eventfd_write(this.fd.number, 1);
    callEnds();
    if (result !== 0) this.look();
  }

  /** Take all signals. @returns whether there was one */
  drain(): boolean {
    if (this.blocks) return false;
    callBegins();
    const got = libc.read(this.fd.number, count, 8);
    callEnds();
    if (got < 0) this.look();
    return got === 8;
  }

  /** A call has failed. A non-blocking one is never interrupted, so this one was not. */
  private look(): void {
    if (libc.errno() !== ERRNO.EINTR) return;
    this.blocks = true;
    this.onBlocked();
  }

  close(): void {
    this.fd.close();
  }
}
