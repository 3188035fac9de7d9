/**
 * Unix stream sockets that carry file descriptors. Everything is non-blocking and close-on-exec; received descriptors
 * are either returned, owned, or closed here: none is ever lost.
 */
import { chmodSync, lstatSync, unlinkSync } from 'node:fs';
import { AF_UNIX, MSG, O, SCM_MAX_FD, SCM_RIGHTS, SOCK, SOL_SOCKET } from './constants.ts';
import { check, ERRNO, SysError, sysError } from './errno.ts';
import { closeAll, Fd, open } from './fd.ts';
import * as libc from './libc.ts';
import { unixAddress } from './socket-address.ts';

const STREAM = SOCK.STREAM | SOCK.CLOEXEC | SOCK.NONBLOCK;

/** A listening socket and its file. */
export interface Listener {
  readonly fd: Fd;
  readonly path: string;
  /** Close, and remove the socket file when it is still this one. */
  close(): void;
}

/**
 * Whether a process holds the socket file at `path`. Asked with a datagram socket: a stream listener answers with
 * EPROTOTYPE and never notices, where a real connection would end up in its queue.
 */
function isAlive(path: string): boolean {
  const fd = Fd.take(check(libc.socket(AF_UNIX, SOCK.DGRAM | SOCK.CLOEXEC, 0), 'socket'));
  try {
    const address = unixAddress(path);
    if (libc.connect(fd.number, address, address.length) === 0) return true;
    const error = libc.errno();
    if (error === ERRNO.EPROTOTYPE || error === ERRNO.EPERM) return true;
    if (error === ERRNO.ECONNREFUSED || error === ERRNO.ENOENT) return false;
    throw new SysError('connect', error, `${path} (to see whether its owner lives)`);
  } finally {
    fd.close();
  }
}

/** Make way for a new socket at `path`: remove what a dead process left, refuse everything else. */
function removeStale(path: string): void {
  let stat: ReturnType<typeof lstatSync>;
  try {
    stat = lstatSync(path);
  } catch {
    return; // gone already
  }
  if (!stat.isSocket()) {
    throw Object.assign(new Error(`${path} exists and is not a socket; remove it`), { code: 'EEXIST' });
  }
  if (isAlive(path)) throw new SysError('bind', ERRNO.EADDRINUSE, `${path} (another process has this socket)`);
  unlinkSync(path);
}

/**
 * Listen at `path`. A socket file that a dead process left is replaced.
 * @param mode permission bits of the socket file, whatever the umask is
 * @throws SysError EADDRINUSE when another process has it; Error with `code` EEXIST or EINVAL when the path is something else or too long
 */
export function listenUnix(path: string, mode = 0o600): Listener {
  const address = unixAddress(path);
  const fd = Fd.take(check(libc.socket(AF_UNIX, STREAM, 0), 'socket'));
  try {
    // The socket's own mode, less the umask, becomes the file's: it is never wider than asked for, not for a moment.
    check(libc.fchmod(fd.number, mode), 'fchmod', path);
    if (libc.bindSocket(fd.number, address, address.length) !== 0) {
      const error = libc.errno();
      if (error !== ERRNO.EADDRINUSE) throw new SysError('bind', error, path);
      removeStale(path);
      check(libc.bindSocket(fd.number, address, address.length), 'bind', path);
    }
    const { ino, dev } = lstatSync(path);
    const remove = () => {
      try {
        const now = lstatSync(path);
        if (now.ino === ino && now.dev === dev) unlinkSync(path);
      } catch {
        // removed by somebody else
      }
    };
    try {
      chmodSync(path, mode); // what the umask took
      check(libc.listen(fd.number, 128), 'listen', path);
    } catch (error) {
      remove();
      throw error;
    }
    reserves.set(fd, open('/dev/null', O.RDONLY));
    return {
      fd,
      path,
      close: () => {
        if (fd.closed) return;
        remove();
        reserves.get(fd)?.close();
        reserves.delete(fd);
        fd.close();
      },
    };
  } catch (error) {
    fd.close();
    throw error;
  }
}

