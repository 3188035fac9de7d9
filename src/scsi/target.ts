import { MAX_LUNS } from './limits.ts';
import type { Lun, LunInventory } from './lun.ts';
import { answerMissingLun } from './missing-lun.ts';
import { type ScsiTask, TaskResponse } from './task.ts';
import { Tmf, type TmfDone, TmfResponse } from './task-management.ts';
import { Attention } from './unit-attention.ts';

/**
 * A SCSI target device: its logical units, the dispatch to them, and task management. Every task handed to `execute`
 * comes back through its owner's `taskDone` exactly once, perhaps before `execute` returns.
 */
export class ScsiTarget implements LunInventory {
  /** By LUN. Change it with addLun and removeLun. */
  readonly luns: ReadonlyMap<number, Lun>;
  private readonly map = new Map<number, Lun>();
  private readonly table: (Lun | null)[] = new Array<Lun | null>(MAX_LUNS).fill(null);
  /** Removed units whose tasks have not all come back. */
  private readonly leaving = new Set<{ lun: Lun; done: () => void }>();
  private numbers: readonly number[] = [];
  private list: readonly Lun[] = [];

  constructor() {
    this.luns = this.map;
  }

  /** @throws Error when the LUN is taken or out of range: the operator's mistake */
  addLun(lun: Lun): void {
    if (!(lun.id >= 0 && lun.id < MAX_LUNS)) throw new RangeError(`LUN ${lun.id} is not in 0 to ${MAX_LUNS - 1}`);
    if (this.map.has(lun.id)) throw new Error(`LUN ${lun.id} is taken: remove it first`);
    for (const other of this.map.values()) other.nexuses.attend(Attention.LUNS_CHANGED);
    this.map.set(lun.id, lun);
    this.table[lun.id] = lun;
    lun.inventory = this;
    this.relist();
  }

  /**
   * Take a unit away. New commands find it missing at once; those it has run to their end.
   * @param done called when the last of them has ended and the unit has left its shared state
   */
  removeLun(id: number, done: () => void = () => {}): boolean {
    const lun = this.map.get(id);
    if (lun === undefined) return false;
    this.map.delete(id);
    this.table[id] = null;
    this.relist();
    for (const other of this.map.values()) other.nexuses.attend(Attention.LUNS_CHANGED);
    this.leaving.add({ lun, done });
    this.reapLeaving();
    return true;
  }

  private relist(): void {
    this.numbers = [...this.map.keys()].sort((a, b) => a - b);
    this.list = [...this.map.values()];
  }

  private reapLeaving(): void {
    for (const entry of this.leaving) {
      if (entry.lun.outstanding > 0) continue;
      this.leaving.delete(entry);
      entry.lun.close();
      entry.done();
    }
  }

  lunNumbers(): readonly number[] {
    return this.numbers;
  }

  lunsReported(nexus: number): void {
    for (const lun of this.map.values()) lun.nexuses.told(nexus, Attention.LUNS_CHANGED);
  }

  /** The unit with this number, or null. Hot path. */
  unit(id: number): Lun | null {
    return this.table[id] ?? null;
  }

  execute(task: ScsiTask): void {
    const lun = this.table[task.lun] ?? null;
    if (lun !== null) {
      lun.execute(task);
      return;
    }
    answerMissingLun(task, this.numbers);
    task.owner.taskDone(task);
  }

  /** Tasks of all units, those being removed included. */
  get outstanding(): number {
    let sum = 0;
    for (const lun of this.map.values()) sum += lun.outstanding;
    for (const { lun } of this.leaving) sum += lun.outstanding;
    return sum;
  }

  /** Some unit wants `poll` before the reactor sleeps. */
  get wantsPoll(): boolean {
    if (this.leaving.size > 0) return true;
    for (let i = 0; i < this.list.length; i++) if (this.list[i].wantsPoll) return true;
    return false;
  }

  /** Once a pass of the reactor: allocates nothing when there is nothing to do. @returns how much was done */
  poll(): number {
    let done = 0;
    for (let i = 0; i < this.list.length; i++) done += this.list[i].poll();
    if (this.leaving.size > 0) {
      for (const { lun } of this.leaving) done += lun.poll();
      this.reapLeaving();
    }
    return done;
  }

  /**
   * A task management function (SAM-5 7).
   * @param done called exactly once, when the tasks that the function gave up have ended; perhaps before this returns
   */
  taskManagement(fn: Tmf, lunId: number, tagLo: number, tagHi: number, done: TmfDone, nexus = 0): void {
    const lun = this.table[lunId] ?? null;
    if (fn === Tmf.I_T_NEXUS_RESET) {
      this.resetNexus(nexus, done);
      return;
    }
    if (lun === null) {
      done(TmfResponse.INCORRECT_LUN);
      return;
    }
    switch (fn) {
      case Tmf.ABORT_TASK: {
        const command = lun.tasks.find(nexus, tagLo, tagHi);
        lun.cancel(command === undefined ? [] : [command], TaskResponse.ABORTED, done);
        return;
      }
      case Tmf.ABORT_TASK_SET:
        lun.cancel(lun.tasks.ofNexus(nexus), TaskResponse.ABORTED, done);
        return;
      case Tmf.CLEAR_TASK_SET:
        lun.clearTaskSet(nexus, done);
        return;
      case Tmf.LOGICAL_UNIT_RESET:
        lun.reset(() => done(TmfResponse.FUNCTION_COMPLETE));
        return;
      case Tmf.QUERY_TASK:
        done(found(lun.tasks.find(nexus, tagLo, tagHi) !== undefined));
        return;
      case Tmf.QUERY_TASK_SET:
        done(found(lun.tasks.ofNexus(nexus).length > 0));
        return;
      default:
        done(TmfResponse.FUNCTION_REJECTED); // CLEAR ACA: there is no ACA; and whatever else a guest invents
    }
  }

  private resetNexus(nexus: number, done: TmfDone): void {
    let left = this.map.size;
    if (left === 0) done(TmfResponse.FUNCTION_COMPLETE);
    for (const lun of [...this.map.values()]) {
      lun.resetNexus(nexus, () => {
        if (--left === 0) done(TmfResponse.FUNCTION_COMPLETE);
      });
    }
  }

  /** Give up all tasks of all units (the device is reset). @param done when the last has come back */
  abandon(done: () => void): void {
    const luns = [...this.map.values(), ...Array.from(this.leaving, (entry) => entry.lun)];
    let left = luns.length;
    if (left === 0) done();
    for (const lun of luns) {
      lun.abandon(() => {
        if (--left === 0) done();
      });
    }
  }

  /** The initiator is gone (front end disconnected): its tasks have ended before. */
  disconnectNexus(nexus: number): void {
    for (const lun of this.map.values()) lun.disconnectNexus(nexus);
  }
}

function found(yes: boolean): TmfResponse {
  return yes ? TmfResponse.FUNCTION_SUCCEEDED : TmfResponse.FUNCTION_COMPLETE;
}
