/** Tests' own programs for guests: written in TypeScript beside the tests, compiled here, run by the guest's Node. */
import { symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PROJECT, scratchFolder } from '../../vm/paths.ts';
import { run } from '../../vm/process.ts';

/** Where they lie in the guest: below the project, so that its packages are found. */
const AT = '/opt/vvu-target/guest';

/** How to start the program `test/vm/guest/NAME.ts`. */
export const guestProgram = (name: string) => `node ${AT}/test/vm/guest/${name}.js`;

let compiled: Promise<string> | undefined;

/** The files to add to the guest's image. */
export async function guestPrograms(names: readonly string[]): Promise<Record<string, string>> {
  compiled ??= compile(names);
  return { [AT]: await compiled };
}

async function compile(names: readonly string[]): Promise<string> {
  const scratch = scratchFolder('guest-programs');
  const project = join(scratch.path, 'tsconfig.json');
  const out = join(scratch.path, 'out');
  symlinkSync(join(PROJECT, 'node_modules'), join(scratch.path, 'node_modules'));
  writeFileSync(
    project,
    JSON.stringify({
      extends: join(PROJECT, 'tsconfig.json'),
      compilerOptions: {
        rootDir: PROJECT,
        outDir: out,
        noEmit: false,
        allowImportingTsExtensions: false,
        rewriteRelativeImportExtensions: true,
        typeRoots: [join(PROJECT, 'node_modules/@types')],
      },
      include: [],
      files: names.map((name) => join(PROJECT, `test/vm/guest/${name}.ts`)),
    }),
  );
  await run(join(PROJECT, 'node_modules/.bin/tsc'), ['-p', project]);
  return out;
}
