/**
 * Request slots of one block session, shared by its queues: made when first needed and then kept, and bounded, as
 * those of the SCSI device (scsi-request-pool.ts).
 */
import { BdevIo, type BdevIoOwner } from '../bdev/bdev.ts';
import { Memory } from '../memory/memory.ts';
import { SgList } from '../memory/sg-list.ts';
import { BLK_RANGE, BLK_REQUEST, MAX_RANGES } from './blk-wire.ts';
import { MAX_IN_FLIGHT } from './limits.ts';

/** Segments of a request: a driver may cut it finer than SEG_MAX says, within reason. */
const MAX_SEGMENTS = 2048;

/** The queue that took a request. */
export interface BlkHome {
  readonly index: number;
  /** The disk is done with the slot's `io`. */
  ioDone(slot: BlkSlot): void;
}

/** One request. */
export class BlkSlot implements BdevIoOwner {
  /** The header, copied before anybody looks at it. */
  readonly header = new Memory(new ArrayBuffer(BLK_REQUEST.size));
  /** The ranges of DISCARD and WRITE_ZEROES, copied likewise. */
  readonly ranges = new Memory(new ArrayBuffer(BLK_RANGE.size * MAX_RANGES));
  readonly dataOut = new SgList(8, MAX_SEGMENTS);
  readonly dataIn = new SgList(8, MAX_SEGMENTS);
  /** Where the status byte goes. */
  readonly status = new SgList(1);
  readonly io = new BdevIo(this);
  home: BlkHome | null = null;
  head = 0;
  type = 0;
  /** Ranges in `ranges`, and the next to do. */
  rangeCount = 0;
  nextRange = 0;
  /** How often it was made again. */
  retries = 0;
  /** The disk has it. */
  busy = false;
  /** Reactor clock when it was taken, nanoseconds. */
  started = 0;

  ioDone(): void {
    this.home?.ioDone(this);
  }
}

export class BlkPool {
  private readonly slots: BlkSlot[] = [];
  /** Free slots: a stack with its height beside it, for an array that shrinks and grows allocates. */
  private readonly free: BlkSlot[] = [];
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
  take(): BlkSlot {
    if (this.height > 0) return this.free[--this.height];
    const slot = new BlkSlot();
    this.slots.push(slot);
    this.free.push(slot);
    return slot;
  }

  give(slot: BlkSlot): void {
    slot.busy = false;
    this.free[this.height++] = slot;
  }

  /** Free slots name memory that may go: let them forget it. Control path. */
  forget(): void {
    for (let i = 0; i < this.height; i++) {
      const { dataOut, dataIn, status } = this.free[i];
      dataOut.forget();
      dataIn.forget();
      status.forget();
    }
  }

  /** Slots that the disk has. Control path. */
  busy(): BlkSlot[] {
    return this.slots.filter((slot) => slot.busy);
  }
}
