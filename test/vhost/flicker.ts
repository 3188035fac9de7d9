/**
 * A guest's memory that is exchanged under a running vring, as behind a vvu device: between passes, or in the middle of one when
 * somebody looks at it. What is written to the memory in its place is not the guest's.
 */
import type { Memory } from '../../src/memory/memory.ts';
import type { SharedGuest } from '../support/front-end-memory.ts';
import { assert } from '../support/suite.ts';

/** What comes in its place. */
export type Impostor = 'zeroes' | 'garbage' | 'likeness';

export class Flicker {
  /** Times the memory went away in the middle of a pass. */
  middles = 0;
  /** What the likeness has different: called when its bytes are those of the guest. */
  disguise: () => void = () => {};
  private readonly guest: SharedGuest;
  /** Guest address of the used index, by which the ring knows its memory. */
  private readonly usedIdx: number;
  private saved: Uint8Array[] | null = null;
  private found: Uint8Array[] = [];
  private countdown = -1;
  private next: Impostor = 'zeroes';

  constructor(guest: SharedGuest, usedIdx: number) {
    this.guest = guest;
    this.usedIdx = usedIdx;
    for (const region of guest.regions) this.watch(region.memory);
  }

  get away(): boolean {
    return this.saved !== null;
  }

  /** Each look at the words of this memory is a moment at which the guest's may go away. */
  watch(memory: Memory): void {
    let words = memory.u32;
    Object.defineProperty(memory, 'u32', {
      get: () => {
        this.tick();
        return words;
      },
      set: (views) => {
        words = views;
      },
    });
  }

  /** After so many moments more. */
  leaveAfter(moments: number, impostor: Impostor): void {
    this.countdown = moments;
    this.next = impostor;
  }

  readonly tick = (): void => {
    if (this.countdown < 0 || --this.countdown >= 0) return;
    this.middles++;
    this.leave(this.next);
  };

  leave(impostor: Impostor): void {
    this.countdown = -1;
    if (this.saved !== null) return;
    const { guest } = this;
    const index = guest.u16(this.usedIdx);
    this.saved = guest.snapshot();
    for (const { memory } of guest.regions) {
      if (impostor === 'zeroes') memory.u8.fill(0);
      else if (impostor === 'garbage') for (let i = 0; i < memory.length; i++) memory.u8[i] = (i * 0x9e37_79b1) >>> 23;
    }
    if (impostor === 'likeness') this.disguise();
    if (guest.u16(this.usedIdx) === index) guest.u16(this.usedIdx, (index + 0x4321) & 0xffff);
    this.look();
  }

  /** From here on nothing may be written. */
  look(): void {
    this.found = this.guest.snapshot();
  }

  untouched(): void {
    this.guest.regions.forEach((r, i) => {
      assert.ok(
        Buffer.compare(r.memory.u8, this.found[i] as Uint8Array) === 0,
        'something was written while it was away',
      );
    });
  }

  back(): void {
    this.countdown = -1;
    this.guest.regions.forEach((r, i) => {
      if (this.saved !== null) r.memory.u8.set(this.saved[i] as Uint8Array);
    });
    this.saved = null;
  }
}
