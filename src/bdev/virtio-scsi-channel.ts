import { ioAddressOf, ioRunBytes } from '../memory/io-address.ts';
import type { SgCursor } from '../memory/sg-cursor.ts';
import type { SgList } from '../memory/sg-list.ts';
import { Ended, type QueueLoop } from '../pci/reactor-queue.ts';
import { SenseKey } from '../scsi/sense.ts';
import { VirtioScsiResponse } from '../virtio/scsi-device.ts';
import { BdevOp, type BdevShare, BdevStatus } from './bdev.ts';
import type { CommandLimits } from './command-channel.ts';
import { QueueChannel, queueFor } from './queue-channel.ts';
import {
  get32,
  get64,
  readCapacity16,
  readWrite16,
  synchronizeCache10,
  UNMAP_LIST_BYTES,
  unmap,
  unmapList,
  writeSame16,
} from './virtio-scsi/cdb.ts';
import { PARAMETERS_AT, ScsiEnd, SLOT_BYTES } from './virtio-scsi/command-ring.ts';
import { ScsiRequestQueue } from './virtio-scsi/request-queue.ts';
import type { ScsiShare, UnitShare } from './virtio-scsi/share.ts';
import { UnitState } from './virtio-scsi/unit-state.ts';

/** A reactor's way to a logical unit behind a virtio-scsi adapter. */

/** {@link BdevShare.data} of such a disk. */
export interface VirtioScsiShare {
  readonly adapter: ScsiShare;
  readonly unit: UnitShare;
  readonly dmaTable: SharedArrayBuffer | null;
}

/** Sense codes (ASC << 8 | ASCQ) that tell more than the key. */
const CAPACITY_CHANGED = 0x2a09;
const LBA_OUT_OF_RANGE = 0x2100;
const WRITE_ERROR_ASC = 0x0c;
const SPACE_ALLOCATION_FAILED = 0x2707;
const UNIT_NOT_SUPPORTED = 0x2500;
/** How often the main thread's wish for a look at the size is looked for. Milliseconds. */
const LOOK_MS = 1000;
/** READ CAPACITY(16) data. */
const CAPACITY_BYTES = 32;

function limitsOf(unit: UnitShare, blockSize: number): CommandLimits {
  return {
    maxTransfer: unit.maxTransfer - (unit.maxTransfer % blockSize),
    maxZeroBlocks: unit.maxSameBlocks,
    maxUnmapBlocks: unit.maxUnmapBlocks,
    compare: false,
    flush: unit.writeCache,
    fua: unit.fua,
  };
}

export class VirtioScsiChannel extends QueueChannel<ScsiRequestQueue> {
  private readonly unit: UnitShare;
  private readonly state: UnitState;
  private readonly bounceOnly: boolean;
  /** Slot of a READ CAPACITY of our own, -1 when none is out; its bounce buffer. */
  private looking = -1;
  private lookBuffer = -1;
  private lookWanted = false;
  private timer: { cancel(): void };

  constructor(share: BdevShare, queue: ScsiRequestQueue, loop: QueueLoop) {
    const data = share.data as VirtioScsiShare;
    super(share, limitsOf(data.unit, share.info.blockSize), queue, data.adapter.bounceBytes, data.dmaTable);
    this.unit = data.unit;
    this.state = new UnitState(data.unit.state);
    this.bounceOnly = data.adapter.bounceOnly;
    queue.onUnit(data.unit.target, data.unit.lun, (code) => this.attention(code));
    const tick = () => {
      if (this.state.takeLook()) this.lookWanted = true;
      this.look();
      this.timer = loop.after(LOOK_MS, tick);
    };
    this.timer = loop.after(LOOK_MS, tick);
  }

  protected takeSlot(): number {
    return this.queue.allocate();
  }

  protected describe(slot: number, _op: BdevOp, sg: SgList, at: SgCursor, bytes: number): number {
    const list = this.queue.pair.data[slot];
    list.reset();
    if (this.bounceOnly && sg.memory[at.segment] !== this.queue.bounce) return 0;
    let named = 0;
    let next = -1; // address behind the last segment
    let segment = at.segment;
    let skip = at.offset;
    walk: while (named < bytes && segment < sg.count) {
      const memory = sg.memory[segment];
      const end = Math.min(sg.length[segment], skip + bytes - named);
      while (skip < end) {
        const place = sg.offset[segment] + skip;
        const n = ioRunBytes(memory, place, end - skip);
        if (n === 0) break walk;
        const address = ioAddressOf(memory, place);
        if (address === next) {
          list.length[list.count - 1] += n;
          list.bytes += n;
        } else if (!list.pushAddress(address, n)) break walk;
        next = address + n;
        named += n;
        skip += n;
      }
      if (skip === sg.length[segment]) {
        segment++;
        skip = 0;
      }
    }
    // Whole blocks, and not a byte more: the device moves what the list has.
    for (let over = named % this.info.blockSize; over > 0; ) {
      const last = list.count - 1;
      const cut = Math.min(over, list.length[last]);
      if (cut === list.length[last]) list.count--;
      else list.length[last] -= cut;
      list.bytes -= cut;
      over -= cut;
      named -= cut;
    }
    return named;
  }

