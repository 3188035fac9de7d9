/**
 * The C library through koffi: the only module of the project that loads an FFI.
 *
 * Functions carry their C names and conventions (-1 and {@link errno}); the modules beside this one turn them into
 * classes and Errors, and nobody outside src/sys imports this file. Addresses are Numbers here: user addresses
 * have at most 47 bits (56 with five-level paging, which Linux gives only to those who ask), so they are exact. koffi's
 * BigInt pointers never leave this file.
 *
 * A parameter declared `void *` takes null, a Buffer or a typed array, which is passed without a copy; kernel
 * structures are bytes built by hand (2-5 times faster than the FFI's structs, and the layout stands in our own
 * tables). A parameter declared `uint64_t` and called `addr` takes an address from {@link addressOf} or
 * Memory.address.
 */
import './load-gate.ts'; // before koffi: it waits there
import { endianness } from 'node:os';
import koffi from 'koffi';
import { loaded } from './load-gate.ts';

if (process.platform !== 'linux' || (process.arch !== 'x64' && process.arch !== 'arm64') || endianness() !== 'LE') {
  throw new Error(`vvu-target runs on Linux, x86-64 or arm64; this is ${process.platform} on ${process.arch}`);
}

const lib = koffi.load('libc.so.6');

// biome-ignore lint/suspicious/noExplicitAny: the constraint of a function type
function bind<T extends (...args: any[]) => unknown>(prototype: string): T {
  return lib.func(prototype) as unknown as T;
}

type Bytes = Uint8Array;
type FdCall = (fd: number) => number;

/** errno of the last call on this thread: read it right after the call that failed. */
export function errno(): number {
  return koffi.errno();
}

/** Address of the first byte of a typed array. The caller keeps the array reachable while the kernel uses it. */
export function addressOf(bytes: ArrayBufferView): number {
  return Number(koffi.address(bytes));
}

/**
 * An ArrayBuffer over mapped memory, without a copy; collecting it unmaps nothing. At most 4 GiB: Node 20 ends the
 * process beyond (Mapping cuts far smaller pieces).
 */
export function viewOf(address: number, bytes: number): ArrayBuffer {
  if (!(address > 0 && bytes > 0 && bytes <= 0x1_0000_0000)) throw new RangeError(`viewOf: ${bytes} bytes`);
  return koffi.view(BigInt(address), bytes);
}

/** A watched file descriptor on Node's own event loop. Must be kept referenced: a forgotten one stops silently. */
export interface PollHandle {
  close(): void;
  ref(): void;
  unref(): void;
}

/** Call `onReadable` from Node's event loop whenever `fd` is readable (level-triggered). */
export function pollReadable(fd: number, onReadable: () => void): PollHandle {
  // The callback gets (status, events), whatever the type declaration says; both are of no use here.
  return koffi.node.poll(fd, { readable: true }, onReadable);
}

