/** What a comparison leaves behind: results.json, from which table.md, plot.svg and the table in a document are made. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ALL, type Case } from './cases.ts';
import { type Summary, summary } from './statistics.ts';
import { chart } from './svg.ts';

export const OURS = 'vvu-target';

export interface Row {
  case: Case;
  /** Date. */
  at: string;
  /** Requests a second, over all windows. */
  iops: Record<string, Summary>;
  /** Of each round, the median of its windows. */
  rounds: Record<string, number[]>;
  windows: Record<string, number[]>;
  /** Copies of so many bytes that one core makes in a second; 0 where nothing is copied. */
  copyLimit: number;
}

export interface Report {
  node: string;
  cpu: string;
  cpus: number;
  rows: Row[];
}

const FILE = 'results.json';
const BEGIN = '<!-- table -->';
const END = '<!-- /table -->';

export function loadReport(folder: string): Report {
  const path = join(folder, FILE);
  if (!existsSync(path)) return { node: '', cpu: '', cpus: 0, rows: [] };
  return JSON.parse(readFileSync(path, 'utf8')) as Report;
}

/** Our rate over another's: of each round, then the median, the least and the most. */
export function ratioTo(row: Row, other: string): { median: number; least: number; most: number } | undefined {
  const ours = row.rounds[OURS] ?? [];
  const theirs = row.rounds[other] ?? [];
  const ratios = ours.slice(0, theirs.length).map((rate, i) => rate / (theirs[i] as number));
  if (ratios.length === 0) return undefined;
  return { median: summary(ratios).median, least: Math.min(...ratios), most: Math.max(...ratios) };
}

export function table(report: Report): string {
  const others = [...new Set(report.rows.flatMap((r) => Object.keys(r.iops)))].filter((n) => n !== OURS);
  const names = [OURS, ...others];
  const head = ['case', ...others.map((n) => `ratio to ${n}`), ...names.map((n) => `${n}, k/s`), 'copies, k/s'];
  const lines = [
    `| ${head.join(' | ')} |`,
    `|---|${head
      .slice(1)
      .map(() => '---:|')
      .join('')}`,
  ];
  for (const row of report.rows) {
    const cells = [row.case.name];
    for (const other of others) {
      const ratio = ratioTo(row, other);
      cells.push(
        ratio === undefined
          ? ''
          : `**${ratio.median.toFixed(2)}** (${ratio.least.toFixed(2)}-${ratio.most.toFixed(2)})`,
      );
    }
    for (const name of names) {
      const s = row.iops[name];
      cells.push(s === undefined ? '' : `${thousands(s.median)} (${thousands(s.low)}-${thousands(s.high)})`);
    }
    cells.push(row.copyLimit === 0 ? '' : thousands(row.copyLimit));
    lines.push(`| ${cells.join(' | ')} |`);
  }
  return lines.join('\n');
}

function thousands(rate: number): string {
  return (rate / 1000).toFixed(rate < 100_000 ? 1 : 0);
}

/** @param document file with the two markers between which the table belongs */
export function saveReport(folder: string, report: Report, document?: string): void {
  const order = new Map(ALL.map((c, i) => [c.name, i]));
  report.rows.sort((a, b) => (order.get(a.case.name) ?? 0) - (order.get(b.case.name) ?? 0));
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, FILE), `${JSON.stringify(report, null, 1)}\n`);
  writeFileSync(join(folder, 'plot.svg'), chart(report.rows.map((r) => ({ name: r.case.name, values: r.iops }))));
  const text = table(report);
  writeFileSync(join(folder, 'table.md'), `${text}\n`);
  if (document === undefined) return;
  const whole = readFileSync(document, 'utf8');
  const [from, to] = [whole.indexOf(BEGIN), whole.indexOf(END)];
  if (from < 0 || to < from) throw new Error(`${document} has no ${BEGIN} ... ${END}`);
  writeFileSync(document, `${whole.slice(0, from + BEGIN.length)}\n${text}\n${whole.slice(to)}`);
}
