import { chmodSync, existsSync, statSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { join } from 'node:path';
import { O } from '../../src/sys/constants.ts';
import { SysError } from '../../src/sys/errno.ts';
import { closeAll, describeFd, Fd, fstat, open } from '../../src/sys/fd.ts';
import * as libc from '../../src/sys/libc.ts';
import { getLimit, setLimit } from '../../src/sys/limits.ts';
import { memfd } from '../../src/sys/mapping.ts';
import { accept, connectUnix, listenUnix, recvWithFds, sendWithFds, socketPair } from '../../src/sys/socket.ts';
import { MAX_SOCKET_PATH, unixAddress } from '../../src/sys/socket-address.ts';
import { notifySystemd } from '../../src/sys/systemd.ts';
import { runChild } from '../support/child.ts';
import { leakedFds, openFds } from '../support/open-fds.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('socket');
const dir = tempDir();
let before: string[] = [];
test.before.each(() => {
  before = openFds();
});
/** Every test leaves as many descriptors as there were. */
const nothingLeft = () => assert.equal(leakedFds(before), []);
const code = (wanted: string) => (e: unknown) => e instanceof SysError && e.code === wanted;
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const bytes = (s: string) => new TextEncoder().encode(s);

test('bytes and descriptors arrive, in order, owned by the receiver', () => {
  const listener = listenUnix(join(dir, 'a'));
  assert.is(accept(listener.fd), undefined);
  const client = connectUnix(listener.path);
  const server = accept(listener.fd)!;
  const into = new Uint8Array(64);
  assert.equal(recvWithFds(server, into, 8), { bytes: -1, fds: [], truncated: false });
  const files = [memfd('one', 1), memfd('two', 2)];
  assert.is(sendWithFds(client, bytes('first'), files), 5);
  assert.is(sendWithFds(client, bytes('second')), 6);
  closeAll(files); // they are on their way all the same
  const first = recvWithFds(server, into, 8);
  assert.is(first.truncated, false);
  assert.equal(first.fds.map(describeFd), ['/memfd:one (deleted)', '/memfd:two (deleted)']);
  assert.equal(
    first.fds.map((fd) => fstat(fd).size),
    [1, 2],
  );
  let rest = text(into.subarray(0, first.bytes));
  while (rest.length < 11) rest += text(into.subarray(0, recvWithFds(server, into, 8).bytes));
  assert.is(rest, 'firstsecond');
  closeAll(first.fds);
  client.close();
  assert.equal(recvWithFds(server, into, 8), { bytes: 0, fds: [], truncated: false });
  assert.throws(() => sendWithFds(server, bytes('x')), code('EPIPE')); // and no SIGPIPE
  server.close();
  listener.close();
  nothingLeft();
});

test('a read stops where the next descriptors begin', () => {
  const [a, b] = socketPair();
  const [one, two] = [memfd('one', 1), memfd('two', 2)];
  sendWithFds(a, bytes('1111'), [one]);
  sendWithFds(a, bytes('2222'), [two]);
  const into = new Uint8Array(64);
  for (const name of ['one', 'two']) {
    const message = recvWithFds(b, into, 4);
    assert.is(message.bytes, 4);
    assert.equal(message.fds.map(describeFd), [`/memfd:${name} (deleted)`]);
    closeAll(message.fds);
  }
  closeAll([a, b, one, two]);
  nothingLeft();
});

test('more descriptors than allowed: told, and every one of them closed', () => {
  const [a, b] = socketPair();
  const file = memfd('x', 1);
  const into = new Uint8Array(8);
  for (let sent = 1; sent <= 253; sent = sent < 12 ? sent + 1 : sent + 80) {
    for (const allowed of [0, 1, 2, 3, sent - 1, sent, sent + 1]) {
      sendWithFds(a, bytes('m'), new Array(sent).fill(file));
      const message = recvWithFds(b, into, allowed);
      const fits = sent <= allowed;
      assert.is(message.bytes, 1);
      assert.is(message.truncated, !fits, `${sent} sent, ${allowed} allowed`);
      assert.is(message.fds.length, fits ? sent : 0);
      closeAll(message.fds);
    }
  }
  closeAll([a, b, file]);
  nothingLeft();
});

test('descriptors that this process cannot take are told as truncated, and none stays', () => {
  const [a, b] = socketPair();
  const file = memfd('x', 1);
  const limit = getLimit('NOFILE');
  sendWithFds(a, bytes('m'), [file, file, file, file]);
  setLimit('NOFILE', { soft: Math.max(a.number, b.number, file.number) + 2, hard: limit.hard });
  const message = recvWithFds(b, new Uint8Array(8), 8);
  setLimit('NOFILE', limit);
  assert.equal(message, { bytes: 1, fds: [], truncated: true });
  closeAll([a, b, file]);
  nothingLeft();
});

test('descriptors in a socket that is closed unread are gone', () => {
  const [a, b] = socketPair();
  const [left, right] = socketPair();
  sendWithFds(a, bytes('m'), [right]);
  closeAll([right, a, b]);
  assert.is(recvWithFds(left, new Uint8Array(1), 0).bytes, 0); // its last owner was the queue
  left.close();
  nothingLeft();
});

test('a full socket is -1, partial sends carry the descriptors once', () => {
  const [a, b] = socketPair();
  const file = memfd('x', 1);
  const chunk = new Uint8Array(1 << 20).fill(7);
  const first = sendWithFds(a, chunk, [file]);
  assert.ok(first > 0 && first < chunk.length);
  assert.is(sendWithFds(a, chunk), -1);
  let received = 0;
  let fds = 0;
  const into = new Uint8Array(65536);
  for (;;) {
    const message = recvWithFds(b, into, 4);
    if (message.bytes < 0) break;
    received += message.bytes;
    fds += message.fds.length;
    closeAll(message.fds);
  }
  assert.equal([received, fds], [first, 1]);
  closeAll([a, b, file]);
  nothingLeft();
});

test('a peer that leaves bytes unread has hung up', () => {
  const [a, b] = socketPair();
  sendWithFds(b, bytes('unread'));
  a.close(); // with 'unread' in its queue: b sees ECONNRESET
  assert.is(recvWithFds(b, new Uint8Array(8), 0).bytes, 0);
  b.close();
  nothingLeft();
});

test('empty buffers', () => {
  const [a, b] = socketPair();
  assert.throws(() => recvWithFds(a, new Uint8Array(0), 0), RangeError);
  assert.is(sendWithFds(a, new Uint8Array(0)), 0);
  assert.is(recvWithFds(b, new Uint8Array(1), 0).bytes, -1);
  assert.throws(() => sendWithFds(a, bytes('x'), new Array(254).fill(a)), RangeError);
  assert.throws(() => sendWithFds(a, bytes('x'), [Fd.take(2 ** 30)]), code('EBADF'));
  closeAll([a, b]);
  nothingLeft();
});

test('the socket file has the mode asked for under any umask', () => {
  for (const umask of [0, 0o022, 0o077, 0o777]) {
    const old = process.umask(umask);
    for (const mode of [0o600, 0o660, 0o777]) {
      const path = join(dir, 'mode');
      const listener = listenUnix(path, mode);
      assert.is(statSync(path).mode & 0o777, mode);
      assert.is(process.umask(), umask);
      listener.close();
    }
    process.umask(old);
  }
  nothingLeft();
});

test('a socket that a dead process left is replaced', () => {
  const path = join(dir, 'stale');
  const dead = libc.socket(1, 1, 0);
  const address = unixAddress(path);
  assert.is(libc.bindSocket(dead, address, address.length), 0);
  libc.close(dead);
  assert.ok(existsSync(path));
  const listener = listenUnix(path);
  connectUnix(path).close();
  accept(listener.fd)?.close();
  listener.close();
  assert.not.ok(existsSync(path));
  nothingLeft();
});

test('a socket where somebody listens is not touched', async () => {
  const path = join(dir, 'alive');
  const server = createServer((socket) => socket.end('still here')).listen(path);
  await new Promise((resolve) => server.once('listening', resolve));
  assert.throws(() => listenUnix(path), /another process has this socket.*EADDRINUSE/);
  const answer = await new Promise<string>((resolve) => {
    createConnection(path).once('data', (data) => resolve(String(data)));
  });
  assert.is(answer, 'still here');
  await new Promise((resolve) => server.close(resolve));
  const ours = listenUnix(path);
  assert.throws(() => listenUnix(path), code('EADDRINUSE'));
  assert.is(accept(ours.fd), undefined); // it was not even disturbed
  ours.close();
});

test('a file that is no socket is not touched', () => {
  const path = join(dir, 'precious');
  writeFileSync(path, 'data');
  assert.throws(() => listenUnix(path), /exists and is not a socket/);
  const link = join(dir, 'link');
  symlinkSync(path, link);
  assert.throws(() => listenUnix(link), /exists and is not a socket/);
  assert.is(statSync(path).size, 4);
  assert.throws(() => listenUnix(join(dir, 'no-such-folder', 'a')), code('ENOENT'));
  nothingLeft();
});

test('closing removes the socket file only while it is our own', () => {
  const path = join(dir, 'replaced');
  const listener = listenUnix(path);
  chmodSync(path, 0o644);
  listener.close();
  assert.not.ok(existsSync(path));
  const second = listenUnix(path);
  unlinkSync(path); // by hand
  const third = listenUnix(path);
  second.close();
  assert.ok(existsSync(path));
  third.close();
  third.close();
  assert.not.ok(existsSync(path));
});

test('paths too long or strange are refused with their length', () => {
  assert.throws(() => listenUnix(join('/tmp', 'x'.repeat(120))), /has 125 bytes; 1 to 107/);
  assert.throws(() => connectUnix(''), /1 to 107/);
  assert.throws(() => connectUnix('a\0b'), /zero byte/);
  assert.is(unixAddress('x'.repeat(MAX_SOCKET_PATH)).length, 110);
  assert.equal([...unixAddress('ä')], [1, 0, 0xc3, 0xa4, 0]);
  assert.equal([...unixAddress('@a')], [1, 0, 0x40, 0x61, 0]); // a file called '@a'
  assert.equal([...unixAddress('@a', true)], [1, 0, 0, 0x61]); // an abstract name
  assert.throws(() => connectUnix(join(dir, 'absent')), code('ENOENT'));
  nothingLeft();
});

test('out of descriptors: the caller is hung up on, not kept waiting', () => {
  const listener = listenUnix(join(dir, 'full'));
  const client = connectUnix(listener.path);
  const limit = getLimit('NOFILE');
  const top = open('/dev/null', O.RDONLY);
  const highest = top.number;
  top.close();
  setLimit('NOFILE', { soft: highest, hard: limit.hard }); // every number below is taken
  try {
    assert.throws(() => accept(listener.fd), /a connection was refused; raise the open files limit.*EMFILE/);
    assert.is(accept(listener.fd), undefined); // nobody waits: the listener is not readable for ever
  } finally {
    setLimit('NOFILE', limit);
  }
  assert.is(recvWithFds(client, new Uint8Array(1), 0).bytes, 0);
  const again = connectUnix(listener.path);
  accept(listener.fd)?.close();
  closeAll([client, again]);
  listener.close();
  nothingLeft();
});

test('the service manager is told, when there is one', () => {
  assert.is(notifySystemd('READY=1', undefined), false);
  assert.is(notifySystemd('READY=1', ''), false);
  for (const [path, address] of [
    [join(dir, 'notify'), unixAddress(join(dir, 'notify'))],
    [`@vvu-test-${process.pid}`, unixAddress(`@vvu-test-${process.pid}`, true)],
  ] as const) {
    const manager = Fd.take(libc.socket(1, 2 | O.NONBLOCK | O.CLOEXEC, 0));
    assert.is(libc.bindSocket(manager.number, address, address.length), 0);
    assert.is(notifySystemd('READY=1\nSTATUS=fine', path), true);
    const into = new Uint8Array(64);
    assert.is(text(into.subarray(0, recvWithFds(manager, into, 0).bytes)), 'READY=1\nSTATUS=fine');
    manager.close();
    assert.throws(() => notifySystemd('READY=1', path), code('ECONNREFUSED'));
  }
  nothingLeft();
});

test('twenty thousand messages with descriptors leave nothing behind', () => {
  const [a, b] = socketPair();
  const files = [memfd('x', 1), memfd('y', 1)];
  const [message, into] = [bytes('header'), new Uint8Array(12)];
  for (let i = 0; i < 20_000; i++) {
    sendWithFds(a, message, files);
    closeAll(recvWithFds(b, into, i % 4).fds);
  }
  closeAll([a, b, ...files]);
  nothingLeft();
});

test('logging: by layer, at once, and warnings always', () => {
  const source = `
    import { logger, enabledLogs, enableLogs } from '<root>/src/sys/log.ts';
    const [a, b] = [logger('file'), logger('io')];
    a('shown %d %o', 7, { x: 1 });
    b('hidden');
    b.warn('broken ring: %s', 'reason');
    console.log(a.enabled, b.enabled);
    enableLogs('vvu:io');
    console.log(a.enabled, b.enabled, enabledLogs('io'));
    b('now shown');
    enableLogs('');
    console.log(a.enabled, b.enabled);
    process.reallyExit(0);
  `;
  const child = runChild(source, [], { DEBUG: 'vvu:file' });
  assert.is(child.stdout, 'true false\nfalse true true\nfalse false\n');
  assert.match(child.stderr, /vvu:file shown 7 \{ x: 1 \}/);
  assert.match(child.stderr, /vvu:io broken ring: reason/);
  assert.match(child.stderr, /vvu:io now shown/);
  assert.not.match(child.stderr, /hidden/);
});

test.run();
