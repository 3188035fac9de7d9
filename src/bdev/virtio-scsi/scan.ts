import { createHash } from 'node:crypto';
import { VirtioScsiResponse } from '../../virtio/scsi-device.ts';
import { get32, get64, inquiry, modeSense6, readCapacity10, readCapacity16, reportLuns, testUnitReady } from './cdb.ts';
import { ScsiEnd } from './command-ring.ts';
import type { Commander } from './commander.ts';

/**
 * What stands behind an adapter: targets, logical units, their sizes and abilities (SPC-4, SBC-3). Everything is the device's word:
 * lengths are checked against what came, sizes against what a disk can be.
 */

export interface Unit {
  readonly target: number;
  readonly lun: number;
  readonly vendor: string;
  readonly product: string;
  readonly revision: string;
  readonly serial: string;
  /** RFC 4122 text, made of what identifies the unit; the same at every scan. */
  readonly uuid: string;
  readonly blockSize: number;
  readonly physicalBlockSize: number;
  readonly numBlocks: number;
  readonly writeCache: boolean;
  readonly fua: boolean;
  readonly readOnly: boolean;
  /** Blocks of one UNMAP; 0: none. */
  readonly maxUnmapBlocks: number;
  /** Unmapped blocks read as zeroes. */
  readonly unmapZeroes: boolean;
  /** Blocks of one WRITE SAME(16); 0: none. */
  readonly maxSameBlocks: number;
  readonly nonRotational: boolean;
}

export interface ScanResult {
  readonly units: Unit[];
  /** Units that are there and are not served, with the reason. */
  readonly refused: string[];
}

const PAGE = 4096;
/** INQUIRY standard data: enough for vendor, product, revision. */
const INQUIRY_BYTES = 96;
/** Peripheral qualifier 0 and device type 0: a disk that is there. */
const DISK = 0x00;
/** Units of one target that are served. */
const MAX_LUNS = 64;
/** Targets asked at the same time. */
const AT_ONCE = 8;
const READY_TRIES = 20;
const PAGE_SERIAL = 0x80;
const PAGE_IDENTIFICATION = 0x83;
const PAGE_LIMITS = 0xb0;
const PAGE_CHARACTERISTICS = 0xb1;
const PAGE_PROVISIONING = 0xb2;
/** Without a word of the unit about it: 32 MiB of 512-byte blocks, as Linux assumes. */
const DEFAULT_SAME_BLOCKS = 0xffff;

function text(bytes: Uint8Array, at: number, length: number): string {
  // Device strings may hold anything: what is no printable ASCII becomes a space.
  return Buffer.from(bytes.subarray(at, at + length))
    .toString('latin1')
    .replace(/[^ -~]/g, ' ')
    .trim();
}

export async function scan(commander: Commander, targets: readonly number[], name: string): Promise<ScanResult> {
  const result: ScanResult = { units: [], refused: [] };
  const queue = [...targets];
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (let target = queue.shift(); target !== undefined; target = queue.shift()) {
        for (const lun of await lunsOf(commander, target)) await scanUnit(commander, target, lun, name, result);
      }
    }),
  );
  result.units.sort((a, b) => a.target - b.target || a.lun - b.lun);
  return result;
}

/** LUNs of a target: [] when there is no such target. */
async function lunsOf(commander: Commander, target: number): Promise<number[]> {
  const first = await commander.send(target, 0, (cdb, at) => inquiry(cdb, at, -1, INQUIRY_BYTES), INQUIRY_BYTES);
  if (first.status === ScsiEnd.TRANSPORT && first.response === VirtioScsiResponse.BAD_TARGET) return [];
  const answer = await commander.send(target, 0, (cdb, at) => reportLuns(cdb, at, PAGE), PAGE);
  if (answer.status !== ScsiEnd.GOOD || answer.data.length < 16) return first.status === ScsiEnd.GOOD ? [0] : [];
  const { data } = answer;
  const bytes = Math.min(get32(data, 0), data.length - 8);
  const luns = new Set<number>();
  for (let at = 8; at + 8 <= 8 + bytes && luns.size < MAX_LUNS; at += 8) {
    const method = data[at] >> 6;
    // Peripheral and flat addressing, one level (SAM-5 4.7): others are no disks of ours.
    if (method <= 1 && data.subarray(at + 2, at + 8).every((b) => b === 0))
      luns.add(((data[at] & 0x3f) << 8) | data[at + 1]);
  }
  return [...luns].sort((a, b) => a - b);
}

