/**
 * The disk of one block controller, shared by all its front ends on one reactor. Its one rule: a disk that was removed
 * takes no new request at once, and is let go when its last one has ended. The device stays: its requests fail then.
 */
import type { BdevChannel, BdevInfo } from '../bdev/bdev.ts';
import type { EventLoop } from '../sys/event-loop.ts';

/** A front end's model, as the controller sees it. */
export interface BlkFrontEnd {
  /** The disk has another size. */
  capacityChanged(): void;
}

export class BlkController {
  readonly loop: EventLoop;
  /** What the disk is; its size is the present one. Stays when the disk has gone. */
  readonly info: BdevInfo;
  readonly readOnly: boolean;
  /** The way to the disk; null when it has gone. Requests read it. */
  channel: BdevChannel | null;
  /** Requests that the disk has. */
  outstanding = 0;
  /**
   * The cache mode as a driver set it last; on before any did. It outlives sessions: a QEMU that connects again shows its guest
   * what it had read at first.
   */
  writeback = true;
  private readonly frontEnds = new Set<BlkFrontEnd>();
  private whenIdle: (() => void) | null = null;

  constructor(loop: EventLoop, channel: BdevChannel, readOnly = false) {
    this.loop = loop;
    this.channel = channel;
    this.info = channel.info;
    this.readOnly = readOnly || channel.info.readOnly;
  }

  attach(frontEnd: BlkFrontEnd): void {
    this.frontEnds.add(frontEnd);
  }

  detach(frontEnd: BlkFrontEnd): void {
    this.frontEnds.delete(frontEnd);
  }

  /** The channel's `info` has the new size already. */
  capacityChanged(): void {
    for (const frontEnd of this.frontEnds) frontEnd.capacityChanged();
  }

  /** New requests go another way to the same disk. */
  replaceChannel(channel: BdevChannel): void {
    if (this.channel !== null) this.channel = channel;
  }

  /**
   * Take the disk away. @param done called once, when it has no request of ours any more (in a pass of its own)
   * @returns false when it has gone already
   */
  removeDisk(done: () => void): boolean {
    if (this.channel === null) return false;
    this.channel = null;
    this.whenIdle = () => {
      this.whenIdle = null;
      // Not from within the request that ended last: its disk may still be working on it.
      this.loop.defer(done);
    };
    if (this.outstanding === 0) this.whenIdle();
    return true;
  }

  /** A request has ended. Hot path. */
  release(): void {
    if (--this.outstanding === 0 && this.whenIdle !== null) this.whenIdle();
  }
}
