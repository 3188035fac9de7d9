/** The target inside an appliance VM: started, asked and ended through the guest's command channel, as a user would. */

import { HUGEPAGES } from './appliance.ts';
import type { GuestJob } from './guest-channel.ts';
import type { Machine } from './machine.ts';

const PROGRAM = '/opt/vvu-target/dist/cli/main.js';
const MAIN = `node ${PROGRAM}`;
const SOCKET = '/var/tmp/vvu-target.sock';
const LOG = '/tmp/target.log';
const PID = '/tmp/target.pid';
/** Seconds; on a busy machine an emulated CPU needs two minutes to start the program. */
const START_SECONDS = 600;

export interface ApplianceTargetOptions {
  /** The vvu device. */
  address?: string;
  /** Other devices that the target shall drive. */
  devices?: string[];
  /** More arguments. */
  args?: string[];
  /** Arguments for Node itself. */
  nodeArgs?: string[];
  /** DEBUG of the target. */
  debug?: string;
  hugepages?: number;
}

export class ApplianceTarget {
  readonly vm: Machine;
  readonly #options: ApplianceTargetOptions;
  #job: GuestJob | undefined;

  private constructor(vm: Machine, options: ApplianceTargetOptions) {
    this.vm = vm;
    this.#options = options;
  }

  /** Binds the devices, reserves huge pages, starts the target and waits until it answers. */
  static async start(vm: Machine, options: ApplianceTargetOptions = {}): Promise<ApplianceTarget> {
    const target = new ApplianceTarget(vm, options);
    const { address = '0000:00:07.0', devices = [], hugepages = 64 } = options;
    await vm.run(HUGEPAGES(hugepages));
    await vm.run(`${MAIN} setup bind ${[address, ...devices].join(' ')}`);
    await target.restart();
    return target;
  }

  /** Starts it again after it has ended. */
  async restart(): Promise<void> {
    const { address = '0000:00:07.0', args = [], nodeArgs = [], debug } = this.#options;
    const environment = debug === undefined ? '' : `DEBUG='${debug}' `;
    await this.vm.run(`rm -f ${LOG} ${PID}`);
    const command = `${environment}exec node ${[...nodeArgs, PROGRAM].join(' ')} -T vvu -S ${address} -r ${SOCKET} ${args.join(' ')}`;
    this.#job = await this.vm.background(`echo $$ >${PID}; ${command} >>${LOG} 2>&1`);
    try {
      // A look at the log: each start of Node costs an emulated CPU seconds.
      await this.vm.until(`test -s ${PID} && { grep -q 'RPC at' ${LOG} || ! kill -0 $(cat ${PID}); }`, START_SECONDS);
      await this.vm.run(`kill -0 $(cat ${PID})`);
    } catch (error) {
      (error as Error).message += `\n--- target\n${await this.log()}`;
      throw error;
    }
  }

  /** Runs `vvu-target rpc METHOD ARGS...`. */
  rpc(...words: string[]): Promise<string> {
    return this.vm.run(`${MAIN} rpc -r ${SOCKET} ${words.join(' ')}`);
  }

  log(): Promise<string> {
    return this.vm.run(`cat ${LOG} 2>/dev/null || true`);
  }

  /** Sends a signal and waits for the end; returns the exit code (128 and the signal's number when that ended it). */
  async end(signal: 'INT' | 'TERM' | 'KILL'): Promise<number> {
    await this.vm.run(`kill -${signal} $(cat ${PID})`);
    return (await this.#job!.wait(60)).exitCode;
  }
}
