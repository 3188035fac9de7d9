/**
 * The SCSI targets of one controller, shared by all its front ends on one reactor. Each front end is an I_T nexus.
 * Its one rule: a target that was removed takes no new command at once, and is let go when its last one has ended.
 */
import type { ScsiTarget } from '../scsi/target.ts';
import type { EventLoop, Poller } from '../sys/event-loop.ts';
import { VirtioScsiEvent, VirtioScsiResetReason } from '../virtio/scsi-device.ts';
import { MAX_TARGETS } from './scsi-wire.ts';

/** Additional sense 2Ah/09h, CAPACITY DATA HAS CHANGED, as PARAM_CHANGE carries it. */
const CAPACITY_CHANGED = 0x2a | (0x09 << 8);

/** A target in its place. Requests hold it while they are with the target. */
export class TargetEntry {
  readonly id: number;
  readonly target: ScsiTarget;
  /** Commands and task management functions that have not ended. */
  outstanding = 0;
  /** Set by removal: called when `outstanding` is 0. */
  whenIdle: (() => void) | null = null;
  private readonly controller: ScsiController;

  constructor(id: number, target: ScsiTarget, controller: ScsiController) {
    this.id = id;
    this.target = target;
    this.controller = controller;
  }

  /** A command or task management function begins. Hot path. */
  hold(): void {
    this.outstanding++;
    if (this.controller.dozing) this.controller.rouse();
  }

  /** Hot path. */
  release(): void {
    if (--this.outstanding === 0 && this.whenIdle !== null) this.whenIdle();
  }
}

/** A front end's model, as the controller sees it. */
export interface ScsiFrontEnd {
  /** Tell the driver, if it wants such events. */
  event(event: number, target: number, lun: number, reason: number): void;
}

export class ScsiController implements Poller {
  /** By target number; null where there is none. Requests read it. */
  readonly entries: (TargetEntry | null)[] = new Array<TargetEntry | null>(MAX_TARGETS).fill(null);
  private readonly loop: EventLoop;
  private readonly leaving = new Set<TargetEntry>();
  /** By nexus. */
  private readonly frontEnds: (ScsiFrontEnd | null)[] = [];
  private polled = 0;
  /** Not polled until something begins. */
  dozing = false;

  constructor(loop: EventLoop) {
    this.loop = loop;
  }

  /** @throws Error when the number is taken or no number of a target */
  add(id: number, target: ScsiTarget): void {
    if (!(Number.isInteger(id) && id >= 0 && id < MAX_TARGETS)) {
      throw new RangeError(`target ${id}: numbers are 0 to ${MAX_TARGETS - 1}`);
    }
    if (this.entries[id] !== null) throw new Error(`target ${id} is taken: remove it first`);
    this.entries[id] = new TargetEntry(id, target, this);
    if (this.polled++ === 0) this.loop.addPoller(this);
    this.tell(VirtioScsiEvent.TRANSPORT_RESET, id, 0, VirtioScsiResetReason.RESCAN);
  }

  /**
   * Take a target away. Guests are told; new commands find no target; those it has run to their end.
   * @param done called once, when it has none any more (perhaps at once)
   * @returns false when there is no such target
   */
  remove(id: number, done: () => void): boolean {
    const entry = this.entries[id];
    if (entry === null || entry === undefined) return false;
    this.rouse();
    this.entries[id] = null;
    this.leaving.add(entry);
    // One event a unit: Linux removes the device that the event's LUN names, and no other.
    for (const lun of entry.target.luns.keys())
      this.tell(VirtioScsiEvent.TRANSPORT_RESET, id, lun, VirtioScsiResetReason.REMOVED);
    entry.whenIdle = () => {
      entry.whenIdle = null;
      // Not from within the command that ended last: its target may still be working on it.
      this.loop.defer(() => {
        this.leaving.delete(entry);
        if (--this.polled === 0) this.loop.removePoller(this);
        done();
      });
    };
    if (entry.outstanding === 0) entry.whenIdle();
    return true;
  }

  /** A unit's disk has another size. The unit itself is told by `Lun.capacityChanged`. */
  capacityChanged(id: number, lun: number): void {
    this.tell(VirtioScsiEvent.PARAM_CHANGE, id, lun, CAPACITY_CHANGED);
  }

  private tell(event: number, target: number, lun: number, reason: number): void {
    for (const frontEnd of this.frontEnds) frontEnd?.event(event, target, lun, reason);
  }

  /** A front end connects. @returns its nexus: the lowest that is free */
  attach(frontEnd: ScsiFrontEnd): number {
    const free = this.frontEnds.indexOf(null);
    if (free < 0) return this.frontEnds.push(frontEnd) - 1;
    this.frontEnds[free] = frontEnd;
    return free;
  }

  /** It is gone, and its commands have ended. */
  detach(nexus: number): void {
    this.frontEnds[nexus] = null;
    for (const entry of [...this.entries, ...this.leaving]) entry?.target.disconnectNexus(nexus);
  }

  // Poller: what the targets' units do in turns.

  poll(): number {
    let done = 0;
    for (let i = 0; i < MAX_TARGETS; i++) {
      const entry = this.entries[i];
      if (entry !== null) done += entry.target.poll();
    }
    if (this.leaving.size > 0) for (const entry of this.leaving) done += entry.target.poll();
    return done;
  }

  arm(): boolean {
    for (const entry of this.entries) if (entry?.target.wantsPoll === true) return true;
    for (const entry of this.leaving) if (entry.target.wantsPoll) return true;
    return false;
  }

  disarm(): void {}

  /** Targets without commands have no turns to give. */
  doze(): boolean {
    if (this.leaving.size > 0) return false;
    for (const entry of this.entries) {
      if (entry !== null && (entry.outstanding > 0 || entry.target.wantsPoll)) return false;
    }
    this.dozing = true;
    return true;
  }

  rouse(): void {
    this.dozing = false;
    this.loop.rouse(this);
  }
}