async function scanUnit(
  commander: Commander,
  target: number,
  lun: number,
  name: string,
  result: ScanResult,
): Promise<void> {
  const who = `${name}: target ${target} LUN ${lun}`;
  const send = (fill: (cdb: Uint8Array, at: number) => void, bytes = 0) => commander.send(target, lun, fill, bytes);
  const std = await send((cdb, at) => inquiry(cdb, at, -1, INQUIRY_BYTES), INQUIRY_BYTES);
  if (std.status !== ScsiEnd.GOOD || std.data.length < 36 || std.data[0] >> 5 !== 0) return;
  if (std.data[0] !== DISK) {
    result.refused.push(`${who} is of device type ${std.data[0] & 0x1f}, not a disk (0)`);
    return;
  }
  for (let tries = 0; tries < READY_TRIES; tries++) {
    const ready = await send((cdb, at) => testUnitReady(cdb, at));
    if (ready.status === ScsiEnd.GOOD) break;
  }
  const capacity = await readCapacity(send);
  if (typeof capacity === 'string') {
    result.refused.push(`${who}: ${capacity}`);
    return;
  }
  const page = async (code: number) => {
    const answer = await send((cdb, at) => inquiry(cdb, at, code, PAGE), PAGE);
    const { data } = answer;
    if (answer.status !== ScsiEnd.GOOD || data.length < 4 || data[1] !== code) return undefined;
    return data.subarray(0, Math.min(data.length, 4 + ((data[2] << 8) | data[3])));
  };
  const supported = new Set((await page(0))?.subarray(4) ?? []);
  const ask = async (code: number) => (supported.has(code) ? await page(code) : undefined);
  const serialPage = await ask(PAGE_SERIAL);
  const serial = serialPage === undefined ? '' : text(serialPage, 4, serialPage.length - 4);
  const identification = await ask(PAGE_IDENTIFICATION);
  const limits = await ask(PAGE_LIMITS);
  const characteristics = await ask(PAGE_CHARACTERISTICS);
  const provisioning = await ask(PAGE_PROVISIONING);
  const mode = await send((cdb, at) => modeSense6(cdb, at, 0x3f, 252), 252);
  const { blockSize, physicalBlockSize, numBlocks, provisioned, zeroes } = capacity;
  const lbpu = provisioned && provisioning !== undefined && provisioning.length > 5 && (provisioning[5] & 0x80) !== 0;
  const lbpws = provisioned && provisioning !== undefined && provisioning.length > 5 && (provisioning[5] & 0x40) !== 0;
  const limit = (at: number) => (limits !== undefined && limits.length >= at + 4 ? get32(limits, at) : 0);
  const same = limits !== undefined && limits.length >= 44 ? get64(limits, 36) : 0;
  result.units.push({
    target,
    lun,
    vendor: text(std.data, 8, 8),
    product: text(std.data, 16, 16),
    revision: text(std.data, 32, 4),
    serial,
    uuid: uuidOf(identification, serial, `${name}/${target}/${lun}`),
    blockSize,
    physicalBlockSize,
    numBlocks,
    writeCache: cachingOf(mode.data),
    fua: mode.data.length > 2 && (mode.data[2] & 0x10) !== 0,
    readOnly: mode.data.length > 2 && (mode.data[2] & 0x80) !== 0,
    maxUnmapBlocks: lbpu ? Math.min(limit(20), 0xffff_ffff) : 0,
    unmapZeroes: zeroes,
    maxSameBlocks: same > 0 ? Math.min(same, 0xffff_ffff) : lbpws ? DEFAULT_SAME_BLOCKS : 0,
    nonRotational:
      characteristics !== undefined &&
      characteristics.length > 5 &&
      characteristics[4] === 0 &&
      characteristics[5] === 1,
  });
}

