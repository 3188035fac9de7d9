/**
 * Child processes of the rig. One rule: no child outlives us, however we end. A normal exit or a signal kills the
 * children here; where this process is killed outright, the kernel does it (parent-death signal).
 */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

const children = new Set<ChildProcess>();
let guarded = false;

function killAll(): void {
  for (const child of children) child.kill('SIGKILL');
}

/** Runs the exit handlers on the signals that would otherwise end us without them. */
function guard(): void {
  if (guarded) return;
  guarded = true;
  process.on('exit', killAll);
  for (const [signal, number] of [
    ['SIGINT', 2],
    ['SIGTERM', 15],
    ['SIGHUP', 1],
  ] as const) {
    process.on(signal, () => process.exit(128 + number));
  }
}

/** The full path of a program on PATH (and the folders of root's programs), or null. */
export function findProgram(name: string): string | null {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  for (const folder of folders) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // not in this folder
    }
  }
  return null;
}

/** Starts a long-lived child that dies with us. */
export function startChild(command: string, args: readonly string[], options: SpawnOptions = {}): ChildProcess {
  guard();
  const setpriv = findProgram('setpriv');
  const child =
    setpriv === null
      ? spawn(command, args, options)
      : spawn(setpriv, ['--pdeathsig', 'KILL', '--', command, ...args], options);
  children.add(child);
  child.once('close', () => children.delete(child));
  child.once('error', () => children.delete(child));
  return child;
}

/** How a child ended, in words: `exit code 1` or `signal SIGKILL`. */
export function ending(child: ChildProcess): string {
  return child.signalCode === null ? `exit code ${child.exitCode}` : `signal ${child.signalCode}`;
}

export interface RunOptions {
  cwd?: string;
  env?: Record<string, string>;
  input?: Uint8Array;
  timeoutSeconds?: number;
}

/** Runs a program to its end and returns what it printed on stdout. Throws with its last output when it fails. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const child = startChild(command, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    const seconds = options.timeoutSeconds ?? 600;
    const timer = setTimeout(() => {
      err.push(Buffer.from(`\nstopped after ${seconds} s`));
      child.kill('SIGKILL');
    }, seconds * 1000);
    child.stdout!.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr!.on('data', (chunk: Buffer) => err.push(chunk));
    // A program may end before it has read its input (a decompressor that found the end); that is no error of ours.
    child.stdin!.on('error', () => {});
    child.stdin!.end(options.input ?? '');
    child.once('error', (cause) => {
      clearTimeout(timer);
      reject(new Error(`cannot run ${command}: ${cause.message}`, { cause }));
    });
    child.once('close', (code) => {
      clearTimeout(timer);
      if (code === 0) return resolve(Buffer.concat(out));
      const said = Buffer.concat(err.length > 0 ? err : out)
        .toString()
        .trim();
      reject(new Error(`${[command, ...args].join(' ')}: ${ending(child)}\n${said.slice(-2000)}`));
    });
  });
}
