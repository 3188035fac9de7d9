import type { EventLoop } from '../sys/event-loop.ts';
import { logger } from '../sys/log.ts';
import type { InflightRequest } from './commands.ts';

/**
 * Says when a guest waits for too long: a hung disk is otherwise a hung guest without a word. One line for the oldest
 * request, and again only when that has become twice as old.
 */

const log = logger('reactor');

/** How often it looks, ms. */
const EVERY_MS = 10_000;
/** Age that is worth a line, ms. Linux resets a disk's request after 30 s; virtio disks wait for ever. */
const SLOW_MS = 30_000;

export class SlowRequestWatch {
  private readonly loop: EventLoop;
  private readonly inflight: () => InflightRequest[];
  private sayFrom = SLOW_MS;

  constructor(loop: EventLoop, inflight: () => InflightRequest[]) {
    this.loop = loop;
    this.inflight = inflight;
    this.next();
  }

  private next(): void {
    this.loop.after(EVERY_MS, () => {
      this.look();
      this.next();
    });
  }

  /** @returns whether a line was written */
  look(): boolean {
    const waiting = this.inflight();
    if (waiting.length === 0) {
      this.sayFrom = SLOW_MS;
      return false;
    }
    const oldest = waiting.reduce((a, b) => (b.age_ms > a.age_ms ? b : a));
    if (oldest.age_ms < SLOW_MS) {
      this.sayFrom = SLOW_MS;
      return false;
    }
    if (oldest.age_ms < this.sayFrom) return false;
    this.sayFrom = oldest.age_ms * 2;
    const seconds = Math.round(oldest.age_ms / 1000);
    log.warn(
      `${oldest.ctrlr}: ${oldest.opcode}${oldest.target === null ? '' : ` of target ${oldest.target}`} has waited for its ${oldest.where} for ${seconds} s; ` +
        `vhost_get_inflight shows all ${waiting.length}`,
    );
    return true;
  }
}
