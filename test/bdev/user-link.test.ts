/** A vhost-user back end that hangs up, is silent or says something else: the front end says what, and hangs up. */
import { join } from 'node:path';
import { UserLink, UserMessage } from '../../src/bdev/virtio-scsi/user-link.ts';
import { EventLoop } from '../../src/sys/event-loop.ts';
import type { Fd } from '../../src/sys/fd.ts';
import { accept, listenUnix, recvWithFds, sendWithFds } from '../../src/sys/socket.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('vhost-user link');
const path = join(tempDir(), 'back');

function message(id: number, flags: number, size: number, ...words: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.of(id, flags, size, ...words).buffer);
}

/** What becomes of a question when the back end does `answer`; and of the link. */
async function ask(
  answer: (peer: Fd) => void,
  haste = 1,
): Promise<{ outcome: string; lost: string[]; closed: boolean }> {
  const loop = new EventLoop();
  loop.attach();
  // Where the limit is to be met, time runs so many times as fast.
  const hurried = {
    now: 0,
    after: (ms: number, fn: () => void) => loop.after(ms / haste, fn),
    watch: (fd: number, fn: () => void) => loop.watch(fd, fn),
  };
  const listener = listenUnix(path);
  const lost: string[] = [];
  const link = new UserLink(path, hurried, (reason) => lost.push(reason));
  const peer = accept(listener.fd) as Fd;
  const asked = link.ask(UserMessage.GET_FEATURES);
  const question = new Uint8Array(12);
  assert.is(recvWithFds(peer, question, 0).bytes, 12);
  assert.equal([...new Uint32Array(question.buffer)], [UserMessage.GET_FEATURES, 1, 0]);
  answer(peer);
  const outcome = await asked.then(String, (error: Error) => error.message.replace(`${path}: `, ''));
  await new Promise((resolve) => setTimeout(resolve, 20));
  const { closed } = link;
  link.close();
  peer.close();
  listener.close();
  loop.close();
  return { outcome, lost, closed };
}

test('an answer, in pieces', async () => {
  const bytes = message(1, 5, 8, 0x1234, 0x1);
  const got = await ask((peer) => {
    for (const byte of bytes) sendWithFds(peer, Uint8Array.of(byte));
  });
  assert.equal(got, { outcome: String(0x1_0000_1234), lost: [], closed: false });
});

for (const [what, answer, outcome] of [
  ['another id', message(2, 5, 8, 0, 0), /^the back end sent message 2 with flags 5 and 8 bytes; an answer to 1 was/],
  ['no reply', message(1, 1, 8, 0, 0), /with flags 1/],
  ['another version', message(1, 6, 8, 0, 0), /with flags 6/],
  ['another size', message(1, 5, 4, 0, 0), /and 4 bytes/],
  ['a huge size', message(1, 5, 0xffff_ffff, 0, 0), /and 4294967295 bytes/],
  ['silence', new Uint8Array(0), /^message 1 was not answered in 10000 ms/],
  ['half an answer', message(1, 5, 8), /^message 1 was not answered/],
] as const) {
  test(`${what} is the end of it`, async () => {
    const got = await ask((peer) => {
      if (answer.length > 0) sendWithFds(peer, answer);
    }, 100);
    assert.match(got.outcome, outcome);
    assert.equal([got.lost, got.closed], [[], true], 'told once, to who asked');
  });
}

test('a hang-up', async () => {
  const got = await ask((peer) => peer.close());
  assert.equal(got, { outcome: 'the back end has hung up', lost: [], closed: true });
});

test('a word that nobody asked for', async () => {
  const got = await ask((peer) => {
    sendWithFds(peer, message(1, 5, 8, 7, 0));
    sendWithFds(peer, message(11, 5, 8, 7, 0));
  });
  assert.is(got.outcome, '7');
  assert.equal(got.lost, ['the back end sent message 11 with flags 5 and 8 bytes; nothing was asked']);
  assert.ok(got.closed);
});

test.run();