  protected send(slot: number, op: BdevOp, lba: number, blocks: number, fua: boolean): void {
    const { pair } = this.queue;
    const u8 = pair.slots.u8;
    const cdb = pair.cdbAt(slot);
    switch (op) {
      case BdevOp.FLUSH:
        synchronizeCache10(u8, cdb);
        break;
      case BdevOp.UNMAP:
        unmap(u8, cdb);
        unmapList(u8, slot * SLOT_BYTES + PARAMETERS_AT, lba, blocks);
        pair.addParameters(slot, UNMAP_LIST_BYTES);
        break;
      case BdevOp.WRITE_ZEROES:
        writeSame16(u8, cdb, lba, blocks);
        this.queue.addZeroes(slot, this.info.blockSize);
        break;
      default:
        readWrite16(u8, cdb, op === BdevOp.WRITE, lba, blocks, fua && op === BdevOp.WRITE && this.unit.fua);
    }
    this.queue.submit(slot, this.unit.target, this.unit.lun, op !== BdevOp.READ, this);
  }

  commandDone(slot: number, status: number, result: number): void {
    if (slot === this.looking) this.looked(status);
    else this.ended(slot, this.statusOf(slot, status, result));
  }

  private statusOf(slot: number, status: number, result: number): BdevStatus {
    switch (status) {
      case ScsiEnd.GOOD:
        return result === 0 ? BdevStatus.OK : BdevStatus.IO_ERROR; // a residual: not all of it was moved
      case ScsiEnd.CHECK_CONDITION:
        return this.senseStatus(slot, result);
      case ScsiEnd.RESERVATION_CONFLICT:
        return BdevStatus.RESERVATION_CONFLICT;
      case ScsiEnd.TRANSPORT:
        return result === VirtioScsiResponse.BAD_TARGET ? BdevStatus.REMOVED : BdevStatus.IO_ERROR;
      case Ended.ABORTED:
        return BdevStatus.ABORTED;
      case Ended.REMOVED:
        return BdevStatus.REMOVED;
      default:
        return BdevStatus.IO_ERROR;
    }
  }

  private senseStatus(slot: number, residual: number): BdevStatus {
    const { pair } = this.queue;
    const code = pair.senseCode(slot);
    switch (pair.senseKey(slot)) {
      case SenseKey.NO_SENSE:
      case 1: // RECOVERED ERROR: it was done, if all of it was moved
        return residual === 0 ? BdevStatus.OK : BdevStatus.IO_ERROR;
      case SenseKey.NOT_READY:
        return BdevStatus.NOT_READY;
      case SenseKey.MEDIUM_ERROR:
        return code >> 8 === WRITE_ERROR_ASC ? BdevStatus.WRITE_ERROR : BdevStatus.READ_ERROR;
      case SenseKey.ILLEGAL_REQUEST:
        if (code === LBA_OUT_OF_RANGE) return BdevStatus.OUT_OF_RANGE;
        return code === UNIT_NOT_SUPPORTED ? BdevStatus.REMOVED : BdevStatus.NOT_SUPPORTED;
      case SenseKey.DATA_PROTECT:
        return code === SPACE_ALLOCATION_FAILED ? BdevStatus.NO_SPACE : BdevStatus.WRITE_PROTECTED;
      case SenseKey.ABORTED_COMMAND:
        return BdevStatus.ABORTED;
      case SenseKey.MISCOMPARE:
        return BdevStatus.MISCOMPARE;
      default:
        return BdevStatus.IO_ERROR;
    }
  }

  protected override release(): void {
    this.timer.cancel();
    this.queue.offUnit(this.unit.target, this.unit.lun);
    super.release();
  }

  // The size, when it changes.

  private attention(code: number): void {
    if (code !== CAPACITY_CHANGED) return;
    this.lookWanted = true;
    this.look();
  }

  override resume(): void {
    super.resume();
    this.look();
  }

  /** READ CAPACITY(16) of our own, when it is wanted and there is room. */
  private look(): void {
    if (!this.lookWanted || this.looking >= 0 || this.health() !== BdevStatus.OK) return;
    const buffer = this.takeBounce();
    if (buffer < 0) return;
    const slot = this.queue.allocate();
    if (slot < 0) {
      this.giveBounce(buffer);
      return;
    }
    this.lookWanted = false;
    this.looking = slot;
    this.lookBuffer = buffer;
    const { pair } = this.queue;
    readCapacity16(pair.slots.u8, pair.cdbAt(slot), CAPACITY_BYTES);
    pair.data[slot].pushAddress(ioAddressOf(this.queue.bounce, buffer), CAPACITY_BYTES);
    this.queue.submit(slot, this.unit.target, this.unit.lun, false, this);
  }

  private looked(status: number): void {
    const buffer = this.lookBuffer;
    this.looking = -1;
    const bytes = this.queue.bounce.u8.slice(buffer, buffer + CAPACITY_BYTES);
    this.giveBounce(buffer);
    if (status !== ScsiEnd.GOOD) return;
    const numBlocks = get64(bytes, 0) + 1;
    if (
      get32(bytes, 8) !== this.info.blockSize ||
      !Number.isSafeInteger(numBlocks) ||
      numBlocks === this.info.numBlocks
    )
      return;
    this.state.leave(numBlocks);
    this.queue.ringBell();
  }
}

/** @throws BdevError when no request queue is free */
export function openVirtioScsiChannel(share: BdevShare, loop: QueueLoop): VirtioScsiChannel {
  const data = share.data as VirtioScsiShare;
  const queue = queueFor(share, () => ScsiRequestQueue.open(data.adapter, loop));
  return new VirtioScsiChannel(share, queue, loop);
}
