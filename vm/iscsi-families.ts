/**
 * The SCSI conformance tests (libiscsi's iscsi-test-cu) that served disks are put to: how their output is read, and why
 * what does not pass is right. One rule: a failure, and a test that is not run, without a reason here is an error.
 */

export type Verdict = 'passed' | 'skipped' | 'failed';

export interface TestResult {
  /** `FAMILY.TEST` */
  test: string;
  family: string;
  result: Verdict;
  /** What the program printed within the test. */
  detail: string;
}

/** Families that are about another transport: they need an iSCSI session, and a SCSI device node has none. */
export const OTHER_TRANSPORT = ['iSCSIcmdsn', 'iSCSIdatasn', 'iSCSIResiduals', 'iSCSITMF'] as const;

/** Features the target refuses on purpose (docs/scsi.md), with the families that are only about them. */
export const REFUSED: Record<string, string> = {
  ExtendedCopy: 'EXTENDED COPY',
  ReceiveCopyResults: 'EXTENDED COPY',
};

/** Failures that are the program's own, by disk and test. */
export const PROGRAM_ERRORS: Record<string, string> = {
  '512e file GetLBAStatus.UnmapSingle':
    'an error of the program for physical blocks of several logical ones: it asks for the status at LBA i + 1 and wants ' +
    'the first descriptor to start at i + 8, where SBC-3 5.6 has it start at the LBA asked for. Where a physical block ' +
    'is one logical block the two are the same, and it passes',
};

/** Why the program skips a test: the start of its own words, and what they mean here. */
export const SKIP_REASONS: readonly [RegExp, string][] = [
  [/^(EXTENDEDCOPY|RECEIVECOPYRESULT) is not implemented/, 'EXTENDED COPY is refused (docs/scsi.md)'],
  [/^--allow-sanitize flag/, 'SANITIZE is refused (docs/scsi.md); allowed to, the program crashes in one of them'],
  [/^UNMAP is not implemented/, 'only in part: a read-only file disk has no UNMAP'],
  [/^WRITEATOMIC16 is not implemented/, 'WRITE ATOMIC is refused (docs/scsi.md)'],
  [/^WRITESAME1[06] does not support 0-blocks/, 'WRITE SAME of 0 blocks is refused, as VPD b0h tells (WSNZ)'],
  [/^(Logical unit|Media) is not removable/, 'for removable media'],
  [/^Logical unit is not write-protected/, 'for write-protected disks: run on one, above'],
  [/^Multipath unavailable/, 'for disks with several paths: run on one, above'],
  [/^LBPPB < 2/, 'for disks whose physical blocks are larger than the logical ones: run on one, above'],
  [/^Non-iSCSI multipath/, 'the program can do this over iSCSI paths only'],
];

/** What a test does in the iSCSI session itself, by family or test, where the program's words are all the same. */
const ISCSI_ONLY = /only supported for iSCSI backends|^Not an iSCSI device/;
const ISCSI_MEANS: readonly [RegExp, string][] = [
  [/\.InvalidDataOutSize$/, 'the program changes the number of blocks within the iSCSI request that it has built'],
  [/^ProutReserve|^ProutPreempt|^Reserve6\.2Initiators$/, 'the program makes its second initiator by iSCSI only'],
  [/^iSCSI/, 'it is about the iSCSI protocol'],
  [/^Reserve6/, 'the program logs out, drops the session or resets by iSCSI, and looks with a second initiator'],
];

/** The tests of each family that the program knows, from `iscsi-test-cu --list`: `ALL` with all of them. */
export function parseList(output: string): Map<string, string[]> {
  const lists = new Map<string, string[]>();
  for (const [, list, test] of output.matchAll(/^(\w+)\.([^.\s]+\.\S+)\s*$/gm)) {
    const tests = lists.get(list);
    if (tests === undefined) lists.set(list, [test]);
    else tests.push(test);
  }
  return lists;
}

/** Reads the output of one `iscsi-test-cu --test=...` run. */
export function parseResults(output: string): TestResult[] {
  const results: TestResult[] = [];
  for (const suite of output.split(/^Suite: /m).slice(1)) {
    const family = /^\S+/.exec(suite)![0];
    for (const part of suite.split(/^\s*Test: /m).slice(1)) {
      const [, name, rest] = /^(\S+) \.\.\.([\s\S]*)$/.exec(part) ?? [];
      if (name === undefined) continue;
      const detail = rest.split(/^Run Summary:/m)[0].trim();
      // A test that prints puts its verdict at the start of a later line. One without a verdict ended the program.
      const verdict = /^\s*(passed|FAILED)/m.exec(detail)?.[1];
      const skipped = /\[SKIPPED\]/.test(detail);
      const result = verdict !== 'passed' ? 'failed' : skipped ? 'skipped' : 'passed';
      results.push({ test: `${family}.${name}`, family, result, detail });
    }
  }
  return results;
}

/** Why a test was skipped; undefined when nobody has thought about it. */
export function skipReason(result: TestResult): string | undefined {
  const said = /\[SKIPPED\]\s*(.*)/.exec(result.detail)?.[1] ?? '';
  if (ISCSI_ONLY.test(said)) return ISCSI_MEANS.find(([tests]) => tests.test(result.test))?.[1];
  return SKIP_REASONS.find(([words]) => words.test(said))?.[1];
}
