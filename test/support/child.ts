/** Run TypeScript in a process of its own: for what may kill a process, or must be seen from its beginning to its end. */
import { spawnSync } from 'node:child_process';

export interface ChildResult {
  /** Exit code, or the signal's name. */
  readonly end: number | string;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * @param source of an ES module; `import x from '<root>/src/…'`: `<root>` stands for the project's folder as file URL
 * @param args further node arguments
 */
export function runChild(source: string, args: string[] = [], env: Record<string, string> = {}): ChildResult {
  const root = new URL('../..', import.meta.url).href.replace(/\/$/, '');
  const child = spawnSync(
    process.execPath,
    [...args, '--import', 'tsx', '--input-type=module', '--eval', source.replaceAll('<root>', root)],
    { encoding: 'utf8', timeout: 60_000, killSignal: 'SIGKILL', env: { ...process.env, ...env } },
  );
  return { end: child.signal ?? child.status ?? -1, stdout: child.stdout, stderr: child.stderr };
}
