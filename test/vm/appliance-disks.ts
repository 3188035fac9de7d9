/**
 * An appliance VM whose own disks the target drives: NVMe controllers and a virtio-scsi adapter at the addresses of SPDK's guide, `setup`, a
 * target on a Unix socket, and a guest of that target in the same VM.
 */
import { createHash } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ApplianceMachine, HUGEPAGES, startAppliance } from '../../vm/appliance.ts';
import type { GuestJob } from '../../vm/guest-channel.ts';
import type { Machine } from '../../vm/machine.ts';
import { type Scratch, scratchFolder } from '../../vm/paths.ts';
import type { RpcLines } from './guest/rpc-lines.ts';
import type { ServeVerified, ServeVerify } from './guest/serve-verify.ts';
import { guestProgram, guestPrograms } from './guest-programs.ts';

export const CLI = 'node /opt/vvu-target/dist/cli/main.js';
const EXERCISE = '/opt/test/exercise.mjs';
/** A module for `startTarget` to preload. */
export const SINGLE_PAGES = '/opt/test/single-pages.mjs';
const LOG = '/tmp/target.log';
const PID = '/tmp/target.pid';
const RPC = '/var/tmp/vvu-target.sock';
/** Seconds; on a busy machine an emulated CPU needs minutes for what takes it seconds alone. */
const LONG = 600;

/** As in SPDK's guide. */
export const HBA = '0000:00:05.0';
export const NVME = '0000:00:06.0';

export interface Exercised {
  error?: string;
  told: string[];
  attached: Record<string, unknown>[];
  after: Record<string, unknown>[];
  disks: {
    name: string;
    product: string;
    blockSize: number;
    numBlocks: number;
    counts: Record<string, number>;
    commands: number;
    /** Bytes read and compared. */
    verified: number;
    wrong: string[];
    zeroCopy: boolean;
    bounced: number;
    requests: number;
    ms: number;
    sha256: string;
  }[];
}

export interface ApplianceOptions extends Partial<ApplianceMachine> {
  /** Size of the images. */
  mebibytes?: number;
  /** Of 2 MiB; 0: none. */
  hugepages?: number;
  /** QEMU's arguments for the controllers of `nvme.img`, `nvme2.img` ... drive name by drive name; default: one, at NVME. */
  devices?: (drives: readonly string[]) => string[];
  /** How many NVMe images. */
  drives?: number;
}

export class Appliance {
  readonly vm: Machine;
  readonly nvme: readonly string[];
  readonly scsi: string;
  readonly #scratch: Scratch;
  #target: GuestJob | undefined;

  private constructor(vm: Machine, nvme: readonly string[], scsi: string, scratch: Scratch) {
    this.vm = vm;
    this.nvme = nvme;
    this.scsi = scsi;
    this.#scratch = scratch;
  }

  static async boot(options: ApplianceOptions = {}): Promise<Appliance> {
    const scratch = scratchFolder('appliance');
    const { mebibytes = 16, hugepages = 64, drives = 1, devices = plainNvme, ...rest } = options;
    const nvme = Array.from({ length: drives }, (_, i) => image(scratch.path, `nvme${i}.img`, mebibytes));
    const scsi = image(scratch.path, 'scsi.img', mebibytes);
    const behind = options.iommu ? ',iommu_platform=on,disable-legacy=on' : '';
    const args = [
      ...['-device', `virtio-scsi-pci,id=hba,addr=5${behind}`],
      ...drive('scsi0', scsi),
      ...['-device', 'scsi-hd,id=unit,bus=hba.0,scsi-id=0,drive=scsi0'],
      ...nvme.flatMap((file, i) => drive(`nvme${i}`, file)),
      ...devices(nvme.map((_, i) => `nvme${i}`)),
    ];
    const programs = await guestPrograms(['serve-verify', 'rpc-lines']);
    const modules = {
      [EXERCISE]: join(import.meta.dirname, 'guest/exercise.mjs'),
      [SINGLE_PAGES]: join(import.meta.dirname, 'guest/single-pages.mjs'),
    };
    const vm = await startAppliance({
      qemu: 'system',
      memoryMiB: 1280,
      cpus: 2,
      ...rest,
      args,
      image: { ...rest.image, files: { ...modules, ...programs, ...rest.image?.files } },
    });
    const appliance = new Appliance(vm, nvme, scsi, scratch);
    try {
      await vm.booted();
      if (hugepages > 0) await vm.run(HUGEPAGES(hugepages));
      return appliance;
    } catch (error) {
      await appliance.close();
      throw error;
    }
  }

  /** `vvu-target ...` to its end; throws unless it ends with 0. @param lines commands, one after the other */
  cli(...lines: string[]): Promise<string> {
    return this.vm.run(lines.map((line) => `${CLI} ${line}`).join(' &&\n'), LONG);
  }

