import { closeSync, fsyncSync, openSync, readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { open as openLater, rename as renameLater } from 'node:fs/promises';
import { dirname } from 'node:path';

/**
 * A file that is whole at any moment, also after a crash: written beside, flushed, renamed over.
 */
export function writeFileWhole(path: string, text: string): void {
  const beside = `${path}.${process.pid}.new`;
  // A leftover of a crashed process with our number may be there; `wx` makes sure that nobody else's file is written.
  removeIfThere(beside);
  const fd = openSync(beside, 'wx', 0o600);
  try {
    writeFileSync(fd, text);
    fsyncSync(fd);
  } catch (error) {
    removeIfThere(beside);
    throw error;
  } finally {
    closeSync(fd);
  }
  renameSync(beside, path);
  // The new name itself is only safe when the directory is on the disk too.
  const directory = openSync(dirname(path), 'r');
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

let writes = 0;

/** As {@link writeFileWhole}, without making this thread wait. Files of one name are written one after another. */
export async function writeFileWholeLater(path: string, text: string): Promise<void> {
  const beside = `${path}.${process.pid}.${writes++}.new`;
  const file = await openLater(beside, 'wx', 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } catch (error) {
    removeIfThere(beside);
    throw error;
  } finally {
    await file.close();
  }
  await renameLater(beside, path);
  const directory = await openLater(dirname(path), 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** @returns the text, or undefined when there is no such file */
export function readFileIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function removeIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
