import type { BdevEntry } from './bdev-registry.ts';
import { TargetError } from './errors.ts';
import type { Reactor } from './reactor.ts';

/**
 * A controller as the main thread knows it: which reactor runs it and which targets it has. The reactor holds sockets,
 * vrings and LUNs. Each slot has a state, so that two operators at once get an answer instead of a mess.
 */

/** SCSI targets of a controller; SPDK has as many. */
export const MAX_TARGETS = 8;

export interface Slot {
  readonly num: number;
  /** Of the SCSI device, over all controllers. */
  readonly id: number;
  readonly entry: BdevEntry;
  state: 'adding' | 'ready' | 'removing';
  /** Settles when the present change of state is over. */
  change: Promise<void>;
}

/** The disk of a block controller. */
export interface BlockDisk {
  readonly entry: BdevEntry;
  readonly readOnly: boolean;
  /** The disk was deleted: the controller stays, its requests fail. */
  gone: boolean;
}

export interface BlockInfo {
  /** null: it was deleted. */
  readonly bdevName: string | null;
  readonly readOnly: boolean;
}

export interface Coalescing {
  delayUs: number;
  iopsThreshold: number;
  /** It was set, so save_config writes it. */
  changed: boolean;
}

export interface TargetInfo {
  readonly num: number;
  readonly id: number;
  readonly bdevName: string;
  readonly removing: boolean;
}

export interface ControllerInfo {
  readonly name: string;
  /** As it was given. */
  readonly cpumask: string | undefined;
  /** CPUs of the reactors that may run it. */
  readonly cpus: readonly number[];
  readonly place: string;
  readonly started: boolean;
  readonly reactorCpu: number;
  readonly coalescing: Coalescing;
  /** Of a SCSI controller. */
  readonly targets: readonly TargetInfo[];
  /** Of a block controller; undefined makes it a SCSI controller. */
  readonly block: BlockInfo | undefined;
}

export interface ControllerDescription extends ControllerInfo {
  /** One for each connected front end, from its reactor. */
  readonly sessions: readonly Record<string, unknown>[];
}

export class Controller {
  readonly name: string;
  readonly cpumask: string | undefined;
  readonly cpus: readonly number[];
  readonly place: string;
  readonly reactor: Reactor;
  /** Relative target port identifier. */
  readonly port: number;
  started = false;
  deleting = false;
  readonly coalescing: Coalescing = { delayUs: 0, iopsThreshold: 60000, changed: false };
  /** Targets of a SCSI controller. */
  readonly slots = new Map<number, Slot>();
  /** Set for a block controller. */
  readonly block: BlockDisk | undefined;

  constructor(
    name: string,
    place: string,
    reactor: Reactor,
    cpumask: string | undefined,
    cpus: readonly number[],
    port: number,
    block?: BlockDisk,
  ) {
    this.port = port;
    this.block = block;
    this.name = name;
    this.place = place;
    this.reactor = reactor;
    this.cpumask = cpumask;
    this.cpus = cpus;
  }

  info(): ControllerInfo {
    const { name, cpumask, cpus, place, started, reactor, coalescing } = this;
    const targets = [...this.slots.values()]
      .sort((a, b) => a.num - b.num)
      .filter((slot) => slot.state !== 'adding')
      .map((slot) => ({
        num: slot.num,
        id: slot.id,
        bdevName: slot.entry.bdev.info.name,
        removing: slot.state === 'removing',
      }));
    const { block: disk } = this;
    const block = disk && { bdevName: disk.gone ? null : disk.entry.bdev.info.name, readOnly: disk.readOnly };
    const reactorCpu = reactor.cpu;
    return { name, cpumask, cpus, place, started, reactorCpu, coalescing: { ...coalescing }, targets, block };
  }

  /** The number to use for a new target. @throws TargetError EINVAL, EEXIST, ENOSPC */
  freeTarget(num: number): number {
    if (this.block !== undefined) {
      throw new TargetError('EINVAL', `${this.name} is a block controller: it has one disk, and no targets`);
    }
    const free = Array.from({ length: MAX_TARGETS }, (_, i) => i).filter((i) => !this.slots.has(i));
    if (num === -1) {
      if (free.length === 0)
        throw new TargetError('ENOSPC', `${this.name} has all its ${MAX_TARGETS} targets; remove one first`);
      return free[0];
    }
    this.checkNumber(num);
    const slot = this.slots.get(num);
    if (slot !== undefined) {
      const name = slot.entry.bdev.info.name;
      throw new TargetError(
        'EEXIST',
        `target ${num} of ${this.name} serves ${name} already; remove it first or take another number (free: ${free.join(', ') || 'none'})`,
      );
    }
    return num;
  }

  /** @throws TargetError EINVAL, ENODEV, EBUSY */
  readySlot(num: number): Slot {
    this.checkNumber(num);
    const slot = this.slots.get(num);
    if (slot === undefined || slot.state === 'adding') {
      const there = this.info().targets.map((t) => t.num);
      throw new TargetError('ENODEV', `${this.name} has no target ${num}; it has ${there.join(', ') || 'none'}`);
    }
    if (slot.state === 'removing') {
      throw new TargetError(
        'EBUSY',
        `target ${num} of ${this.name} is being removed; its last requests have not ended yet`,
      );
    }
    return slot;
  }

  private checkNumber(num: number): void {
    if (num >= 0 && num < MAX_TARGETS) return;
    throw new TargetError('EINVAL', `target ${num} of ${this.name}: numbers are 0 to ${MAX_TARGETS - 1}`);
  }
}
