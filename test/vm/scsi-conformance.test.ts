/** iscsi-test-cu on served disks: every failure has its reason in vm/iscsi-families.ts, or the test fails. */
import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { startCompute } from '../../vm/compute.ts';
import { awaitDisks, type GuestDisk } from '../../vm/disks.ts';
import {
  EXPLAINED,
  explain,
  FAMILIES,
  type FamilyResult,
  FILE_FAMILIES,
  parseResults,
} from '../../vm/iscsi-families.ts';
import type { Machine } from '../../vm/machine.ts';
import { scratchFolder } from '../../vm/paths.ts';
import { TargetProcess } from '../../vm/target-process.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('iscsi-test-cu');
const results: FamilyResult[] = [];
const scratch = scratchFolder('conformance');
let target: TargetProcess;
let vm: Machine;
let malloc: GuestDisk;
let file: GuestDisk;

test.before(async () => {
  const image = join(scratch.path, 'disk.img');
  const fd = openSync(image, 'w');
  ftruncateSync(fd, 64 * 2 ** 20);
  closeSync(fd);
  target = await TargetProcess.start({ args: ['--malloc', '64M', '--file', image] });
  vm = await startCompute({ qemu: 'system', scsi: [{ socket: target.socket() }] });
  await vm.booted();
  [malloc, file] = await awaitDisks(vm, ['Malloc disk', 'AIO disk']);
});

test.after(async () => {
  await vm?.close();
  await target?.close();
  scratch.remove();
});

async function conforms(family: string, disk: GuestDisk): Promise<void> {
  const { output } = await vm.try(`iscsi-test-cu --dataloss --test=SCSI.${family} ${disk.generic}`, 300);
  const found = parseResults(family, output);
  results.push(...found);
  assert.ok(found.length > 0, `no test ran:\n${output}`);
  const failed = found.filter((r) => r.result === 'failed' && EXPLAINED[r.test] === undefined);
  assert.is(failed.map((r) => `${r.test}: ${r.detail}`).join('\n'), '');
}

for (const family of FAMILIES) test(`${family} on the memory disk`, () => conforms(family, malloc));
for (const family of FILE_FAMILIES) test(`${family} on the file disk`, () => conforms(family, file));

test('each explained failure still fails', () => {
  console.log(explain(results));
  const stale = Object.keys(EXPLAINED).filter((name) => !results.some((r) => r.test === name && r.result === 'failed'));
  assert.equal(stale, []);
});

test.run();
