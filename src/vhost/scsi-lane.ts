/**
 * The express lane of virtio-scsi: READ and WRITE (10) and (16) with nothing special about them, for units that nothing holds up.
 */
import type { BdevOp } from '../bdev/bdev.ts';
import type { Lun } from '../scsi/lun.ts';
import { PlainCdb } from '../scsi/plain-cdb.ts';
import { PLAIN_BYTES, PLAIN_IN, PLAIN_REQUEST, PLAIN_RESPONSE, PLAIN_ROW } from '../virtio/plain-chains.ts';
import { VIRTIO_SCSI_REQUEST, VIRTIO_SCSI_RESPONSE } from '../virtio/scsi-device.ts';
import { ExpressLane, type WholeWay } from './express-lane.ts';
import type { ScsiController } from './scsi-controller.ts';
import { flatLun, MAX_TARGETS } from './scsi-wire.ts';

// Own copies of what each request uses: a constant of another module is loaded and checked at each use.
const TARGETS = MAX_TARGETS;
const RESPONSE_BYTES = VIRTIO_SCSI_RESPONSE.size;
// Word indexes. The LUN's four bytes that count are one word; so are status_qualifier, status and response.
const LUN = VIRTIO_SCSI_REQUEST.fields.lun[0] >> 2;
/** Its lowest byte is the task attribute, its highest the operation code. */
const ATTR_TO_OPCODE = VIRTIO_SCSI_REQUEST.fields.task_attr[0] >> 2;
const SENSE_LEN = VIRTIO_SCSI_RESPONSE.fields.sense_len[0] >> 2;
const RESIDUAL = VIRTIO_SCSI_RESPONSE.fields.residual[0] >> 2;
const STATUS_WORD = VIRTIO_SCSI_RESPONSE.fields.status_qualifier[0] >> 2;
/** What there is of a response without sense data. */
const GOOD_BYTES = VIRTIO_SCSI_RESPONSE.fields.sense[0];
/** The header in whole words: 51 bytes are 13. */
const HEADER_WORDS = 13;
const SIMPLE = 0;
// Of the batch's table.
const ROW_SHIFT = 3;
const REQUEST = PLAIN_REQUEST;
const RESPONSE = PLAIN_RESPONSE;
const BYTES = PLAIN_BYTES;
const IN = PLAIN_IN;
if (
  HEADER_WORDS !== Math.ceil(VIRTIO_SCSI_REQUEST.size / 4) ||
  VIRTIO_SCSI_REQUEST.fields.cdb[0] !== ATTR_TO_OPCODE * 4 + 3 ||
  PLAIN_ROW !== 1 << ROW_SHIFT
) {
  throw new Error('scsi-lane: the header layout has changed');
}

export class ScsiLane extends ExpressLane {
  private readonly cdb = new PlainCdb();
  private readonly controller: ScsiController;
  private readonly nexus: number;
  /** Of the run that is being decided on. */
  private lun: Lun | null = null;

  constructor(controller: ScsiController, nexus: number, whole: WholeWay) {
    const [requestBytes, responseBytes] = [VIRTIO_SCSI_REQUEST.size, VIRTIO_SCSI_RESPONSE.size];
    super({ requestBytes, requestWords: HEADER_WORDS, responseBytes, responseFirst: true }, whole);
    this.controller = controller;
    this.nexus = nexus;
  }

  /** The unit that a request's LUN word names, where plain requests may be done at once; else null. */
  private unitOf(word: number): Lun | null {
    const target = (word >>> 8) & 0xff;
    const entry = (word & 0xff) === 1 && target < TARGETS ? this.controller.entries[target] : null;
    if (entry === null) return null;
    const lun = entry.target.unit(flatLun((word >>> 16) & 0xff, word >>> 24));
    if (lun === null) return null;
    const { direct } = lun.channel;
    if (direct === undefined) {
      this.makeDetour();
      return null;
    }
    this.direct = direct;
    return lun.open(this.nexus) ? lun : null;
  }

  /** With writes before the one that is given, `beginWrites` was said. */
  protected override decide(from: number, count: number): number {
    const { chains, cdb, place, placeAt } = this;
    const { rows } = chains;
    const words = chains.memory.u32;
    const unit = words[rows[(from << ROW_SHIFT) | REQUEST] + LUN] | 0;
    const lun = this.unitOf(unit);
    const { direct } = this;
    if (lun === null || direct === null) return from;
    const { writeProtected } = lun;
    const maxTransfer = lun.maxTransfer | 0;
    const blockSize = lun.info.blockSize | 0;
    // "| 0": known to be small from here on, where a parameter or a field would be looked at in each round. So are the sums, which
    // are of one batch.
    const begin = from | 0;
    const end = count | 0;
    let readBytes = 0;
    let writes = 0;
    let writtenBytes = 0;
    let i = begin;
    for (; i < end; i = (i + 1) | 0) {
      const r = i << ROW_SHIFT;
      const w = rows[r | REQUEST];
      if (i !== begin && (words[(w + LUN) | 0] | 0) !== unit) break;
      const first = words[(w + ATTR_TO_OPCODE) | 0] | 0;
      if ((first & 0xff) !== SIMPLE || !cdb.read(first >>> 24, words, (w + ATTR_TO_OPCODE + 1) | 0)) break;
      const { blocks, dataIn } = cdb;
      const bytes = rows[r | BYTES];
      if (blocks > maxTransfer || Math.imul(blocks, blockSize) !== bytes) break;
      if (rows[r | IN] !== dataIn || !direct.locate(cdb.lba >>> 0, blocks)) break;
      if (dataIn === 0) {
        if (writeProtected || (writes === 0 && !lun.tasks.beginWrites())) break;
        writes = (writes + 1) | 0;
        writtenBytes = (writtenBytes + bytes) | 0;
      } else readBytes = (readBytes + bytes) | 0;
      const { memory } = direct;
      if (memory !== null) {
        if (place[i] !== memory) place[i] = memory; // comparing costs less than storing a reference
        placeAt[i] = direct.offset;
      }
    }
    this.lun = lun;
    this.reads = (i - begin - writes) | 0;
    this.readBytes = readBytes;
    this.writes = writes;
    this.writtenBytes = writtenBytes;
    return i;
  }

  /**
   * GOOD, and no residual. The guest's processor has to give up each line, which takes its time: all are asked for before the
   * data is moved. Nobody looks at them before the used elements are there.
   */
  protected override respond(from: number, end: number): void {
    const { memory, rows } = this.chains;
    const words = memory.u32;
    const bytes = memory.u8;
    const { written } = this;
    const stop = end | 0;
    for (let i = from | 0; i < stop; i = (i + 1) | 0) {
      const r = i << ROW_SHIFT;
      written[i] = rows[r | IN] !== 0 ? RESPONSE_BYTES + rows[r | BYTES] : RESPONSE_BYTES;
      const at = rows[r | RESPONSE];
      if ((at & 3) === 0) {
        const w = at >> 2;
        words[(w + SENSE_LEN) | 0] = 0;
        words[(w + RESIDUAL) | 0] = 0;
        words[(w + STATUS_WORD) | 0] = 0;
      } else {
        for (let b = 0; b < GOOD_BYTES; b++) bytes[at + b] = 0;
      }
    }
  }

  protected override performed(): void {
    if (this.writes > 0) this.lun?.tasks.endWrites();
  }

  protected override transferred(op: BdevOp, requests: number, bytes: number): void {
    this.lun?.transferred(op, requests, bytes);
  }

  override forget(): void {
    super.forget();
    this.lun = null;
  }
}
