/** `vvu-target relay` as a user runs it: a process of its own, with its two sockets in a folder of its own. */
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { PROJECT, type Scratch, scratchFolder } from './paths.ts';
import { ending, startChild } from './process.ts';
import { ensureBuilt } from './target-process.ts';

const MAIN = join(PROJECT, 'dist/cli/main.js');

export class RelayProcess {
  /** Socket for the compute VM. */
  readonly compute: string;
  /** Arguments for the appliance VM's QEMU. */
  readonly deviceArgs: readonly string[];
  output = '';
  readonly #scratch: Scratch;
  readonly #args: readonly string[];
  #process!: ChildProcess;

  private constructor(scratch: Scratch, vrings: number, address: string) {
    this.#scratch = scratch;
    this.compute = join(scratch.path, 'compute');
    const appliance = join(scratch.path, 'appliance');
    this.#args = [MAIN, 'relay', '--compute', this.compute, '--appliance', appliance, '--vrings', String(vrings)];
    this.deviceArgs = [
      '-chardev',
      `socket,id=vvu0,path=${appliance}`,
      '-device',
      `vhost-user-test-device-pci,chardev=vvu0,virtio-id=38,num_vqs=${vrings + 2},vq_size=128,config_size=0,addr=${address}`,
    ];
  }

  /** @param address slot of the device on the appliance's root bus */
  static async start(options: { vrings?: number; address?: string } = {}): Promise<RelayProcess> {
    await ensureBuilt();
    const { vrings = 18, address = '07.0' } = options;
    const scratch = scratchFolder('relay');
    const relay = new RelayProcess(scratch, vrings, address);
    await relay.restart();
    return relay;
  }

  /** Starts it again, at the same sockets, after it has ended. What it said before is forgotten. */
  async restart(): Promise<void> {
    const child = startChild(process.execPath, this.#args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#process = child;
    this.output = '';
    const keep = (chunk: Buffer) => {
      this.output += chunk;
    };
    child.stdout!.on('data', keep);
    child.stderr!.on('data', keep);
    await this.says(/relay: ready/, 60);
  }

  get pid(): number {
    return this.#process.pid!;
  }

  /** Waits until its output matches. */
  async says(pattern: RegExp, seconds: number): Promise<void> {
    const deadline = performance.now() + seconds * 1000;
    while (!pattern.test(this.output)) {
      if (this.#ended !== null) throw new Error(`the relay ended (${ending(this.#process)}):\n${this.output}`);
      if (performance.now() > deadline)
        throw new Error(`the relay did not say ${pattern} in ${seconds} s:\n${this.output}`);
      await sleep(20);
    }
  }

  get #ended(): number | NodeJS.Signals | null {
    return this.#process.exitCode ?? this.#process.signalCode;
  }

  /** Ends it with a signal; returns its exit code, or the signal that ended it. */
  async end(signal: NodeJS.Signals): Promise<number | NodeJS.Signals> {
    if (this.#ended === null) this.#process.kill(signal);
    const deadline = performance.now() + 15_000;
    while (this.#ended === null) {
      if (performance.now() > deadline) this.#process.kill('SIGKILL');
      await sleep(20);
    }
    return this.#ended as number | NodeJS.Signals;
  }

  async close(): Promise<void> {
    await this.end('SIGKILL');
    this.#scratch.remove();
  }
}
