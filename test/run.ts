/**
 * Runs every test file under the given folders in a process of its own (a crash of one is one failure, not silence),
 * and ends with the slowest files, how many tests were skipped, and the line `N passed, N failed`. What a passing file printed is not shown. A
 * run that executed nothing fails.
 *
 * `node --import tsx test/run.ts [FOLDER|FILE]...` (default: all of test/ but test/vm)
 */
import { spawn } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join, relative } from 'node:path';

const HERE = import.meta.dirname;
const FILE_LIMIT_MS = Number(process.env['TEST_FILE_SECONDS'] ?? 900) * 1000;
const AT_ONCE = Number(process.env['TEST_JOBS'] ?? 2);

function collect(path: string, skip: (path: string) => boolean): string[] {
  if (skip(path)) return [];
  if (statSync(path).isDirectory()) {
    return readdirSync(path)
      .sort()
      .flatMap((name) => collect(join(path, name), skip));
  }
  return path.endsWith('.test.ts') ? [path] : [];
}

interface Outcome {
  passed: number;
  failed: number;
  skipped: number;
  seconds: number;
}
/** Files named as the slowest ones. */
const SLOWEST = 5;

function runFile(file: string): Promise<Outcome> {
  return new Promise((resolve) => {
    const begun = performance.now();
    const child = spawn(process.execPath, ['--import', 'tsx', file], { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    const keep = (chunk: Buffer) => {
      output += chunk;
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    const timer = setTimeout(() => {
      output += `\nstopped after ${FILE_LIMIT_MS / 1000} s\n`;
      child.kill('SIGKILL');
    }, FILE_LIMIT_MS);
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      // biome-ignore lint/suspicious/noControlCharactersInRegex: the test library colours its totals
      const plain = output.replace(/\x1b\[[0-9;]*m/g, '');
      const sum = (label: string) =>
        [...plain.matchAll(new RegExp(`^\\s*${label}:\\s+(\\d+)`, 'gm'))].reduce((n, m) => n + Number(m[1]), 0);
      const total = sum('Total');
      const passed = sum('Passed');
      // A test that finds what it needs missing says so and returns.
      const reasons = [...plain.matchAll(/skipped: .+/g)].map(([line]) => line);
      const skipped = sum('Skipped') + reasons.length;
      const seconds = Math.round((performance.now() - begun) / 1000);
      let failed = total - passed;
      if (failed === 0 && (code !== 0 || total === 0)) failed = 1;
      const name = relative(HERE, file);
      if (failed === 0)
        console.log(`ok    ${name}: ${passed}${skipped > 0 ? `, ${skipped} skipped` : ''} (${seconds} s)`);
      else {
        console.log(output);
        console.log(`FAIL  ${name}: ${passed} of ${total} passed, exit ${signal ?? code} (${seconds} s)`);
      }
      for (const reason of reasons) console.log(`      ${reason}`);
      // What a test measured is worth seeing also when all went well.
      if (failed === 0) for (const [, note] of plain.matchAll(/^# (.+)$/gm)) console.log(`      ${note}`);
      resolve({ passed, failed, skipped, seconds });
    });
  });
}

const named = process.argv.slice(2);
const files =
  named.length > 0
    ? named.flatMap((p) => collect(p, () => false))
    : collect(HERE, (p) => p === join(HERE, 'vm') || p === join(HERE, 'support'));
const queue = [...files];
const sum = { passed: 0, failed: 0, skipped: 0 };
const times: { name: string; seconds: number }[] = [];
await Promise.all(
  Array.from({ length: AT_ONCE }, async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const outcome = await runFile(file);
      sum.passed += outcome.passed;
      sum.failed += outcome.failed;
      sum.skipped += outcome.skipped;
      times.push({ name: relative(HERE, file), seconds: outcome.seconds });
    }
  }),
);
if (sum.passed + sum.failed === 0) {
  console.log('no test was found');
  sum.failed = 1;
}
const slowest = times.sort((a, b) => b.seconds - a.seconds).slice(0, SLOWEST);
console.log(`slowest: ${slowest.map(({ name, seconds }) => `${name} ${seconds} s`).join(', ')}`);
if (sum.skipped > 0) console.log(`${sum.skipped} skipped`);
console.log(`${sum.passed} passed, ${sum.failed} failed`);
process.exit(sum.failed === 0 ? 0 : 1);
