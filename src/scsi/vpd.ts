import { physicalExponent } from './capacity.ts';
import { VENDOR } from './identity.ts';
import {
  MAX_COMPARE_AND_WRITE_BLOCKS,
  MAX_UNMAP_BLOCKS,
  MAX_UNMAP_DESCRIPTORS,
  MAX_WRITE_SAME_BYTES,
} from './limits.ts';
import type { Lun } from './lun.ts';
import { localNaa, uuidBytes } from './names.ts';
import type { ResponseWriter } from './response-writer.ts';

/**
 * Vital product data (SPC-4 7.8, SBC-3 6.5): one writer a page. Block limits say what the handlers enforce; both come
 * from limits.ts.
 */

type PageWriter = (w: ResponseWriter, lun: Lun) => void;

/** In ascending order, as page 00h lists them. */
const PAGES: readonly { page: number; write: PageWriter; needs?: (lun: Lun) => boolean }[] = [
  { page: 0x00, write: supportedPages },
  { page: 0x80, write: (w, lun) => w.text(serial(lun)) },
  { page: 0x83, write: deviceIdentification },
  { page: 0x85, write: () => {} }, // no management network address
  { page: 0x86, write: extendedInquiry },
  { page: 0x87, write: (w) => w.u32(0x3fff_0000) }, // all pages and subpages: shared
  { page: 0x88, write: scsiPorts },
  { page: 0xb0, write: blockLimits },
  { page: 0xb1, write: blockDeviceCharacteristics },
  { page: 0xb2, write: logicalBlockProvisioning, needs: (lun) => lun.info.unmap },
];

/** Compose a page. @returns false when there is no such page here */
export function writeVpdPage(w: ResponseWriter, lun: Lun, page: number): boolean {
  const row = PAGES.find((p) => p.page === page && (p.needs?.(lun) ?? true));
  if (row === undefined) return false;
  w.start().u8(0x00).u8(page).u16(0);
  row.write(w, lun);
  w.patch16(2, w.length - 4);
  return true;
}

function supportedPages(w: ResponseWriter, lun: Lun): void {
  for (const p of PAGES) if (p.needs?.(lun) ?? true) w.u8(p.page);
}

/** UNIT SERIAL NUMBER: the disk's name, at most 32 characters. */
function serial(lun: Lun): string {
  return lun.info.name.slice(0, 32);
}

/** Append a designation descriptor. @param association 0 logical unit, 1 target port, 2 target device */
function designator(w: ResponseWriter, codeSet: number, association: number, type: number, body: () => void): void {
  const at = w.length;
  w.u8(codeSet)
    .u8((association << 4) | type)
    .u8(0)
    .u8(0);
  body();
  w.patch8(at + 3, w.length - at - 4);
}

const BINARY = 1;
const ASCII = 2;

function deviceIdentification(w: ResponseWriter, lun: Lun): void {
  const naa = localNaa(lun.info.uuid);
  // The unit: an NAA name, T10 vendor id, and its uuid. udev takes the T10 one, as it doesn't know NAA 3: the uuid is in
  // there too, since two targets may both have a Malloc0.
  designator(w, BINARY, 0, 0x3, () => w.u32(naa.hi).u32(naa.lo));
  designator(w, ASCII, 0, 0x1, () => w.text(VENDOR, 8).text(lun.info.product, 16).text(lun.info.uuid));
  designator(w, BINARY, 0, 0xa, () => w.u8(0x10).u8(0).bytes(uuidBytes(lun.info.uuid)));
  // The port and the device it is reached through. Their names are for people: vendor specific, as SCSI name strings
  // begin with iqn., naa. or eui. (SPC-4 7.8.6.11).
  designator(w, BINARY, 1, 0x4, () => w.u16(0).u16(lun.relativePort));
  designator(w, ASCII, 1, 0x0, () => w.text(lun.portName));
  designator(w, ASCII, 2, 0x0, () => w.text(lun.targetName));
}

function extendedInquiry(w: ResponseWriter, lun: Lun): void {
  w.u8(0x00) // no protection information, microcode activation not told
    .u8(0x07) // ORDSUP, HEADSUP, SIMPSUP
    .u8(lun.info.writeCache ? 0x01 : 0x00) // V_SUP: there is a volatile cache
    .u8(0x00) // LUICLR 0
    .zeros(56);
}

function scsiPorts(w: ResponseWriter, lun: Lun): void {
  w.zeros(2)
    .u16(lun.relativePort)
    .zeros(2)
    .u16(0) // no initiator port TransportID
    .zeros(2);
  const at = w.length;
  w.u16(0);
  designator(w, ASCII, 1, 0x0, () => w.text(lun.portName));
  w.patch16(at, w.length - at - 2);
}

function blockLimits(w: ResponseWriter, lun: Lun): void {
  const { info } = lun;
  const granularity = 2 ** physicalExponent(info);
  w.u8(0x01) // WSNZ: WRITE SAME of "the rest" is refused
    .u8(maxCompareAndWrite(lun))
    .u16(granularity) // optimal transfer length granularity
    .u32(lun.maxTransfer)
    .u32(lun.maxTransfer) // optimal transfer length
    .u32(0) // no prefetch limit
    .u32(info.unmap ? MAX_UNMAP_BLOCKS : 0)
    .u32(info.unmap ? MAX_UNMAP_DESCRIPTORS : 0)
    .u32(info.unmap ? granularity : 0) // optimal unmap granularity
    .u32(info.unmap ? 0x8000_0000 : 0) // UGAVALID, alignment 0
    .u64(maxWriteSame(lun))
    .zeros(20); // no atomic writes
}

export function maxCompareAndWrite(lun: Lun): number {
  return Math.min(MAX_COMPARE_AND_WRITE_BLOCKS, Math.floor(lun.maxTransfer / 2));
}

export function maxWriteSame(lun: Lun): number {
  return Math.floor(MAX_WRITE_SAME_BYTES / lun.info.blockSize);
}

function blockDeviceCharacteristics(w: ResponseWriter, lun: Lun): void {
  w.u16(lun.info.nonRotational ? 1 : 0).zeros(58);
}

function logicalBlockProvisioning(w: ResponseWriter, lun: Lun): void {
  w.u8(0) // no threshold
    .u8(0xe0 | (lun.info.unmapZeroes ? 0x04 : 0)) // LBPU, LBPWS, LBPWS10, LBPRZ
    .u8(0x02) // thin provisioned
    .u8(0);
}