// Files
export const open = bind<(path: string, flags: number, mode: number) => number>(
  'int open(const char *path, int flags, int mode)',
);
export const close = bind<FdCall>('int close(int fd)');
export const read = bind<(fd: number, buf: Bytes, count: number) => number>(
  'int64_t read(int fd, void *buf, size_t count)',
);
export const write = bind<(fd: number, buf: Bytes, count: number) => number>(
  'int64_t write(int fd, void *buf, size_t count)',
);
export const pread = bind<(fd: number, buf: Bytes, count: number, offset: number) => number>(
  'int64_t pread(int fd, void *buf, size_t count, int64_t offset)',
);
export const pwrite = bind<(fd: number, buf: Bytes, count: number, offset: number) => number>(
  'int64_t pwrite(int fd, void *buf, size_t count, int64_t offset)',
);
export const preadAt = bind<(fd: number, addr: number, count: number, offset: number) => number>(
  'int64_t pread(int fd, uint64_t addr, size_t count, int64_t offset)',
);
export const pwriteAt = bind<(fd: number, addr: number, count: number, offset: number) => number>(
  'int64_t pwrite(int fd, uint64_t addr, size_t count, int64_t offset)',
);
/** @param iov address of an array of struct iovec. @param flags RWF bits */
export const preadv2At = bind<(fd: number, iov: number, count: number, offset: number, flags: number) => number>(
  'int64_t preadv2(int fd, uint64_t iov, int count, int64_t offset, int flags)',
);
export const pwritev2At = bind<(fd: number, iov: number, count: number, offset: number, flags: number) => number>(
  'int64_t pwritev2(int fd, uint64_t iov, int count, int64_t offset, int flags)',
);
export const ftruncate = bind<(fd: number, length: number) => number>('int ftruncate(int fd, int64_t length)');
export const fallocate = bind<(fd: number, mode: number, offset: number, length: number) => number>(
  'int fallocate(int fd, int mode, int64_t offset, int64_t length)',
);
export const fsync = bind<FdCall>('int fsync(int fd)');
export const fdatasync = bind<FdCall>('int fdatasync(int fd)');
export const fcntl = bind<(fd: number, command: number, arg: number) => number>(
  'int fcntl(int fd, int command, int arg)',
);
/** fcntl with a structure (the F_OFD locks). */
export const fcntlBytes = bind<(fd: number, command: number, arg: Bytes) => number>(
  'int fcntl(int fd, int command, void *arg)',
);
/** @param buffer struct statx, 256 bytes */
export const statx = bind<(dirfd: number, path: string, flags: number, mask: number, buffer: Bytes) => number>(
  'int statx(int dirfd, const char *path, int flags, unsigned int mask, void *buffer)',
);
export const fchmod = bind<(fd: number, mode: number) => number>('int fchmod(int fd, unsigned int mode)');
/** ioctl with a pointer, and with an integer in its place: one C function, two prototypes. */
export const ioctlBytes = bind<(fd: number, request: number, arg: Bytes | null) => number>(
  'int ioctl(int fd, unsigned long request, void *arg)',
);
export const ioctlNumber = bind<(fd: number, request: number, arg: number) => number>(
  'int ioctl(int fd, unsigned long request, int64_t arg)',
);

// Memory
/** -1 for failure: declared signed, so that MAP_FAILED and every user address are Numbers. */
export const mmap = bind<
  (addr: number, length: number, prot: number, flags: number, fd: number, offset: number) => number
>('int64_t mmap(uint64_t addr, size_t length, int prot, int flags, int fd, int64_t offset)');
export const munmap = bind<(addr: number, length: number) => number>('int munmap(uint64_t addr, size_t length)');
export const madvise = bind<(addr: number, length: number, advice: number) => number>(
  'int madvise(uint64_t addr, size_t length, int advice)',
);
export const mlock = bind<(addr: number, length: number) => number>('int mlock(uint64_t addr, size_t length)');
/** @param vector a byte a page, bit 0: it is in memory */
export const mincore = bind<(addr: number, length: number, vector: Bytes) => number>(
  'int mincore(uint64_t addr, size_t length, void *vector)',
);
export const memmove = bind<(dst: number, src: number, count: number) => void>(
  'void memmove(uint64_t dst, uint64_t src, size_t count)',
);
export const memfd_create = bind<(name: string, flags: number) => number>(
  'int memfd_create(const char *name, unsigned int flags)',
);
export const getpagesize = bind<() => number>('int getpagesize()');

// Events
export const eventfd = bind<(initial: number, flags: number) => number>('int eventfd(unsigned int initial, int flags)');
export const eventfd_write = bind<(fd: number, value: number) => number>('int eventfd_write(int fd, uint64_t value)');
export const epoll_create1 = bind<(flags: number) => number>('int epoll_create1(int flags)');
export const epoll_ctl = bind<(epfd: number, op: number, fd: number, event: Bytes | null) => number>(
  'int epoll_ctl(int epfd, int op, int fd, void *event)',
);
export const epoll_wait = bind<(epfd: number, events: Bytes, max: number, timeoutMs: number) => number>(
  'int epoll_wait(int epfd, void *events, int max, int timeoutMs)',
);

