/** iscsi-test-cu on a served disk: every failure has its reason in vm/iscsi-families.ts, or the test fails. */
import { startCompute } from '../../vm/compute.ts';
import { awaitDisks } from '../../vm/disks.ts';
import { EXPLAINED, explain, FAMILIES, type FamilyResult, parseResults } from '../../vm/iscsi-families.ts';
import type { Machine } from '../../vm/machine.ts';
import { TargetProcess } from '../../vm/target-process.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('iscsi-test-cu');
const results: FamilyResult[] = [];
let target: TargetProcess;
let vm: Machine;
let generic: string;

test.before(async () => {
  target = await TargetProcess.start({ args: ['--malloc', '64M'] });
  vm = await startCompute({ qemu: 'system', scsi: [{ socket: target.socket() }] });
  await vm.booted();
  generic = (await awaitDisks(vm, ['Malloc disk']))[0].generic;
});

test.after(async () => {
  await vm?.close();
  await target?.close();
});

for (const family of FAMILIES) {
  test(family, async () => {
    const { output } = await vm.try(`iscsi-test-cu --dataloss --test=SCSI.${family} ${generic}`, 300);
    const found = parseResults(family, output);
    results.push(...found);
    assert.ok(found.length > 0, `no test ran:\n${output}`);
    const failed = found.filter((r) => r.result === 'failed' && EXPLAINED[r.test] === undefined);
    assert.is(failed.length, 0, `${failed.map((r) => r.test).join(', ')}\n${output}`);
  });
}

test('each explained failure still fails', () => {
  console.log(explain(results));
  const stale = Object.keys(EXPLAINED).filter((name) => !results.some((r) => r.test === name && r.result === 'failed'));
  assert.equal(stale, []);
});

test.run();
