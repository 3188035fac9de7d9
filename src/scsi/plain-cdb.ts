import { BdevOp } from '../bdev/bdev.ts';

/**
 * READ and WRITE (10) and (16) with nothing special about them, read straight from the words of a command header in shared
 * memory: what is loaded is loaded once, and only the result is kept. Everything else is not plain, and `Lun.execute` judges it.
 */

// Own copies of what the hot path uses: a constant of another module is loaded and checked at each use.
const READ = BdevOp.READ;
const WRITE = BdevOp.WRITE;

const READ10 = 0x28;
const WRITE10 = 0x2a;
const READ16 = 0x88;
const WRITE16 = 0x8a;

/** A big-endian 32-bit field of a CDB that begins one byte into `low`: bytes 1 to 3 of it and byte 0 of `high`. */
function straddling(low: number, high: number): number {
  return (((low & 0xff00) << 16) | (low & 0xff_0000) | ((low >>> 16) & 0xff00) | (high & 0xff)) >>> 0;
}

/** A CDB as it was read last. */
export class PlainCdb {
  op: BdevOp = READ;
  /** Below 2^32. */
  lba = 0;
  /** Never 0. */
  blocks = 0;

  /**
   * @param code the operation code
   * @param words where word `at` holds CDB bytes 1 to 4, byte 1 in its lowest bits
   * @returns false when the command is not plain
   */
  read(code: number, words: Uint32Array, at: number): boolean {
    const a = words[at]; // CDB bytes 1 to 4
    const b = words[at + 1]; // 5 to 8
    const c = words[at + 2]; // 9 to 12
    if ((a & 0xff) !== 0) return false; // RDPROTECT, DPO, FUA
    let control: number;
    if (code === READ10 || code === WRITE10) {
      this.lba = straddling(a, b);
      this.blocks = ((b >>> 8) & 0xff00) | (b >>> 24);
      control = c & 0xff;
    } else if (code === READ16 || code === WRITE16) {
      const d = words[at + 3]; // 13 to 16
      if (straddling(a, b) !== 0) return false;
      this.lba = straddling(b, c);
      this.blocks = straddling(c, d);
      control = (d >>> 16) & 0xff;
    } else return false;
    this.op = (code & 2) === 0 ? READ : WRITE;
    return control === 0 && this.blocks !== 0;
  }
}
