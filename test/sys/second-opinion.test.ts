/**
 * Every function of libc.ts against the same function called through another FFI: results, errno, and the
 * structures that go in and out. A binding without a row here fails the last test.
 */
import { statSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { allowedCpus, pinThread } from '../../src/sys/affinity.ts';
import { AF_UNIX, EPOLL, EPOLL_CTL, F, F_SEAL, MAP, MFD, MSG, O, PROT, RLIMIT, SOCK } from '../../src/sys/constants.ts';
import { EPOLL_EVENT, Epoll } from '../../src/sys/epoll.ts';
import { ERRNO } from '../../src/sys/errno.ts';
import { Fd, fstat } from '../../src/sys/fd.ts';
import * as libc from '../../src/sys/libc.ts';
import { getLimit } from '../../src/sys/limits.ts';
import { memfd } from '../../src/sys/mapping.ts';
import { listenUnix, recvWithFds, sendWithFds, socketPair } from '../../src/sys/socket.ts';
import { unixAddress } from '../../src/sys/socket-address.ts';
import { leakedFds, openFds } from '../support/open-fds.ts';
import { secondOpinion } from '../support/second-opinion.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('second opinion');
const dir = tempDir();
const NO_FD = 2 ** 30;
const ESRCH = 3;
const SA_RESTART = 0x1000_0000;
const BAD_ADDRESS = 4096; // never mapped: vm.mmap_min_addr

type Binding = Exclude<keyof typeof libc, 'errno' | 'addressOf' | 'viewOf' | 'pollReadable' | 'functionAddress'>;
const HELPERS = new Set(['errno', 'addressOf', 'viewOf', 'pollReadable', 'functionAddress']);
/** C functions with two prototypes, or another name here. */
const C_NAME: Partial<Record<Binding, string>> = {
  preadAt: 'pread',
  pwriteAt: 'pwrite',
  preadv2At: 'preadv2',
  pwritev2At: 'pwritev2',
  fcntlBytes: 'fcntl',
  ioctlBytes: 'ioctl',
  ioctlNumber: 'ioctl',
  bindSocket: 'bind',
};
const seen = new Set<string>();

function ours(name: Binding, args: readonly unknown[]): { value: number; errno: number } {
  seen.add(name);
  // biome-ignore lint/performance/noDynamicNamespaceImportAccess: the table of all bindings is the point
  const value = (libc[name] as (...args: readonly unknown[]) => number)(...args);
  return { value, errno: value === -1 ? libc.errno() : 0 };
}

function theirs(name: Binding, types: string, args: readonly unknown[]): { value: number; errno: number } {
  const { value, errno } = secondOpinion(C_NAME[name] ?? name, types, ...args);
  return { value, errno: value === -1 ? errno : 0 };
}

/** Both call it, and agree on result and errno. */
function same(name: Binding, types: string, args: readonly unknown[], value: number, errno = 0): void {
  const expected = { value, errno };
  assert.equal(ours(name, args), expected, `${name} here`);
  assert.equal(theirs(name, types, args), expected, `${name} there`);
}

/** Both make a descriptor. */
function makes(name: Binding, types: string, args: readonly unknown[]): [Fd, Fd] {
  const a = ours(name, args).value;
  const b = theirs(name, types, args).value;
  assert.ok(a >= 0 && b >= 0, `${name} gave ${a} and ${b}`);
  return [Fd.take(a), Fd.take(b)];
}

const closing = (...fds: Fd[]) => {
  for (const fd of fds) fd.close();
};

/** Descriptor flags: close-on-exec. */
const cloexec = (fd: Fd) => libc.fcntl(fd.number, F.GETFD, 0) & 1;

test('opening, closing and sizes', () => {
  const path = join(dir, 'a');
  same('open', 'sii>i', [join(dir, 'absent'), O.RDONLY, 0], -1, ERRNO.ENOENT);
  same('open', 'sii>i', [dir, O.RDWR, 0], -1, ERRNO.EISDIR);
  const [a, b] = makes('open', 'sii>i', [path, O.RDWR | O.CREAT | O.CLOEXEC, 0o640]);
  same('open', 'sii>i', [path, O.RDWR | O.CREAT | O.EXCL, 0o640], -1, ERRNO.EEXIST);
  assert.is(cloexec(a) & cloexec(b), 1);
  assert.is(statSync(path).mode & 0o777, 0o640);
  same('ftruncate', 'il>i', [a.number, 3 * 2 ** 33], 0);
  same('ftruncate', 'il>i', [a.number, -1], -1, ERRNO.EINVAL);
  same('fallocate', 'iill>i', [a.number, 0x3, 2 ** 33, 4096], 0);
  same('fallocate', 'iill>i', [a.number, 0, 0, 0], -1, ERRNO.EINVAL);
  same('fsync', 'i>i', [a.number], 0);
  same('fsync', 'i>i', [NO_FD], -1, ERRNO.EBADF);
  same('fdatasync', 'i>i', [a.number], 0);
  same('fdatasync', 'i>i', [NO_FD], -1, ERRNO.EBADF);
  same('fchmod', 'ii>i', [a.number, 0o600], 0);
  same('fchmod', 'ii>i', [NO_FD, 0o600], -1, ERRNO.EBADF);
  assert.is(statSync(path).mode & 0o777, 0o600);
  same('close', 'i>i', [NO_FD], -1, ERRNO.EBADF);
  assert.is(ours('close', [a.release()]).value, 0);
  assert.is(theirs('close', 'i>i', [b.release()]).value, 0);
});

test('struct stat says what statx says', () => {
  const AT_EMPTY_PATH = 0x1000;
  const BASIC = 0x7ff;
  const file = memfd('stat', 5 * 2 ** 32 + 1);
  const [socket, other] = socketPair();
  for (const fd of [file, socket, Fd.take(libc.open('/dev/null', 0, 0)), Fd.take(libc.open(dir, 0, 0))]) {
    const x = new DataView(new ArrayBuffer(256)); // struct statx: the same on every machine
    assert.is(secondOpinion('statx', 'isiIb>i', fd.number, '', AT_EMPTY_PATH, BASIC, x).value, 0);
    const again = new Uint8Array(256);
    assert.is(ours('statx', [fd.number, '', AT_EMPTY_PATH, BASIC, again]).value, 0);
    assert.equal(again, new Uint8Array(x.buffer));
    const stat = fstat(fd);
    assert.is(stat.blockSize, x.getUint32(4, true));
    assert.is(stat.mode, x.getUint16(28, true) & 0o7777);
    assert.is(stat.ino, x.getBigUint64(32, true));
    assert.is(stat.size, Number(x.getBigUint64(40, true)));
    assert.is(stat.allocated, Number(x.getBigUint64(48, true)) * 512);
    const [major, minor] = [x.getUint32(136, true), x.getUint32(140, true)];
    assert.is(Number(stat.dev), major * 256 + (minor & 0xff) + Math.floor(minor / 256) * 2 ** 20);
    const kinds: Record<number, string> = { 8: 'file', 12: 'socket', 2: 'character', 4: 'directory' };
    assert.is(stat.kind, kinds[x.getUint16(28, true) >> 12]);
    fd.close();
  }
  other.close();
});

test('reading and writing', () => {
  const fd = memfd('io', 8192, { seal: false });
  const data = Uint8Array.of(1, 2, 3, 4, 5);
  same('write', 'ibl>l', [fd.number, data, 5], 5);
  same('pwrite', 'ibll>l', [fd.number, data, 5, 2 ** 33], 5);
  same('pwriteAt', 'illl>l', [fd.number, libc.addressOf(data), 4, 2 ** 34], 4);
  for (const [offset, expected] of [
    [5, [1, 2, 3, 4, 5]],
    [2 ** 33, [1, 2, 3, 4, 5]],
    [2 ** 34, [1, 2, 3, 4]],
  ] as const) {
    const a = new Uint8Array(5);
    const b = new Uint8Array(5);
    assert.is(ours('pread', [fd.number, a, 5, offset]).value, expected.length);
    assert.is(theirs('pread', 'ibll>l', [fd.number, b, 5, offset]).value, expected.length);
    assert.equal([...a.subarray(0, expected.length)], [...expected]);
    assert.equal(a, b);
    a.fill(9);
    assert.is(ours('preadAt', [fd.number, libc.addressOf(a), 5, offset]).value, expected.length);
    assert.equal(a.subarray(0, expected.length), b.subarray(0, expected.length));
  }
  const into = new Uint8Array(4);
  same('read', 'ibl>l', [NO_FD, into, 4], -1, ERRNO.EBADF);
  same('write', 'ibl>l', [NO_FD, data, 5], -1, ERRNO.EBADF);
  same('pread', 'ibll>l', [fd.number, into, 4, -1], -1, ERRNO.EINVAL);
  same('pwrite', 'ibll>l', [fd.number, into, 4, -1], -1, ERRNO.EINVAL);
  same('preadAt', 'illl>l', [fd.number, BAD_ADDRESS, 4, 0], -1, ERRNO.EFAULT);
  same('pwriteAt', 'illl>l', [fd.number, BAD_ADDRESS, 4, 0], -1, ERRNO.EFAULT);
  fd.close();
});

test('vectored reading and writing: struct iovec', () => {
  const fd = memfd('vectors', 4096, { seal: false });
  const [a, b] = [Uint8Array.of(1, 2, 3), Uint8Array.of(4, 5)];
  const iovec = BigUint64Array.of(BigInt(libc.addressOf(a)), 3n, BigInt(libc.addressOf(b)), 2n);
  const iov = libc.addressOf(iovec);
  assert.is(ours('pwritev2At', [fd.number, iov, 2, 10, 0]).value, 5);
  a.fill(0);
  b.fill(0);
  assert.is(theirs('preadv2At', 'ilili>l', [fd.number, iov, 2, 10, 0]).value, 5);
  assert.equal([...a, ...b], [1, 2, 3, 4, 5]);
  assert.is(theirs('pwritev2At', 'ilili>l', [fd.number, iov, 2, 100, 0]).value, 5);
  a.fill(0);
  assert.is(ours('preadv2At', [fd.number, iov, 1, 102, 0]).value, 3);
  assert.equal([...a], [3, 4, 5]);
  same('preadv2At', 'ilili>l', [fd.number, iov, 1, 0, 1 << 30], -1, ERRNO.EOPNOTSUPP);
  same('pwritev2At', 'ilili>l', [fd.number, iov, -1, 0, 0], -1, ERRNO.EINVAL);
  fd.close();
});

test('descriptor flags, ioctl and seals', () => {
  const fd = memfd('flags', 4096, { seal: false });
  same('fcntl', 'iii>i', [fd.number, F.GETFD, 0], 1);
  same('fcntl', 'iii>i', [fd.number, F.GET_SEALS, 0], 0);
  same('fcntl', 'iii>i', [fd.number, F.ADD_SEALS, F_SEAL.SHRINK], 0);
  same('fcntl', 'iii>i', [fd.number, F.GET_SEALS, 0], F_SEAL.SHRINK);
  same('ftruncate', 'il>i', [fd.number, 0], -1, ERRNO.EPERM);
  same('fcntl', 'iii>i', [NO_FD, F.GETFL, 0], -1, ERRNO.EBADF);
  const [a, b] = makes('fcntl', 'iii>i', [fd.number, F.DUPFD_CLOEXEC, 100]);
  assert.ok(a.number >= 100 && b.number >= 100);
  // struct flock (i16 type, i16 whence, i64 start, i64 length, i32 pid): nobody holds a lock, so F_GETLK says F_UNLCK.
  const flock = new BigInt64Array(4);
  flock[2] = 10n;
  for (const call of [ours, (name: Binding, args: unknown[]) => theirs(name, 'iib>i', args)]) {
    flock[0] = 0n; // F_RDLCK
    assert.is(call('fcntlBytes', [fd.number, 5, new Uint8Array(flock.buffer)]).value, 0);
    assert.is(flock[0], 2n);
  }
  same('fcntlBytes', 'iib>i', [NO_FD, 5, new Uint8Array(flock.buffer)], -1, ERRNO.EBADF);
  const FIONREAD = 0x541b;
  const count = new Int32Array(1);
  const [left, right] = socketPair();
  sendWithFds(left, new Uint8Array(3));
  same('ioctlBytes', 'ilb>i', [right.number, FIONREAD, new Uint8Array(count.buffer)], 0);
  assert.is(count[0], 3);
  count[0] = 0;
  same('ioctlNumber', 'ill>i', [right.number, FIONREAD, libc.addressOf(count)], 0);
  assert.is(count[0], 3);
  same('ioctlBytes', 'ilb>i', [fd.number, 0x8004_5430, new Uint8Array(8)], -1, ERRNO.ENOTTY);
  same('ioctlNumber', 'ill>i', [fd.number, 0x8004_5430, -1], -1, ERRNO.ENOTTY);
  closing(fd, a, b, left, right);
});

test('memory', () => {
  const page = secondOpinion('getpagesize', '>i').value;
  assert.is(ours('getpagesize', []).value, page);
  const flags = MAP.PRIVATE | MAP.ANONYMOUS;
  const rw = PROT.READ | PROT.WRITE;
  const a = ours('mmap', [0, 2 * page, rw, flags, -1, 0]).value;
  const b = theirs('mmap', 'lliiil>l', [0, 2 * page, rw, flags, -1, 0]).value;
  assert.ok(a > 0 && b > 0 && Number.isSafeInteger(a) && a % page === 0 && b % page === 0);
  same('mmap', 'lliiil>l', [0, 0, rw, flags, -1, 0], -1, ERRNO.EINVAL);
  same('mmap', 'lliiil>l', [0, page, rw, MAP.SHARED, NO_FD, 0], -1, ERRNO.EBADF);
  // The views lie where the other side writes.
  const [va, vb] = [new Uint8Array(libc.viewOf(a, page)), new Uint8Array(libc.viewOf(b, page))];
  assert.is(libc.addressOf(va), a);
  assert.is(libc.addressOf(va.subarray(7)), a + 7);
  secondOpinion('memset', 'lil>l', a, 0x5a, page);
  assert.is(va[page - 1], 0x5a);
  ours('memmove', [b + 8, a + page - 4, 8]); // half set, half zero
  assert.equal([...vb.subarray(6, 18)], [0, 0, 0x5a, 0x5a, 0x5a, 0x5a, 0, 0, 0, 0, 0, 0]);
  const c = Uint8Array.of(1, 2, 3, 4, 5, 6);
  ours('memmove', [libc.addressOf(c) + 1, libc.addressOf(c), 5]); // overlapping
  assert.equal([...c], [1, 1, 2, 3, 4, 5]);
  same('madvise', 'lli>i', [a, page, 16], 0);
  same('madvise', 'lli>i', [a, page, 9999], -1, ERRNO.EINVAL);
  same('mlock', 'll>i', [a, page], 0);
  same('mlock', 'll>i', [BAD_ADDRESS, page], -1, ERRNO.ENOMEM);
  const present = new Uint8Array(4);
  same('mincore', 'llb>i', [b, 2 * page, present], 0); // one page was written
  assert.equal([...present], [1, 0, 0, 0]);
  same('mincore', 'llb>i', [BAD_ADDRESS, page, present], -1, ERRNO.ENOMEM);
  same('munmap', 'll>i', [a, 0], -1, ERRNO.EINVAL);
  assert.is(ours('munmap', [a, 2 * page]).value, 0);
  assert.is(theirs('munmap', 'll>i', [b, 2 * page]).value, 0);
  const [m, n] = makes('memfd_create', 'si>i', ['name', MFD.CLOEXEC]);
  assert.is(cloexec(m) & cloexec(n), 1);
  same('memfd_create', 'si>i', ['name', 0x4000], -1, ERRNO.EINVAL);
  closing(m, n);
});

test('events: struct epoll_event carries two events there and back', () => {
  const [a, b] = makes('eventfd', 'Ii>i', [0xffff_fff0, O.NONBLOCK | O.CLOEXEC]);
  same('eventfd', 'Ii>i', [0, 1 << 30], -1, ERRNO.EINVAL);
  same('eventfd_write', 'il>i', [a.number, 2], 0);
  same('eventfd_write', 'il>i', [NO_FD, 1], -1, ERRNO.EBADF);
  const value = new BigUint64Array(1);
  assert.is(ours('read', [a.number, new Uint8Array(value.buffer), 8]).value, 8);
  assert.is(value[0], 0xffff_fff4n); // as it began, and 2 from each side
  libc.eventfd_write(a.number, 1);

  const epoll = new Epoll();
  assert.is(epoll.add(a.number, EPOLL.IN, 0x11223344, 0xaabbccdd), 0);
  assert.is(epoll.add(b.number, EPOLL.IN | EPOLL.OUT, 5, 6), 0);
  const size = EPOLL_EVENT.size;
  const events = new Uint8Array(4 * size);
  const n = secondOpinion('epoll_wait', 'ibii>i', epoll.fd.number, events, 4, 0).value;
  assert.is(n, 2);
  assert.is(epoll.wait(0), 2);
  const view = new DataView(events.buffer);
  for (let i = 0; i < 2; i++) {
    assert.is(view.getUint32(i * size, true), epoll.eventsOf(i));
    assert.is(view.getUint32(i * size + EPOLL_EVENT.data, true), epoll.tokenLo(i));
    assert.is(view.getUint32(i * size + EPOLL_EVENT.data + 4, true), epoll.tokenHi(i));
  }
  const first = epoll.tokenLo(0) === 5 ? 1 : 0;
  assert.equal([epoll.tokenLo(first), epoll.tokenHi(first), epoll.eventsOf(first)], [0x11223344, 0xaabbccdd, EPOLL.IN]);
  assert.is(
    events.slice(n * size).every((byte) => byte === 0),
    true,
  ); // nothing beyond two of them

  const fd = epoll.fd.number;
  same('epoll_ctl', 'iiib>i', [fd, EPOLL_CTL.ADD, a.number, new Uint8Array(size)], -1, ERRNO.EEXIST);
  same('epoll_ctl', 'iiib>i', [fd, EPOLL_CTL.DEL, NO_FD, new Uint8Array(size)], -1, ERRNO.EBADF);
  same('epoll_wait', 'ibii>i', [a.number, events, 4, 0], -1, ERRNO.EINVAL);
  same('epoll_create1', 'i>i', [1], -1, ERRNO.EINVAL);
  const [e, f] = makes('epoll_create1', 'i>i', [O.CLOEXEC]);
  assert.is(cloexec(e) & cloexec(f), 1);
  closing(a, b, e, f, epoll.fd);
});

test('sockets: struct sockaddr_un', () => {
  const path = join(dir, 'socket');
  const listener = listenUnix(path);
  const name = new Uint8Array(112);
  const length = new Uint32Array([112]);
  assert.is(secondOpinion('getsockname', 'ibb>i', listener.fd.number, name, length).value, 0);
  assert.equal(name.slice(0, length[0]), unixAddress(path));
  const address = unixAddress(path);
  const type = SOCK.STREAM | SOCK.CLOEXEC | SOCK.NONBLOCK;
  const [a, b] = makes('socket', 'iii>i', [AF_UNIX, type, 0]);
  same('socket', 'iii>i', [AF_UNIX, 77, 0], -1, ERRNO.EINVAL);
  same(
    'accept4',
    'illi>i',
    [listener.fd.number, null, null, 0].map((x) => x ?? 0),
    -1,
    ERRNO.EAGAIN,
  );
  assert.is(ours('connect', [a.number, address, address.length]).value, 0);
  assert.is(theirs('connect', 'ibi>i', [b.number, address, address.length]).value, 0);
  same('connect', 'ibi>i', [a.number, address, address.length], -1, ERRNO.EISCONN);
  const c = Fd.take(ours('accept4', [listener.fd.number, null, null, SOCK.CLOEXEC]).value);
  const d = Fd.take(theirs('accept4', 'illi>i', [listener.fd.number, 0, 0, SOCK.CLOEXEC]).value);
  assert.is(cloexec(c) & cloexec(d), 1);
  same('bindSocket', 'ibi>i', [c.number, address, 1], -1, ERRNO.EINVAL);
  const [e, f] = makes('socket', 'iii>i', [AF_UNIX, SOCK.DGRAM, 0]);
  const here = unixAddress(join(dir, 'here'));
  assert.is(ours('bindSocket', [e.number, here, here.length]).value, 0);
  same('sendto', 'iblibI>l', [f.number, name, 3, 0, here, here.length], 3);
  same('sendto', 'iblibI>l', [f.number, name, 3, 0, address, address.length], -1, ERRNO.EPROTOTYPE);
  same('listen', 'ii>i', [listener.fd.number, 5], 0);
  same('listen', 'ii>i', [e.number, 5], -1, ERRNO.EOPNOTSUPP);
  const pair = new Int32Array(2);
  same('socketpair', 'iiib>i', [77, SOCK.STREAM, 0, pair], -1, ERRNO.EAFNOSUPPORT);
  assert.is(ours('socketpair', [AF_UNIX, SOCK.STREAM, 0, pair]).value, 0);
  closing(Fd.take(pair[0]), Fd.take(pair[1]));
  assert.is(theirs('socketpair', 'iiib>i', [AF_UNIX, SOCK.STREAM, 0, pair]).value, 0);
  closing(Fd.take(pair[0]), Fd.take(pair[1]), a, b, c, d, e, f);
  listener.close();
  unlinkSync(join(dir, 'here'));
});

/** struct msghdr, iovec and cmsghdr as <sys/socket.h> has them for 64-bit machines, written down a second time. */
function message(data: Uint8Array, control: Uint8Array): Uint8Array {
  const iovec = new Uint8Array(16);
  new DataView(iovec.buffer).setBigUint64(0, BigInt(libc.addressOf(data)), true);
  new DataView(iovec.buffer).setBigUint64(8, BigInt(data.length), true);
  kept.push(iovec, data, control);
  const header = new BigUint64Array(7); // name, namelen, iov, iovlen, control, controllen, flags
  header[2] = BigInt(libc.addressOf(iovec));
  header[3] = 1n;
  header[4] = BigInt(libc.addressOf(control));
  header[5] = BigInt(control.length);
  return new Uint8Array(header.buffer);
}
const kept: unknown[] = [];

test('descriptors sent here arrive there, and back', () => {
  const [left, right] = socketPair();
  const files = [memfd('one', 1), memfd('two', 2), memfd('three', 3)];
  assert.is(sendWithFds(left, Uint8Array.of(1, 2), files), 2);
  const control = new Uint8Array(64);
  const data = new Uint8Array(8);
  const header = message(data, control);
  assert.is(secondOpinion('recvmsg', 'ibi>l', right.number, header, MSG.CMSG_CLOEXEC).value, 2);
  assert.equal([...data.subarray(0, 3)], [1, 2, 0]);
  const view = new DataView(control.buffer);
  assert.is(Number(view.getBigUint64(0, true)), 16 + 3 * 4); // cmsg_len
  assert.is(new DataView(header.buffer).getBigUint64(40, true), 32n); // msg_controllen: padded to 8
  const got = [0, 1, 2].map((i) => Fd.take(view.getInt32(16 + i * 4, true)));
  assert.equal(
    got.map((fd) => fstat(fd).ino),
    files.map((fd) => fstat(fd).ino),
  );
  closing(...got);

  // The same control message, with the descriptors' own numbers, goes the other way.
  files.forEach((fd, i) => {
    view.setInt32(16 + i * 4, fd.number, true);
  });
  const back = message(Uint8Array.of(7), control.subarray(0, 16 + 3 * 4));
  assert.is(secondOpinion('sendmsg', 'ibi>l', left.number, back, MSG.NOSIGNAL).value, 1);
  const received = recvWithFds(right, data, 3);
  assert.is(received.bytes, 1);
  assert.is(data[0], 7);
  assert.equal(
    received.fds.map((fd) => fstat(fd).ino),
    files.map((fd) => fstat(fd).ino),
  );

  same('recvmsg', 'ibi>l', [right.number, header, MSG.DONTWAIT], -1, ERRNO.EAGAIN);
  same('sendmsg', 'ibi>l', [NO_FD, back, 0], -1, ERRNO.EBADF);
  closing(...received.fds, ...files, left, right);
});

test('the C library walks our control messages: __cmsg_nxthdr', () => {
  const control = new Uint8Array(64);
  const view = new DataView(control.buffer);
  view.setBigUint64(0, 16n + 4n, true); // one descriptor: 20 bytes, padded to 24
  view.setBigUint64(24, 16n + 8n, true);
  const header = message(new Uint8Array(1), control.subarray(0, 48));
  const base = libc.addressOf(control);
  assert.is(secondOpinion('__cmsg_nxthdr', 'bl>l', header, base).value, base + 24);
  assert.is(secondOpinion('__cmsg_nxthdr', 'bl>l', header, base + 24).value, 0);
});

test('threads and limits: cpu_set_t and struct rlimit', () => {
  const before = allowedCpus();
  const mask = new Uint8Array(128);
  assert.ok(theirs('sched_getaffinity', 'ilb>i', [0, 128, mask]).value >= 0);
  assert.is(ours('sched_getaffinity', [0, 128, new Uint8Array(128)]).value, 0);
  assert.is(secondOpinion('__sched_cpucount', 'lb>i', 128, mask).value, before.length);
  same('sched_getaffinity', 'ilb>i', [0, 1, mask], -1, ERRNO.EINVAL);
  pinThread(before[before.length - 1]);
  assert.is(secondOpinion('sched_getcpu', '>i').value, before[before.length - 1]);
  assert.equal(allowedCpus(), [before[before.length - 1]]);
  same('sched_setaffinity', 'ilb>i', [0, 128, mask], 0);
  same('sched_setaffinity', 'ilb>i', [0, 128, new Uint8Array(128)], -1, ERRNO.EINVAL);
  assert.equal(allowedCpus(), before);

  for (const resource of ['NOFILE', 'MEMLOCK', 'CORE', 'AS'] as const) {
    const words = new BigUint64Array(2);
    assert.is(secondOpinion('getrlimit', 'ib>i', RLIMIT[resource], words).value, 0);
    const limit = getLimit(resource);
    const number = (x: bigint) => (x === 2n ** 64n - 1n ? Number.POSITIVE_INFINITY : Number(x));
    assert.equal([limit.soft, limit.hard], [...words].map(number));
    same('prlimit', 'iibb>i', [0, RLIMIT[resource], new Uint8Array(words.buffer), new Uint8Array(16)], 0);
  }
  same('prlimit', 'iibb>i', [0, 99, new Uint8Array(16), new Uint8Array(16)], -1, ERRNO.EINVAL);
});

test('signals to a thread: struct sigaction', () => {
  const [SIGURG, SIGKILL, NO_SIGNAL] = [23, 9, 200];
  same('gettid', '>i', [], process.pid);
  same('tgkill', 'iii>i', [process.pid, process.pid, 0], 0);
  same('tgkill', 'iii>i', [process.pid, process.pid, NO_SIGNAL], -1, ERRNO.EINVAL);
  same('tgkill', 'iii>i', [process.pid, 2 ** 22 + 1, 0], -1, ESRCH);
  const [action, old] = [new Uint8Array(152), new Uint8Array(152)];
  const handler = BigInt(libc.functionAddress('abs'));
  new DataView(action.buffer).setBigUint64(0, handler, true);
  assert.is(ours('sigaction', [SIGURG, action, null]).value, 0);
  assert.is(secondOpinion('sigaction', 'ilb>i', SIGURG, 0, old).value, 0);
  assert.is(new DataView(old.buffer).getBigUint64(0, true), handler);
  assert.is(new DataView(old.buffer).getUint32(136, true) & SA_RESTART, 0);
  assert.is(ours('tgkill', [process.pid, process.pid, SIGURG]).value, 0); // handled: harmless
  assert.equal(ours('sigaction', [SIGKILL, action, null]), { value: -1, errno: ERRNO.EINVAL });
  assert.is(ours('sigaction', [SIGURG, new Uint8Array(152), null]).value, 0);
});

test('io_uring, or the same refusal', () => {
  const SYS = { io_uring_setup: 425, io_uring_enter: 426, io_uring_register: 427 };
  const params = new Uint8Array(120);
  const agree = (name: keyof typeof SYS, types: string, args: unknown[]) => {
    const a = ours(name, args);
    const b = secondOpinion('syscall', `l${types}`, SYS[name], ...args);
    assert.is(a.value, -1);
    assert.equal({ value: b.value, errno: b.errno }, a);
  };
  agree('io_uring_setup', 'lb>l', [0, params]); // EINVAL, or what forbids io_uring
  agree('io_uring_enter', 'llll>l', [NO_FD, 0, 0, 0]);
  agree('io_uring_register', 'llbl>l', [NO_FD, 0, params, 0]);
});

test('no binding is without a row, and no descriptor is left', () => {
  const missing = Object.keys(libc).filter((name) => !HELPERS.has(name) && !seen.has(name));
  assert.equal(missing, []);
  assert.equal(leakedFds(atStart), []);
});

const atStart = openFds();
test.run();