  /** `vvu-target rpc ...`, one after the other. */
  rpc(...lines: string[]): Promise<string> {
    return this.cli(...lines.map((line) => `rpc ${line}`));
  }

  /** As {@link rpc} for one call, its result parsed. */
  async ask<T>(line: string): Promise<T> {
    return JSON.parse(await this.rpc(line)) as T;
  }

  /** The same for several calls by one process, which is quicker. @returns their results */
  async calls(...lines: string[]): Promise<unknown[]> {
    return this.callsFor(0, ...lines);
  }

  /** Again and again, for so many seconds. */
  async callsFor(seconds: number, ...lines: string[]): Promise<unknown[]> {
    const what = JSON.stringify({ lines, seconds } satisfies RpcLines);
    const { output } = await this.vm.try(`${guestProgram('rpc-lines')} '${what}' 2>&1`, LONG);
    return result<unknown[]>(output);
  }

  /** Start the target. Its controllers' sockets are in /run. @param preload a module of the guest's */
  async startTarget(args = '', debug = '', preload = ''): Promise<void> {
    const environment = `${debug === '' ? '' : `DEBUG='${debug}' `}${preload === '' ? '' : `NODE_OPTIONS='--import ${preload}' `}`;
    const command = `${environment}exec ${CLI} -S /run ${args} >>${LOG} 2>&1`;
    await this.vm.run(`rm -f ${LOG} ${PID} ${RPC}`);
    this.#target = await this.vm.background(`echo $$ >${PID}; ${command}`);
    // A look at the log: each start of Node costs an emulated CPU seconds.
    await this.vm.until(`test -s ${PID} && { grep -q 'RPC at' ${LOG} || ! kill -0 $(cat ${PID}); }`, LONG);
    await this.vm.run(`kill -0 $(cat ${PID}) || { cat ${LOG}; false; }`);
  }

  /** Send a signal and wait for the end. @returns the exit code */
  async endTarget(signal: 'INT' | 'TERM' | 'KILL'): Promise<number> {
    await this.vm.run(`kill -${signal} $(cat ${PID})`);
    return (await (this.#target as GuestJob).wait(120)).exitCode;
  }

  log(): Promise<string> {
    return this.vm.run(`cat ${LOG} 2>/dev/null || true`);
  }

  /** Write, read and verify as a guest of the target. */
  async verify(options: Omit<ServeVerify, 'socket'> & { controller?: string }): Promise<ServeVerified> {
    const { output } = await this.vm.try(this.#verifyCommand(options), LONG);
    return result<ServeVerified>(output);
  }

  /** The same in the background. */
  async verifyMeanwhile(
    options: Omit<ServeVerify, 'socket'> & { controller?: string },
  ): Promise<{ result(): Promise<ServeVerified> }> {
    const job = await this.vm.background(this.#verifyCommand(options));
    return { result: async () => result<ServeVerified>((await job.wait(LONG)).output) };
  }

  #verifyCommand({
    controller = 'vhost.0',
    ...options
  }: Omit<ServeVerify, 'socket'> & { controller?: string }): string {
    return `${guestProgram('serve-verify')} '${JSON.stringify({ socket: `/run/${controller}`, ...options })}' 2>&1`;
  }

  /** Drive disks by the bdev layer alone, without a target: see guest/exercise.mjs, which gives up and tells before this does. */
  async exercise(options: Record<string, unknown>): Promise<Exercised> {
    const limit = `timeout -k 5 ${LONG - 20}`;
    const { output } = await this.vm.try(`${limit} node ${EXERCISE} '${JSON.stringify(options)}' 2>&1`, LONG);
    return result<Exercised>(output);
  }

  /** Whether the function may read and write memory by itself. */
  async busMaster(bdf: string): Promise<boolean> {
    const read = `dd if=/sys/bus/pci/devices/${bdf}/config bs=1 skip=4 count=1 2>/dev/null | od -An -tu1`;
    return (Number(await this.vm.run(read)) & 4) !== 0;
  }

  async close(): Promise<void> {
    await this.vm.close();
    this.#scratch.remove();
  }
}

function plainNvme(drives: readonly string[]): string[] {
  return ['-device', `nvme,id=ssd,drive=${drives[0]},serial=NVME0,addr=6`];
}

function drive(id: string, file: string): string[] {
  // A node outlives the device that uses it (a -drive does not).
  return ['-blockdev', `driver=raw,node-name=${id},file.driver=file,file.filename=${file},file.node-name=${id}-file`];
}

function result<T>(output: string): T {
  const line = /^RESULT (.*)$/m.exec(output);
  if (line === null) throw new Error(`the guest's program said: ${output}`);
  return JSON.parse(line[1] as string) as T;
}

/** An empty image; sparse. */
export function image(folder: string, name: string, mebibytes: number): string {
  const path = join(folder, name);
  const fd = openSync(path, 'w');
  ftruncateSync(fd, mebibytes * 2 ** 20);
  closeSync(fd);
  return path;
}

export function sha256(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}
