/**
 * One virtual machine: a QEMU process with its console, its control socket and a guest that takes commands. One rule:
 * a machine is closed by `close()` (or the end of this process) and then nothing of it is left.
 */
import type { ChildProcess } from 'node:child_process';
import { appendFileSync, copyFileSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Accelerator, accelerator } from './accelerator.ts';
import { ConsoleLog } from './console-log.ts';
import { GuestChannel, type GuestJob, type GuestResult } from './guest-channel.ts';
import { OneConnection } from './one-connection.ts';
import { type Scratch, scratchFolder } from './paths.ts';
import { ending, startChild } from './process.ts';
import type { Qemu } from './qemu.ts';
import { Qmp } from './qmp.ts';

/** An emulated CPU on a busy machine can need minutes for what takes it ten seconds alone. */
const BOOT_SECONDS = 300;
const COMMAND_LINE = 'console=ttyS0 quiet mitigations=off no_timer_check';

/** A disk controller of the machine whose back end is another process. */
export interface VhostUserDevice {
  /** Path of the back end's socket; it must be listening. */
  socket: string;
  /** Request queues; default 1. */
  queues?: number;
  /** Connect again, this often, when the back end goes away. Needs QEMU 9.2 or later. */
  reconnectMs?: number;
  /** Boot from it. */
  bootIndex?: number;
  /** More properties of the device, e.g. `max_sectors=131072`. */
  properties?: string;
}

export interface MachineOptions {
  qemu: Qemu;
  /** Start this kernel with these archives as its first root; without it the firmware boots from a disk. */
  kernel?: { image: string; initrd: string[]; append?: string };
  memoryMiB?: number;
  cpus?: number;
  scsi?: VhostUserDevice[];
  blk?: VhostUserDevice[];
  /** More of `-machine`, e.g. `kernel-irqchip=split`. */
  machine?: string;
  /** More arguments for QEMU. */
  args?: string[];
  accelerator?: Accelerator;
}

export class Machine {
  readonly console: ConsoleLog;
  /** Called with what the console prints. */
  onConsole: ((chunk: Buffer) => void) | undefined;
  readonly process: ChildProcess;
  readonly guest: GuestChannel;
  readonly qmp: Qmp;
  /** Fulfils with words about how QEMU ended. */
  readonly exited: Promise<string>;
  readonly #scratch: Scratch;
  readonly #connections: OneConnection[];

  private constructor(parts: {
    process: ChildProcess;
    exited: Promise<string>;
    scratch: Scratch;
    connections: OneConnection[];
    guest: GuestChannel;
    qmp: Qmp;
    console: ConsoleLog;
  }) {
    this.process = parts.process;
    this.exited = parts.exited;
    this.#scratch = parts.scratch;
    this.#connections = parts.connections;
    this.guest = parts.guest;
    this.qmp = parts.qmp;
    this.console = parts.console;
    parts.process.stdout!.on('data', (chunk: Buffer) => this.onConsole?.(chunk));
  }

