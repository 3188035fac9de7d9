/** The program as its user runs it: quick form, rpc commands as SPDK's guide types them, signals, mistakes, no root. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { RpcClient } from '../../src/rpc/client.ts';
import { blockAndFill } from '../support/blocking-eventfd.ts';
import { write10 } from '../support/front-end-scsi.ts';
import { connectGuest, INQUIRY, TEST_UNIT_READY } from '../support/guest.ts';
import { endAll, Program, runProgram, startTarget, useBuild } from '../support/program.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('program');
const root = tempDir();
// Others shall be able to read it, for the test without root.
chmodSync(root, 0o755);
useBuild();
test.after(endAll);
const newFolder = () => mkdtempSync(join(root, 'f-'));

async function rpc(folder: string, ...words: string[]): Promise<string> {
  const { end, stdout, stderr } = await runProgram(['rpc', '-s', join(folder, 'rpc.sock'), ...words]);
  assert.is(end, 0, stderr);
  return stdout.trim();
}

/** The same without a process of its own, where the command line is not the point. */
async function call(folder: string, method: string, params?: Record<string, unknown>): Promise<unknown> {
  const client = await RpcClient.connect(join(folder, 'rpc.sock'));
  try {
    return await client.call(method, params);
  } finally {
    client.close();
  }
}

async function mistake(args: string[], message: RegExp, cwd = root): Promise<void> {
  const { end, stderr } = await runProgram(args, { cwd });
  assert.is(end, 1, stderr);
  assert.match(stderr, message);
  assert.not(/^\s+at /m.test(stderr), `a stack for an operator's mistake:\n${stderr}`);
}

test('quick form: serves, prints the QEMU command line; SIGTERM ends it with 0 and leaves no socket', async () => {
  const folder = newFolder();
  const file = join(folder, 'disk.img');
  writeFileSync(file, '');
  truncateSync(file, 1 << 20);
  const program = new Program(['-r', 'rpc.sock', '--malloc', '8M', '--file', 'disk.img', '--null', '1M'], {
    cwd: folder,
  });
  await program.says(/restart of the target/);
  assert.match(program.stdout, /target 0: malloc 8 MiB, target 1: disk.img, target 2: null 1 MiB/);
  assert.match(program.stdout, new RegExp(`path=${join(folder, 'vhost.0')}`));
  const guest = connectGuest(join(folder, 'vhost.0'));
  const product = (target: number) =>
    Buffer.from(guest.scsi.ready(target, INQUIRY, { inLength: 96 }).data.subarray(16, 32))
      .toString('latin1')
      .trim();
  assert.equal([product(0), product(1), product(2)], ['Malloc disk', 'AIO disk', 'Null disk']);
  for (let i = 0; i < 16; i++) guest.scsi.submit(1, write10(i, 1), { out: new Uint8Array(512) });
  assert.is(await program.end('SIGTERM'), 0, program.stderr);
  guest.close();
  assert.match(program.stdout, /SIGTERM, shutting down/);
  assert.equal(readdirSync(folder), ['disk.img']);
});

test("the seed's commands, as typed", async () => {
  const folder = newFolder();
  const program = await startTarget(folder, ['-m', '0x3']);
  assert.is(await rpc(folder, 'construct_vhost_scsi_controller', '--cpumask', '0x1', 'vhost.0'), '');
  assert.is(await rpc(folder, 'construct_malloc_bdev', '64', '512', '-b', 'Malloc0'), 'Malloc0');
  assert.is(await rpc(folder, 'add_vhost_scsi_lun', 'vhost.0', '2', 'Malloc0'), '');
  const [disk] = JSON.parse(await rpc(folder, 'get_bdevs')) as { num_blocks: number; uuid: string }[];
  assert.is(disk.num_blocks, 131072);
  const guest = connectGuest(join(folder, 'vhost.0'));
  assert.is(guest.scsi.ready(2, TEST_UNIT_READY).status, 0);
  guest.close();
  const saved = join(folder, 'saved.json');
  writeFileSync(saved, await rpc(folder, 'save_config'));
  const refused = await runProgram(['rpc', '-s', join(folder, 'rpc.sock'), 'remove_vhost_scsi_target', 'vhost.0', '5']);
  assert.is(refused.end, 1);
  assert.is(
    refused.stderr,
    'vvu-target: rpc remove_vhost_scsi_target: No such device: vhost.0 has no target 5; it has 2\n',
  );
  assert.is(await call(folder, 'kill_instance', { sig_name: 'SIGTERM' }), true);
  assert.is(await program.end(), 0);
  assert.equal(readdirSync(folder), ['saved.json']);

  const again = await startTarget(folder, ['-c', saved]);
  assert.equal(await call(folder, 'save_config'), JSON.parse(readFileSync(saved, 'utf8')));
  assert.is(((await call(folder, 'get_bdevs')) as { uuid: string }[])[0].uuid, disk.uuid);
  assert.is(await again.end('SIGINT'), 0);

  const third = await startTarget(folder);
  const load = new Program(['rpc', '-s', join(folder, 'rpc.sock'), 'load_config', '-j', saved]);
  assert.is(await load.end(), 0, load.stderr);
  assert.equal(await call(folder, 'save_config'), JSON.parse(readFileSync(saved, 'utf8')));
  assert.is(await third.end('SIGINT'), 0);
});

