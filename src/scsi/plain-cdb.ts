/**
 * READ and WRITE (10) and (16) with nothing special about them, read straight from the words of a command header in shared
 * memory: what is loaded is loaded once, and only the result is kept. Everything else is not plain, and `Lun.execute` judges it.
 */

/** The writing ones, 0x2a and 0x8a, differ by bit 1. */
const READ10 = 0x28;
const READ16 = 0x88;

/** A big-endian 32-bit field of a CDB that begins one byte into `low`: bytes 1 to 3 of it and byte 0 of `high`. Signed. */
function straddling(low: number, high: number): number {
  return ((low & 0xff00) << 16) | (low & 0xff_0000) | ((low >>> 16) & 0xff00) | (high & 0xff);
}

/** A CDB as it was read last. All fields are 32-bit words, which V8 keeps as small integers. */
export class PlainCdb {
  /** 1 for a READ, whose data goes in; 0 for a WRITE. */
  dataIn = 1;
  /** First block; `>>> 0` is the number. */
  lba = 0;
  /** 1 to 2^31 - 1. */
  blocks = 0;

  /**
   * @param code the operation code
   * @param words where word `at` holds CDB bytes 1 to 4, byte 1 in its lowest bits
   * @returns false when the command is not plain
   */
  read(code: number, words: Uint32Array, at: number): boolean {
    const a = words[at] | 0; // CDB bytes 1 to 4
    const b = words[(at + 1) | 0] | 0; // 5 to 8
    const c = words[(at + 2) | 0] | 0; // 9 to 12
    if ((a & 0xff) !== 0) return false; // RDPROTECT, DPO, FUA
    let blocks: number;
    let control: number;
    if ((code & ~2) === READ10) {
      this.lba = straddling(a, b);
      blocks = ((b >>> 8) & 0xff00) | (b >>> 24);
      control = c & 0xff;
    } else if ((code & ~2) === READ16) {
      const d = words[(at + 3) | 0] | 0; // 13 to 16
      if (straddling(a, b) !== 0) return false;
      this.lba = straddling(b, c);
      blocks = straddling(c, d);
      control = (d >>> 16) & 0xff;
    } else return false;
    this.dataIn = ((code >>> 1) & 1) ^ 1;
    this.blocks = blocks;
    return control === 0 && blocks > 0;
  }
}
