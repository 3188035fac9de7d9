import { createHash } from 'node:crypto';
import { join, resolve } from 'node:path';
import type { DeviceDisksOptions } from '../bdev/device-disks.ts';
import { QosLimiter } from '../bdev/qos.ts';
import { LUN_STATE_BYTES, LunState } from '../scsi/lun-state.ts';
import { allowedCpus, onlineCpus } from '../sys/affinity.ts';
import { logger } from '../sys/log.ts';
import type { LayoutName } from '../vvu/driver/layout-names.ts';
import { type BdevEntry, BdevRegistry, type RateLimits, shareOf } from './bdev-registry.ts';
import type {
  CommandName,
  CommandParams,
  CommandResult,
  InflightRequest,
  OpenDiskOf,
  ReactorStats,
  SaveRequest,
} from './commands.ts';
import {
  type BlockDisk,
  Controller,
  type ControllerDescription,
  type ControllerInfo,
  type Slot,
} from './controller.ts';
import { formatCpuMask, parseCpuMask } from './cpu-mask.ts';
import { TargetDevices } from './devices.ts';
import { TargetError } from './errors.ts';
import { LogSwitch } from './log-switch.ts';
import { type Reactor, WorkerReactor } from './reactor.ts';
import type { ReservationFiles } from './reservation-files.ts';

/**
 * What runs, seen from the main thread: disks, controllers, reactors. The RPC methods are thin wrappers of this.
 *
 * Rule: every change of one object is a state of that object (a slot that is being added, a disk that is going away),
 * so two operators at once never see a half-made thing, and nobody waits for a lock.
 */

const log = logger('target');

const MIB = 2 ** 20;
const NO_LIMITS: RateLimits = { rw_ios_per_sec: 0, rw_mbytes_per_sec: 0, r_mbytes_per_sec: 0, w_mbytes_per_sec: 0 };

export interface TargetOptions {
  /** Directory of the controllers' sockets. */
  directory?: string;
  /** PCI address of a vvu device: front ends come through it, to the one controller there can be. */
  vvu?: string | undefined;
  /** Take that device for this layout, whatever it looks like. */
  vvuLayout?: LayoutName | undefined;
  /** CPUs of the reactors, as 0x3 or [0,1]. Default: the first CPU that this process may use. */
  mask?: string | undefined;
  /** Run the one reactor on this thread. */
  singleThread?: boolean | undefined;
  /** Reactors never sleep. */
  poll?: boolean | undefined;
  spinMicroseconds?: number | undefined;
  /** Directory for persistent reservations that outlive the target (APTPL). Without it guests cannot ask for that. */
  reservations?: string | undefined;
  /** How devices are found and taken; for tests. */
  devices?: DeviceDisksOptions | undefined;
  /** A reactor has ended by itself. Nothing it served works any more; there is nothing to do but to end. */
  onFailure?: (error: Error) => void;
}

export interface NewController {
  cpumask?: string | undefined;
  delay?: boolean | undefined;
  /** Make a block controller with this disk, instead of a SCSI controller. */
  disk?: { bdevName: string; readOnly?: boolean | undefined } | undefined;
}

async function reservationFiles(folder: string): Promise<ReservationFiles> {
  const { ReservationFiles } = await import('./reservation-files.ts');
  return new ReservationFiles(folder);
}

export class Target {
  readonly bdevs = new BdevRegistry();
  /** NVMe controllers and virtio-scsi adapters that the target drives. */
  readonly devices: TargetDevices;
  readonly logs: LogSwitch;
  private readonly directory: string;
  private readonly vvu: string | undefined;
  private readonly vvuLayout: LayoutName | undefined;
  private readonly reactors: readonly Reactor[];
  private readonly byName = new Map<string, Controller>();
  /** Memory of each disk's LunState, made at its first LUN. */
  private readonly lunStates = new WeakMap<BdevEntry, SharedArrayBuffer>();
  private readonly reservations: ReservationFiles | undefined;
  /** Controllers made while a configuration is loaded; they start at its end. */
  private held: Controller[] | undefined;
  private stopping = false;

