/** sg3-utils on served disks: what the tools decode is what the target says of its disks, and of what it can do. */
import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import type { BdevInfo } from '../../src/bdev/bdev.ts';
import { MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME_BYTES } from '../../src/scsi/limits.ts';
import { MODE_PAGES } from '../../src/scsi/mode-pages.ts';
import { cdbLength, OPCODES } from '../../src/scsi/opcodes.ts';
import { startCompute } from '../../vm/compute.ts';
import { awaitDisks, type GuestDisk } from '../../vm/disks.ts';
import type { Machine } from '../../vm/machine.ts';
import { scratchFolder } from '../../vm/paths.ts';
import { TargetProcess } from '../../vm/target-process.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('sg3-utils');
const scratch = scratchFolder('sg3');
const BYTES = 64 * 2 ** 20;
const KEY = 'abcd1234';
const MISCOMPARE = 14;

interface Described {
  name: string;
  uuid: string;
  block_size: number;
  num_blocks: number;
  product_name: string;
  supported_io_types: { unmap: boolean; flush: boolean };
}

let target: TargetProcess;
let vm: Machine;
/** Each disk as the guest has it, and as the target describes it. */
const disks: { guest: GuestDisk; bdev: Described }[] = [];

test.before(async () => {
  const image = join(scratch.path, 'disk.img');
  const fd = openSync(image, 'w');
  ftruncateSync(fd, BYTES);
  closeSync(fd);
  target = await TargetProcess.start({ args: ['--malloc', '64M', '--file', image] });
  vm = await startCompute({ qemu: 'system', scsi: [{ socket: target.socket() }] });
  await vm.booted();
  const guests = await awaitDisks(vm, ['Malloc disk', 'AIO disk']);
  const bdevs = JSON.parse(await target.rpc('get_bdevs')) as Described[];
  guests.forEach((guest, i) => {
    disks.push({ guest, bdev: bdevs[i] });
  });
});

test.after(async () => {
  await vm?.close();
  await target?.close();
  scratch.remove();
});

/** Run a test with each disk. */
function each(name: string, run: (sg: string, bdev: Described, device: string) => Promise<void>): void {
  test(name, async () => {
    for (const { guest, bdev } of disks) await run(guest.generic, bdev, guest.device);
  });
}

const bytesOf = async (command: string): Promise<number[]> =>
  (await vm.run(`${command} | od -An -v -tx1`))
    .trim()
    .split(/\s+/)
    .map((hex) => Number.parseInt(hex, 16));

/** The number behind a label. */
function field(text: string, label: string): number {
  const at = text.indexOf(label);
  assert.ok(at >= 0, `"${label}" in:\n${text}`);
  const found = /^[\s:=]*(0x[0-9a-f]+|\d+)/.exec(text.slice(at + label.length));
  assert.ok(found, `a number behind "${label}" in:\n${text}`);
  return Number((found as RegExpExecArray)[1]);
}

each('sg_inq: the strings and the version', async (sg, bdev) => {
  const text = await vm.run(`sg_inq ${sg}`);
  assert.match(text, /Vendor identification: INTEL\s/);
  assert.match(text, new RegExp(`Product identification: ${bdev.product_name}\\s`));
  assert.match(text, /Product revision level: 0001/);
  assert.match(text, new RegExp(`Unit serial number: ${bdev.name}\\s`));
  assert.match(text, /\[SPC-4\]/);
  for (const standard of ['SAM-5', 'SPC-4', 'SBC-3']) {
    assert.match(await vm.run(`sg_inq -d ${sg}`), standard);
  }
});

