import type { Memory } from '../memory/memory.ts';
import { isInHugePages } from '../sys/mapping.ts';
import { absentBytes, machineRam, type Ram } from '../sys/ram.ts';

/**
 * How far this process goes to let devices reach the memory that a front end has announced. Pinning allocates every page of it, and takes the
 * reactor's time; a sparse file of terabytes costs its owner nothing. What is refused here is bounced, nothing worse.
 *
 * The rule: a part of the machine's memory stays available, and a reactor is held up for a bounded time.
 */

/** This part of the machine's memory stays available. */
const LEFT = 1 / 4;
/** Pinning may hold up a reactor for so long in one go: a device that is reset meanwhile waits twice as long for it. Milliseconds. */
const GO_MS = 5000;
/** It may again at this part of the time that passes. */
const REFILL = 1 / 20;

/** After a refusal for want of memory, what is no smaller is refused unseen for so long: a table of thousands comes in one go. Milliseconds. */
const REFUSED_MS = 100;

/** What is asked of the machine; tests have one of their own. */
export interface Surroundings {
  ram(): Ram | null;
  /** Bytes that pinning would have to allocate; or more than `enough`. */
  absent(memory: Memory, enough: number): number;
  inHugePages(memory: Memory): boolean;
  /** Milliseconds. */
  now(): number;
}

export const MACHINE: Surroundings = {
  ram: machineRam,
  absent: absentBytes,
  inHugePages: isInHugePages,
  now: () => performance.now(),
};

const mib = (bytes: number) => `${Math.floor(bytes / 2 ** 20)} MiB`;

/** Of one thread. */
export class DmaAllowance {
  private readonly around: Surroundings;
  private left = GO_MS;
  private seen: number;
  /** The last refusal for want of memory. */
  private refused = { until: 0, bytes: 0, reason: '' };

  constructor(around: Surroundings = MACHINE) {
    this.around = around;
    this.seen = around.now();
  }

  /** Pin the memory by `add`, if that is to be afforded. @returns what `add` does, or why it was not called */
  spend(memory: Memory, add: () => string | null): string | null {
    const start = this.around.now();
    this.left = Math.min(GO_MS, this.left + (start - this.seen) * REFILL);
    this.seen = start;
    try {
      return this.refusal(memory) ?? add();
    } finally {
      this.seen = this.around.now();
      this.left -= this.seen - start;
    }
  }

  private refusal(memory: Memory): string | null {
    // Cheap, and first: thousands of pieces may come at once.
    if (this.left <= 0) {
      return `pinning memory of VMs has held up this reactor for more than ${GO_MS / 1000} s: give them huge pages, or memory that is allocated before (prealloc=on)`;
    }
    // The kernel reserved them for their owner when it mapped them.
    if (this.around.inHugePages(memory)) return null;
    const { until, bytes, reason } = this.refused;
    if (this.around.now() < until && memory.length >= bytes) return reason;
    const ram = this.around.ram();
    if (ram === null) return null;
    const most = Math.max(0, ram.available - ram.total * LEFT);
    if (memory.length <= most || this.around.absent(memory, most) <= most) return null;
    this.refused = {
      until: this.around.now() + REFUSED_MS,
      bytes: memory.length,
      reason: `pinning it would leave less than a quarter of this machine's ${mib(ram.total)} of memory: ${mib(ram.available)} are available`,
    };
    return this.refused.reason;
  }
}