  private constructor(
    options: TargetOptions,
    reactors: readonly Reactor[],
    reservations: ReservationFiles | undefined,
  ) {
    this.reservations = reservations;
    this.directory = resolve(options.directory ?? '.');
    this.vvu = options.vvu;
    this.vvuLayout = options.vvuLayout;
    this.reactors = reactors;
    this.devices = new TargetDevices(this, { reactors: reactors.length, ...options.devices });
    this.logs = new LogSwitch(async (namespaces) => {
      await this.everywhere('setLogs', { namespaces });
    });
    for (const reactor of reactors) {
      reactor.onSave = (request) => void this.saveReservations(reactor, request);
      reactor.onFailure = (error) => {
        const failure = new Error(`the reactor of CPU ${reactor.cpu} has crashed: ${error.message}`, { cause: error });
        if (options.onFailure === undefined) throw failure;
        options.onFailure(failure);
      };
    }
  }

  /** @throws TargetError for a wrong mask, Error when a thread can not be started or pinned */
  static async start(options: TargetOptions = {}): Promise<Target> {
    const { poll, spinMicroseconds } = options;
    const files = options.reservations === undefined ? undefined : await reservationFiles(options.reservations);
    const cpus = parseCpuMask(options.mask ?? `[${allowedCpus()[0]}]`);
    if (options.singleThread) {
      if (cpus.length > 1) {
        const mask = formatCpuMask(cpus);
        throw new TargetError(
          'EINVAL',
          `CPU mask ${mask}: with --single-thread there is one reactor, on the main thread; name one CPU, or leave out -m`,
        );
      }
      // Else this thread needs nothing of what reactors are made of.
      const { LocalReactor } = await import('./local-reactor.ts');
      return new Target(options, [new LocalReactor(cpus[0], { poll, spinMicroseconds })], files);
    }
    const started = await Promise.allSettled(cpus.map((cpu) => WorkerReactor.start(cpu, { poll, spinMicroseconds })));
    const reactors = started.flatMap((s) => (s.status === 'fulfilled' ? [s.value] : []));
    const failed = started.findIndex((s) => s.status === 'rejected');
    if (failed >= 0) {
      await Promise.all(reactors.map((r) => r.call('shutdown', {}).then(() => r.close())));
      const { message } = (started[failed] as PromiseRejectedResult).reason as Error;
      throw new TargetError(
        'EINVAL',
        `CPU mask ${formatCpuMask(cpus)}: reactor of CPU ${cpus[failed]}: ${message}; write -m with some of the CPUs that are online: [${onlineCpus()}]`,
      );
    }
    return new Target(options, reactors, files);
  }

  // Disks.

  /** Take a disk away for good: first from the targets that serve it. @throws TargetError ENODEV, EINVAL, EBUSY */
  async deleteBdev(name: string, kind: string): Promise<void> {
    const entry = this.bdevs.getKind(name, kind);
    await this.removeBdev(entry);
  }

  /** Also for a disk that has gone by itself (hot removal). */
  async removeBdev(entry: BdevEntry): Promise<void> {
    const { name, uuid } = entry.bdev.info;
    if (entry.removing)
      throw new TargetError('EBUSY', `disk ${name} is being removed; its last requests have not ended yet`);
    entry.removing = true;
    log('removing disk %s, used by %o', name, [...entry.users]);
    await this.everywhere('bdevRemoved', { name, uuid });
    await Promise.all(
      [...this.byName.values()].flatMap((controller) =>
        [...controller.slots.values()]
          .filter((slot) => slot.entry === entry)
          .map((slot) => this.takeAway(controller, slot)),
      ),
    );
    await Promise.all([...this.byName.values()].map((controller) => this.takeBlock(controller, entry)));
    await this.bdevs.remove(entry);
  }

  private async takeAway(controller: Controller, slot: Slot): Promise<void> {
    // An addition or a removal under way ends first; its own caller gets its own error.
    await slot.change.catch(() => {});
    if (controller.slots.get(slot.num) === slot && slot.state === 'ready') await this.removeSlot(controller, slot);
  }

  /** A block controller stays when its disk goes. */
  private async takeBlock({ block, reactor, name }: Controller, entry: BdevEntry): Promise<void> {
    if (block === undefined || block.entry !== entry || block.gone) return;
    // One that is being removed itself gives the disk back by that.
    await reactor.call('removeDisk', { controller: name }).catch(() => {});
    block.gone = true;
    this.bdevs.release(entry, name);
  }

