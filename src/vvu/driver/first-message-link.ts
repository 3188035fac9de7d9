import type { VvuDevice } from './device.ts';
import type { Link, LinkEvents } from './link.ts';

/**
 * The link of devices that never set MASTER_UP: the first message means that a front end is there, and a buffer that
 * comes back empty that it has gone.
 */
export class FirstMessageLink implements Link {
  up = false;
  private readonly device: VvuDevice;
  private readonly events: LinkEvents;

  constructor(device: VvuDevice, events: LinkEvents) {
    this.device = device;
    this.events = events;
  }

  begin(): void {
    this.up = false;
    this.device.raiseLink();
  }

  check(): void {}

  intercept(message: Uint8Array): boolean {
    if (message.length > 0) {
      if (!this.up) {
        this.up = true;
        this.events.linkUp();
      }
      return false;
    }
    if (this.up) {
      this.up = false;
      this.events.linkDown('the front end has gone');
    }
    return true;
  }

  hangUp(): void {}

  end(then: () => void): void {
    then();
  }

  get hint(): string | null {
    return this.up ? null : 'no front end has sent a message yet';
  }
}
