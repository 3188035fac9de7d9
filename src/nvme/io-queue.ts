import type { Memory } from '../memory/memory.ts';
import { adoptDma } from '../pci/dma.ts';
import { claimQueue, type QueueClient, type QueueLoop, ReactorQueue } from '../pci/reactor-queue.ts';
import { QueuePair } from './queue-pair.ts';
import type { NvmeQueueShare, NvmeShare } from './share.ts';

/** A reactor's I/O queue pair of a controller, shared by its channels to the controller's namespaces. */

/** The queues of this thread, by controller. */
const open = new Map<string, NvmeIoQueue>();

export class NvmeIoQueue extends ReactorQueue<QueuePair> {
  /** A page a command. */
  readonly lists: Memory;

  /** The thread's queue of this controller; claimed at the first use. @throws Error when none is free */
  static open(share: NvmeShare, loop: QueueLoop): NvmeIoQueue {
    let queue = open.get(share.key);
    if (queue === undefined) {
      queue = new NvmeIoQueue(share, loop);
      open.set(share.key, queue);
    }
    return queue;
  }

  private constructor(share: NvmeShare, loop: QueueLoop) {
    const index = claimQueue(share.board, share.name, 'num_io_queues');
    const queue = share.queues[index] as NvmeQueueShare;
    super(
      { ...share, index, wakeFd: queue.wakeFd, interrupts: queue.interrupts, bounce: adoptDma(queue.bounce) },
      loop,
      (owner, left) => {
        const place = {
          id: queue.id,
          entries: queue.entries,
          sq: adoptDma(queue.sq),
          cq: adoptDma(queue.cq),
          doorbells: adoptDma(share.bar),
          tailDoorbell: queue.tailDoorbell,
          headDoorbell: queue.headDoorbell,
        };
        const pair = new QueuePair(place, owner);
        if (left !== undefined) pair.resumeAt(left);
        return pair;
      },
      () => open.delete(share.key),
    );
    this.lists = adoptDma(queue.lists);
  }

  /** A command slot, as QueuePair.allocate; -1 also while the controller is being reset. */
  allocate(opcode: number, nsid: number): number {
    return this.open ? this.pair.allocate(opcode, nsid) : -1;
  }

  /** The command goes out with the next poll. */
  submit(cid: number, client: QueueClient): void {
    this.own(cid, client);
    this.pair.submit(cid, this.now);
  }
}