  async resizeBdev(name: string, kind: string, numBlocks: number): Promise<void> {
    const entry = this.bdevs.getKind(name, kind);
    if (entry.removing) throw new TargetError('EBUSY', `disk ${name} is being removed`);
    if (entry.bdev.resize === undefined)
      throw new TargetError('ENOTSUP', `disk ${name}: this kind can not change its size`);
    entry.bdev.resize(numBlocks);
    await this.announceSize(entry);
  }

  /** The size of a disk has changed: reactors take it, guests are told. */
  async announceSize(entry: BdevEntry): Promise<void> {
    await this.everywhere('bdevResized', shareOf(entry));
  }

  /** @returns whether the size has changed */
  async rescanBdev(name: string, kind: string): Promise<boolean> {
    const entry = this.bdevs.getKind(name, kind);
    const changed = entry.bdev.rescan?.() ?? false;
    if (changed) await this.announceSize(entry);
    return changed;
  }

  /** Set rate limits; those that are not given stay. 0 lifts one. @throws TargetError ENODEV, BdevError EINVAL */
  async limitBdev(name: string, change: Partial<RateLimits>): Promise<void> {
    const entry = this.bdevs.get(name);
    const limits = { ...NO_LIMITS, ...entry.limits, ...change };
    const limiter = entry.limiter ?? new QosLimiter();
    limiter.set({
      rwIos: limits.rw_ios_per_sec,
      rwBytes: limits.rw_mbytes_per_sec * MIB,
      readBytes: limits.r_mbytes_per_sec * MIB,
      writeBytes: limits.w_mbytes_per_sec * MIB,
    });
    entry.limits = limits;
    if (entry.limiter !== undefined) return;
    entry.limiter = limiter;
    await this.everywhere('bdevLimited', shareOf(entry));
  }

  // Controllers.

  /** @throws TargetError EEXIST, EINVAL; ENODEV or EBUSY for the disk */
  async createController(name: string, { cpumask, delay, disk }: NewController = {}): Promise<void> {
    this.checkRunning();
    if (this.byName.has(name)) {
      throw new TargetError('EEXIST', `controller ${name} exists already; remove it first or choose another name`);
    }
    if (this.vvu !== undefined && this.byName.size > 0) {
      const other = [...this.byName.keys()][0];
      throw new TargetError(
        'EBUSY',
        `the vvu device ${this.vvu} serves controller ${other} already; start a target for each device`,
      );
    }
    const candidates = this.reactorsFor(cpumask);
    const block = disk && this.claimBlock(name, disk.bdevName, disk.readOnly ?? false);
    const controller = new Controller(
      name,
      this.vvu ?? join(this.directory, name),
      this.leastLoaded(candidates),
      cpumask,
      candidates.map((r) => r.cpu),
      this.portFor(name),
      block,
    );
    this.byName.set(name, controller);
    try {
      const { place, port } = controller;
      const transport = this.vvu === undefined ? 'unix' : 'vvu';
      const layout = this.vvuLayout;
      const params = { name, place, port, transport, layout, disk: block && this.openDisk(block) } as const;
      await controller.reactor.call('openController', params);
      if (delay) return;
      if (this.held !== undefined) this.held.push(controller);
      else await this.listen(controller);
    } catch (error) {
      this.byName.delete(name);
      await controller.reactor.call('closeController', { name, force: true }).catch(() => {});
      if (block !== undefined) this.bdevs.release(block.entry, name);
      throw error;
    }
  }

  private claimBlock(controllerName: string, bdevName: string, readOnly: boolean): BlockDisk {
    const entry = this.bdevs.get(bdevName);
    this.bdevs.claim(entry, controllerName);
    return { entry, readOnly, gone: false };
  }

  private openDisk({ entry, readOnly }: BlockDisk): OpenDiskOf {
    return { bdev: shareOf(entry), state: this.lunState(entry), readOnly };
  }

  async startController(name: string): Promise<void> {
    const controller = this.controller(name);
    if (controller.started)
      throw new TargetError('EEXIST', `controller ${name} listens already at ${controller.place}`);
    await this.listen(controller);
  }

  private async listen(controller: Controller): Promise<void> {
    await controller.reactor.call('startController', { name: controller.name });
    controller.started = true;
  }

