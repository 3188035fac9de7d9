/**
 * Runs commands in a guest, over its second serial port; the other half is guest/init, which also says how the lines
 * look. One command at a time: what a guest shall do beside it goes to the background (`start`).
 */
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { eachLine } from './one-connection.ts';

export interface GuestResult {
  /** stdout and stderr, in the order they were written. */
  output: string;
  exitCode: number;
}

export interface GuestJob {
  /** What it printed so far. */
  output(): Promise<string>;
  /** Its result when it ends within the time; throws otherwise. */
  wait(timeoutSeconds: number): Promise<GuestResult>;
  /** null while it runs. */
  exitCode(): Promise<number | null>;
}

interface Call {
  id: number;
  lines: string[];
  resolve: (result: GuestResult) => void;
  reject: (error: Error) => void;
}

/** Much less than the 64 KiB that a terminal driver keeps for a slow reader. */
const CHUNK_BYTES = 12_000;

export class GuestChannel {
  readonly #socket: Socket;
  readonly #boots: string[] = [];
  #wake = () => {};
  #call: Call | undefined;
  #busy: Promise<unknown> = Promise.resolve();
  #dead: Error | undefined;
  #ids = 0;

  constructor(socket: Socket) {
    this.#socket = socket;
    eachLine(socket, (line) => this.#receive(line.replace(/\r$/, '')));
  }

  /** How often the guest's init has come up. */
  get boots(): number {
    return this.#boots.length;
  }

  /** Waits until init has come up for the `count`-th time. Rejects when `fail` was called meanwhile. */
  async booted(count: number, timeoutSeconds: number): Promise<void> {
    const deadline = performance.now() + timeoutSeconds * 1000;
    while (this.#boots.length < count) {
      if (this.#dead !== undefined) throw this.#dead;
      const left = deadline - performance.now();
      if (left <= 0) throw new Error(`the guest did not come up within ${timeoutSeconds} s`);
      const woken = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      const timer = new AbortController();
      await Promise.race([woken, sleep(left, undefined, { signal: timer.signal }).catch(() => {})]);
      timer.abort();
    }
  }

  /** Nothing will come from this guest any more: every waiting call gets the error. */
  fail(error: Error): void {
    this.#dead ??= error;
    this.#call?.reject(error);
    this.#call = undefined;
    this.#wake();
  }

  /** Runs shell text in the guest. A non-zero exit is a result; throws when the guest does not answer in time. */
  run(script: string, timeoutSeconds = 120): Promise<GuestResult> {
    const result = this.#busy.then(() => this.#send(script, timeoutSeconds));
    this.#busy = result.catch(() => {});
    return result;
  }

  /** Runs shell text in the background of the guest. */
  async start(script: string): Promise<GuestJob> {
    const base = `/tmp/job.${++this.#ids}`;
    await this.#checked(`cat >${base}.sh <<'END-OF-JOB'\n${script}\nEND-OF-JOB
      { bash ${base}.sh >${base}.out 2>&1; echo $? >${base}.new; mv ${base}.new ${base}.code; } </dev/null >/dev/null 2>&1 &`);
    const exitCode = async () => {
      const { output } = await this.run(`cat ${base}.code 2>/dev/null`);
      return output.trim() === '' ? null : Number(output);
    };
    const output = async () => (await this.run(`cat ${base}.out`)).output;
    const wait = async (timeoutSeconds: number) => {
      const deadline = performance.now() + timeoutSeconds * 1000;
      for (;;) {
        const code = await exitCode();
        if (code !== null) return { output: await output(), exitCode: code };
        if (performance.now() > deadline) {
          throw new Error(`not ended after ${timeoutSeconds} s: ${script}\n${await output()}`);
        }
        await sleep(300);
      }
    };
    return { output, wait, exitCode };
  }

  /** Writes a file in the guest. */
  async putFile(path: string, content: Buffer | string): Promise<void> {
    const text = Buffer.from(content).toString('base64');
    await this.#checked(`: >'${path}'`);
    for (let at = 0; at < text.length; at += CHUNK_BYTES) {
      await this.#checked(`base64 -d >>'${path}' <<<${text.slice(at, at + CHUNK_BYTES)}`);
    }
  }

  async #checked(script: string): Promise<void> {
    const { output, exitCode } = await this.run(script);
    if (exitCode !== 0) throw new Error(`the guest failed (exit ${exitCode}) at: ${script.slice(0, 200)}\n${output}`);
  }

  async #send(script: string, timeoutSeconds: number): Promise<GuestResult> {
    if (this.#dead !== undefined) throw this.#dead;
    const id = ++this.#ids;
    let timer: NodeJS.Timeout | undefined;
    const answer = new Promise<GuestResult>((resolve, reject) => {
      this.#call = { id, lines: [], resolve, reject };
      timer = setTimeout(() => {
        // The guest's shell is still busy with it, so later commands would wait too: the channel is lost.
        this.fail(new Error(`the guest did not answer within ${timeoutSeconds} s: ${script}`));
      }, timeoutSeconds * 1000);
    });
    this.#socket.write(`${id} ${Buffer.from(script).toString('base64')}\n`);
    try {
      return await answer;
    } finally {
      clearTimeout(timer);
    }
  }

  #receive(line: string): void {
    const [word, id, code] = line.split(' ');
    if (word === 'ready') {
      this.#boots.push(id);
      this.#call?.reject(new Error('the guest rebooted before it answered'));
      this.#call = undefined;
      this.#wake();
      return;
    }
    const call = this.#call;
    if (call === undefined) return;
    if (word === 'begin') call.lines = [];
    else if (word === 'end' && Number(id) === call.id) {
      this.#call = undefined;
      const output = Buffer.from(call.lines.join(''), 'base64').toString();
      call.resolve({ output, exitCode: Number(code) });
    } else call.lines.push(line);
  }
}
