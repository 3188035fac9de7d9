/** Folders for one test file, removed when the process ends. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export function tempDir(): string {
  const path = mkdtempSync(join(tmpdir(), 'vvu-test-'));
  process.on('exit', () => rmSync(path, { recursive: true, force: true }));
  return path;
}