  /** While `work` runs, new controllers do not listen; they do when it has succeeded. */
  async withControllersHeld(work: () => Promise<void>): Promise<void> {
    if (this.held !== undefined) throw new TargetError('EBUSY', 'another configuration is being loaded');
    this.held = [];
    let made: Controller[] = [];
    try {
      await work();
    } finally {
      made = this.held;
      this.held = undefined;
    }
    for (const controller of made) {
      if (this.byName.get(controller.name) === controller && !controller.started) await this.listen(controller);
    }
  }

  /** @throws TargetError ENODEV, EBUSY when a front end is connected or targets remain */
  async deleteController(name: string): Promise<void> {
    const controller = this.controller(name);
    if (controller.deleting) throw new TargetError('EBUSY', `controller ${name} is being removed`);
    const targets = [...controller.slots.keys()].sort((a, b) => a - b);
    if (targets.length > 0) {
      throw new TargetError(
        'EBUSY',
        `controller ${name} has target ${targets.join(', ')}; remove what it serves first`,
      );
    }
    controller.deleting = true;
    try {
      await controller.reactor.call('closeController', { name, force: false });
      this.byName.delete(name);
      if (controller.block !== undefined && !controller.block.gone) this.bdevs.release(controller.block.entry, name);
    } finally {
      controller.deleting = false;
    }
  }

  /**
   * @param num 0 to 7, or -1 for the first free one
   * @returns the number
   * @throws TargetError ENODEV, EINVAL, EEXIST, EBUSY
   */
  async addTarget(controllerName: string, num: number, bdevName: string): Promise<number> {
    this.checkRunning();
    const controller = this.controller(controllerName);
    if (controller.deleting) throw new TargetError('EBUSY', `controller ${controllerName} is being removed`);
    const target = controller.freeTarget(num);
    const entry = this.bdevs.get(bdevName);
    const state = this.lunState(entry);
    const user = `${controllerName} target ${target}`;
    this.bdevs.claim(entry, user);
    const slot: Slot = { num: target, id: this.freeDeviceId(), entry, state: 'adding', change: Promise.resolve() };
    controller.slots.set(target, slot);
    const added = controller.reactor.call('addTarget', {
      controller: controllerName,
      target,
      id: slot.id,
      bdev: shareOf(entry),
      state,
      persistent: this.reservations !== undefined,
    });
    slot.change = added;
    try {
      await added;
      slot.state = 'ready';
      return target;
    } catch (error) {
      controller.slots.delete(target);
      this.bdevs.release(entry, user);
      throw error;
    }
  }

  /** Resolves when its last request has ended. @throws TargetError ENODEV, EINVAL, EBUSY */
  async removeTarget(controllerName: string, num: number): Promise<void> {
    const controller = this.controller(controllerName);
    await this.removeSlot(controller, controller.readySlot(num));
  }

  private async removeSlot(controller: Controller, slot: Slot): Promise<void> {
    slot.state = 'removing';
    const removed = controller.reactor.call('removeTarget', { controller: controller.name, target: slot.num });
    slot.change = removed;
    try {
      await removed;
    } catch (error) {
      slot.state = 'ready';
      throw error;
    }
    controller.slots.delete(slot.num);
    this.bdevs.release(slot.entry, `${controller.name} target ${slot.num}`);
  }

  async setCoalescing(controllerName: string, delayUs: number, iopsThreshold: number): Promise<void> {
    const controller = this.controller(controllerName);
    await controller.reactor.call('setCoalescing', { name: controllerName, delayUs, iopsThreshold });
    Object.assign(controller.coalescing, { delayUs, iopsThreshold, changed: true });
  }

  // What there is to see.

  controllers(): ControllerInfo[] {
    return [...this.byName.values()].map((controller) => controller.info());
  }

  /** With what the reactors know. @throws TargetError ENODEV */
  async describeControllers(name?: string): Promise<ControllerDescription[]> {
    const wanted = name === undefined ? [...this.byName.values()] : [this.controller(name)];
    return Promise.all(
      wanted.map(async (controller) => {
        const { sessions } = await controller.reactor.call('describe', { name: controller.name });
        return { ...controller.info(), sessions };
      }),
    );
  }

  dumpController(name: string): Promise<Record<string, unknown>> {
    return this.controller(name).reactor.call('dump', { name });
  }