each('sg_vpd: every page that page 00h lists', async (sg, bdev) => {
  const [, , , length, ...pages] = await bytesOf(`sg_vpd -p 0 -r ${sg}`);
  assert.is(pages.length, length);
  const expected = [0x00, 0x80, 0x83, 0x85, 0x86, 0x87, 0x88, 0xb0, 0xb1];
  assert.equal(pages, bdev.supported_io_types.unmap ? [...expected, 0xb2] : expected);
  const text = new Map<number, string>();
  for (const page of pages) text.set(page, await vm.run(`sg_vpd -p 0x${page.toString(16)} ${sg}`));
  const page = (n: number) => text.get(n) as string;
  assert.match(page(0x80), `Unit serial number: ${bdev.name}`);
  assert.match(page(0x83), bdev.uuid);
  // Made from the controller's name; the two pages agree.
  const port = field(page(0x83), 'Relative target port:');
  assert.ok(port >= 1 && port <= 0xffff, `port ${port}`);
  assert.match(page(0x83), /Target [01]/);
  assert.is(field(page(0x86), ' V_SUP'), bdev.supported_io_types.flush ? 1 : 0);
  assert.is(field(page(0x86), 'SIMPSUP'), 1);
  assert.is(field(page(0x88), 'Relative port'), port);
  assert.is(field(page(0xb0), 'Maximum compare and write length'), 255);
  assert.is(field(page(0xb0), 'Maximum write same length'), MAX_WRITE_SAME_BYTES / bdev.block_size);
  const { unmap } = bdev.supported_io_types;
  assert.is(field(page(0xb0), 'Maximum unmap LBA count'), unmap ? MAX_UNMAP_BLOCKS : 0);
  assert.is(field(page(0xb0), 'Maximum unmap block descriptor count'), unmap ? MAX_UNMAP_DESCRIPTORS : 0);
  if (unmap) {
    assert.match(page(0xb2), /\(LBPU\): 1/);
    assert.match(page(0xb2), /thin provisioned/);
  }
});

each('sg_opcodes -a: the rows of the table of commands', async (sg, bdev) => {
  const text = await vm.run(`sg_opcodes -a ${sg}`);
  const seen = [...text.matchAll(/^\s*([0-9a-f]{2})\s+(?:([0-9a-f]+)\s+)?(6|10|12|16)\s+\S/gm)].map(
    ([, opcode, action, length]) => `${opcode} ${action ?? '-'} ${length}`,
  );
  const { unmap } = bdev.supported_io_types;
  const rows = OPCODES.filter((row) => row.needs?.({ unmap } as BdevInfo) ?? true).map((row) => {
    const action = row.serviceAction < 0 ? '-' : row.serviceAction.toString(16);
    return `${row.opcode.toString(16).padStart(2, '0')} ${action} ${cdbLength(row.opcode)}`;
  });
  assert.equal(seen.sort(), rows.sort());
  const tmfs = await vm.run(`sg_opcodes --tmf ${sg}`);
  for (const name of ['Abort task', 'Abort task set', 'Clear task set', 'Logical unit reset']) {
    assert.match(tmfs.toLowerCase(), name.toLowerCase());
  }
});

each('sg_luns and sg_readcap', async (sg, bdev) => {
  assert.match(await vm.run(`sg_luns ${sg}`), / 1 lun entry[\s\S]*0000000000000000/);
  const text = await vm.run(`sg_readcap --16 ${sg}`);
  assert.is(field(text, 'Number of logical blocks'), bdev.num_blocks);
  assert.is(field(text, 'Logical block length'), bdev.block_size);
  assert.is(field(text, 'lbpme'), bdev.supported_io_types.unmap ? 1 : 0);
  assert.is(field(text, 'prot_en'), 0);
  assert.is(field(await vm.run(`sg_readcap ${sg}`), 'Number of logical blocks'), bdev.num_blocks);
});

each('sg_modes: every page, as the table has it', async (sg) => {
  for (const { page, subpage, bytes, fields, name } of MODE_PAGES) {
    const which = `0x${page.toString(16)},${subpage}`;
    const seen = await bytesOf(`sg_modes -p ${which} --dbd -r ${sg}`);
    const body = seen.slice(-bytes.length);
    const changed = new Set(fields.map((f) => f.byte));
    body.forEach((byte, i) => {
      if (!changed.has(i)) assert.is(byte, bytes[i], `${name}, byte ${i}`);
    });
  }
  await vm.run(`sg_modes -a ${sg}`);
});

