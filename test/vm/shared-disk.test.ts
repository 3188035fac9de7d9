/**
 * Two compute VMs on one disk, each through a controller on a reactor of its own: persistent reservations and COMPARE AND
 * WRITE hold between them, as clusters need it.
 */
import { startCompute } from '../../vm/compute.ts';
import type { Machine } from '../../vm/machine.ts';
import { TargetProcess } from '../../vm/target-process.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('two VMs on one disk');
const [KEY_A, KEY_B] = ['a1a1a1a1', 'b2b2b2b2'];
/** Reservation types (SPC-4 table 124). */
const [WRITE_EXCLUSIVE, EXCLUSIVE_ACCESS, WRITE_EXCLUSIVE_REGISTRANTS] = [1, 3, 5];
/** Exit codes of sg3-utils: RESERVATION CONFLICT, MISCOMPARE. */
const [CONFLICT, MISCOMPARE] = [24, 14];
const INCREMENTS = 40;
const COUNTER_BLOCK = 2048;

let target: TargetProcess;
let a: Machine;
let b: Machine;

test.before(async () => {
  target = await TargetProcess.start({ args: ['-m', '0x3', '--malloc', '64M'] });
  await target.rpc('construct_vhost_scsi_controller', 'vhost.1');
  await target.rpc('add_vhost_scsi_lun', 'vhost.1', '0', 'Malloc0');
  [a, b] = await Promise.all(
    ['vhost.0', 'vhost.1'].map((name) => startCompute({ qemu: 'system', scsi: [{ socket: target.socket(name) }] })),
  );
  await Promise.all([a.booted(), b.booted()]);
  await Promise.all([a, b].map((vm) => vm.until('test -b /dev/sda && test -c /dev/sg0')));
});

test.after(async () => {
  await Promise.all([a?.close(), b?.close()]);
  await target?.close();
});

/** PERSISTENT RESERVE OUT. @returns the exit code */
async function out(vm: Machine, options: string): Promise<number> {
  return (await vm.try(`sg_persist -n --out ${options} /dev/sg0`)).exitCode;
}

/** What each initiator may do now: "rw", "r-" or "--". */
async function rights(vm: Machine): Promise<string> {
  const { exitCode: read } = await vm.try('sg_raw -r 512 /dev/sg0 28 00 00 00 10 00 00 00 01 00');
  const { exitCode: write } = await vm.try('sg_raw -s 512 -i /dev/zero /dev/sg0 2a 00 00 00 10 00 00 00 01 00');
  for (const code of [read, write]) assert.ok(code === 0 || code === CONFLICT, `exit code ${code}`);
  return `${read === 0 ? 'r' : '-'}${write === 0 ? 'w' : '-'}`;
}

const both = async () => [await rights(a), await rights(b)];
const keys = async (vm: Machine) =>
  [...(await vm.run('sg_persist -n --in --read-keys /dev/sg0')).matchAll(/0x([0-9a-f]{8})$/gm)].map((m) => m[1]);

test('the controllers are on different reactors', async () => {
  const shown = JSON.parse(await target.rpc('get_vhost_controllers')) as { reactor: number }[];
  assert.equal(
    shown.map((c) => c.reactor),
    [0, 1],
  );
});

test('what one VM writes, the other reads', async () => {
  await a.run('printf "%-512s" from-a | dd of=/dev/sda seek=100 oflag=direct conv=notrunc');
  assert.match(await b.run('dd if=/dev/sda skip=100 count=1 iflag=direct 2>/dev/null'), /^from-a /);
  assert.equal(await both(), ['rw', 'rw']);
});

