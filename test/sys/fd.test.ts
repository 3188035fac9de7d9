import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Memory } from '../../src/memory/memory.ts';
import { FALLOC_FL, O } from '../../src/sys/constants.ts';
import { ERRNO, errnoName, SysError } from '../../src/sys/errno.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import {
  closeAll,
  describeFd,
  Fd,
  fallocate,
  fdatasync,
  fstat,
  ftruncate,
  hugePageSize,
  ioctl,
  ioctlResult,
  open,
  pread,
  preadInto,
  pwrite,
  pwriteFrom,
  read,
  sealAgainstShrink,
  write,
} from '../../src/sys/fd.ts';
import { mapAnonymous, memfd } from '../../src/sys/mapping.ts';
import { leakedFds, openFds } from '../support/open-fds.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('fd');
const dir = tempDir();
const bytes = (...values: number[]) => Uint8Array.from(values);
const FIONREAD = 0x541b;
const FIONBIO = 0x5421;
const O_CLOEXEC = 0o2000000;

test('a failed call is an Error with call, file, reason and number', () => {
  const path = join(dir, 'absent');
  let caught: unknown;
  try {
    open(path, O.RDONLY);
  } catch (error) {
    caught = error;
  }
  assert.instance(caught, SysError);
  const error = caught as SysError;
  assert.is(error.syscall, 'open');
  assert.is(error.code, 'ENOENT');
  assert.is(error.errno, 2);
  assert.is(error.message, `open ${path}: no such file or directory (ENOENT)`);
});

test('errno names', () => {
  assert.is(errnoName(11), 'EAGAIN'); // not EWOULDBLOCK
  assert.is(errnoName(95), 'EOPNOTSUPP'); // not ENOTSUP
  assert.is(errnoName(22), 'EINVAL');
  assert.is(errnoName(524), 'errno 524'); // ENOTSUPP of the kernel, which user space does not name
  assert.is(new SysError('ioctl', 524).message, 'ioctl: errno 524');
});

test('closing twice is harmless, and a closed descriptor reaches nobody', () => {
  const before = openFds();
  const fd = open('/dev/null', O.RDWR);
  const number = fd.number;
  fd.close();
  const other = open('/dev/zero', O.RDWR);
  assert.is(other.number, number); // the same number again: this is the danger
  fd.close();
  assert.is(fd.closed, true);
  assert.is(fd.number, -1);
  assert.is(describeFd(other), '/dev/zero');
  assert.throws(
    () => read(fd, bytes(0)),
    (e: SysError) => e.code === 'EBADF',
  );
  assert.throws(
    () => fstat(fd),
    (e: SysError) => e.code === 'EBADF',
  );
  closeAll([other, fd]);
  assert.equal(leakedFds(before), []);
});

test('take, release and duplicate move the ownership', () => {
  const a = open('/dev/null', O.RDWR);
  const b = Fd.take(a.release());
  assert.is(a.closed, true);
  const c = b.duplicate();
  assert.not.equal(b.number, c.number);
  b.close();
  assert.is(describeFd(c), '/dev/null');
  c.close();
  for (const wrong of [-1, 1.5, Number.NaN]) assert.throws(() => Fd.take(wrong), /no file descriptor/);
});