test('after kill -9 the next start takes the sockets over', async () => {
  const folder = newFolder();
  const first = await startTarget(folder, ['--malloc', '1M']);
  assert.is(await first.end('SIGKILL'), 'SIGKILL');
  assert.ok(existsSync(join(folder, 'vhost.0')) && existsSync(join(folder, 'rpc.sock')));
  const second = await startTarget(folder, ['--malloc', '1M']);
  const guest = connectGuest(join(folder, 'vhost.0'));
  assert.is(guest.scsi.ready(0, TEST_UNIT_READY).status, 0);
  guest.close();
  await mistake(
    ['-S', folder, '-r', join(folder, 'rpc.sock')],
    new RegExp(`a running target \\(process ${second.pid}\\) answers there`),
  );
  await mistake(['-S', folder, '-r', join(folder, 'other.sock'), '--malloc', '1M'], /vhost\.0/);
  assert.is(await second.end('SIGTERM'), 0);
  assert.equal(readdirSync(folder), []);
});

test('--single-thread serves as well', async () => {
  const folder = newFolder();
  const program = await startTarget(folder, ['--single-thread', '--malloc', '1M']);
  const guest = connectGuest(join(folder, 'vhost.0'));
  assert.is(guest.scsi.ready(0, TEST_UNIT_READY).status, 0);
  // A front end that makes its eventfd block holds it up for a moment only.
  const { call: notifier, driver } = guest.frontEnd.ring(2);
  driver.arm();
  notifier.drain();
  blockAndFill(notifier);
  guest.scsi.submit(0, TEST_UNIT_READY);
  const other = connectGuest(join(folder, 'vhost.0'));
  assert.is(other.scsi.ready(0, TEST_UNIT_READY).status, 0);
  for (const g of [guest, other]) g.close();
  assert.is(await program.end('SIGTERM'), 0);
});

test('DEBUG logs by layer', async () => {
  const folder = newFolder();
  const program = await startTarget(folder, ['--malloc', '1M'], { env: { DEBUG: 'vvu:reactor' } });
  await program.end('SIGTERM');
  assert.match(program.stderr, /vvu:reactor openController/);
  assert.not(/vvu:rpc/.test(program.stderr));
});

test('a layer that only reactors know can be switched in a running target', async () => {
  const folder = newFolder();
  const program = await startTarget(folder, ['--malloc', '1M']);
  const flags = (await call(folder, 'log_get_flags')) as Record<string, boolean>;
  assert.is(flags['vhost'], false);
  assert.is(await rpc(folder, 'log_set_flag', 'vhost'), '');
  const guest = connectGuest(join(folder, 'vhost.0'));
  assert.is(guest.scsi.ready(0, TEST_UNIT_READY).status, 0);
  guest.close();
  await program.end('SIGTERM');
  assert.match(program.stderr, /vvu:vhost .*: GET_FEATURES flags/);
});

