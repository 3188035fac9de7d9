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
const RPC_SECONDS = 300;
/** Kernel clock ticks per second, as /proc counts CPU time (USER_HZ: 100 on every x86 Linux). */
const TICKS = 100;

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

  /** Binds the devices and reserves huge pages: `restart` starts it. */
  static async prepare(vm: Machine, options: ApplianceTargetOptions = {}): Promise<ApplianceTarget> {
    const { address = '0000:00:07.0', devices = [], hugepages = 64 } = options;
    await vm.run(HUGEPAGES(hugepages));
    await vm.run(`${MAIN} setup bind ${[...devices, address].join(' ')}`, START_SECONDS);
    return new ApplianceTarget(vm, options);
  }

  /** Binds the devices, reserves huge pages, starts the target and waits until it answers. */
  static async start(vm: Machine, options: ApplianceTargetOptions = {}): Promise<ApplianceTarget> {
    const target = await ApplianceTarget.prepare(vm, options);
    await target.restart();
    return target;
  }

  /** Starts it, for the first time or after it has ended. @param more arguments for this time */
  async restart(...more: string[]): Promise<void> {
    const { address = '0000:00:07.0', nodeArgs = [], debug } = this.#options;
    const args = [...(this.#options.args ?? []), ...more];
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
    return this.vm.run(`${MAIN} rpc -r ${SOCKET} ${words.join(' ')}`, RPC_SECONDS);
  }

  /** Gives `vvu-target rpc` these command lines on its standard input: one start of Node for all. */
  rpcLines(lines: readonly string[]): Promise<string> {
    return this.vm.run(`${MAIN} rpc -r ${SOCKET} <<'END'\n${lines.join('\n')}\nEND`, RPC_SECONDS);
  }

  /** CPU time of all its threads since its start, in seconds, as the guest counts it. */
  async cpuSeconds(): Promise<number> {
    const stat = await this.vm.run(`cat /proc/$(cat ${PID})/stat`);
    // Fields 14 and 15 of proc(5); field 2 may hold blanks, so count from behind it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS;
  }

  /** How often its threads have gone to sleep since their start. */
  async wakeUps(): Promise<number> {
    const lines = await this.vm.run(`grep -h ^voluntary_ctxt_switches /proc/$(cat ${PID})/task/*/status`);
    return lines
      .trim()
      .split('\n')
      .reduce((n, line) => n + Number(line.split(/\s+/)[1]), 0);
  }

  log(): Promise<string> {
    return this.vm.run(`cat ${LOG} 2>/dev/null || true`);
  }

  async signal(signal: 'STOP' | 'CONT'): Promise<void> {
    await this.vm.run(`kill -${signal} $(cat ${PID})`);
  }

  /** Sends a signal and waits for the end; returns the exit code (128 and the signal's number when that ended it). */
  async end(signal: 'INT' | 'TERM' | 'KILL'): Promise<number> {
    await this.vm.run(`kill -${signal} $(cat ${PID})`);
    return (await this.#job!.wait(60)).exitCode;
  }
}
