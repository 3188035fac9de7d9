/**
 * Reads what a dynamic linker reads of a 64-bit little-endian ELF file (System V ABI, gABI chapter 5; symbol versions:
 * LSB core, "Symbol Versioning"), and can take libraries away from a file. All offsets are file offsets.
 */

const PT = { LOAD: 1, DYNAMIC: 2, INTERP: 3 } as const;
const DT = {
  NULL: 0,
  NEEDED: 1,
  STRTAB: 5,
  SYMTAB: 6,
  VERSYM: 0x6ffffff0,
  VERNEED: 0x6ffffffe,
  VERNEEDNUM: 0x6fffffff,
  /** In the range for the operating system, known to none: loaders pass over it. */
  IGNORED: 0x6000000d,
} as const;
const STB_GLOBAL = 1;
const STB_WEAK = 2;
const VER_NDX_GLOBAL = 1;
const SYMBOL_BYTES = 24;

interface Segment {
  type: number;
  offset: number;
  address: number;
  bytes: number;
}

export class Elf {
  readonly bytes: Buffer;
  readonly #segments: Segment[] = [];
  readonly #dynamic: { at: number; tag: number; value: number }[] = [];

  /** The buffer is not copied. Throws when it is no such ELF file. */
  constructor(bytes: Buffer) {
    this.bytes = bytes;
    if (bytes.length < 64 || bytes.toString('latin1', 0, 6) !== '\x7fELF\x02\x01') {
      throw new Error('not a 64-bit little-endian ELF file');
    }
    const table = this.#u64(32);
    for (let i = 0; i < bytes.readUInt16LE(56); i++) {
      const at = table + i * bytes.readUInt16LE(54);
      this.#segments.push({
        type: bytes.readUInt32LE(at),
        offset: this.#u64(at + 8),
        address: this.#u64(at + 16),
        bytes: this.#u64(at + 32),
      });
    }
    const dynamic = this.#segments.find((s) => s.type === PT.DYNAMIC);
    for (let at = dynamic?.offset ?? 0; dynamic !== undefined; at += 16) {
      const tag = this.#u64(at);
      if (tag === DT.NULL) break;
      this.#dynamic.push({ at, tag, value: this.#u64(at + 8) });
    }
  }

  /** The loader this program asks for; null for a library or a static program. */
  get interpreter(): string | null {
    const segment = this.#segments.find((s) => s.type === PT.INTERP);
    return segment === undefined ? null : this.#string(segment.offset);
  }

  /** Names of the libraries this file is linked with. */
  get needed(): string[] {
    return this.#dynamic.filter((d) => d.tag === DT.NEEDED).map((d) => this.#string(this.#strings + d.value));
  }

  /**
   * Takes away the libraries the predicate names, in place. What they defined becomes weak and so resolves to zero: the
   * program starts without them, and only a call into one of them would fail. This is how a guest gets a disk tester
   * without the hundred megabytes of network storage clients that it can also drive.
   */
  removeLibraries(unwanted: (name: string) => boolean): void {
    for (const entry of this.#dynamic) {
      if (entry.tag === DT.NEEDED && unwanted(this.#string(this.#strings + entry.value))) {
        entry.tag = DT.IGNORED;
        this.bytes.writeBigUInt64LE(BigInt(DT.IGNORED), entry.at);
      }
    }
    const versions = this.#removeVersions(unwanted);
    this.#weaken(versions);
  }

  /** Unlinks the version requirements on the removed libraries; returns the version indices they used. */
  #removeVersions(unwanted: (name: string) => boolean): Set<number> {
    const removed = new Set<number>();
    const first = this.#dynamic.find((d) => d.tag === DT.VERNEED);
    const count = this.#dynamic.find((d) => d.tag === DT.VERNEEDNUM);
    if (first === undefined || count === undefined) return removed;
    const kept: number[] = [];
    let at = this.#fileOffset(first.value);
    for (let i = 0; i < count.value; i++) {
      // Verneed: version u16, cnt u16, file u32, aux u32, next u32
      if (!unwanted(this.#string(this.#strings + this.bytes.readUInt32LE(at + 4)))) kept.push(at);
      else {
        let aux = at + this.bytes.readUInt32LE(at + 8);
        for (let n = this.bytes.readUInt16LE(at + 2); n > 0; n--) {
          // Vernaux: hash u32, flags u16, other u16 (the index), name u32, next u32
          removed.add(this.bytes.readUInt16LE(aux + 6));
          aux += this.bytes.readUInt32LE(aux + 12);
        }
      }
      at += this.bytes.readUInt32LE(at + 12);
    }
    if (kept.length === 0) throw new Error('every versioned library would be removed, the C library too');
    const address = first.value + kept[0] - this.#fileOffset(first.value);
    this.bytes.writeBigUInt64LE(BigInt(address), first.at + 8);
    this.bytes.writeBigUInt64LE(BigInt(kept.length), count.at + 8);
    kept.forEach((place, i) => {
      this.bytes.writeUInt32LE(i + 1 < kept.length ? kept[i + 1] - place : 0, place + 12);
    });
    return removed;
  }

  #weaken(removedVersions: Set<number>): void {
    const at = (tag: number) => this.#dynamic.find((d) => d.tag === tag);
    const symbols = this.#fileOffset(at(DT.SYMTAB)!.value);
    // There is no count of symbols; the linkers put the string table right behind them.
    const end = this.#strings;
    const versions = at(DT.VERSYM);
    for (let i = 1; symbols + i * SYMBOL_BYTES < end; i++) {
      // Sym: name u32, info u8 (binding << 4 | type), other u8, section u16, value u64, size u64
      const symbol = symbols + i * SYMBOL_BYTES;
      const info = this.bytes[symbol + 4];
      if (this.bytes.readUInt16LE(symbol + 6) !== 0 || info >> 4 !== STB_GLOBAL) continue;
      this.bytes[symbol + 4] = (STB_WEAK << 4) | (info & 15);
      if (versions === undefined) continue;
      const place = this.#fileOffset(versions.value) + i * 2;
      if (removedVersions.has(this.bytes.readUInt16LE(place))) this.bytes.writeUInt16LE(VER_NDX_GLOBAL, place);
    }
  }

  get #strings(): number {
    const table = this.#dynamic.find((d) => d.tag === DT.STRTAB);
    if (table === undefined) throw new Error('ELF file has a dynamic section without a string table');
    return this.#fileOffset(table.value);
  }

  #fileOffset(address: number): number {
    const segment = this.#segments.find(
      (s) => s.type === PT.LOAD && address >= s.address && address < s.address + s.bytes,
    );
    if (segment === undefined) throw new Error(`ELF file has no bytes for address 0x${address.toString(16)}`);
    return address - segment.address + segment.offset;
  }

  #u64(at: number): number {
    return Number(this.bytes.readBigUInt64LE(at));
  }

  #string(at: number): string {
    return this.bytes.toString('latin1', at, this.bytes.indexOf(0, at));
  }
}
