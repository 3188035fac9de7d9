/**
 * Kernel modules of a guest. They are stored uncompressed and flat, with the `modules.dep` and `modules.alias` that
 * modprobe reads; what a module needs and answers to is written in the module itself (its .modinfo section), so no
 * depmod run is needed.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { FileTree } from './cpio.ts';
import { decompress } from './decompress.ts';
import type { Kernel } from './packages.ts';

/** Modules are named with either sign, by different programs. */
const canonical = (name: string) => name.replaceAll('-', '_');

function modulesOf(folder: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const entry of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    const name = /([^/]+)\.ko(\.\w+)?$/.exec(entry)?.[1];
    if (name !== undefined) found.set(canonical(name), join(folder, entry));
  }
  return found;
}

function builtIn(kernel: Kernel): Set<string> {
  const path = join(kernel.modules, 'modules.builtin');
  const lines = existsSync(path) ? readFileSync(path, 'utf8').split('\n') : [];
  return new Set(lines.map((line) => canonical(line.replace(/^.*\/|\.ko$/g, ''))));
}

/** `depends=` and `softdep=pre:` of a module's .modinfo: what must be loaded before it. */
function prerequisites(module: Buffer): string[] {
  const text = module.toString('latin1');
  const depends = /\0depends=([^\0]*)\0/.exec(text)?.[1] ?? '';
  const soft = /\0softdep=pre: ([^\0]*)\0/.exec(text)?.[1]?.replace(/ post:.*/, '') ?? '';
  return [...depends.split(','), ...soft.split(' ')].filter((name) => name !== '').map(canonical);
}

/**
 * Adds modules and all they need. Names that are built into the kernel are passed over; a name the kernel does not have
 * is an error. `replace` gives a module's bytes from elsewhere (a rebuilt one).
 */
export async function addModules(
  tree: FileTree,
  kernel: Kernel,
  names: string[],
  replace: Record<string, Buffer> = {},
): Promise<void> {
  const available = modulesOf(kernel.modules);
  const inside = builtIn(kernel);
  const needs = new Map<string, string[]>();
  const aliases: string[] = [];
  const add = async (name: string): Promise<void> => {
    if (inside.has(name) || needs.has(name)) return;
    const path = available.get(name);
    if (path === undefined) throw new Error(`kernel ${kernel.version} has no module "${name}"`);
    const bytes = replace[name] ?? (await decompress(readFileSync(path)));
    const before = prerequisites(bytes).filter((n) => available.has(n));
    needs.set(name, before);
    for (const other of before) await add(other);
    for (const [, alias] of bytes.toString('latin1').matchAll(/\0alias=([^\0]+)(?=\0)/g)) {
      aliases.push(`alias ${alias} ${name}\n`);
    }
    tree.file(`/lib/modules/${kernel.version}/${name}.ko`, bytes);
  };
  for (const name of names) await add(canonical(name));

  // modprobe loads what a line lists, last first, so the list must hold indirect needs too.
  const closure = (name: string, seen = new Set<string>()): string[] => {
    for (const other of needs.get(name) ?? []) {
      if (seen.has(other) || !needs.has(other)) continue;
      seen.delete(other);
      seen.add(other);
      closure(other, seen);
    }
    return [...seen];
  };
  const line = (name: string) =>
    `${name}.ko:${closure(name)
      .map((other) => ` ${other}.ko`)
      .join('')}\n`;
  tree.file(`/lib/modules/${kernel.version}/modules.dep`, [...needs.keys()].map(line).join(''));
  tree.file(`/lib/modules/${kernel.version}/modules.alias`, aliases.join(''));
}