test('every descriptor is close-on-exec', () => {
  const fds = [open('/dev/null', O.RDWR), memfd('x', 4096), new EventFd().fd];
  fds.push(fds[0].duplicate());
  for (const fd of fds) {
    const flags = Number.parseInt(/flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd.number}`, 'utf8'))![1], 8);
    assert.is(flags & O_CLOEXEC, O_CLOEXEC);
  }
  closeAll(fds);
});

test('read, write, pread, pwrite', () => {
  const path = join(dir, 'file');
  const fd = open(path, O.RDWR | O.CREAT, 0o640);
  assert.is(write(fd, bytes(1, 2, 3, 4)), 4);
  assert.is(pwrite(fd, bytes(9, 8), 1), 2);
  const into = new Uint8Array(8);
  assert.is(pread(fd, into, 0), 4);
  assert.equal(into, bytes(1, 9, 8, 4, 0, 0, 0, 0));
  assert.is(read(fd, into), 0); // at the end
  assert.is(fdatasync(fd), 0);
  const stat = fstat(fd);
  assert.is(stat.size, 4);
  assert.is(stat.kind, 'file');
  assert.is(stat.mode & 0o777, 0o640 & ~process.umask());
  ftruncate(fd, 3);
  assert.equal([...readFileSync(path)], [1, 9, 8]);
  fd.close();
});

test('offsets above 4 GiB', () => {
  const fd = open(join(dir, 'sparse'), O.RDWR | O.CREAT);
  const far = 5 * 2 ** 40;
  assert.is(pwrite(fd, bytes(7), far), 1);
  assert.is(fstat(fd).size, far + 1);
  const into = bytes(0);
  assert.is(pread(fd, into, far), 1);
  assert.is(into[0], 7);
  fd.close();
});

test('preadInto and pwriteFrom reach memory with and without an address', () => {
  const path = join(dir, 'memory');
  writeFileSync(path, 'abcdefgh');
  const fd = open(path, O.RDWR);
  const mapping = mapAnonymous(4096);
  for (const memory of [mapping.memoryAt(0, 4096), new Memory(new ArrayBuffer(4096))]) {
    assert.is(preadInto(fd, memory, 100, 4, 2), 4);
    assert.equal([...memory.u8.subarray(99, 105)], [0, 99, 100, 101, 102, 0]); // .cdef.
    assert.is(preadInto(fd, memory, 4095, 1, 100), 0); // beyond the file's end
    memory.u8[200] = 65;
    assert.is(pwriteFrom(fd, memory, 200, 1, 7), 1);
    assert.is(readFileSync(path, 'utf8'), 'abcdefgA');
    writeFileSync(path, 'abcdefgh');
    // A host's failure is a result, a range of ours outside the memory an exception.
    assert.is(preadInto(Fd.take(2 ** 30), memory, 0, 1, 0), -ERRNO.EBADF);
    assert.is(pwriteFrom(fd, memory, 0, 1, -1), -ERRNO.EINVAL);
    for (const [offset, n] of [
      [4096, 1],
      [4000, 97],
      [-1, 1],
      [0, -1],
      [Number.NaN, 1],
    ]) {
      assert.throws(() => preadInto(fd, memory, offset, n, 0), RangeError);
      assert.throws(() => pwriteFrom(fd, memory, offset, n, 0), RangeError);
    }
  }
  const gone = mapping.memoryAt(0, 64);
  mapping.unmap();
  assert.throws(() => preadInto(fd, gone, 0, 1, 0), RangeError);
  fd.close();
});

test('fallocate punches a hole, and what the file system cannot do is an answer', () => {
  const fd = memfd('hole', 65536, { seal: false });
  pwrite(fd, new Uint8Array(65536).fill(1), 0);
  const full = fstat(fd).allocated;
  assert.is(fallocate(fd, FALLOC_FL.PUNCH_HOLE | FALLOC_FL.KEEP_SIZE, 4096, 8192), 0);
  assert.is(fstat(fd).allocated, full - 8192);
  const into = new Uint8Array(4098);
  pread(fd, into, 4095);
  assert.equal([into[0], into[1], into[4097]], [1, 0, 0]);
  assert.is(fallocate(fd, FALLOC_FL.COLLAPSE_RANGE, 0, 4096), -ERRNO.EOPNOTSUPP);
  fd.close();
});

test('ioctl with a structure and with an integer', () => {
  const fd = new EventFd().fd;
  const value = new Int32Array([1]);
  assert.is(ioctl(fd, FIONBIO, new Uint8Array(value.buffer)), 0);
  const pipe = open('/dev/null', O.RDWR);
  assert.is(ioctlResult(pipe, FIONREAD, new Uint8Array(4)), -ERRNO.ENOTTY);
  assert.throws(
    () => ioctl(pipe, FIONREAD, 0, 'FIONREAD'),
    (e: SysError) => e.code === 'ENOTTY' && e.message.startsWith('FIONREAD'),
  );
  const TIOCGDEV = 0x80045432; // a request above 2^31
  assert.is(ioctlResult(pipe, TIOCGDEV, new Uint8Array(4)), -ERRNO.ENOTTY);
  closeAll([fd, pipe]);
});

test('seals against shrinking', () => {
  const open1 = memfd('unsealed', 4096, { seal: false });
  assert.is(sealAgainstShrink(open1), true); // can be set
  assert.is(sealAgainstShrink(open1), true); // is set
  assert.throws(
    () => ftruncate(open1, 0),
    (e: SysError) => e.code === 'EPERM',
  );
  const sealed = memfd('sealed', 4096); // no more seals possible, but the right one is there
  assert.is(sealAgainstShrink(sealed), true);
  const file = open(join(dir, 'plain'), O.RDWR | O.CREAT);
  assert.is(sealAgainstShrink(file), false);
  closeAll([open1, sealed, file]);
});

test('huge page files say so', () => {
  const plain = memfd('plain', 4096);
  assert.is(hugePageSize(plain), 0);
  const [device, event] = [open('/dev/null', O.RDWR), new EventFd().fd];
  assert.is(hugePageSize(device), 0);
  assert.is(hugePageSize(event), 0);
  closeAll([plain, device, event]);
  let huge: Fd;
  try {
    huge = memfd('huge', 0x20_0000, { hugepages: true });
  } catch (error) {
    assert.match((error as SysError).code, /^(ENOSYS|EINVAL|ENODEV)$/); // a kernel without them
    return;
  }
  const size = Number(/Hugepagesize:\s+(\d+)/.exec(readFileSync('/proc/meminfo', 'utf8'))![1]) * 1024;
  assert.is(hugePageSize(huge), size);
  huge.close();
});

test('eventfd: signals add up, draining takes them all', () => {
  const event = new EventFd();
  assert.is(event.drain(), false);
  event.signal();
  event.signal();
  assert.is(event.drain(), true);
  assert.is(event.drain(), false);
  const other = EventFd.adopt(event.fd.duplicate());
  other.signal();
  assert.is(event.drain(), true);
  event.close();
  event.signal(); // closed: reaches nobody, harms nobody
  assert.is(other.drain(), false);
  other.close();
});

test('eventfd: a full counter neither blocks nor throws', () => {
  const event = new EventFd();
  const full = new BigUint64Array([0xffff_ffff_ffff_fffen]);
  assert.is(write(event.fd, new Uint8Array(full.buffer)), 8);
  event.signal();
  assert.is(event.drain(), true);
  event.close();
});

test('eventfd: only an eventfd is adopted, and nothing else stays open', () => {
  const before = openFds();
  assert.throws(() => EventFd.adopt(open('/dev/null', O.RDWR)), /expected an eventfd, got \/dev\/null/);
  assert.throws(() => EventFd.adopt(memfd('x', 8)), /expected an eventfd, got \/memfd:x/);
  assert.equal(leakedFds(before), []);
});

test('eventfd: an adopted one does not block, whatever it was', () => {
  const blocking = new EventFd();
  ioctl(blocking.fd, FIONBIO, new Uint8Array(4)); // clears O_NONBLOCK
  const adopted = EventFd.adopt(blocking.fd);
  assert.is(adopted.drain(), false); // would hang for ever
  adopted.close();
});

test.run();
