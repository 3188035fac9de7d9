/** The RPC socket as bytes: SPDK's format, batches, hostile clients, and who may have the socket. */
import { existsSync, lstatSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { runChild } from '../support/child.ts';
import { openFds } from '../support/open-fds.ts';
import { failure, RawClient, startService } from '../support/service.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('rpc wire');
const target = await startService();
test.after(() => target.stop());

const VERSION = { version: 'vvu-target v1.2.3-test', fields: { major: 1, minor: 2, patch: 3, suffix: 'test' } };
const ask = (id: unknown) => JSON.stringify({ jsonrpc: '2.0', id, method: 'spdk_get_version' });
const answer = (id: unknown) => ({ jsonrpc: '2.0', id, result: VERSION });

async function talk(...writes: (string | Uint8Array)[]): Promise<RawClient> {
  const client = await RawClient.connect(target.rpcSocket);
  for (const bytes of writes) {
    client.write(bytes);
    await sleep(2);
  }
  return client;
}

async function parseErrorThenClosed(...writes: (string | Uint8Array)[]): Promise<string> {
  const client = await talk(...writes);
  const answers = await client.waitClosed();
  const last = answers.at(-1) as { id: unknown; error: { code: number; message: string } };
  assert.is(last.id, null);
  assert.is(last.error.code, -32700);
  return last.error.message;
}

test('one request, one answer', async () => {
  const client = await talk(ask(1));
  assert.equal(await client.wait(1), [answer(1)]);
  client.destroy();
});

test('two documents in one write, and one document in many', async () => {
  const client = await talk(`${ask(1)}${ask('two')}`);
  assert.equal(await client.wait(2), [answer(1), answer('two')]);
  for (const byte of ask(3)) {
    client.write(byte);
    await sleep(0);
  }
  assert.equal((await client.wait(3))[2], answer(3));
  client.destroy();
});

test('answers come in the order of the requests', async () => {
  const slow = JSON.stringify({
    jsonrpc: '2.0',
    id: 1,
    method: 'bdev_get_bdevs',
    params: { name: 'none', timeout: 50 },
  });
  const client = await talk(`${slow}${ask(2)}`);
  const [first, second] = (await client.wait(2)) as { id: number }[];
  assert.is(first.id, 1);
  assert.is(second.id, 2);
  client.destroy();
});

test('a client that shuts down its side still gets its answer, then the end', async () => {
  const client = await talk(ask(9));
  client.end();
  assert.equal(await client.waitClosed(), [answer(9)]);
});

test('without "jsonrpc", as some clients of SPDK write', async () => {
  const client = await talk('{"id":4,"method":"spdk_get_version"}');
  assert.equal(await client.wait(1), [answer(4)]);
  client.destroy();
});

test('a notification is not answered', async () => {
  const client = await talk(
    '{"jsonrpc":"2.0","method":"spdk_get_version"}',
    '{"jsonrpc":"2.0","method":"nonsense"}',
    ask(1),
  );
  assert.equal(await client.wait(1), [answer(1)]);
  client.destroy();
});

test('batches: an array of answers, without those of notifications', async () => {
  const client = await talk(`[${ask(1)},{"jsonrpc":"2.0","method":"spdk_get_version"},${ask(2)}]`, `[${ask(3)}]`);
  assert.equal(await client.wait(2), [[answer(1), answer(2)], [answer(3)]]);
  client.destroy();
});

const invalid: [request: string, id: unknown, message: RegExp][] = [
  ['[]', null, /a batch without a request/],
  ['{}', null, /"method" must be a text/],
  ['{"id":7}', 7, /"method" must be a text/],
  ['{"id":7,"method":5}', 7, /"method" must be a text/],
  ['{"id":7,"method":"x","jsonrpc":"1.0"}', 7, /"jsonrpc" must be "2.0"/],
  ['{"id":{},"method":"x"}', null, /"id" must be/],
  ['{"id":true,"method":"x"}', null, /"id" must be/],
];
for (const [request, id, message] of invalid) {
  test(`invalid request ${request}`, async () => {
    const client = await talk(request, ask('after'));
    const [refused, after] = (await client.wait(2)) as { id: unknown; error: { code: number; message: string } }[];
    assert.is(refused.error.code, -32600);
    assert.is(refused.id, id);
    assert.match(refused.error.message, message);
    assert.equal(after, answer('after'));
    client.destroy();
  });
}

test('elements of a batch that are no requests get their own answers', async () => {
  const client = await talk(`[null,5,[],"x",${ask(1)}]`);
  const [answers] = (await client.wait(1)) as { error?: { code: number } }[][];
  assert.equal(
    answers.map((a) => a.error?.code),
    [-32600, -32600, -32600, -32600, undefined],
  );
  client.destroy();
});

test('an unknown method is answered with the near one', async () => {
  const client = await talk(
    '{"jsonrpc":"2.0","id":1,"method":"construct_maloc_bdev"}{"jsonrpc":"2.0","id":2,"method":"zzz"}',
  );
  const answers = (await client.wait(2)) as { error: { code: number; message: string } }[];
  assert.equal(answers[0].error, {
    code: -32601,
    message: 'Method not found: construct_maloc_bdev; did you mean construct_malloc_bdev?',
  });
  assert.equal(answers[1].error, { code: -32601, message: 'Method not found: zzz; rpc_get_methods lists them' });
  client.destroy();
});

test('names of Object.prototype are no methods', async () => {
  for (const name of ['constructor', '__proto__', 'toString']) {
    assert.is((await failure(target.call(name))).code, -32601);
  }
});

test('garbage is answered with a parse error and closed', async () => {
  assert.match(await parseErrorThenClosed('hello'), /^Parse error: a request starts with/);
  assert.match(await parseErrorThenClosed('GET / HTTP/1.1\r\n\r\n'), /not with "G"/);
  assert.match(await parseErrorThenClosed('{"a":}'), /^Parse error: /);
  assert.match(await parseErrorThenClosed('{]'), /^Parse error: /);
  assert.match(
    await parseErrorThenClosed(Uint8Array.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d])),
    /^Parse error: /,
  );
  assert.match(await parseErrorThenClosed('{"id":1,"method":"x",}'), /^Parse error: /);
});

