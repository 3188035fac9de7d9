import { createHash } from 'node:crypto';
import { defineStruct } from '../memory/struct-table.ts';

/**
 * What a controller and its namespaces say of themselves (NVMe Base 2.0 §5.17), parsed from private copies and checked:
 * a value the driver relies on is either plausible or refused with the device's name and the value.
 */

export const IDENTIFY_BYTES = 4096;

/** Identify Controller, the parts in use; the rest is filled up so that the table covers the structure. */
export const IDENTIFY_CONTROLLER = defineStruct('identify_controller', 'NVMe Base 2.0 Figure 275', IDENTIFY_BYTES, {
  vid: [0, 'u16'],
  ssvid: [2, 'u16'],
  sn: [4, 'bytes', 20],
  mn: [24, 'bytes', 40],
  fr: [64, 'bytes', 8],
  rab: [72, 'u8'],
  ieee: [73, 'bytes', 3],
  cmic: [76, 'u8'],
  mdts: [77, 'u8'],
  cntlid: [78, 'u16'],
  ver: [80, 'u32'],
  rtd3r: [84, 'u32'],
  rtd3e: [88, 'u32'],
  oaes: [92, 'u32'],
  ctratt: [96, 'u32'],
  unused1: [100, 'bytes', 156],
  oacs: [256, 'u16'],
  acl: [258, 'u8'],
  aerl: [259, 'u8'],
  unused2: [260, 'bytes', 252],
  sqes: [512, 'u8'],
  cqes: [513, 'u8'],
  maxcmd: [514, 'u16'],
  nn: [516, 'u32'],
  oncs: [520, 'u16'],
  fuses: [522, 'u16'],
  fna: [524, 'u8'],
  vwc: [525, 'u8'],
  awun: [526, 'u16'],
  awupf: [528, 'u16'],
  icsvscc: [530, 'u8'],
  nwpc: [531, 'u8'],
  acwu: [532, 'u16'],
  cdfs: [534, 'u16'],
  sgls: [536, 'u32'],
  mnan: [540, 'u32'],
  unused3: [544, 'bytes', 224],
  subnqn: [768, 'bytes', 256],
  unused4: [1024, 'bytes', 3072],
});

/** Identify Namespace (NVM command set). */
export const IDENTIFY_NAMESPACE = defineStruct('identify_namespace', 'NVM Command Set 1.0 Figure 97', IDENTIFY_BYTES, {
  nsze: [0, 'u64'],
  ncap: [8, 'u64'],
  nuse: [16, 'u64'],
  nsfeat: [24, 'u8'],
  nlbaf: [25, 'u8'],
  flbas: [26, 'u8'],
  mc: [27, 'u8'],
  dpc: [28, 'u8'],
  dps: [29, 'u8'],
  nmic: [30, 'u8'],
  rescap: [31, 'u8'],
  fpi: [32, 'u8'],
  dlfeat: [33, 'u8'],
  unused1: [34, 'bytes', 30],
  npwg: [64, 'u16'],
  unused2: [66, 'bytes', 33],
  nsattr: [99, 'u8'],
  unused3: [100, 'bytes', 4],
  nguid: [104, 'bytes', 16],
  eui64: [120, 'bytes', 8],
  /** 64 formats of 4 bytes: metadata size, log2 of the data size, relative performance. */
  lbaf: [128, 'bytes', 256],
  unused4: [384, 'bytes', 3712],
});

const C = IDENTIFY_CONTROLLER.fields;
const N = IDENTIFY_NAMESPACE.fields;

/** ONCS bits. */
const ONCS_COMPARE = 1;
const ONCS_DSM = 4;
const ONCS_WRITE_ZEROES = 8;
/** OAES bit: namespace attribute notices. */
const OAES_NAMESPACE = 0x100;
/** Largest MDTS we take at its word: 2^20 pages is 4 GiB. */
const MAX_MDTS = 20;

export interface ControllerInfo {
  readonly vendorId: number;
  readonly serial: string;
  readonly model: string;
  readonly firmware: string;
  readonly subnqn: string;
  /** `major.minor.tertiary` of VER. */
  readonly version: string;
  /** Bytes of one command's data, at most; Infinity when the controller sets no limit. */
  readonly maxTransfer: number;
  readonly namespaces: number;
  /** Abort commands that may be outstanding. */
  readonly aborts: number;
  readonly volatileWriteCache: boolean;
  readonly compare: boolean;
  readonly datasetManagement: boolean;
  readonly writeZeroes: boolean;
  readonly namespaceNotices: boolean;
  /** 'none', 'dword' (addresses and lengths multiples of 4) or 'byte' */
  readonly sgl: 'none' | 'dword' | 'byte';
  /** Microseconds the controller may take to shut down, 0 when it does not say. */
  readonly shutdownMicroseconds: number;
}