/** By listening socket: a descriptor kept back, to turn a caller away with when all others are used up. */
const reserves = new Map<Fd, Fd>();

/**
 * The next caller, or undefined when nobody waits.
 * @throws SysError; with EMFILE or ENFILE that caller has been hung up on, so that its connection does not stay
 * readable for ever
 */
export function accept(listener: Fd): Fd | undefined {
  for (;;) {
    const fd = libc.accept4(listener.number, null, null, SOCK.CLOEXEC | SOCK.NONBLOCK);
    if (fd >= 0) return Fd.take(fd);
    const error = libc.errno();
    if (error === ERRNO.EAGAIN) return undefined;
    if (error === ERRNO.EMFILE || error === ERRNO.ENFILE) {
      if (!turnAway(listener)) return undefined;
      throw new SysError('accept', error, '(a connection was refused; raise the open files limit: ulimit -n)');
    }
    if (error !== ERRNO.EINTR && error !== ERRNO.ECONNABORTED) throw new SysError('accept', error);
  }
}

/** @returns false when there was nobody: the kernel looks for a descriptor before it looks for a caller */
function turnAway(listener: Fd): boolean {
  reserves.get(listener)?.close();
  const fd = libc.accept4(listener.number, null, null, SOCK.CLOEXEC | SOCK.NONBLOCK);
  const nobody = fd < 0 && libc.errno() === ERRNO.EAGAIN;
  if (fd >= 0) libc.close(fd);
  try {
    reserves.set(listener, open('/dev/null', O.RDONLY));
  } catch {
    // Another thread was faster. The closed one stays: the next time tries it again.
  }
  return !nobody;
}

/** Connect to a listening socket; at once or not at all (the backlog is full: EAGAIN). */
export function connectUnix(path: string): Fd {
  const address = unixAddress(path);
  const fd = Fd.take(check(libc.socket(AF_UNIX, STREAM, 0), 'socket'));
  if (libc.connect(fd.number, address, address.length) === 0) return fd;
  const error = sysError('connect', path);
  fd.close();
  throw error;
}

/** Two sockets connected to each other. */
export function socketPair(): [Fd, Fd] {
  const pair = new Int32Array(2);
  check(libc.socketpair(AF_UNIX, STREAM, 0, pair), 'socketpair');
  return [Fd.take(pair[0]), Fd.take(pair[1])];
}

// struct msghdr (56 bytes, recvmsg(2)) over one struct iovec and a control buffer: made once, reused by every call of
// this thread.
const MSGHDR = { iov: 16, iovlen: 24, control: 32, controllen: 40, flags: 48, size: 56 } as const;
/** struct cmsghdr: u64 length with this header, i32 level, i32 type; then the data, padded to 8. */
const CMSG = { level: 8, type: 12, data: 16 } as const;

const control = new Uint8Array(CMSG.data + SCM_MAX_FD * 4 + 4);
const controlView = new DataView(control.buffer);
const iovec = new BigUint64Array(2);
const header = new Uint8Array(MSGHDR.size);
const headerView = new DataView(header.buffer);
headerView.setBigUint64(MSGHDR.iov, BigInt(libc.addressOf(iovec)), true);
headerView.setBigUint64(MSGHDR.iovlen, 1n, true);
/** An empty buffer has no address; the kernel gets this one and a length of 0. */
const nothing = new Uint8Array(8);

function prepare(data: Uint8Array, controlBytes: number): void {
  iovec[0] = BigInt(libc.addressOf(data.length === 0 ? nothing : data));
  iovec[1] = BigInt(data.length);
  headerView.setBigUint64(MSGHDR.control, controlBytes === 0 ? 0n : BigInt(libc.addressOf(control)), true);
  headerView.setBigUint64(MSGHDR.controllen, BigInt(controlBytes), true);
  headerView.setInt32(MSGHDR.flags, 0, true);
}