test('what came before the garbage is answered', async () => {
  const client = await talk(`${ask(1)}garbage${ask(2)}`);
  const answers = await client.waitClosed();
  assert.is(answers.length, 2);
  assert.equal(answers[0], answer(1));
});

test('a request of more than 1 MiB, in one write and drop by drop', async () => {
  assert.match(await parseErrorThenClosed(`{"a":"${'x'.repeat(1024 * 1024)}"}`), /more than 1048576 bytes/);
  const drops = Array.from({ length: 80 }, (_, i) => (i === 0 ? '{"a":"' : 'x'.repeat(16384)));
  assert.match(await parseErrorThenClosed(...drops), /more than 1048576 bytes/);
});

test('deep nesting', async () => {
  assert.match(await parseErrorThenClosed('['.repeat(65)), /more than 64 nested/);
  assert.match(await parseErrorThenClosed('{"a":'.repeat(100_000)), /more than 64 nested/);
  const client = await talk(`${'['.repeat(64)}${']'.repeat(64)}`);
  assert.is((await client.wait(1)).length, 1);
  client.destroy();
});

test('a client that vanishes in the middle of a request, or before its answer, harms nobody', async () => {
  for (const bytes of ['{"jsonrpc":', ask(1), `${ask(1)}`.repeat(500)]) {
    const client = await RawClient.connect(target.rpcSocket);
    client.write(bytes);
    client.destroy();
  }
  assert.equal(await target.call('spdk_get_version'), VERSION);
});

test('a client that never reads is held up alone', async () => {
  const { connect } = await import('node:net');
  const lazy = connect(target.rpcSocket);
  lazy.pause();
  lazy.write(JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'rpc_get_methods' }).repeat(2000));
  await sleep(50);
  assert.equal(await target.call('spdk_get_version'), VERSION);
  lazy.destroy();
});

test('connections leave no descriptors behind', async () => {
  await sleep(20);
  const before = openFds().length;
  for (let i = 0; i < 100; i++) {
    const client = await RawClient.connect(target.rpcSocket);
    client.write(i % 2 === 0 ? ask(i) : 'garbage');
    if (i % 2 === 0) await client.wait(1);
    else await client.waitClosed();
    client.destroy();
  }
  await sleep(50);
  assert.ok(openFds().length <= before, `${openFds().length} descriptors, ${before} before`);
});

test('the socket belongs to its owner alone', () => {
  assert.is(lstatSync(target.rpcSocket).mode & 0o777, 0o600);
});

test('a second target on the same socket is told who has it', async () => {
  const refused = await failure(startService({ rpcSocket: target.rpcSocket }));
  assert.match(
    refused.message,
    new RegExp(`${target.rpcSocket}: a running target \\(process ${process.pid}\\) answers there`),
  );
  assert.equal(await target.call('spdk_get_version'), VERSION, 'and the first one still has it');
});

test('another program on the socket is left alone', async () => {
  const path = join(tempDir(), 'other.sock');
  const other = createServer((socket) => socket.end('hello\n'));
  await new Promise<void>((resolve) => other.listen(path, resolve));
  const refused = await failure(startService({ rpcSocket: path }));
  assert.match(refused.message, /another program answers there/);
  assert.ok(existsSync(path));
  other.close();
});

test('a socket that a dead process left is replaced, any other file is not', async () => {
  const folder = tempDir();
  const stale = join(folder, 'stale.sock');
  runChild(`import { createServer } from 'node:net';
    createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, 'SIGKILL'));`);
  assert.ok(lstatSync(stale).isSocket());
  const fresh = await startService({ rpcSocket: stale });
  assert.equal(await fresh.call('spdk_get_version'), VERSION);
  await fresh.stop();
  assert.not(existsSync(stale), 'and removed at the end');

  const file = join(folder, 'file');
  writeFileSync(file, 'precious');
  assert.match((await failure(startService({ rpcSocket: file }))).message, /is no socket/);
  assert.match(
    (await failure(startService({ rpcSocket: join(folder, 'x'.repeat(200)) }))).message,
    /longer than 107 bytes/,
  );
  assert.match((await failure(startService({ rpcSocket: join(folder, 'no', 'such') }))).message, /no\/such/);
});

test.run();
