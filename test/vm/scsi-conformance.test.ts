/**
 * iscsi-test-cu on served disks, all that it knows: docs/conformance.md holds the outcome, which this test compares
 * (UPDATE_DOCS=1 writes it). What fails or is skipped without a reason in vm/iscsi-families.ts fails here.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { startCompute } from '../../vm/compute.ts';
import { type DiskRun, outcomeTables } from '../../vm/conformance-report.ts';
import { parseLsscsi } from '../../vm/disks.ts';
import {
  OTHER_TRANSPORT,
  PROGRAM_ERRORS,
  parseList,
  parseResults,
  REFUSED,
  skipReason,
} from '../../vm/iscsi-families.ts';
import type { Machine } from '../../vm/machine.ts';
import { scratchFolder } from '../../vm/paths.ts';
import { TargetProcess } from '../../vm/target-process.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('iscsi-test-cu');
const PATH = resolve(import.meta.dirname, '../../docs/conformance.md');
const DISK_BYTES = 64 * 2 ** 20;
/** Of one disk's run; it takes about a minute on an idle machine without KVM. */
const RUN_SECONDS = 800;
/** Skipped on disks whose physical blocks are as large as the logical ones. */
const LARGER_PHYSICAL_BLOCKS = [
  'CompareAndWrite.InvalidDataOutSize',
  'WriteSame10.UnmapUnaligned',
  'WriteSame10.InvalidDataOutSize',
  'WriteSame16.UnmapUnaligned',
  'WriteSame16.InvalidDataOutSize',
];

const scratch = scratchFolder('conformance');
const runs: DiskRun[] = [];
let lists: Map<string, string[]>;
let target: TargetProcess;
let vm: Machine;

/** Two controllers on the same disks, so that a disk has two paths. The targets' numbers tell the paths apart. */
function config(): object {
  const image = (name: string) => {
    const path = join(scratch.path, name);
    const fd = openSync(path, 'w');
    ftruncateSync(fd, DISK_BYTES);
    closeSync(fd);
    return path;
  };
  const bdevs = [
    {
      method: 'bdev_malloc_create',
      params: { name: 'Malloc0', num_blocks: DISK_BYTES / 512, block_size: 512 },
    },
    {
      method: 'bdev_malloc_create',
      params: { name: 'Malloc1', num_blocks: DISK_BYTES / 512, block_size: 512, physical_block_size: 4096 },
    },
    { method: 'bdev_aio_create', params: { name: 'Aio0', filename: image('disk.img'), block_size: 4096 } },
    {
      method: 'bdev_aio_create',
      params: { name: 'Aio1', filename: image('kept.img'), block_size: 512, readonly: true },
    },
    { method: 'bdev_aio_create', params: { name: 'Aio2', filename: image('disk-512.img'), block_size: 512 } },
  ];
  const paths: [string, number, string][] = [
    ['vhost.1', 3, 'Malloc0'],
    ['vhost.1', 4, 'Aio0'],
    ['vhost.0', 0, 'Malloc0'],
    ['vhost.0', 1, 'Aio0'],
    ['vhost.0', 2, 'Aio1'],
    ['vhost.0', 5, 'Malloc1'],
    ['vhost.0', 6, 'Aio2'],
  ];
  const vhost = [
    ...['vhost.1', 'vhost.0'].map((ctrlr) => ({ method: 'vhost_create_scsi_controller', params: { ctrlr } })),
    ...paths.map(([ctrlr, scsi_target_num, bdev_name]) => ({
      method: 'vhost_scsi_controller_add_target',
      params: { ctrlr, scsi_target_num, bdev_name },
    })),
  ];
  return {
    subsystems: [
      { subsystem: 'bdev', config: bdevs },
      { subsystem: 'vhost', config: vhost },
    ],
  };
}

async function runTests(disk: string, tests: readonly string[], paths: string[]): Promise<void> {
  const started = performance.now();
  // One process a list: the program takes one pattern only.
  const commands = tests.map(
    (pattern) => `timeout ${RUN_SECONDS} iscsi-test-cu --dataloss --test=${pattern} ${paths.join(' ')}`,
  );
  const { output } = await vm.try(commands.join('\n'), RUN_SECONDS + 60);
  console.log(`${disk}: ${((performance.now() - started) / 1000).toFixed(0)} s`);
  if (process.env['CONFORMANCE_LOG']) writeFileSync(`${process.env['CONFORMANCE_LOG']}-${disk}`, output);
  runs.push({ disk, tests, output, results: parseResults(output) });
}