export interface NamespaceInfo {
  readonly nsid: number;
  /** Bytes: 512 to 65536, a power of two. */
  readonly blockSize: number;
  /** Bytes that the device writes best; a multiple of blockSize. */
  readonly physicalBlockSize: number;
  readonly numBlocks: number;
  /** RFC 4122 text: the namespace's own, or one made from what identifies it, the same at every start. */
  readonly uuid: string;
  /** Deallocated blocks read as zeroes. */
  readonly deallocatedReadsZero: boolean;
  /** WRITE ZEROES may deallocate (its DEAC bit). */
  readonly zeroesDeallocate: boolean;
  readonly readOnly: boolean;
}

function ascii(bytes: Uint8Array, at: number, length: number): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset + at, length).toString('latin1');
  // Device strings may hold anything: what is no printable ASCII becomes a space.
  return text.replace(/[^ -~]/g, ' ').trim();
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * @param bytes private copy of the structure
 * @param pageSize the controller's smallest memory page (MDTS counts in it)
 * @throws Error that names the device and the value it can't be driven with
 */
export function parseController(bytes: Uint8Array, pageSize: number, name: string): ControllerInfo {
  const v = view(bytes);
  const sqes = v.getUint8(C.sqes[0]);
  const cqes = v.getUint8(C.cqes[0]);
  if ((sqes & 15) > 6 || sqes >> 4 < 6) {
    throw new Error(
      `${name}: submission queue entries of 2^${sqes & 15} to 2^${sqes >> 4} bytes (SQES); the driver needs 2^6`,
    );
  }
  if ((cqes & 15) > 4 || cqes >> 4 < 4) {
    throw new Error(
      `${name}: completion queue entries of 2^${cqes & 15} to 2^${cqes >> 4} bytes (CQES); the driver needs 2^4`,
    );
  }
  const mdts = v.getUint8(C.mdts[0]);
  const ver = v.getUint32(C.ver[0], true);
  const oncs = v.getUint16(C.oncs[0], true);
  const sgls = v.getUint32(C.sgls[0], true) & 3;
  return {
    vendorId: v.getUint16(C.vid[0], true),
    serial: ascii(bytes, C.sn[0], 20),
    model: ascii(bytes, C.mn[0], 40),
    firmware: ascii(bytes, C.fr[0], 8),
    subnqn: ascii(bytes, C.subnqn[0], 256),
    version: `${ver >>> 16}.${(ver >>> 8) & 0xff}.${ver & 0xff}`,
    maxTransfer: mdts === 0 ? Number.POSITIVE_INFINITY : pageSize * 2 ** Math.min(mdts, MAX_MDTS),
    namespaces: v.getUint32(C.nn[0], true),
    aborts: v.getUint8(C.acl[0]) + 1,
    volatileWriteCache: (v.getUint8(C.vwc[0]) & 1) !== 0,
    compare: (oncs & ONCS_COMPARE) !== 0,
    datasetManagement: (oncs & ONCS_DSM) !== 0,
    writeZeroes: (oncs & ONCS_WRITE_ZEROES) !== 0,
    namespaceNotices: (v.getUint32(C.oaes[0], true) & OAES_NAMESPACE) !== 0,
    sgl: sgls === 1 ? 'byte' : sgls === 2 ? 'dword' : 'none',
    shutdownMicroseconds: v.getUint32(C.rtd3e[0], true),
  };
}

function hex(bytes: Uint8Array, at: number, length: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + at, length).toString('hex');
}

function uuidText(digits: string): string {
  return `${digits.slice(0, 8)}-${digits.slice(8, 12)}-${digits.slice(12, 16)}-${digits.slice(16, 20)}-${digits.slice(20, 32)}`;
}

const ALL_ZERO = /^0*$/;

/** Namespace Identification Descriptors (§5.17.2.4): entries {type, length, 2 reserved, value}; the UUID's digits or ''. */
export function uuidOfDescriptors(bytes: Uint8Array): string {
  for (let at = 0; at + 4 <= bytes.length; ) {
    const type = bytes[at] as number;
    const length = bytes[at + 1] as number;
    if (length === 0 || at + 4 + length > bytes.length) return '';
    if (type === 3 && length === 16) return hex(bytes, at + 4, 16);
    at += 4 + length;
  }
  return '';
}

