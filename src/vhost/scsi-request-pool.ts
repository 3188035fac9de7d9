/**
 * Request slots of one session, shared by its request queues. A slot is made when it is first needed and then kept,
 * so steady state allocates nothing; and there are at most so many, so that queues and scatter lists of a hostile
 * guest's size cost a bounded amount of memory.
 */
import { Memory } from '../memory/memory.ts';
import { SgList } from '../memory/sg-list.ts';
import { ScsiTask, type TaskOwner } from '../scsi/task.ts';
import { ChainFrame } from '../virtio/chain-reader.ts';
import { VIRTIO_SCSI_REQUEST, VIRTIO_SCSI_RESPONSE } from '../virtio/scsi-device.ts';
import { MAX_IN_FLIGHT } from './limits.ts';
import type { TargetEntry } from './scsi-controller.ts';

const CDB = VIRTIO_SCSI_REQUEST.fields.cdb[0];
const CDB_BYTES = VIRTIO_SCSI_REQUEST.fields.cdb[2];
const HEADER_SPACE = (VIRTIO_SCSI_REQUEST.size + 7) & ~7;

/** The queue that took a request. */
export interface RequestHome {
  readonly index: number;
  /** The target is done with it: its result is set. */
  finish(slot: RequestSlot): void;
}

/** One request: the task, and what the transport needs to answer it. */
export class RequestSlot extends ScsiTask {
  /** The request header, copied before anybody looks at it; `cdb` is a part of it. */
  readonly header: Memory;
  home: RequestHome | null = null;
  head = 0;
  /** The chain: `dataOut`, `dataIn`, and the two headers where each is a descriptor by itself. */
  readonly frame = new ChainFrame(this.dataOut, this.dataIn, VIRTIO_SCSI_REQUEST.size, VIRTIO_SCSI_RESPONSE.size);
  /** Where the response goes when it is not: in as many pieces as it has bytes, if the driver likes. */
  readonly pieces = new SgList(0, VIRTIO_SCSI_RESPONSE.size);
  /** The target that has the task; null when none has. */
  entry: TargetEntry | null = null;

  constructor(owner: TaskOwner) {
    const header = new Memory(new ArrayBuffer(HEADER_SPACE));
    super(owner, header.u8.subarray(CDB, CDB + CDB_BYTES));
    this.header = header;
  }
}

export class RequestPool implements TaskOwner {
  private readonly slots: RequestSlot[] = [];
  /** Free slots: a stack with its height beside it, for an array that shrinks and grows allocates. */
  private readonly free: RequestSlot[] = [];
  private height = 0;
  private readonly limit: number;

  constructor(limit = MAX_IN_FLIGHT) {
    this.limit = limit;
  }

  /** Whether `take` will give one. */
  get available(): boolean {
    return this.height > 0 || this.slots.length < this.limit;
  }

  /** How many `take` will give. */
  get room(): number {
    return this.height + this.limit - this.slots.length;
  }

  /** A slot; call it only when one is available. */
  take(): RequestSlot {
    if (this.height > 0) return this.free[--this.height];
    const slot = new RequestSlot(this);
    this.slots.push(slot);
    this.free.push(slot);
    return slot;
  }

  give(slot: RequestSlot): void {
    slot.entry = null;
    this.free[this.height++] = slot;
  }

  taskDone(task: ScsiTask): void {
    const slot = task as RequestSlot;
    slot.home?.finish(slot);
  }

  /** Free slots name memory that may go: let them forget it. Control path. */
  forget(): void {
    for (let i = 0; i < this.height; i++) {
      this.free[i].frame.forget();
      this.free[i].pieces.forget();
    }
  }

  /** Slots whose task a target has. Control path. */
  busy(): RequestSlot[] {
    return this.slots.filter((slot) => slot.entry !== null);
  }
}
