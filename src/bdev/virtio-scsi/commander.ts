import { ioAddressOf } from '../../memory/io-address.ts';
import type { QueueClient } from '../../pci/reactor-queue.ts';
import { ScsiEnd } from './command-ring.ts';
import type { ScsiRequestQueue } from './request-queue.ts';

/**
 * Commands of the main thread, for finding out what is there: one promise each, data through bounce buffers. It borrows a request queue
 * and gives it back.
 */

export interface Answer {
  /** 0: GOOD; other SAM statuses, ScsiEnd.TRANSPORT or an Ended as they come. */
  readonly status: number;
  /** With TRANSPORT: the virtio response. */
  readonly response: number;
  readonly senseKey: number;
  /** ASC << 8 | ASCQ */
  readonly senseCode: number;
  /** Private copy of what was received: shorter than asked for by the residual. */
  readonly data: Uint8Array;
}

export class Commander implements QueueClient {
  private readonly queue: ScsiRequestQueue;
  private readonly pending = new Map<number, { resolve: (a: Answer) => void; buffer: number; bytes: number }>();
  private waiting: (() => void)[] = [];

  constructor(queue: ScsiRequestQueue) {
    this.queue = queue;
    queue.attach(this);
  }

  /** @param fill writes the CDB at the offset. @param bytes of data-in */
  async send(target: number, lun: number, fill: (cdb: Uint8Array, at: number) => void, bytes = 0): Promise<Answer> {
    for (;;) {
      const started = this.tryStart(target, lun, fill, bytes);
      if (started !== null) return started;
      await new Promise<void>((resolve) => {
        this.waiting.push(resolve);
      });
    }
  }

  private tryStart(
    target: number,
    lun: number,
    fill: (cdb: Uint8Array, at: number) => void,
    bytes: number,
  ): Promise<Answer> | null {
    if (this.queue.dead !== 0) return Promise.resolve(nothing(this.queue.dead));
    const buffer = this.queue.takeBounce();
    if (buffer < 0) return null;
    const slot = this.queue.allocate();
    if (slot < 0) {
      this.queue.giveBounce(buffer);
      return null;
    }
    const { pair, bounce } = this.queue;
    fill(pair.slots.u8, pair.cdbAt(slot));
    if (bytes > 0) {
      bounce.u8.fill(0, buffer, buffer + bytes);
      // One page at most: it is in one piece.
      pair.data[slot].pushAddress(ioAddressOf(bounce, buffer), bytes);
    }
    return new Promise<Answer>((resolve) => {
      this.pending.set(slot, { resolve, buffer, bytes });
      this.queue.submit(slot, target, lun, false, this);
    });
  }

  commandDone(slot: number, status: number, result: number): void {
    const mine = this.pending.get(slot);
    this.pending.delete(slot);
    if (mine === undefined) return;
    const { pair, bounce } = this.queue;
    const length = status === ScsiEnd.GOOD ? Math.max(0, mine.bytes - result) : 0;
    const check = status === ScsiEnd.CHECK_CONDITION;
    const answer: Answer = {
      status,
      response: status === ScsiEnd.TRANSPORT ? result : 0,
      senseKey: check ? pair.senseKey(slot) : 0,
      senseCode: check ? pair.senseCode(slot) : 0,
      data: bounce.u8.slice(mine.buffer, mine.buffer + length),
    };
    this.queue.giveBounce(mine.buffer);
    mine.resolve(answer);
  }

  resume(): void {
    for (const wake of this.waiting.splice(0)) wake();
  }

  close(): void {
    this.queue.close(this);
  }
}

function nothing(status: number): Answer {
  return { status, response: 0, senseKey: 0, senseCode: 0, data: new Uint8Array(0) };
}