test.before(async () => {
  const file = join(scratch.path, 'config.json');
  writeFileSync(file, JSON.stringify(config()));
  target = await TargetProcess.start({ args: ['-c', file] });
  const scsi = ['vhost.0', 'vhost.1'].map((name) => ({ socket: target.socket(name) }));
  vm = await startCompute({ qemu: 'system', scsi });
  await vm.booted();
  await vm.until('test $(lsscsi -g | grep -c /dev/sg) -eq 7');
  const disks = parseLsscsi(await vm.run('lsscsi -g'));
  const disk = (number: number) => disks.find((d) => d.target === number)!;
  const path = (number: number) => disk(number).generic;
  lists = parseList((await vm.try('iscsi-test-cu --list')).output);
  await runTests('memory', ['ALL'], [path(0)]);
  await runTests('file', ['ALL'], [path(1)]);
  await runTests('512e file', ['ALL'], [path(6)]);
  for (const [kind, first, second] of [
    ['memory', 0, 3],
    ['file', 1, 4],
  ] as const) {
    // The second path has yet to hear of the mode pages that the first one changed. The compare-and-write test writes one
    // zeroed block less than it compares.
    await vm.run(`for i in 1 2 3 4; do sg_turs ${path(second)}; done > /dev/null 2>&1; true`);
    await vm.run(`dd if=/dev/zero of=${disk(first).device} bs=64k count=128 oflag=direct 2>&1`);
    await runTests(`two-path ${kind}`, ['ALL.MultipathIO'], [path(first), path(second)]);
  }
  await runTests('read-only file', ['ALL.ReadOnly'], [path(2)]);
  await runTests(
    '512e memory',
    LARGER_PHYSICAL_BLOCKS.map((name) => `ALL.${name}`),
    [path(5)],
  );
});

test.after(async () => {
  await vm?.close();
  await target?.close();
  scratch.remove();
});

test('every test the program knows has run on each disk', () => {
  const all = lists.get('ALL')!;
  for (const { disk, tests, results, output } of runs) {
    const expected = tests.flatMap((pattern) => all.filter((name) => `ALL.${name}.`.startsWith(`${pattern}.`)));
    assert.equal(
      results.map((r) => r.test),
      expected,
      `on the ${disk} disk:\n${output.slice(-2000)}`,
    );
  }
  // The other lists are parts of this one: nothing else is left to run.
  for (const [name, tests] of lists)
    assert.equal(
      tests.filter((t) => !all.includes(t)),
      [],
      `${name} has more tests`,
    );
});

test('nothing fails but what is refused, about another transport, or an error of the program', () => {
  const excused = (family: string) =>
    REFUSED[family] !== undefined || (OTHER_TRANSPORT as readonly string[]).includes(family);
  for (const { disk, results } of runs) {
    const failed = results.filter(
      (r) => r.result === 'failed' && !excused(r.family) && PROGRAM_ERRORS[`${disk} ${r.test}`] === undefined,
    );
    assert.is(failed.map((r) => `${disk}: ${r.test}: ${r.detail}`).join('\n'), '');
  }
});

test('each skipped test has its reason', () => {
  for (const { disk, results } of runs) {
    const unknown = results.filter((r) => r.result === 'skipped' && skipReason(r) === undefined);
    assert.is(unknown.map((r) => `${disk}: ${r.test}: ${r.detail}`).join('\n'), '');
  }
});

test('docs/conformance.md holds the outcome', () => {
  const text = readFileSync(PATH, 'utf8');
  const parts = /^([\s\S]*<!-- outcome: .*-->\n)([\s\S]*)(<!-- end of outcome -->\n)$/.exec(text);
  assert.ok(parts, 'the two marks are there');
  const [, before, written, after] = parts as unknown as string[];
  const made = `\n${outcomeTables(runs)}\n`;
  if (process.env['UPDATE_DOCS']) writeFileSync(PATH, before + made + after);
  else assert.is(written, made, 'run UPDATE_DOCS=1 node --import tsx test/vm/scsi-conformance.test.ts');
});

test.run();
