/**
 * The target as its user runs it: the built command line program in a process of its own. Tests of whole machines start
 * it here, talk to it with its own `rpc` command, and may end it as hard as they like.
 */
import type { ChildProcess } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { exclusively } from './lock.ts';
import { PROJECT, type Scratch, scratchFolder } from './paths.ts';
import { ending, run, startChild } from './process.ts';
import { progress } from './progress.ts';

const MAIN = join(PROJECT, 'dist/cli/main.js');
/** Kernel clock ticks per second, as /proc counts CPU time (USER_HZ: 100 on every x86 Linux). */
const TICKS = 100;

function newest(folder: string): number {
  let latest = 0;
  for (const entry of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    latest = Math.max(latest, statSync(join(folder, entry)).mtimeMs);
  }
  return latest;
}

/** Builds the project when a source is newer than the program. */
export function ensureBuilt(): Promise<void> {
  return exclusively('build', async () => {
    if (existsSync(MAIN) && newest(join(PROJECT, 'src')) <= statSync(MAIN).mtimeMs) return;
    progress('building the target');
    // The compiler leaves files alone whose text is the same, and then they would look old for ever.
    rmSync(MAIN, { force: true });
    await run('npm', ['run', '--silent', 'build'], { cwd: PROJECT });
  });
}

export interface TargetOptions {
  /** Arguments of the command line program, after the folders this class gives. */
  args: string[];
  /** Name of a controller whose socket exists when the target is up; default `vhost.0`. */
  controller?: string;
  /** Called with what it prints. */
  onOutput?: (chunk: Buffer) => void;
}

export class TargetProcess {
  /** Folder of the sockets; the target's working directory. */
  readonly folder: string;
  readonly #options: TargetOptions;
  readonly #scratch: Scratch;
  #process: ChildProcess | undefined;
  #output = '';

  private constructor(options: TargetOptions) {
    this.#options = options;
    this.#scratch = scratchFolder('target');
    this.folder = this.#scratch.path;
  }

  /** Starts a target and waits until it listens. Throws with its output when it ends instead. */
  static async start(options: TargetOptions): Promise<TargetProcess> {
    await ensureBuilt();
    const target = new TargetProcess(options);
    await target.restart();
    return target;
  }

  /** Path of a controller's vhost-user socket. */
  socket(controller = this.#options.controller ?? 'vhost.0'): string {
    return join(this.folder, controller);
  }

  get output(): string {
    return this.#output;
  }

  get pid(): number {
    return this.#process!.pid!;
  }

  /** Starts the program again with the same arguments, after it has ended. */
  async restart(): Promise<void> {
    const identity = () => {
      const found = statSync(this.socket(), { throwIfNoEntry: false });
      // A new file may well get the number of the one it replaces.
      return found === undefined ? null : `${found.ino} ${found.ctimeMs}`;
    };
    const before = identity();
    const args = [MAIN, '-S', this.folder, '-r', join(this.folder, 'rpc.sock'), ...this.#options.args];
    const child = startChild(process.execPath, args, { cwd: this.folder, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#process = child;
    const keep = (chunk: Buffer) => {
      this.#output += chunk;
      this.#options.onOutput?.(chunk);
    };
    child.stdout!.on('data', keep);
    child.stderr!.on('data', keep);
    const deadline = performance.now() + 60_000;
    for (;;) {
      if (child.exitCode !== null || child.signalCode !== null) {
        throw new Error(`the target ended (${ending(child)}):\n${this.#output.slice(-2000)}`);
      }
      // A socket file that a killed predecessor left does not count.
      if (identity() !== null && identity() !== before) break;
      if (performance.now() > deadline) throw new Error(`the target made no socket:\n${this.#output.slice(-2000)}`);
      await sleep(20);
    }
    // From bind to listen.
    await sleep(50);
  }

  /** Runs `vvu-target rpc METHOD ARGS...`; returns what it printed. Throws when it fails. */
  async rpc(method: string, ...args: string[]): Promise<string> {
    const all = [MAIN, 'rpc', '-r', join(this.folder, 'rpc.sock'), method, ...args];
    return (await run(process.execPath, all, { timeoutSeconds: 60 })).toString().trim();
  }

  /** CPU time of all its threads since its start, in seconds. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.pid}/stat`, 'latin1');
    // Fields 14 and 15 of proc(5); field 2 may hold blanks, so count from behind it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS;
  }

  /** Ends it with a signal and waits for its end; returns its exit code, or the signal that ended it. */
  async end(signal: NodeJS.Signals): Promise<number | NodeJS.Signals> {
    const child = this.#process!;
    const ended = () => child.exitCode ?? child.signalCode;
    if (ended() === null) {
      child.kill(signal);
      const deadline = performance.now() + 30_000;
      while (ended() === null) {
        if (performance.now() > deadline) {
          child.kill('SIGKILL');
          throw new Error(`the target did not end within 30 s of ${signal}:\n${this.#output.slice(-2000)}`);
        }
        await sleep(20);
      }
    }
    return ended()!;
  }

  /** Ends it at once and removes its folder. */
  async close(): Promise<void> {
    await this.end('SIGKILL');
    this.#scratch.remove();
  }
}
