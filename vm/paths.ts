/**
 * Where the rig keeps what it downloads and builds. One rule: everything lies under one git-ignored folder of the
 * project (or `VVU_VM_CACHE`), so removing that folder undoes all of it; the machine itself is never changed.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

export const PROJECT = resolve(import.meta.dirname, '..');
export const CACHE = resolve(process.env['VVU_VM_CACHE'] ?? join(PROJECT, '.cache', 'vm'));

/** A path in the cache; its folder exists afterwards. */
export function cachePath(...parts: string[]): string {
  const path = join(CACHE, ...parts);
  mkdirSync(join(path, '..'), { recursive: true });
  return path;
}

export interface Scratch {
  readonly path: string;
  remove(): void;
}

/**
 * A folder for one run. It lies in the system's temporary folder because a Unix socket's path may have no more than
 * 107 bytes, which a project's own folder can exceed.
 */
export function scratchFolder(name: string): Scratch {
  const path = mkdtempSync(join(tmpdir(), `vvu-${name}-`));
  const remove = () => {
    process.off('exit', remove);
    rmSync(path, { recursive: true, force: true });
  };
  process.on('exit', remove);
  return { path, remove };
}