test('mistakes are told in one line: what, where, what next', async () => {
  const folder = newFolder();
  // One after the other would take long; side by side they must not meet at one socket.
  let sockets = 0;
  const r = () => ['-r', join(folder, `rpc.${sockets++}`)];
  const file = join(newFolder(), 'file');
  writeFileSync(file, '');
  await Promise.all([
    mistake(
      ['-m', '0x3', '--single-thread', ...r()],
      /^vvu-target: CPU mask 0x3: with --single-thread there is one reactor.*; name one CPU, or leave out -m/,
    ),
    mistake(['-m', 'zz', ...r()], /^vvu-target: CPU mask "zz": not a hexadecimal number; write 0x3/),
    mistake(
      ['-m', '0x8000000000000000', ...r()],
      /^vvu-target: CPU mask 0x8000000000000000: reactor of CPU 63: .*offline.*; write -m with some of the CPUs that are online: \[\d/,
    ),
    mistake(['-S', join(folder, 'none'), ...r()], /-S .*none: there is no such directory; make it/),
    mistake(['--file', join(folder, 'none.img'), ...r()], /none\.img/),
    mistake(['--malloc', '10Q', ...r()], /'10Q' is invalid.*expected a size such as 64M/),
    mistake(['--nonsense'], /unknown option '--nonsense'/),
    mistake(['rcp', 'get_bdevs', ...r()], /no command 'rcp'.*; did you mean rpc\?/),
    mistake(['-S', file, ...r()], /-S .*file: it is no directory; name one/),
    mistake(['-T', 'vvu', '-S', '0000:00:1f.6', ...r()], /there is no such PCI function; .*setup status --all/),
    mistake(['-c', folder, ...r()], /configuration .*: EISDIR: .*; name a file that can be read \(-c\)/),
    mistake(
      ['rpc', 'load_config', '-j', join(folder, 'none.json')],
      /load_config: ENOENT: .*name a file that can be read/,
    ),
    mistake(['--malloc', '64', ...r()], /64 bytes are too few for a disk; write 64M for 64 MiB/),
    mistake(['-c', join(folder, 'none.json'), ...r()], /configuration .*none\.json: there is no such file/),
    mistake(['-r', join(folder, 'no', 'dir.sock')], /no\/dir\.sock/),
    mistake(['--malloc', '1M', '--state', 'x', ...r()], /--state keeps disks that were made by RPC/),
    mistake(['rpc', '-s', join(folder, 'none.sock'), 'get_bdevs'], /none\.sock: no target listens there; start one/),
    mistake(['rpc', 'get_bdevz', '-b', 'M'], /did you mean get_bdevs\?/),
  ]);
  assert.equal(readdirSync(folder), [], 'and nothing is left behind');
});

test('--version and --help', async () => {
  const version = await runProgram(['--version']);
  assert.is(version.end, 0);
  assert.match(version.stdout, /^\d+\.\d+\.\d+/);
  const help = await runProgram(['--help']);
  assert.is(help.end, 0);
  for (const word of ['--malloc', 'Examples', 'DEBUG=vvu:*', 'rpc']) assert.ok(help.stdout.includes(word), word);
});

test('without root: everything but its own folder belongs to somebody else', async () => {
  const folder = newFolder();
  chmodSync(folder, 0o777);
  const nobody = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
  const program = await startTarget(folder, ['--malloc', '8M', '-m', '0x1'], { ...nobody, env: { HOME: folder } });
  const guest = connectGuest(join(folder, 'vhost.0'));
  assert.is(guest.scsi.ready(0, TEST_UNIT_READY).status, 0);
  guest.close();
  if (process.getuid?.() === 0) {
    const refused = await runProgram(['--malloc', '1M', '-r', '/var/lib/rpc.sock'], { ...nobody, cwd: folder });
    assert.is(refused.end, 1);
    assert.match(
      (await runProgram(['--malloc', '1M', '-S', '/var/lib', '-r', 'other.sock'], { ...nobody, cwd: folder })).stderr,
      /^vvu-target: -S \/var\/lib: this user cannot make sockets there \(EACCES\); name a directory of yours$/m,
    );
    assert.match(refused.stderr, /RPC socket \/var\/lib\/rpc\.sock: permission denied; /);
    const closed = join(root, 'closed');
    mkdirSync(closed, { mode: 0o700 });
    const hidden = await runProgram(['-r', join(closed, 'rpc.sock')], { ...nobody, cwd: folder });
    assert.match(hidden.stderr, /^vvu-target: RPC socket .*: EACCES: .*; choose another path \(-r\)$/m);
    const unwritable = await runProgram(['-S', closed, '-r', 'other.sock'], { ...nobody, cwd: folder });
    assert.match(
      unwritable.stderr,
      /^vvu-target: -S .*: this user cannot make sockets there \(EACCES\); name a directory/,
    );
  }
  assert.is(await program.end('SIGTERM'), 0, program.stderr);
});

test('a second signal ends it at once', async () => {
  const folder = newFolder();
  const program = await startTarget(folder, ['--malloc', '1M']);
  program.child.kill('SIGTERM');
  program.child.kill('SIGINT');
  const code = await program.end();
  // The first may have been faster.
  assert.ok(code === 1 || code === 0, String(code));
});

test('a crash of a reactor ends the program loudly', async () => {
  const folder = newFolder();
  const args = ['-S', folder, '-r', join(folder, 'rpc.sock'), '--malloc', '1M'];
  // It may crash before the rest is up: where it stands then does not matter.
  const program = new Program(args, { cwd: folder, nodeArgs: ['--import', crashHook()] });
  assert.is(await program.end(), 70);
  assert.match(program.stderr, /fatal: the reactor of CPU 0 has crashed: the thread ended with code 1/);
  assert.match(program.stderr, /^\s+at /m, 'with the stack');
});

/** A module that ends a reactor's thread a moment after it is ready. */
function crashHook(): string {
  const code = `import { Worker } from 'node:worker_threads';
    const { on } = Worker.prototype;
    Worker.prototype.on = function (event, listener) {
      if (event === 'message') on.call(this, event, (m) => m.ready && setTimeout(() => this.terminate(), 500));
      return on.call(this, event, listener);
    };`;
  return `data:text/javascript,${encodeURIComponent(code)}`;
}

test.run();
