/** The command line program in a process of its own: from the sources, or a build of them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { join, resolve } from 'node:path';
import { buildProgram } from './build.ts';

export const MAIN = resolve(import.meta.dirname, '../../src/cli/main.ts');
const TSX = import.meta.resolve('tsx');
/** For loaded machines. */
const LIMIT_MS = 60_000;

/** What node runs. */
let program = ['--import', TSX, MAIN];
/** From now on: a build, made now. For tests that start the program often. */
export function useBuild(): void {
  program = [buildProgram()];
}

const running = new Set<ChildProcess>();
/** For the end of a test file: what a failed test left. */
export function endAll(): void {
  for (const child of running) child.kill('SIGKILL');
}
process.on('exit', endAll);

export interface ProgramOptions {
  /** Of node itself. */
  nodeArgs?: string[];
  cwd?: string;
  uid?: number;
  gid?: number;
  env?: Record<string, string>;
  input?: string;
}

export class Program {
  stdout = '';
  stderr = '';
  readonly child: ChildProcess;
  private readonly ended: Promise<number | NodeJS.Signals>;

  constructor(args: readonly string[], options: ProgramOptions = {}) {
    const { nodeArgs = [], env = {}, input, ...rest } = options;
    this.child = spawn(process.execPath, [...nodeArgs, ...program, ...args], {
      ...rest,
      env: { ...process.env, DEBUG: '', ...env },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    running.add(this.child);
    this.child.stdin?.end(input ?? '');
    this.child.stdout?.on('data', (chunk) => {
      this.stdout += chunk;
    });
    this.child.stderr?.on('data', (chunk) => {
      this.stderr += chunk;
    });
    this.ended = new Promise((done) => {
      this.child.on('close', (code, signal) => {
        running.delete(this.child);
        done(signal ?? code ?? -1);
      });
    });
  }

  get pid(): number {
    return this.child.pid as number;
  }

  /** Wait until its output matches. @throws when it ends before */
  async says(pattern: RegExp): Promise<RegExpExecArray> {
    const limit = performance.now() + LIMIT_MS;
    for (;;) {
      const match = pattern.exec(this.stdout) ?? pattern.exec(this.stderr);
      if (match !== null) return match;
      const gone = this.child.exitCode !== null || this.child.signalCode !== null;
      if (gone || performance.now() > limit) throw new Error(`never said ${pattern}:\n${this.stdout}${this.stderr}`);
      await new Promise((done) => setTimeout(done, 10));
    }
  }

  /** @returns exit code, or the signal that ended it */
  async end(signal?: NodeJS.Signals): Promise<number | NodeJS.Signals> {
    if (signal !== undefined) this.child.kill(signal);
    const limit = setTimeout(() => this.child.kill('SIGKILL'), LIMIT_MS);
    const code = await this.ended;
    clearTimeout(limit);
    return code;
  }
}

/** Run to the end. */
export async function runProgram(
  args: readonly string[],
  options?: ProgramOptions,
): Promise<{ end: number | NodeJS.Signals; stdout: string; stderr: string }> {
  const program = new Program(args, options);
  const end = await program.end();
  return { end, stdout: program.stdout, stderr: program.stderr };
}

/** The target in a folder, its RPC socket as rpc.sock there; up when this returns. */
export async function startTarget(
  folder: string,
  args: readonly string[] = [],
  options: ProgramOptions = {},
): Promise<Program> {
  const program = new Program(['-S', folder, '-r', join(folder, 'rpc.sock'), ...args], { cwd: folder, ...options });
  await program.says(/RPC at /);
  return program;
}
