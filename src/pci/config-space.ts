import { defineStruct } from '../memory/struct-table.ts';

/**
 * Configuration space of a function, and the walk of its capability list. Whoever can read and write bytes of it (a
 * sysfs file, a VFIO region, an array in a test) gives a {@link ConfigAccess}; everything read is the device's word
 * and may be a lie.
 */

/** Bytes of configuration space, little-endian. Offsets are in range: the callers here check them. */
export interface ConfigAccess {
  /** Bytes that can be read: 64 (unprivileged), 256 or 4096. */
  readonly size: number;
  /** @throws SysError */
  read(offset: number, width: 1 | 2 | 4): number;
  /** @throws SysError */
  write(offset: number, width: 1 | 2 | 4, value: number): void;
}

/** Type 0 header. */
export const PCI_HEADER = defineStruct('pci_header', 'PCI 3.0 §6.1', 64, {
  vendor: [0x00, 'u16'],
  device: [0x02, 'u16'],
  command: [0x04, 'u16'],
  status: [0x06, 'u16'],
  revision: [0x08, 'u8'],
  class_prog: [0x09, 'u8'],
  class_sub: [0x0a, 'u8'],
  class_base: [0x0b, 'u8'],
  cache_line_size: [0x0c, 'u8'],
  latency_timer: [0x0d, 'u8'],
  header_type: [0x0e, 'u8'],
  bist: [0x0f, 'u8'],
  bar0: [0x10, 'u32'],
  bar1: [0x14, 'u32'],
  bar2: [0x18, 'u32'],
  bar3: [0x1c, 'u32'],
  bar4: [0x20, 'u32'],
  bar5: [0x24, 'u32'],
  cardbus_cis: [0x28, 'u32'],
  subsystem_vendor: [0x2c, 'u16'],
  subsystem: [0x2e, 'u16'],
  expansion_rom: [0x30, 'u32'],
  capabilities: [0x34, 'u8'],
  reserved: [0x35, 'bytes', 7],
  interrupt_line: [0x3c, 'u8'],
  interrupt_pin: [0x3d, 'u8'],
  min_gnt: [0x3e, 'u8'],
  max_lat: [0x3f, 'u8'],
});

const AT = PCI_HEADER.fields;

/** Command register bits. */
export const PCI_COMMAND_MEMORY = 0x2;
export const PCI_COMMAND_MASTER = 0x4;
export const PCI_COMMAND_INTX_DISABLE = 0x400;
/** Status register: there is a capability list. */
const PCI_STATUS_CAP_LIST = 0x10;

/** Capability ids (PCI Code and ID assignment). */
export const PciCap = { PM: 0x01, MSI: 0x05, VENDOR: 0x09, PCIE: 0x10, MSIX: 0x11, AF: 0x13 } as const;

/** A list longer than this is a loop: 48 capabilities of 4 bytes fill the 192 bytes there are. */
const MAX_CAPABILITIES = 48;

export interface Capability {
  readonly id: number;
  /** Where it begins in configuration space. */
  readonly offset: number;
}

/**
 * The capability list, in the device's order. The walk ends at the first impossible pointer: loops, pointers into the
 * header, beyond the end or not on a dword are refused by an Error that says where (the device lies or has gone).
 */
export function capabilities(config: ConfigAccess, bdf: string): Capability[] {
  const status = config.read(AT.status[0], 2);
  if (status === 0xffff) throw new Error(`${bdf}: configuration space reads all ones: the device has gone`);
  if ((status & PCI_STATUS_CAP_LIST) === 0) return [];
  const found: Capability[] = [];
  const seen = new Set<number>();
  let at = config.read(AT.capabilities[0], 1) & ~3;
  let from: number = AT.capabilities[0];
  while (at !== 0) {
    const where = `capability pointer 0x${at.toString(16)} at 0x${from.toString(16)}`;
    if (at < PCI_HEADER.size) throw new Error(`${bdf}: ${where} points into the header`);
    if (at + 2 > Math.min(config.size, 256)) {
      throw new Error(`${bdf}: ${where} is beyond the ${config.size} bytes of configuration space that can be read`);
    }
    if (seen.has(at) || found.length >= MAX_CAPABILITIES) throw new Error(`${bdf}: ${where} makes the list a loop`);
    seen.add(at);
    const id = config.read(at, 1);
    if (id === 0xff) throw new Error(`${bdf}: ${where} names no capability`);
    found.push({ id, offset: at });
    from = at + 1;
    at = config.read(from, 1) & ~3;
  }
  return found;
}

/** Bytes `offset` to `offset + bytes - 1` as a private copy. @throws Error when they are not in configuration space. */
export function readConfig(config: ConfigAccess, offset: number, bytes: number): Uint8Array {
  if (offset + bytes > config.size) {
    throw new Error(`configuration space ends at ${config.size}, ${bytes} bytes at ${offset} were asked for`);
  }
  const copy = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) copy[i] = config.read(offset + i, 1);
  return copy;
}

export interface MsixInfo {
  /** Number of vectors, 1 to 2048. */
  readonly vectors: number;
  readonly tableBar: number;
  /** Byte offset of the vector table in its BAR. */
  readonly tableOffset: number;
}

/** The MSI-X capability (PCI 3.0 §6.8.2), or undefined. */
export function msixInfo(config: ConfigAccess, caps: readonly Capability[]): MsixInfo | undefined {
  const cap = caps.find((c) => c.id === PciCap.MSIX);
  if (cap === undefined || cap.offset + 12 > config.size) return undefined;
  const control = config.read(cap.offset + 2, 2);
  const table = config.read(cap.offset + 4, 4);
  return { vectors: (control & 0x7ff) + 1, tableBar: table & 7, tableOffset: (table & ~7) >>> 0 };
}

/** Set and clear bits of the command register; other bits stay. */
export function setCommand(config: ConfigAccess, set: number, clear = 0): void {
  const now = config.read(AT.command[0], 2);
  const next = (now & ~clear) | set;
  if (next !== now) config.write(AT.command[0], 2, next);
}

/** Configuration space in a plain array: for tests, and for private copies. */
export class ByteConfig implements ConfigAccess {
  readonly bytes: Uint8Array;
  private readonly view: DataView;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get size(): number {
    return this.bytes.length;
  }

  read(offset: number, width: 1 | 2 | 4): number {
    if (width === 1) return this.view.getUint8(offset);
    return width === 2 ? this.view.getUint16(offset, true) : this.view.getUint32(offset, true);
  }

  write(offset: number, width: 1 | 2 | 4, value: number): void {
    if (width === 1) this.view.setUint8(offset, value);
    else if (width === 2) this.view.setUint16(offset, value, true);
    else this.view.setUint32(offset, value, true);
  }
}
