/**
 * The SCSI conformance tests (libiscsi's iscsi-test-cu) that a served disk is put to: which families are run, how their
 * output is read, and which failures are known with their reasons. One rule: a failure without a reason here fails the
 * run, and so does a reason without its failure.
 */

/**
 * The families of the commands the target implements. Left out: those for removable or write-protected media, for
 * several paths, and for commands it does not have (EXTENDED COPY, WRITE ATOMIC, SANITIZE).
 */
export const FAMILIES = [
  'CompareAndWrite',
  'GetLBAStatus',
  'Inquiry',
  'Mandatory',
  'ModeSense6',
  'NoMedia',
  'OrWrite',
  'Prefetch10',
  'Prefetch16',
  'PrinReadKeys',
  'PrinServiceactionRange',
  'PrinReportCapabilities',
  'ProutRegister',
  'ProutReserve',
  'ProutClear',
  'Read6',
  'Read10',
  'Read12',
  'Read16',
  'ReadCapacity10',
  'ReadCapacity16',
  'ReadDefectData10',
  'ReadDefectData12',
  'ReportSupportedOpcodes',
  'Reserve6',
  'StartStopUnit',
  'TestUnitReady',
  'Unmap',
  'Verify10',
  'Verify12',
  'Verify16',
  'Write10',
  'Write12',
  'Write16',
  'WriteSame10',
  'WriteSame16',
  'WriteVerify10',
  'WriteVerify12',
  'WriteVerify16',
] as const;

/** What a file disk does in another way than a memory disk. */
export const FILE_FAMILIES = ['Read16', 'Unmap', 'Write16', 'WriteSame16'] as const;

/** Known failures: `FAMILY.TEST` and why it is right that it fails. */
export const EXPLAINED: Record<string, string> = {
  'WriteSame16.Unmap':
    "its last step moves 32 MiB in one command; the guest's sg driver has at most 126 buffers of 32 KiB for this adapter " +
    'and answers ENOMEM by itself: the command never reaches the target',
};

export interface FamilyResult {
  test: string;
  result: 'passed' | 'failed' | 'skipped';
  /** What the program printed within the test. */
  detail: string;
}

/** Reads the output of one `iscsi-test-cu --test=SCSI.FAMILY` run. */
export function parseResults(family: string, output: string): FamilyResult[] {
  const results: FamilyResult[] = [];
  const parts = output.split(/^\s*Test: /m).slice(1);
  for (const part of parts) {
    const [, name, rest] = /^(\S+) \.\.\.([\s\S]*)$/.exec(part) ?? [];
    if (name === undefined) continue;
    const detail = rest.split(/^(Run Summary|Suite):/m)[0].trim();
    // A test that prints puts its verdict at the start of a later line.
    const failed = /(^|\n|\.\.\.)\s*FAILED/.test(`...${detail}`);
    const result = failed ? 'failed' : /\[SKIPPED\]/.test(detail) ? 'skipped' : 'passed';
    results.push({ test: `${family}.${name}`, result, detail });
  }
  return results;
}

/** One line a test that did not pass, with its reason. */
export function explain(results: FamilyResult[]): string {
  const count = (kind: string) => results.filter((r) => r.result === kind).length;
  const lines = [`${count('passed')} passed, ${count('skipped')} skipped, ${count('failed')} failed`];
  for (const { test, result, detail } of results) {
    if (result === 'failed') lines.push(`  failed   ${test}: ${EXPLAINED[test] ?? `NOT EXPLAINED\n${detail}`}`);
    if (result === 'skipped') lines.push(`  skipped  ${test}: ${/\[SKIPPED\]\s*(.*)/.exec(detail)?.[1] ?? ''}`);
  }
  return lines.join('\n');
}