export interface Received {
  /** Bytes read into the buffer; 0 when the peer has hung up; -1 when there is nothing yet. */
  readonly bytes: number;
  /** Owned by the caller from now on. Empty when truncated. */
  readonly fds: Fd[];
  /** More descriptors came than were allowed for, or than this process may open: all of them have been closed. */
  readonly truncated: boolean;
}

/**
 * Receive bytes and the descriptors that came with them. A read never runs past the end of a message that carried
 * descriptors into the next such message.
 * @param maxFds most descriptors that this message may bring
 * @throws SysError for failures other than EAGAIN, EINTR and a peer that is gone
 */
export function recvWithFds(fd: Fd, buffer: Uint8Array, maxFds: number): Received {
  if (buffer.length === 0) throw new RangeError('recvWithFds: an empty buffer looks like the end');
  const most = Math.min(maxFds, SCM_MAX_FD);
  let bytes: number;
  for (;;) {
    // Exact length, not CMSG_SPACE: its padding would let in one more.
    prepare(buffer, most > 0 ? CMSG.data + most * 4 : 0);
    bytes = libc.recvmsg(fd.number, header, MSG.CMSG_CLOEXEC | MSG.DONTWAIT);
    if (bytes >= 0) break;
    const error = libc.errno();
    if (error === ERRNO.EAGAIN) return { bytes: -1, fds: [], truncated: false };
    if (error === ERRNO.ECONNRESET) return { bytes: 0, fds: [], truncated: false };
    if (error !== ERRNO.EINTR) throw new SysError('recvmsg', error);
  }
  const fds = takeFds(Number(headerView.getBigUint64(MSGHDR.controllen, true)));
  const truncated = (headerView.getInt32(MSGHDR.flags, true) & MSG.CTRUNC) !== 0 || fds.length > maxFds;
  if (truncated) {
    closeAll(fds);
    fds.length = 0;
  }
  return { bytes, fds, truncated };
}

/** The descriptors in the control buffer. */
function takeFds(controlBytes: number): Fd[] {
  const fds: Fd[] = [];
  for (let at = 0; at + CMSG.data <= controlBytes; ) {
    const length = Number(controlView.getBigUint64(at, true));
    if (length < CMSG.data || at + length > controlBytes) break;
    const level = controlView.getInt32(at + CMSG.level, true);
    const type = controlView.getInt32(at + CMSG.type, true);
    if (level === SOL_SOCKET && type === SCM_RIGHTS) {
      for (let i = at + CMSG.data; i + 4 <= at + length; i += 4) fds.push(Fd.take(controlView.getInt32(i, true)));
    }
    at += (length + 7) & ~7;
  }
  return fds;
}

/**
 * Send bytes, with descriptors (which stay the caller's) on the first of them.
 * @returns bytes sent, perhaps fewer than given: the descriptors have gone with them; -1 when the socket is full
 * @throws SysError, EPIPE or ECONNRESET when the peer is gone
 */
export function sendWithFds(fd: Fd, bytes: Uint8Array, fds: readonly Fd[] = []): number {
  if (fds.length > SCM_MAX_FD) throw new RangeError(`sendWithFds: ${fds.length} descriptors; at most ${SCM_MAX_FD}`);
  let controlBytes = 0;
  if (fds.length > 0) {
    controlBytes = CMSG.data + fds.length * 4;
    controlView.setBigUint64(0, BigInt(controlBytes), true);
    controlView.setInt32(CMSG.level, SOL_SOCKET, true);
    controlView.setInt32(CMSG.type, SCM_RIGHTS, true);
    fds.forEach((f, i) => {
      controlView.setInt32(CMSG.data + i * 4, f.number, true);
    });
  }
  for (;;) {
    prepare(bytes, controlBytes);
    const sent = libc.sendmsg(fd.number, header, MSG.NOSIGNAL | MSG.DONTWAIT);
    if (sent >= 0) return sent;
    const error = libc.errno();
    if (error === ERRNO.EAGAIN) return -1;
    if (error !== ERRNO.EINTR) throw new SysError('sendmsg', error);
  }
}