interface Capacity {
  blockSize: number;
  physicalBlockSize: number;
  numBlocks: number;
  provisioned: boolean;
  zeroes: boolean;
}

type Send = (fill: (cdb: Uint8Array, at: number) => void, bytes?: number) => ReturnType<Commander['send']>;

/** @returns why the unit can't be served, when its size can't be that of a disk */
async function readCapacity(send: Send): Promise<Capacity | string> {
  const long = await send((cdb, at) => readCapacity16(cdb, at, 32), 32);
  let lastBlock: number;
  let blockSize: number;
  let flags = 0;
  let exponent = 0;
  if (long.status === ScsiEnd.GOOD && long.data.length >= 12) {
    lastBlock = get64(long.data, 0);
    blockSize = get32(long.data, 8);
    if (long.data.length >= 16) {
      exponent = long.data[13] & 0x0f;
      flags = long.data[14];
    }
  } else {
    const short = await send((cdb, at) => readCapacity10(cdb, at), 8);
    if (short.status !== ScsiEnd.GOOD || short.data.length < 8) {
      return `READ CAPACITY failed (sense ${short.senseKey}/${short.senseCode.toString(16).padStart(4, '0')}h)`;
    }
    lastBlock = get32(short.data, 0);
    blockSize = get32(short.data, 4);
  }
  if (blockSize < 512 || blockSize > 65536 || !Number.isInteger(Math.log2(blockSize))) {
    return `blocks of ${blockSize} bytes; powers of two from 512 to 65536 are served`;
  }
  const numBlocks = lastBlock + 1;
  if (!(numBlocks <= 2 ** 53 / blockSize))
    return `it claims ${lastBlock} blocks of ${blockSize} bytes: not a size a disk can have`;
  if ((long.data[12] & 0x01) !== 0)
    return 'it is formatted with protection information; only formats without are served';
  const physical = blockSize * 2 ** exponent;
  return {
    blockSize,
    physicalBlockSize: physical <= 65536 ? physical : blockSize,
    numBlocks,
    provisioned: (flags & 0x80) !== 0,
    zeroes: (flags & 0x40) !== 0,
  };
}

/** WCE of the caching page (SBC-3 6.4.5) in MODE SENSE(6) data without block descriptors, or with. */
function cachingOf(data: Uint8Array): boolean {
  if (data.length < 4) return false;
  for (let at = 4 + data[3]; at + 2 < data.length; at += 2 + data[at + 1]) {
    if ((data[at] & 0x3f) === 0x08) return (data[at + 2] & 0x04) !== 0;
  }
  return false;
}

/** From the unit's own designator (VPD 83h, association LUN: NAA or EUI-64), else its serial number, else its place. */
function uuidOf(page: Uint8Array | undefined, serial: string, place: string): string {
  let identity = serial === '' ? place : `serial ${serial}`;
  for (let at = 4; page !== undefined && at + 4 <= page.length; at += 4 + page[at + 3]) {
    const type = page[at + 1] & 0x0f;
    const association = (page[at + 1] >> 4) & 3;
    if (association === 0 && (type === 3 || type === 2)) {
      identity = `designator ${Buffer.from(page.subarray(at + 4, at + 4 + page[at + 3])).toString('hex')}`;
      break;
    }
  }
  const digest = createHash('sha1').update(`scsi unit ${identity}`).digest();
  digest[6] = (digest[6] & 0x0f) | 0x50;
  digest[8] = (digest[8] & 0x3f) | 0x80;
  const h = digest.toString('hex');
  return `${h.slice(0, 8)}-${h.slice(8, 12)}-${h.slice(12, 16)}-${h.slice(16, 20)}-${h.slice(20, 32)}`;
}