test('a reservation of one VM holds against the other, type by type', async () => {
  assert.is(await out(a, `--register --param-sark=${KEY_A}`), 0);
  assert.equal(await keys(b), [KEY_A], 'the other sees the key');
  const held: [number, string[], string[]][] = [
    // type; rights while B is not registered, and when it is
    [WRITE_EXCLUSIVE, ['rw', 'r-'], ['rw', 'r-']],
    [EXCLUSIVE_ACCESS, ['rw', '--'], ['rw', '--']],
    [WRITE_EXCLUSIVE_REGISTRANTS, ['rw', 'r-'], ['rw', 'rw']],
  ];
  for (const [type, stranger, registrant] of held) {
    assert.is(await out(a, `--reserve --param-rk=${KEY_A} --prout-type=${type}`), 0);
    assert.match(await b.run('sg_persist -n --in --read-reservation /dev/sg0'), new RegExp(`Key=0x${KEY_A}`));
    assert.equal(await both(), stranger, `type ${type}, B not registered`);
    assert.is(await out(b, `--register --param-sark=${KEY_B}`), 0);
    assert.equal(await both(), registrant, `type ${type}, B registered`);
    assert.is(await out(b, `--reserve --param-rk=${KEY_B} --prout-type=${type}`), CONFLICT);
    assert.is(await out(b, `--register --param-rk=${KEY_B} --param-sark=0`), 0);
    assert.is(await out(a, `--release --param-rk=${KEY_A} --prout-type=${type}`), 0);
    assert.equal(await both(), ['rw', 'rw']);
  }
});

test('the other VM preempts: the first is told, has lost its key, and may not write', async () => {
  assert.is(await out(a, `--reserve --param-rk=${KEY_A} --prout-type=${WRITE_EXCLUSIVE}`), 0);
  assert.is(await out(b, `--register --param-sark=${KEY_B}`), 0);
  const preempt = `--preempt --param-rk=${KEY_B} --param-sark=${KEY_A} --prout-type=${WRITE_EXCLUSIVE}`;
  assert.is(await out(b, preempt), 0);
  // SG_IO hands the unit attention to who sent the command.
  const { output } = await a.try('sg_turs -v /dev/sg0');
  assert.match(output, /[Rr]egistrations preempted|[Rr]eservations preempted/);
  assert.equal(await both(), ['r-', 'rw']);
  assert.equal(await keys(a), [KEY_B]);
  assert.is(await out(a, `--release --param-rk=${KEY_A} --prout-type=${WRITE_EXCLUSIVE}`), CONFLICT);
});

test('a VM that crashes and comes back finds the reservation as it was', async () => {
  await a.reset();
  await a.until('test -c /dev/sg0');
  assert.equal(await both(), ['r-', 'rw']);
  assert.equal(await keys(a), [KEY_B]);
  assert.is(await out(b, `--clear --param-rk=${KEY_B}`), 0);
  assert.equal(await keys(b), []);
  assert.equal(await both(), ['rw', 'rw']);
});

test('both VMs count one block up by COMPARE AND WRITE: none is lost', async () => {
  const read = `dd if=/dev/sda skip=${COUNTER_BLOCK} count=1 iflag=direct 2>/dev/null | tr -d ' '`;
  const count = `
    done=0; lost=0
    while [ $done -lt ${INCREMENTS} ]; do
      n=$(${read})
      { printf '%-512s' $n; printf '%-512s' $((n + 1)); } >/tmp/both
      sg_compare_and_write --quiet --in=/tmp/both --lba=${COUNTER_BLOCK} --num=1 /dev/sg0
      case $? in
        0) done=$((done + 1)) ;;
        ${MISCOMPARE}) lost=$((lost + 1)) ;;
        *) exit 1 ;;
      esac
    done
    echo "misses $lost"`;
  await a.run(`printf '%-512s' 0 | dd of=/dev/sda seek=${COUNTER_BLOCK} oflag=direct conv=notrunc`);
  const [fromA, fromB] = await Promise.all([a, b].map((vm) => vm.run(count, 300)));
  console.log(`A: ${fromA.trim().split('\n').at(-1)}, B: ${fromB.trim().split('\n').at(-1)}`);
  assert.is((await b.run(read)).trim(), String(2 * INCREMENTS));
});

test('one VM goes; the other and the disk stay', async () => {
  await b.powerOff();
  assert.is(await rights(a), 'rw');
  await a.powerOff();
  assert.is(await target.end('SIGINT'), 0, target.output);
});

test.run();
