import { logger } from '../../sys/log.ts';
import { MASTER_UP, SLAVE_UP, type VvuDevice } from './device.ts';
import type { Link, LinkEvents } from './link.ts';

const log = logger('vvu');

/**
 * The link of devices with a status register (forks). The driver raises SLAVE_UP; the device answers with MASTER_UP when a front
 * end is connected, and clears both when it drops the link.
 *
 * A dropped link is mostly a *soft* one: the device refused a message (QEMU 7.1 and later send one such a vring) and keeps the
 * socket open. Raising SLAVE_UP again continues the stream where it was, so nothing is reset and nothing forgotten.
 */

/** How often SLAVE_UP is raised in a row before waiting: a front end that came and went meanwhile shows as a drop each. */
const RAISES = 8;

export class StatusLink implements Link {
  up = false;
  private readonly device: VvuDevice;
  private readonly events: LinkEvents;
  private bounces = 0;

  constructor(device: VvuDevice, events: LinkEvents) {
    this.device = device;
    this.events = events;
  }

  begin(): void {
    this.up = false;
    this.check();
  }

  check(): void {
    const status = this.device.linkStatus;
    if (this.up) {
      if ((status & MASTER_UP) !== 0) return;
      // What the device received before the drop belongs to the session that there was.
      if (!this.events.drainMessages()) return;
      this.bounces++;
      const reason = 'the device dropped the link';
      if (this.raise()) {
        log('%s, and goes on (%d times now)', reason, this.bounces);
        this.events.linkInterrupted(reason);
      } else {
        this.up = false;
        this.events.linkDown('the front end has gone');
      }
    } else if ((status & MASTER_UP) !== 0 || ((status & SLAVE_UP) === 0 && this.raise())) {
      this.up = true;
      this.events.linkUp();
    }
  }

  /** @returns whether a front end is connected */
  private raise(): boolean {
    for (let i = 0; i < RAISES; i++) {
      this.device.raiseLink();
      const status = this.device.linkStatus;
      if ((status & MASTER_UP) !== 0) return true;
      if ((status & SLAVE_UP) !== 0) return false;
    }
    return false;
  }

  intercept(): boolean {
    return false;
  }

  /** These devices can't close the socket. The stream goes on with a new session, which answers what it can. */
  hangUp(): void {}

  end(then: () => void): void {
    then();
  }

  get hint(): string | null {
    if (this.up) return null;
    return 'no front end is connected; if one is running, it connected before this device was ready: restart that VM, or the appliance';
  }
}
