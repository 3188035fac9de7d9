/** Holds the layer table of ARCHITECTURE.md: who imports whom, and who may use which package. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { assert, suite } from './support/suite.ts';

const ROOT = resolve(import.meta.dirname, '..');
const SRC = join(ROOT, 'src');

interface Layer {
  imports: string[];
  packages: string[];
}

/** Rows of the table: | `folder` | `a`, `b` | pkg, pkg | rule | */
function readTable(): Map<string, Layer> {
  const layers = new Map<string, Layer>();
  for (const line of readFileSync(join(ROOT, 'ARCHITECTURE.md'), 'utf8').split('\n')) {
    const row = /^\| `([\w-]+)` \|([^|]*)\|([^|]*)\|/.exec(line);
    if (row === null) continue;
    const [, folder, imports, packages] = row as unknown as [string, string, string, string];
    layers.set(folder, {
      imports: imports.includes('everything above')
        ? [...layers.keys()]
        : [...imports.matchAll(/`([^`]+)`/g)].map((m) => m[1] as string),
      packages: packages
        .split(',')
        .map((p) => p.trim())
        .filter((p) => p !== ''),
    });
  }
  return layers;
}

function files(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile() && e.name.endsWith('.ts'))
    .map((e) => join(e.parentPath, e.name));
}

function specifiers(file: string): string[] {
  const text = readFileSync(file, 'utf8');
  const found = text.matchAll(
    /(?:^|\n)\s*(?:import|export)\b[^'"`;]*?\bfrom\s*['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]/g,
  );
  const bare = text.matchAll(/(?:^|\n)\s*import\s+['"]([^'"]+)['"]/g);
  return [...[...found].map((m) => (m[1] ?? m[2]) as string), ...[...bare].map((m) => m[1] as string)];
}

const test = suite('architecture');
const layers = readTable();
/** Packages a layer inherits: each may use those of the layers it imports only through them, so none. */
const PURE = new Set(['memory', 'virtio', 'scsi']);

test('logs use only the directives that there are', () => {
  const wrong: string[] = [];
  for (const file of files(SRC)) {
    // Inserted text is not looked at: it has none.
    for (const [, text] of readFileSync(file, 'utf8').matchAll(/\blog(?:\.warn)?\(\s*['`]([^'`]*)['`]/g)) {
      const plain = (text as string).replace(/%%/g, '').replace(/\$\{[^}]*\}/g, '');
      for (const [directive] of plain.matchAll(/%./g)) {
        if (!/%[sdijoOc]/.test(directive)) wrong.push(`${relative(ROOT, file)}: ${directive} in "${text}"`);
      }
    }
  }
  assert.equal(wrong, []);
});

test('every folder of src has a row', () => {
  const folders = readdirSync(SRC, { withFileTypes: true })
    .filter((e) => e.isDirectory() && files(join(SRC, e.name)).length > 0)
    .map((e) => e.name);
  assert.equal(
    folders.filter((f) => !layers.has(f)),
    [],
  );
});

for (const [folder, layer] of layers) {
  test(`${folder} imports only what its row names`, () => {
    const wrong: string[] = [];
    let list: string[] = [];
    try {
      list = files(join(SRC, folder));
    } catch {
      return; // a folder that does not exist yet breaks no rule
    }
    for (const file of list) {
      for (const spec of specifiers(file)) {
        const complain = (why: string) => wrong.push(`${relative(ROOT, file)} imports ${spec}: ${why}`);
        if (spec.startsWith('node:')) {
          if (PURE.has(folder)) complain('this layer uses nothing of Node');
        } else if (spec.startsWith('.')) {
          const target = relative(SRC, resolve(dirname(file), spec)).replace(/\.ts$/, '');
          const owner = target.split('/')[0] as string;
          if (owner === '..' || owner === '') complain('outside src');
          else if (owner !== folder && !layer.imports.includes(owner) && !layer.imports.includes(target)) {
            complain(`${owner} is not below ${folder}`);
          }
        } else {
          const name = spec.startsWith('@') ? spec.split('/').slice(0, 2).join('/') : (spec.split('/')[0] as string);
          if (!layer.packages.includes(name)) complain('package not allowed here');
        }
      }
    }
    assert.equal(wrong, []);
  });
}

test('one module loads koffi', () => {
  const loaders = files(SRC)
    .filter((f) => specifiers(f).includes('koffi'))
    .map((f) => relative(SRC, f));
  assert.ok(loaders.length <= 1, `koffi is imported by ${loaders.join(', ')}`);
});

test('addresses of memory are used by src/sys alone', () => {
  const users = files(SRC)
    .filter((f) => !/^(sys|memory)\//.test(relative(SRC, f)))
    .filter((f) => /[mM]emory(\[\w+\])?\.address\b/.test(readFileSync(f, 'utf8')))
    .map((f) => relative(SRC, f));
  assert.equal(users, []);
});

test('shared words are never read through DataView or Buffer', () => {
  const where = ['virtio/device-ring.ts', 'virtio/driver-ring.ts'].map((f) => join(SRC, f));
  const tearing = /\bDataView\b|\.(read|write)U?Int(8|16|32)|\.(get|set)(Big)?U?[iI]nt(16|32|64)\(/;
  for (const file of where) {
    let text = '';
    try {
      text = readFileSync(file, 'utf8');
    } catch {
      continue;
    }
    assert.not(tearing.test(text), `${relative(ROOT, file)} uses an access that tears`);
  }
});

test.run();
