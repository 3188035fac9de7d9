import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { assert, suite } from '../support/suite.ts';

const test = suite('scsi: heap');

test('a million READ(10) and WRITE(10) allocate nothing', () => {
  const child = fileURLToPath(new URL('./support/heap-child.ts', import.meta.url));
  const output = execFileSync(process.execPath, ['--expose-gc', '--import', 'tsx', child], { encoding: 'utf8' });
  const { done, growth, nanoseconds } = JSON.parse(output);
  assert.is(done, 1_000_000);
  assert.ok(growth < 1024 * 1024, `${growth} bytes, garbage included (${nanoseconds} ns a command)`);
});

test.run();
