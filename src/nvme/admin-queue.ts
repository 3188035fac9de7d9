import { AdminOpcode, SQE_WORDS } from './commands.ts';
import { type CommandOwner, QueuePair, type QueuePairPlace } from './queue-pair.ts';

/**
 * The admin queue: commands of the main thread, each with a callback and a time limit. Control path only. Callbacks
 * come from {@link poll} and {@link abandon}, once each.
 */

/** @param status NvmeStatus, or Ended when the controller was reset or lost */
export type AdminDone = (status: number, dw0: number) => void;

interface Waiting {
  readonly opcode: number;
  readonly nsid: number;
  readonly fill: (words: Uint32Array, base: number) => void;
  readonly done: AdminDone;
}

const NAMES = new Map<number, string>(Object.entries(AdminOpcode).map(([name, code]) => [code, name]));

export class AdminQueue implements CommandOwner {
  private readonly pair: QueuePair;
  private readonly callbacks: (AdminDone | null)[];
  private readonly opcodes: Uint8Array;
  private waiting: Waiting[] = [];

  constructor(place: QueuePairPlace) {
    this.pair = new QueuePair(place, this);
    this.callbacks = new Array<AdminDone | null>(this.pair.depth).fill(null);
    this.opcodes = new Uint8Array(this.pair.depth);
  }

  get broken(): string | null {
    return this.pair.broken;
  }

  /** Commands sent or waiting, but for the one that always waits (the asynchronous event request). */
  get outstanding(): number {
    let n = this.waiting.length;
    for (let cid = 0; cid < this.pair.depth; cid++) {
      if (this.pair.isBusy(cid) && this.opcodes[cid] !== AdminOpcode.ASYNC_EVENT_REQUEST) n++;
    }
    return n;
  }

  /** @param fill writes the command's words; `base` is the index of CDW0 */
  send(
    opcode: number,
    nsid: number,
    fill: (words: Uint32Array, base: number) => void,
    done: AdminDone,
    now: number,
  ): void {
    const cid = this.pair.allocate(opcode, nsid);
    if (cid < 0) {
      this.waiting.push({ opcode, nsid, fill, done });
      return;
    }
    fill(this.pair.words, cid * SQE_WORDS);
    this.callbacks[cid] = done;
    this.opcodes[cid] = opcode;
    this.pair.submit(cid, now);
    this.pair.ring();
  }

  poll(now: number): number {
    const done = this.pair.poll();
    while (this.waiting.length > 0 && this.pair.canSubmit) {
      const next = this.waiting.shift() as Waiting;
      this.send(next.opcode, next.nsid, next.fill, next.done, now);
    }
    return done;
  }

  commandDone(cid: number, status: number, dw0: number): void {
    const done = this.callbacks[cid] ?? null;
    this.callbacks[cid] = null;
    done?.(status, dw0);
  }

  /** Name of a command that was sent before `time` and is not answered, or null. Event requests may wait for ever. */
  overdue(time: number): string | null {
    for (let cid = this.pair.olderThan(time); cid >= 0; cid = this.pair.olderThan(time, cid + 1)) {
      if (this.opcodes[cid] !== AdminOpcode.ASYNC_EVENT_REQUEST)
        return NAMES.get(this.opcodes[cid] as number) ?? 'command';
    }
    return null;
  }

  /** As QueuePair.forgive. */
  forgive(ns: number): void {
    this.pair.forgive(ns);
  }

  /** The controller forgets the queue: answer everything with this status and begin anew on zeroed rings. */
  abandon(status: number, now: number): void {
    const waiting = this.waiting;
    this.waiting = [];
    this.pair.giveUp(status);
    for (const w of waiting) w.done(status, 0);
    this.pair.place.sq.u8.fill(0);
    this.pair.place.cq.u8.fill(0);
    this.pair.restart(now);
  }

  dump(): Record<string, unknown> {
    return this.pair.dump();
  }
}
