/**
 * What a start loads: each file costs, most on an emulated CPU. Follows the imports that are not for types only and not made on
 * demand, from where a command begins.
 */
import { readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { assert, suite } from '../support/suite.ts';

const SRC = resolve(import.meta.dirname, '../../src');
const test = suite('what a start loads');

/** An import of values: `import type` and `export type` are gone after the build, and so is a list of types alone. */
const IMPORT = /^(?:import|export)\s+(?!type\b)(?:([^'";]*?)\s*from\s*)?'([^']+)'/gm;

function onlyTypes(list: string | undefined): boolean {
  const braces = /^\{([^}]*)\}$/.exec(list?.trim() ?? '')?.[1];
  const names = braces?.split(',').filter((name) => name.trim() !== '') ?? [];
  return names.length > 0 && names.every((name) => name.trim().startsWith('type '));
}

/** Files of ours and packages that are loaded with this file, paths from src/. */
function loaded(...files: string[]): string[] {
  const found = new Set<string>();
  const follow = (file: string) => {
    const name = relative(SRC, file);
    if (found.has(name)) return;
    found.add(name);
    for (const [, list, from] of readFileSync(file, 'utf8').matchAll(IMPORT)) {
      if (from === undefined || onlyTypes(list)) continue;
      if (from.startsWith('.')) follow(resolve(dirname(file), from));
      else if (!from.startsWith('node:')) found.add(from);
    }
  };
  for (const file of files) follow(join(SRC, file));
  return [...found].sort();
}

const main = loaded('cli/main.ts');
const of = (folder: string, files: readonly string[]) => files.filter((file) => file.startsWith(`${folder}/`));

test('the imports are found', () => {
  assert.ok(main.includes('cli/program.ts') && main.includes('commander'));
  assert.ok(loaded('rpc/service.ts').includes('rpc/methods/bdev.ts'));
});

test('the words of all commands: nothing of what any of them does', () => {
  for (const folder of ['cli/actions', 'sys', 'bdev', 'scsi', 'vhost', 'nvme', 'rpc/methods'])
    assert.equal(of(folder, main), []);
  assert.not(main.includes('zod') || main.includes('koffi'));
});

test('rpc: the table of methods, and nothing of disks or of the kernel', () => {
  const files = loaded('cli/actions/rpc.ts');
  assert.ok(files.includes('zod'));
  for (const folder of ['sys', 'bdev', 'scsi', 'vhost', 'nvme', 'memory']) assert.equal(of(folder, files), []);
  assert.not(files.includes('koffi'));
});

test('setup: the files of /sys alone', () => {
  const files = loaded('cli/actions/setup.ts');
  for (const folder of ['sys', 'bdev', 'rpc', 'target']) assert.equal(of(folder, files), []);
});

test("the target's main thread: neither a reactor's code nor a device's driver", () => {
  const files = loaded('cli/actions/serve.ts', 'rpc/service.ts');
  for (const folder of ['vhost', 'virtio', 'nvme', 'bdev/virtio-scsi']) assert.equal(of(folder, files), []);
  assert.equal(
    files.filter((file) => /-channel\.ts$|^scsi\/lun\.ts|^target\/reactor-core/.test(file)),
    [],
  );
});

test.run();
