/** The tables of docs/conformance.md, made from the runs of the conformance tests. One rule: every test is in them. */
import {
  OTHER_TRANSPORT,
  PROGRAM_ERRORS,
  REFUSED,
  skipReason,
  type TestResult,
  type Verdict,
} from './iscsi-families.ts';

export interface DiskRun {
  /** Which disk, e.g. `memory`. */
  disk: string;
  /** What the program was told to run: `ALL`, or some of it as `ALL.Read6` or `ALL.Read6.Simple`. */
  tests: readonly string[];
  /** All that the program printed. */
  output: string;
  results: TestResult[];
}

const VERDICTS: readonly Verdict[] = ['passed', 'skipped', 'failed'];
const isWhole = (run: DiskRun) => run.tests.includes('ALL');
const isOther = (family: string) => (OTHER_TRANSPORT as readonly string[]).includes(family);

function counts(results: readonly TestResult[]): string {
  return VERDICTS.map((v) => results.filter((r) => r.result === v).length).join(' | ');
}

function familyTable(runs: readonly DiskRun[]): string {
  const columns = runs.map(({ disk }) => VERDICTS.map((v) => `${disk}: ${v}`).join(' | ')).join(' | ');
  const lines = [`| family | ${columns} | |`, `|---|${'--:|'.repeat(runs.length * 3)}---|`];
  const families = [...new Set(runs.flatMap((run) => run.results.map((r) => r.family)))];
  const applicable = families.filter((f) => !isOther(f));
  const row = (name: string, chosen: readonly string[], note: string) => {
    const cells = runs.map((run) => counts(run.results.filter((r) => chosen.includes(r.family))));
    lines.push(`| ${name} | ${cells.join(' | ')} | ${note} |`);
  };
  for (const family of applicable) row(family, [family], REFUSED[family] ? `${REFUSED[family]} is refused` : '');
  row('**all**', applicable, '');
  return lines.join('\n');
}

/** `Family.A, Family.B, Other.C` as `Family` (A, B), `Other` (C). */
function grouped(tests: readonly string[]): string {
  const groups = new Map<string, string[]>();
  for (const test of tests) {
    const [family, name] = test.split('.');
    groups.set(family, [...(groups.get(family) ?? []), name]);
  }
  return [...groups].map(([family, names]) => `${family} (${names.join(', ')})`).join(', ');
}

function skippedTable(runs: readonly DiskRun[]): string {
  const lines = ['| skipped | disk | why |', '|---|---|---|'];
  const seen = new Map<string, { why: string; disk: string; tests: string[] }>();
  for (const { disk, results } of runs)
    for (const result of results) {
      if (result.result !== 'skipped' || isOther(result.family)) continue;
      const why = skipReason(result) ?? '**no reason known**';
      const row = seen.get(`${disk} ${why}`) ?? { why, disk, tests: [] };
      seen.set(`${disk} ${why}`, row);
      row.tests.push(result.test);
    }
  const rows = new Map<string, { why: string; tests: string; disks: string[] }>();
  for (const { why, disk, tests } of seen.values()) {
    const key = `${why} ${tests}`;
    const row = rows.get(key) ?? { why, tests: grouped(tests), disks: [] };
    rows.set(key, row);
    row.disks.push(disk);
  }
  for (const { why, tests, disks } of rows.values()) lines.push(`| ${tests} | ${disks.join(', ')} | ${why} |`);
  return lines.join('\n');
}

function failures(runs: readonly DiskRun[]): string {
  const lines: string[] = [];
  for (const { disk, results } of runs)
    for (const { test, family, result } of results) {
      if (result !== 'failed' || isOther(family)) continue;
      const refused = REFUSED[family] === undefined ? undefined : `${REFUSED[family]} is refused`;
      const why = refused ?? PROGRAM_ERRORS[`${disk} ${test}`] ?? '**no reason known**';
      lines.push(`* failed: ${test} on the ${disk} disk: ${why}`);
    }
  return lines.length === 0 ? 'No test failed.' : lines.join('\n');
}

function notApplicable(runs: readonly DiskRun[]): string {
  const tests = new Set(runs.flatMap((run) => run.results.filter((r) => isOther(r.family)).map((r) => r.test)));
  return `Not applicable, as they are about the iSCSI protocol: ${grouped([...tests])}.`;
}

/** What only other disks can show. */
function parts(runs: readonly DiskRun[]): string {
  const lines = ['| on another disk | outcome |', '|---|---|'];
  for (const run of runs)
    if (!isWhole(run))
      for (const { test, result } of run.results) lines.push(`| ${test} on a ${run.disk} disk | ${result} |`);
  return lines.join('\n');
}

/** Markdown. */
export function outcomeTables(runs: readonly DiskRun[]): string {
  return [familyTable(runs.filter(isWhole)), failures(runs), parts(runs), skippedTable(runs), notApplicable(runs)].join(
    '\n\n',
  );
}
