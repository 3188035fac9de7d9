/** The project built as its users get it, into a folder of its own: a program of it starts in a third of the time of the sources. */
import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, symlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { tempDir } from './temp-dir.ts';

const ROOT = resolve(import.meta.dirname, '../..');
let built: string | undefined;

/** @returns the program's main.js; the folder goes when this process ends */
export function buildProgram(): string {
  if (built !== undefined) return built;
  const out = tempDir();
  chmodSync(out, 0o755); // for programs of other users
  const options = ['--outDir', join(out, 'dist'), '--declaration', 'false', '--declarationMap', 'false'];
  const argv = ['-p', join(ROOT, 'tsconfig.build.json'), ...options];
  const run = spawnSync(join(ROOT, 'node_modules/.bin/tsc'), argv, { encoding: 'utf8', cwd: ROOT });
  const main = join(out, 'dist/cli/main.js');
  if (!existsSync(main)) throw new Error(`the build failed: ${run.stdout}${run.stderr}`);
  copyFileSync(join(ROOT, 'package.json'), join(out, 'package.json'));
  symlinkSync(join(ROOT, 'node_modules'), join(out, 'node_modules'));
  built = main;
  return main;
}