// Sockets
export const socket = bind<(domain: number, type: number, protocol: number) => number>(
  'int socket(int domain, int type, int protocol)',
);
export const socketpair = bind<(domain: number, type: number, protocol: number, pair: Int32Array) => number>(
  'int socketpair(int domain, int type, int protocol, void *pair)',
);
export const bindSocket = bind<(fd: number, address: Bytes, length: number) => number>(
  'int bind(int fd, void *address, unsigned int length)',
);
export const connect = bind<(fd: number, address: Bytes, length: number) => number>(
  'int connect(int fd, void *address, unsigned int length)',
);
export const listen = bind<(fd: number, backlog: number) => number>('int listen(int fd, int backlog)');
export const accept4 = bind<(fd: number, address: null, length: null, flags: number) => number>(
  'int accept4(int fd, void *address, void *length, int flags)',
);
export const recvmsg = bind<(fd: number, message: Bytes, flags: number) => number>(
  'int64_t recvmsg(int fd, void *message, int flags)',
);
export const sendmsg = bind<(fd: number, message: Bytes, flags: number) => number>(
  'int64_t sendmsg(int fd, void *message, int flags)',
);
export const sendto = bind<
  (fd: number, data: Bytes, count: number, flags: number, address: Bytes, length: number) => number
>('int64_t sendto(int fd, void *data, size_t count, int flags, void *address, unsigned int length)');

// Signals to threads
export const gettid = bind<() => number>('int gettid()');
export const tgkill = bind<(pid: number, tid: number, signal: number) => number>(
  'int tgkill(int pid, int tid, int signal)',
);
export const sigaction = bind<(signal: number, act: Bytes, old: Bytes | null) => number>(
  'int sigaction(int signal, const void *act, void *old)',
);
/** Address of a function of the C library, for structures that hold one. */
export function functionAddress(name: string): number {
  return Number(lib.symbol(name));
}

// Process and threads
export const sched_setaffinity = bind<(pid: number, size: number, mask: Bytes) => number>(
  'int sched_setaffinity(int pid, size_t size, void *mask)',
);
export const sched_getaffinity = bind<(pid: number, size: number, mask: Bytes) => number>(
  'int sched_getaffinity(int pid, size_t size, void *mask)',
);
export const prlimit = bind<(pid: number, resource: number, next: Bytes | null, old: Bytes | null) => number>(
  'int prlimit(int pid, int resource, void *next, void *old)',
);

// io_uring has no C library functions: system calls by number (the same on x86-64 and arm64).
const syscall2 = bind<(nr: number, a: number, b: Bytes) => number>('int64_t syscall(int64_t nr, int64_t a, void *b)');
const syscall4 = bind<(nr: number, a: number, b: number, c: Bytes | null, d: number) => number>(
  'int64_t syscall(int64_t nr, int64_t a, int64_t b, void *c, int64_t d)',
);
const syscall6 = bind<(nr: number, a: number, b: number, c: number, d: number, e: number, f: number) => number>(
  'int64_t syscall(int64_t nr, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f)',
);

/** @param params struct io_uring_params, 120 bytes, read and written. @returns fd or -1 */
export function io_uring_setup(entries: number, params: Bytes): number {
  return syscall2(425, entries, params);
}

/** Without a signal mask. @returns submissions consumed, or -1 */
export function io_uring_enter(fd: number, toSubmit: number, minComplete: number, flags: number): number {
  return syscall6(426, fd, toSubmit, minComplete, flags, 0, 0);
}

/** @param arg the opcode's array. @returns 0 or more, or -1 */
export function io_uring_register(fd: number, opcode: number, arg: Bytes | null, count: number): number {
  return syscall4(427, fd, opcode, arg, count);
}

loaded();
