/**
 * A range of this process's address space with a count of the views over it. The one rule: while any view is alive in
 * any thread, the range stays mapped to something, so that no late access can fault the process.
 *
 * An ArrayBuffer over unmapped memory looks alive, and touching it is SIGSEGV, which nothing can catch. Therefore
 * retiring a range puts anonymous memory in place of what was there: late reads see zeroes, late writes go nowhere.
 * The overlay reserves no memory (a page table at most), only addresses; and those go back too, when the garbage
 * collector has taken the last view. The count lies in shared memory because workers make views of their own. (A
 * worker that ends keeps its count: its ranges stay overlaid, which costs addresses only, of which there are 128
 * TiB.)
 */
import { MADV, MAP, PROT } from './constants.ts';
import { sysError } from './errno.ts';
import * as libc from './libc.ts';
import { logger } from './log.ts';

const log = logger('sys');

/** Survives structured clone between the threads of one process; worthless in another process. */
export interface RangeShare {
  readonly start: number;
  readonly length: number;
  /** One Int32: views alive in all threads, plus RETIRED. */
  readonly state: SharedArrayBuffer;
}

const RETIRED = 0x4000_0000;

export class AddressRange {
  /** First byte and length; both multiples of the page size of what is mapped there. */
  readonly start: number;
  readonly length: number;
  private readonly state: Int32Array;
  private static readonly collected = new FinalizationRegistry<AddressRange>((range) => range.drop());

  constructor(start: number, length: number, state = new SharedArrayBuffer(4)) {
    this.start = start;
    this.length = length;
    this.state = new Int32Array(state);
  }

  static adopt(share: RangeShare): AddressRange {
    return new AddressRange(share.start, share.length, share.state);
  }

  share(): RangeShare {
    return { start: this.start, length: this.length, state: this.state.buffer as SharedArrayBuffer };
  }

  get retired(): boolean {
    return Atomics.load(this.state, 0) >= RETIRED;
  }

  /** A view of part of the range, or undefined when it is retired. */
  view(address: number, bytes: number): ArrayBuffer | undefined {
    if (!this.hold()) return undefined;
    const buffer = libc.viewOf(address, bytes);
    AddressRange.collected.register(buffer, this);
    return buffer;
  }

  /** Count a view; false when the range is retired (and perhaps somebody else's by now). */
  private hold(): boolean {
    for (;;) {
      const now = Atomics.load(this.state, 0);
      if (now >= RETIRED) return false;
      if (Atomics.compareExchange(this.state, 0, now, now + 1) === now) return true;
    }
  }

  /** A view is gone; the last one of a retired range gives the addresses back. */
  private drop(): void {
    if (Atomics.sub(this.state, 0, 1) === RETIRED + 1) libc.munmap(this.start, this.length);
  }

  /** End of use, once, by the owner of the mapping. What was mapped is unmapped when this returns. */
  retire(): void {
    if (Atomics.compareExchange(this.state, 0, 0, RETIRED) === 0) {
      libc.munmap(this.start, this.length);
      return;
    }
    // The overlay must stand before others may see RETIRED: whoever drops the last view after that unmaps the range.
    this.overlay();
    if (Atomics.add(this.state, 0, RETIRED) === 0) libc.munmap(this.start, this.length);
  }

  private overlay(): void {
    const flags = MAP.PRIVATE | MAP.ANONYMOUS | MAP.FIXED | MAP.NORESERVE;
    if (libc.mmap(this.start, this.length, PROT.READ | PROT.WRITE, flags, -1, 0) >= 0) {
      // Late writes must not be backed by huge pages, nor the range be dumped.
      libc.madvise(this.start, this.length, MADV.NOHUGEPAGE);
      libc.madvise(this.start, this.length, MADV.DONTDUMP);
      return;
    }
    // Strict overcommit refuses writable memory it cannot promise; read-only costs nothing.
    if (libc.mmap(this.start, this.length, PROT.READ, flags, -1, 0) < 0) {
      log.warn('%d bytes stay mapped: %s', this.length, sysError('mmap').message);
    }
  }
}
