/**
 * Puts programs into a guest's tree together with the shared libraries they need. Libraries are found by name in given
 * folders, as a loader would, and lie flat in one folder of the guest.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { FileTree } from './cpio.ts';
import { Elf } from './elf.ts';

const GUEST_LIBRARIES = '/lib/x86_64-linux-gnu';

export interface ProgramOptions {
  /** Where libraries are looked for, in order. */
  folders: string[];
  /** Libraries to leave out; the program must not call into them. */
  unwanted?: (name: string) => boolean;
}

/** Adds one program (or library to be opened at run time) and its libraries. Throws when a library is nowhere. */
export function addProgram(tree: FileTree, source: string, path: string, options: ProgramOptions): void {
  const unwanted = options.unwanted ?? (() => false);
  const add = (from: string, to: string) => {
    const elf = new Elf(readFileSync(from));
    if (elf.needed.some(unwanted)) elf.removeLibraries(unwanted);
    tree.file(to, elf.bytes, 0o755);
    for (const name of elf.needed) {
      if (tree.has(join(GUEST_LIBRARIES, name))) continue;
      add(findLibrary(name, from, options.folders), join(GUEST_LIBRARIES, name));
    }
    const loader = elf.interpreter;
    if (loader === null || tree.has(loader)) return;
    tree.file(
      loader,
      readFileSync(findLibrary(loader.slice(loader.lastIndexOf('/') + 1), from, options.folders)),
      0o755,
    );
  };
  add(source, path);
}

function findLibrary(name: string, wantedBy: string, folders: string[]): string {
  for (const folder of folders) {
    const path = join(folder, name);
    if (existsSync(path)) return path;
  }
  throw new Error(`${wantedBy} needs ${name}, which is in none of ${folders.join(', ')}`);
}
