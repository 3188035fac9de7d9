import type { BdevInfo } from '../../../src/bdev/bdev.ts';
import { assert } from '../../support/suite.ts';
import { hex, type Result, toHex, Unit } from './unit.ts';

/** One row of the byte tables: a command, and all that must come of it. */
export interface Case {
  /** Name of the opcode row (src/scsi/opcodes.ts) that it covers. */
  command: string;
  kind: 'good' | 'edge' | 'refused';
  /** What it shows. */
  shows: string;
  /** What is special about the disk. */
  disk?: Partial<BdevInfo>;
  before?: (unit: Unit) => void;
  cdb: string;
  out?: string | Uint8Array;
  /** Data-in buffer, bytes. */
  room?: number;
  nexus?: number;
  /** Expectations. Default: response OK, GOOD, no sense. With `sense`: CHECK CONDITION. */
  response?: number;
  status?: number;
  sense?: string;
  /** INFORMATION field of the sense data (fixed format). */
  information?: number;
  /** Sense key specific: byte of the CDB or list that was refused. */
  field?: number;
  /** All bytes of data-in. */
  in?: string;
  /** Its first bytes. */
  starts?: string;
  /** Its length. */
  length?: number;
  transferred?: number;
  after?: (unit: Unit, result: Result) => void;
}

export function runCase(c: Case): void {
  const unit = new Unit(c.disk);
  c.before?.(unit);
  const options: { room?: number; nexus?: number } = {};
  if (c.room !== undefined) options.room = c.room;
  if (c.nexus !== undefined) options.nexus = c.nexus;
  const result = unit.run(c.cdb, c.out ?? '', options);
  assert.is(result.response, c.response ?? 0, 'response');
  assert.is(result.sense, c.sense ?? '', 'sense');
  if ((c.response ?? 0) === 0) assert.is(result.status, c.status ?? (c.sense === undefined ? 0 : 2), 'status');
  const sense = new DataView(result.senseBytes.buffer);
  if (c.information !== undefined) {
    assert.is(sense.getUint8(0), 0xf0, 'VALID');
    assert.is(sense.getUint32(3), c.information, 'information');
  }
  if (c.field !== undefined) {
    assert.ok((sense.getUint8(15) & 0x80) !== 0, 'SKSV');
    assert.is(sense.getUint16(16), c.field, 'field pointer');
  }
  if (c.in !== undefined) assert.is(toHex(result.dataIn), toHex(hex(c.in)), 'data');
  if (c.starts !== undefined) {
    const start = hex(c.starts);
    assert.is(toHex(result.dataIn.subarray(0, start.length)), toHex(start), 'data');
  }
  if (c.length !== undefined) assert.is(result.dataIn.length, c.length, 'length');
  if (c.transferred !== undefined) assert.is(result.transferred, c.transferred, 'transferred');
  c.after?.(unit, result);
}

/** Every block of the disk filled with the low byte of its number. */
export function numbered(unit: Unit): void {
  const { blockSize, numBlocks } = unit.channel.info;
  for (let i = 0; i < numBlocks; i++) unit.channel.disk.fill(i & 0xff, i * blockSize, (i + 1) * blockSize);
}

/** `count` blocks filled with `value`. */
export function blocks(count: number, value: number, blockSize = 512): Uint8Array {
  return new Uint8Array(count * blockSize).fill(value);
}

/** First byte of each of `count` blocks. */
export function firstBytes(unit: Unit, lba: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => unit.channel.disk[(lba + i) * unit.channel.info.blockSize]);
}
