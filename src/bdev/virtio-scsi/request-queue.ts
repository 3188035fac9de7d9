import { ioAddressOf } from '../../memory/io-address.ts';
import type { Memory } from '../../memory/memory.ts';
import { adoptDma } from '../../pci/dma.ts';
import { claimQueue, type QueueClient, type QueueLoop, ReactorQueue } from '../../pci/reactor-queue.ts';
import type { IndirectTables } from '../../virtio/driver-ring.ts';
import { bellOf } from './bell.ts';
import { type RingParts, ScsiCommandRing } from './command-ring.ts';
import { makeRing } from './queue-memory.ts';
import type { ScsiQueueShare, ScsiShare } from './share.ts';

/** A reactor's request queue of an adapter, shared by its channels to the adapter's units. */

/** The queues of this thread, by adapter. */
const open = new Map<string, ScsiRequestQueue>();

function ringOf(
  queue: ScsiQueueShare,
  loop: QueueLoop,
  left: readonly [number, number, number] | undefined,
): RingParts {
  const desc = adoptDma(queue.desc);
  const avail = adoptDma(queue.avail);
  const used = adoptDma(queue.used);
  let tables: IndirectTables | undefined;
  if (queue.tables !== null) {
    const memory = adoptDma(queue.tables.memory);
    const addressOf = (offset: number) => ioAddressOf(memory, offset);
    tables = { memory, offset: 0, addressOf, entries: queue.tables.entries };
  }
  // The main thread cleared the rings before it told the device of them: from then on they are only gone on with.
  const make = (base: number) => makeRing(queue.size, queue.eventIdx, desc, avail, used, tables, base);
  return {
    index: queue.index,
    ring: make(left === undefined ? 0 : left[0]),
    renew: () => make(0),
    slots: adoptDma(queue.slots),
    segments: queue.segments,
    indirect: queue.tables !== null,
    notify: bellOf(queue.bell),
    later: (ms, fn) => {
      loop.after(ms, fn);
    },
  };
}

export class ScsiRequestQueue extends ReactorQueue<ScsiCommandRing> {
  readonly index: number;
  private readonly zeroes: Memory;
  private readonly units = new Map<number, (code: number) => void>();

  /** The thread's queue of this adapter; claimed at the first use. @throws Error when none is free */
  static open(share: ScsiShare, loop: QueueLoop): ScsiRequestQueue {
    let queue = open.get(share.key);
    if (queue === undefined) {
      queue = new ScsiRequestQueue(share, loop);
      open.set(share.key, queue);
    }
    return queue;
  }

  private constructor(share: ScsiShare, loop: QueueLoop) {
    const index = claimQueue(share.board, share.name, 'vq_count');
    const queue = share.queues[index] as ScsiQueueShare;
    super(
      { ...share, index, wakeFd: queue.wakeFd, interrupts: queue.interrupts, bounce: adoptDma(queue.bounce) },
      loop,
      (owner, left) => new ScsiCommandRing(ringOf(queue, loop, left), owner),
      () => open.delete(share.key),
    );
    this.index = index;
    this.zeroes = adoptDma(queue.zeroes);
    this.pair.onAttention = (target, lun, code) => this.units.get(target * 65536 + lun)?.(code);
  }

  /** Tell somebody of a unit's attention conditions (ASC << 8 | ASCQ). */
  onUnit(target: number, lun: number, fn: (code: number) => void): void {
    this.units.set(target * 65536 + lun, fn);
  }

  offUnit(target: number, lun: number): void {
    this.units.delete(target * 65536 + lun);
  }

  /** A block of zeroes as the slot's data. */
  addZeroes(slot: number, bytes: number): void {
    this.pair.data[slot].pushAddress(ioAddressOf(this.zeroes, 0), bytes);
  }

  /** A slot, or -1 when all are taken or the adapter is being reset. */
  allocate(): number {
    return this.open ? this.pair.allocate() : -1;
  }

  /** The command goes out with the next poll. */
  submit(slot: number, target: number, lun: number, write: boolean, client: QueueClient): void {
    this.own(slot, client);
    this.pair.submit(slot, target, lun, write, this.now);
  }
}