each('sg_persist: register, reserve, release, clear', async (sg) => {
  const pr = (options: string) => vm.run(`sg_persist -n ${options} ${sg}`);
  assert.match(await pr('--in --report-capabilities'), /Write Exclusive, all registrants: 1/);
  await pr(`--out --register --param-sark=${KEY}`);
  assert.match(await pr('--in --read-keys'), `0x${KEY}`);
  for (const [type, name] of [
    [1, 'Write Exclusive'],
    [3, 'Exclusive Access'],
    [5, 'Write Exclusive, registrants only'],
    [6, 'Exclusive Access, registrants only'],
    [7, 'Write Exclusive, all registrants'],
    [8, 'Exclusive Access, all registrants'],
  ]) {
    await pr(`--out --reserve --param-rk=${KEY} --prout-type=${type}`);
    assert.match(await pr('--in --read-reservation'), new RegExp(`type: ${name}`));
    assert.match(await pr('--in --read-full-status'), `0x${KEY}`);
    await pr(`--out --release --param-rk=${KEY} --prout-type=${type}`);
  }
  assert.match(await pr('--in --read-reservation'), /there is NO reservation held/);
  await pr(`--out --register-ignore --param-sark=${KEY}`);
  await pr(`--out --clear --param-rk=${KEY}`);
  assert.match(await pr('--in --read-keys'), /there are NO registered reservation keys/);
});

each('sg_write_same, sg_unmap, sg_get_lba_status', async (sg, bdev, device) => {
  // How many bytes of 8 blocks are not zero.
  const notZero = async (lba: number) =>
    Number(await vm.run(`dd if=${device} skip=${lba} count=8 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c`));
  await vm.run(`tr '\\0' 'x' </dev/zero | dd of=/tmp/x bs=512 count=1 iflag=fullblock`);
  await vm.run(`sg_write_same --in=/tmp/x --lba=4096 --num=64 --xferlen=512 ${sg}`);
  assert.equal(
    [await notZero(4088), await notZero(4096), await notZero(4152), await notZero(4160)],
    [0, 4096, 4096, 0],
  );
  if (bdev.supported_io_types.unmap) {
    await vm.run(`sg_unmap --lba=4104 --num=8 ${sg}`);
    await vm.run(`sg_write_same --unmap --lba=4120 --num=8 --xferlen=512 ${sg}`);
    assert.equal([await notZero(4104), await notZero(4112), await notZero(4120)], [0, 4096, 0]);
    assert.match(await vm.run(`sg_get_lba_status --lba=4096 ${sg}`), /blocks:\s+\d+\s+(mapped|deallocated|anchored)/);
  }
  await vm.run(`sg_write_same --10 --in=/dev/zero --lba=4096 --num=64 --xferlen=512 ${sg}`);
  assert.is(await notZero(4096), 0);
});

each('sg_compare_and_write: equal it writes, else it does not', async (sg, _, device) => {
  await vm.run(`printf '%-512s' one | dd of=${device} seek=5000 oflag=direct conv=notrunc`);
  await vm.run(`{ printf '%-512s' one; printf '%-512s' two; } >/tmp/caw`);
  const swap = () => vm.try(`sg_compare_and_write --in=/tmp/caw --lba=5000 --num=1 ${sg}`);
  const now = async () => (await vm.run(`dd if=${device} skip=5000 count=1 iflag=direct 2>/dev/null`)).trim();
  assert.is((await swap()).exitCode, 0);
  assert.is(await now(), 'two');
  assert.is((await swap()).exitCode, MISCOMPARE);
  assert.is(await now(), 'two');
});

// Linux has no other reset for virtio-scsi: --target and --host are refused by the guest itself.
each('sg_reset --device: the unit tells it once, and works on', async (sg, _, device) => {
  await vm.run(`sg_reset --device ${sg}`);
  const first = await vm.try(`sg_turs -v ${sg}`);
  assert.match(first.output, /Bus device reset function occurred/);
  await vm.run(`sg_turs ${sg}`);
  await vm.run(`dd if=${device} count=1 iflag=direct of=/dev/null`);
});

each('the small ones: sg_turs, sg_requests, sg_sync, sg_verify, sg_logs, sg_start', async (sg) => {
  for (const command of [
    'sg_turs',
    'sg_requests',
    'sg_sync',
    'sg_verify --lba=0 --count=64',
    'sg_logs -a',
    'sg_start --start',
    'sg_prevent --allow',
    'sg_senddiag --selftest=0 --test',
  ]) {
    const { exitCode, output } = await vm.try(`${command} ${sg}`);
    assert.is(exitCode, 0, `${command}: ${output}`);
  }
});

test.run();
