import { type CommandRing, Ended, type QueueClient, type ReactorQueue } from '../pci/reactor-queue.ts';
import { type BdevShare, BdevStatus } from './bdev.ts';
import { CommandChannel, type CommandLimits } from './command-channel.ts';
import { BdevError } from './errors.ts';

/** A channel whose commands go through a reactor's queue of a device: the slots, bounce buffers and clock are the queue's. */
export abstract class QueueChannel<Q extends ReactorQueue<CommandRing>> extends CommandChannel implements QueueClient {
  readonly queue: Q;

  /** Parameters as of {@link CommandChannel}. @throws BdevError for blocks that bounce buffers can't hold */
  constructor(
    share: BdevShare,
    limits: CommandLimits,
    queue: Q,
    bounceBytes: number,
    dmaTable: SharedArrayBuffer | null,
  ) {
    const { blockSize } = share.info;
    if (bounceBytes % blockSize !== 0)
      throw new BdevError('ENOTSUP', `blocks of ${blockSize} bytes do not fit the bounce buffers`);
    super(share, limits, queue.pair.depth, queue.bounce, bounceBytes, dmaTable);
    this.queue = queue;
    queue.attach(this);
  }

  /** QueueClient: from the rings. */
  abstract commandDone(slot: number, status: number, result: number): void;

  poll(): number {
    return this.queue.poll();
  }

  protected now(): number {
    return this.queue.now;
  }

  protected health(): BdevStatus {
    if (this.queue.dead === 0) return BdevStatus.OK;
    return this.queue.dead === Ended.REMOVED ? BdevStatus.REMOVED : BdevStatus.IO_ERROR;
  }

  protected dropSlot(slot: number): void {
    this.queue.pair.unallocate(slot);
  }

  protected takeBounce(): number {
    return this.queue.takeBounce();
  }

  protected giveBounce(offset: number): void {
    this.queue.giveBounce(offset);
  }

  protected abort(): void {
    this.queue.abortAll(this);
  }

  protected release(): void {
    this.queue.close(this);
  }
}

/** The reactor's queue for a disk. @throws BdevError when none is free */
export function queueFor<Q>(share: BdevShare, open: () => Q): Q {
  try {
    return open();
  } catch (error) {
    throw new BdevError('EBUSY', `disk ${share.info.name}: ${(error as Error).message}`);
  }
}
