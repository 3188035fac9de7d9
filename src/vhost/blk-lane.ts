/**
 * The express lane of virtio-blk: IN and OUT of whole blocks within the disk. Its one rule is the lane's: BlkRequestQueue would have
 * answered them OK, without FUA and within `submit`.
 */
import type { BdevOp } from '../bdev/bdev.ts';
import { PLAIN_BYTES, PLAIN_IN, PLAIN_REQUEST, PLAIN_RESPONSE, PLAIN_ROW } from '../virtio/plain-chains.ts';
import type { BlkSession } from './blk-request-queue.ts';
import { BLK_REQUEST, MAX_DATA_BYTES, SECTOR, VIRTIO_BLK_S, VIRTIO_BLK_T } from './blk-wire.ts';
import { ExpressLane, type WholeWay } from './express-lane.ts';

// Own copies of what each request uses: a constant of another module is loaded and checked at each use.
const TYPE = BLK_REQUEST.fields.type[0] >> 2;
const SECTOR_LO = BLK_REQUEST.fields.sector[0] >> 2;
const SECTOR_HI = SECTOR_LO + 1;
const MOST_BYTES = MAX_DATA_BYTES;
const OK = VIRTIO_BLK_S.OK;
/** The response is the status alone. */
const STATUS_BYTES = 1;
const SECTOR_SHIFT = 31 - Math.clz32(SECTOR);
const ROW_SHIFT = 3;
const REQUEST = PLAIN_REQUEST;
const RESPONSE = PLAIN_RESPONSE;
const BYTES = PLAIN_BYTES;
const IN = PLAIN_IN;
// The type of a plain request says in which direction its data goes: one word tells both.
if (VIRTIO_BLK_T.IN !== 0 || VIRTIO_BLK_T.OUT !== 1 || PLAIN_ROW !== 1 << ROW_SHIFT) {
  throw new Error('blk-lane: the layout of requests has changed');
}

export class BlkLane extends ExpressLane {
  private readonly session: BlkSession;

  constructor(session: BlkSession, whole: WholeWay) {
    const requestBytes = BLK_REQUEST.size;
    super({ requestBytes, requestWords: requestBytes >> 2, responseBytes: STATUS_BYTES, responseFirst: false }, whole);
    this.session = session;
  }

  protected override decide(from: number, count: number): number {
    const { chains, place, placeAt, session } = this;
    const { channel, info, readOnly } = session.controller;
    if (channel === null) return from; // the disk has gone
    const { direct } = channel;
    if (direct === undefined) {
      this.makeDetour();
      return from;
    }
    this.direct = direct;
    // Every write must reach stable storage: the disk is asked for that.
    const mayWrite = !readOnly && !session.writeThrough;
    const { numBlocks } = info;
    const { rows } = chains;
    const words = chains.memory.u32;
    // "| 0": known to be small from here on, where a parameter or a field would be looked at in each round.
    const shift = (31 - Math.clz32(info.blockSize)) | 0;
    const perBlockShift = (shift - SECTOR_SHIFT) | 0;
    const byteMask = ((1 << shift) - 1) | 0;
    const sectorMask = ((1 << perBlockShift) - 1) | 0;
    const begin = from | 0;
    const end = count | 0;
    let readBytes = 0;
    let writes = 0;
    let writtenBytes = 0;
    let i = begin;
    for (; i < end; i = (i + 1) | 0) {
      const r = i << ROW_SHIFT;
      const w = rows[r | REQUEST];
      const out = words[(w + TYPE) | 0] | 0;
      const sector = words[(w + SECTOR_LO) | 0] | 0;
      const bytes = rows[r | BYTES];
      if (((out | 1) ^ 1) !== 0 || rows[r | IN] === out) break;
      // Disks of more than 2 TiB have sectors whose numbers are longer: those take the whole way.
      if ((words[(w + SECTOR_HI) | 0] | (sector & sectorMask) | (bytes & byteMask)) !== 0 || bytes > MOST_BYTES) break;
      const blocks = bytes >> shift;
      const lba = sector >>> perBlockShift;
      if (lba + blocks > numBlocks || !direct.locate(lba, blocks)) break;
      if (out !== 0) {
        if (!mayWrite) break;
        writes = (writes + 1) | 0;
        writtenBytes = (writtenBytes + bytes) | 0;
      } else readBytes = (readBytes + bytes) | 0;
      const { memory } = direct;
      if (memory !== null) {
        if (place[i] !== memory) place[i] = memory; // comparing costs less than storing a reference
        placeAt[i] = direct.offset;
      }
    }
    this.reads = (i - begin - writes) | 0;
    this.readBytes = readBytes;
    this.writes = writes;
    this.writtenBytes = writtenBytes;
    return i;
  }

  protected override respond(from: number, end: number): void {
    const { rows, memory } = this.chains;
    const bytes = memory.u8;
    const { written } = this;
    const stop = end | 0;
    for (let i = from | 0; i < stop; i = (i + 1) | 0) {
      const r = i << ROW_SHIFT;
      written[i] = rows[r | IN] !== 0 ? rows[r | BYTES] + STATUS_BYTES : STATUS_BYTES;
      bytes[rows[r | RESPONSE]] = OK;
    }
  }

  /** Writes of this device keep nobody out. */
  protected override performed(): void {}

  /** The disk's statistics say it all. */
  protected override transferred(_op: BdevOp, _requests: number, _bytes: number): void {}
}