  /** Starts QEMU; its guest is only about to boot then. Throws with QEMU's message when it does not start. */
  static async start(options: MachineOptions): Promise<Machine> {
    const scratch = scratchFolder('vm');
    const qmpSocket = await OneConnection.listen(join(scratch.path, 'qmp'));
    const guestSocket = await OneConnection.listen(join(scratch.path, 'guest'));
    const connections = [qmpSocket, guestSocket];
    const args = qemuArguments(options, options.accelerator ?? (await accelerator()), scratch.path);
    const { command, prefixArgs, env } = options.qemu;
    const child = startChild(command, [...prefixArgs, ...args], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    const log = new ConsoleLog();
    let said = '';
    child.stdin!.on('error', () => {});
    child.stderr!.on('data', (chunk: Buffer) => {
      said += chunk;
    });
    child.stdout!.on('data', (chunk: Buffer) => {
      log.add(chunk);
    });
    const exited = new Promise<string>((resolve) => {
      child.once('close', () => resolve(`QEMU ended (${ending(child)})${said === '' ? '' : `: ${said.trim()}`}`));
      child.once('error', (error) => resolve(`QEMU cannot be run: ${error.message}`));
    });
    const failed = exited.then((how) => {
      throw new Error(`${how}\nqemu ${args.join(' ')}`);
    });
    try {
      const [qmpPeer, guestPeer] = await Promise.race([Promise.all([qmpSocket.socket, guestSocket.socket]), failed]);
      const guest = new GuestChannel(guestPeer);
      exited.then((how) => guest.fail(new Error(how)));
      log.watch(/Kernel panic/, (line) => guest.fail(new Error(`the guest's kernel stopped: ${line}`)));
      const qmp = await Promise.race([Qmp.open(qmpPeer), failed]);
      failed.catch(() => {});
      return new Machine({ process: child, exited, scratch, connections, guest, qmp, console: log });
    } catch (error) {
      child.kill('SIGKILL');
      for (const connection of connections) connection.close();
      scratch.remove();
      throw error;
    }
  }

  /** Waits until the guest takes commands. */
  booted(timeoutSeconds = BOOT_SECONDS): Promise<void> {
    return this.#told(this.guest.booted(1, timeoutSeconds));
  }

  /** Runs shell text in the guest; throws unless it ends with exit code 0 in time. Returns what it printed. */
  async run(script: string, timeoutSeconds = 120): Promise<string> {
    const { output, exitCode } = await this.#told(this.guest.run(script, timeoutSeconds));
    if (exitCode !== 0) throw new Error(`in the guest, exit code ${exitCode}: ${script}\n${output}`);
    return output;
  }

  /** As `run`, but any exit code is an answer. */
  try(script: string, timeoutSeconds = 120): Promise<GuestResult> {
    return this.#told(this.guest.run(script, timeoutSeconds));
  }

  /** Runs shell text in the background of the guest. */
  background(script: string): Promise<GuestJob> {
    return this.#told(this.guest.start(script));
  }

  /** Repeats a command until it ends with exit code 0, and returns what it printed then. */
  async until(script: string, timeoutSeconds = 60): Promise<string> {
    const deadline = performance.now() + timeoutSeconds * 1000;
    for (;;) {
      const { output, exitCode } = await this.try(script);
      if (exitCode === 0) return output;
      if (performance.now() > deadline) {
        throw await this.#explain(new Error(`in the guest, not within ${timeoutSeconds} s: ${script}\n${output}`));
      }
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }

  /** CPU time that QEMU has taken of this machine, all its threads, in seconds. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.process.pid}/stat`, 'latin1');
    // Fields 14 and 15 of proc(5), in ticks of 1/100 s; field 2 may hold blanks, so count from behind it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / 100;
  }

  /** Presses the reset button and waits until the guest is up again. */
  async reset(timeoutSeconds = BOOT_SECONDS): Promise<void> {
    const boots = this.guest.boots;
    await this.qmp.execute('system_reset');
    await this.#told(this.guest.booted(boots + 1, timeoutSeconds));
  }

  /** Shuts the guest down and waits for QEMU's end. */
  async powerOff(timeoutSeconds = 60): Promise<void> {
    await this.guest.start('sync; sleep 0.2; poweroff -f');
    const late = new Promise<never>((_, reject) => {
      setTimeout(
        () => reject(new Error(`the guest did not power off in ${timeoutSeconds} s`)),
        timeoutSeconds * 1000,
      ).unref();
    });
    await this.#told(Promise.race([this.exited, late]));
    await this.close();
  }

  /** Ends QEMU at once. */
  async close(): Promise<void> {
    if (this.process.exitCode === null && this.process.signalCode === null) this.process.kill('SIGKILL');
    await this.exited;
    for (const connection of this.#connections) connection.close();
    this.#scratch.remove();
  }

  /** Adds what the console and the firmware printed last to an error of this machine. */
  async #explain(error: Error): Promise<Error> {
    const firmware = await readFile(join(this.#scratch.path, 'firmware'), 'latin1').catch(() => '');
    const shown = firmware === '' ? '' : `\n--- firmware\n${firmware.slice(-1500)}`;
    error.message += `\n--- console\n${this.console.tail()}${shown}`;
    return error;
  }

  async #told<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      throw await this.#explain(error as Error);
    }
  }
}

function qemuArguments(options: MachineOptions, accel: Accelerator, scratch: string): string[] {
  const memory = options.memoryMiB ?? 512;
  const args = ['-nodefaults', '-no-user-config', '-display', 'none'];
  args.push(...(accel === 'kvm' ? ['-accel', 'kvm', '-cpu', 'host'] : ['-accel', 'tcg,thread=multi', '-cpu', 'max']));
  // Another process can only map the guest's memory when it lies in a shared file.
  args.push('-object', `memory-backend-memfd,id=ram,size=${memory}M,share=on`);
  args.push('-machine', `q35,memory-backend=ram${options.machine === undefined ? '' : `,${options.machine}`}`);
  args.push('-m', `${memory}M`, '-smp', String(options.cpus ?? 1));
  args.push('-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console');
  args.push('-chardev', `socket,id=guest,path=${join(scratch, 'guest')}`, '-serial', 'chardev:guest');
  args.push('-chardev', `socket,id=qmp,path=${join(scratch, 'qmp')}`, '-mon', 'chardev=qmp,mode=control');
  if (options.kernel !== undefined) {
    const { image, initrd, append } = options.kernel;
    args.push('-kernel', image, '-initrd', joined(initrd, scratch));
    args.push('-append', append === undefined ? COMMAND_LINE : `${COMMAND_LINE} ${append}`);
  } else {
    args.push('-chardev', `file,id=firmware,path=${join(scratch, 'firmware')}`);
    args.push('-device', 'isa-debugcon,iobase=0x402,chardev=firmware');
  }
  options.scsi?.forEach((scsi, i) => {
    args.push(...vhostUserArguments(scsi, `scsi${i}`, 'vhost-user-scsi-pci', 'num_queues'));
  });
  options.blk?.forEach((blk, i) => {
    args.push(...vhostUserArguments(blk, `blk${i}`, 'vhost-user-blk-pci', 'num-queues'));
  });
  return [...args, ...(options.args ?? [])];
}
function vhostUserArguments(device: VhostUserDevice, id: string, driver: string, queues: string): string[] {
  const reconnect = device.reconnectMs === undefined ? '' : `,reconnect-ms=${device.reconnectMs}`;
  const boot = device.bootIndex === undefined ? '' : `,bootindex=${device.bootIndex}`;
  const more = device.properties === undefined ? '' : `,${device.properties}`;
  return [
    ...['-chardev', `socket,id=${id}-socket,path=${device.socket}${reconnect}`],
    ...['-device', `${driver},id=${id},chardev=${id}-socket,${queues}=${device.queues ?? 1}${boot}${more}`],
  ];
}

/** QEMU takes one initrd; the kernel takes several archives one behind the other in it. */
function joined(archives: string[], scratch: string): string {
  if (archives.length === 1) return archives[0];
  const path = join(scratch, 'initrd');
  copyFileSync(archives[0], path);
  for (const archive of archives.slice(1)) appendFileSync(path, readFileSync(archive));
  return path;
}