  /** Requests in flight, oldest first. */
  async inflight(olderThanMs: number): Promise<InflightRequest[]> {
    const all = await this.everywhere('inflight', { olderThanMs });
    return all.flat().sort((a, b) => b.age_ms - a.age_ms);
  }

  reactorStats(): Promise<{ cpu: number; stats: ReactorStats; controllers: string[] }[]> {
    return Promise.all(
      this.reactors.map(async (reactor) => ({
        cpu: reactor.cpu,
        stats: await reactor.call('stats', {}),
        controllers: [...this.byName.values()].filter((c) => c.reactor === reactor).map((c) => c.name),
      })),
    );
  }

  // The end.

  /** Stop accepting, finish what is in flight, close, remove the sockets, release the disks. */
  async stop(): Promise<void> {
    if (this.stopping) return;
    this.stopping = true;
    await Promise.all(this.reactors.map((reactor) => reactor.call('shutdown', {})));
    await Promise.all(this.reactors.map((reactor) => reactor.close()));
    for (const entry of this.bdevs.all()) await this.bdevs.remove(entry);
    await this.devices.close();
  }

  private checkRunning(): void {
    if (this.stopping) throw new TargetError('EBUSY', 'the target is shutting down');
  }

  private controller(name: string): Controller {
    const controller = this.byName.get(name);
    if (controller !== undefined) return controller;
    const names = [...this.byName.keys()];
    const known = names.length === 0 ? 'there are none' : `there are ${names.slice(0, 20).join(', ')}`;
    throw new TargetError('ENODEV', `no controller is called ${name}; ${known}`);
  }

  private everywhere<K extends CommandName>(name: K, params: CommandParams<K>): Promise<CommandResult<K>[]> {
    return Promise.all(this.reactors.map((reactor) => reactor.call(name, params)));
  }

  private reactorsFor(cpumask: string | undefined): readonly Reactor[] {
    if (cpumask === undefined) return this.reactors;
    const cpus = parseCpuMask(cpumask);
    const candidates = this.reactors.filter((reactor) => cpus.includes(reactor.cpu));
    if (candidates.length > 0) return candidates;
    const there = formatCpuMask(this.reactors.map((reactor) => reactor.cpu));
    throw new TargetError(
      'EINVAL',
      `CPU mask ${cpumask}: no reactor runs on these CPUs; the target was started with ${there} (-m)`,
    );
  }

  /** Fewest controllers; among equals the first. So controllers of one mask go round its reactors. */
  private leastLoaded(candidates: readonly Reactor[]): Reactor {
    const load = (reactor: Reactor) => [...this.byName.values()].filter((c) => c.reactor === reactor).length;
    return candidates.reduce((best, reactor) => (load(reactor) < load(best) ? reactor : best));
  }

  /** A relative target port identifier, 1 to 65535, by name: registrations are tied to it, over restarts too. */
  private portFor(name: string): number {
    const taken = new Set([...this.byName.values()].map((c) => c.port));
    let port = createHash('sha256').update(name).digest().readUInt16LE(0);
    while (port === 0 || taken.has(port)) port = (port + 1) % 0x1_0000;
    return port;
  }

  private freeDeviceId(): number {
    const taken = new Set([...this.byName.values()].flatMap((c) => [...c.slots.values()].map((slot) => slot.id)));
    for (let id = 0; ; id++) if (!taken.has(id)) return id;
  }

  /**
   * Shared between reactors; a lone reactor keeps its own, without barriers.
   * @throws TargetError when the disk's saved reservations cannot be had
   */
  private lunState(entry: BdevEntry): SharedArrayBuffer | undefined {
    if (this.reactors.length === 1 && this.reservations === undefined) return undefined;
    let state = this.lunStates.get(entry);
    if (state === undefined) {
      state = new SharedArrayBuffer(LUN_STATE_BYTES);
      this.reservations?.restore(entry.bdev.info.uuid, new LunState(state));
      this.lunStates.set(entry, state);
    }
    return state;
  }

  private async saveReservations(reactor: Reactor, { id, uuid, saved, sequence }: SaveRequest['save']): Promise<void> {
    const ok = (await this.reservations?.save(uuid, saved, sequence)) ?? false;
    // A reactor that has ended meanwhile waits for nothing.
    await reactor.call('reservationsSaved', { id, ok }).catch(() => {});
  }
}