/**
 * A namespace, or undefined when the id is not in use (size 0).
 * @param descriptors the identification descriptors, or undefined when the controller has none
 * @throws Error for formats the driver refuses, and for values that can't be
 */
export function parseNamespace(
  bytes: Uint8Array,
  nsid: number,
  controller: ControllerInfo,
  descriptors: Uint8Array | undefined,
  name: string,
): NamespaceInfo | undefined {
  const v = view(bytes);
  const size = v.getBigUint64(N.nsze[0], true);
  if (size === 0n) return undefined;
  const who = `${name}: namespace ${nsid}`;
  if (size > BigInt(2 ** 52)) throw new Error(`${who} claims ${size} blocks: not a size a disk can have`);
  const flbas = v.getUint8(N.flbas[0]);
  const index = (flbas & 15) | ((flbas >> 1) & 0x30);
  if (index > v.getUint8(N.nlbaf[0]))
    throw new Error(`${who} uses LBA format ${index}, of ${v.getUint8(N.nlbaf[0]) + 1}`);
  const format = N.lbaf[0] + 4 * index;
  const metadata = v.getUint16(format, true);
  const shift = v.getUint8(format + 2);
  if (metadata !== 0 || (v.getUint8(N.dps[0]) & 7) !== 0) {
    throw new Error(
      `${who} is formatted with ${metadata} bytes of metadata a block; only formats without are served (nvme format --lbaf picks one)`,
    );
  }
  if (shift < 9 || shift > 16) throw new Error(`${who} has blocks of 2^${shift} bytes; 512 to 65536 are served`);
  const blockSize = 2 ** shift;
  const numBlocks = Number(size);
  if (numBlocks > 2 ** 53 / blockSize) throw new Error(`${who} claims ${size} blocks of ${blockSize} bytes: too large`);
  // NSFEAT bit 4: NPWG and its neighbours are filled in. 0's based.
  const granularity = (v.getUint8(N.nsfeat[0]) & 0x10) !== 0 ? v.getUint16(N.npwg[0], true) + 1 : 1;
  const physical = blockSize * granularity;
  return {
    nsid,
    blockSize,
    physicalBlockSize: Number.isInteger(Math.log2(physical)) && physical <= 65536 ? physical : blockSize,
    numBlocks,
    uuid: uuidOf(bytes, nsid, controller, descriptors),
    deallocatedReadsZero: (v.getUint8(N.dlfeat[0]) & 7) === 1,
    zeroesDeallocate: (v.getUint8(N.dlfeat[0]) & 8) !== 0,
    readOnly: (v.getUint8(N.nsattr[0]) & 1) !== 0,
  };
}

function uuidOf(
  bytes: Uint8Array,
  nsid: number,
  controller: ControllerInfo,
  descriptors: Uint8Array | undefined,
): string {
  const own = descriptors === undefined ? '' : uuidOfDescriptors(descriptors);
  if (!ALL_ZERO.test(own)) return uuidText(own);
  const nguid = hex(bytes, N.nguid[0], 16);
  if (!ALL_ZERO.test(nguid)) return uuidText(nguid);
  const eui64 = hex(bytes, N.eui64[0], 8);
  const identity = ALL_ZERO.test(eui64)
    ? `${controller.vendorId}/${controller.serial}/${controller.model}/${nsid}`
    : eui64;
  const digest = createHash('sha1').update(`nvme namespace ${identity}`).digest();
  digest[6] = ((digest[6] as number) & 0x0f) | 0x50; // version 5: a name's hash
  digest[8] = ((digest[8] as number) & 0x3f) | 0x80;
  return uuidText(digest.toString('hex'));
}

/** The list of Identify CNS 02h: ids ascending, ended by 0. A list out of order is cut there: the rest is not believed. */
export function parseNamespaceList(bytes: Uint8Array): number[] {
  const v = view(bytes);
  const ids: number[] = [];
  for (let at = 0; at + 4 <= bytes.length; at += 4) {
    const id = v.getUint32(at, true);
    if (id === 0 || id >= 0xffff_fffe || (ids.length > 0 && id <= (ids[ids.length - 1] as number))) break;
    ids.push(id);
  }
  return ids;
}
