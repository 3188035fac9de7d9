import { ioAddressOf } from '../memory/io-address.ts';
import type { DmaBuffer } from '../pci/dma.ts';
import { type AdminDone, AdminQueue } from './admin-queue.ts';
import type { Capabilities } from './capabilities.ts';
import { AdminOpcode, CQE_BYTES, FeatureId, putAddress, SQE_BYTES, SqeWord } from './commands.ts';
import type { NvmeDevice } from './device.ts';
import { type AsyncEvent, EventRequest } from './events.ts';
import { Identifier } from './namespaces.ts';
import type { QueueMemory } from './queue-memory.ts';
import { DOORBELL_BASE, type NvmeRegisters } from './registers.ts';

/** The admin queue with its memory, and the commands that the driver sends over it, one method each. */

const ADMIN_ENTRIES = 32;

export class AdminCommands {
  readonly queue: AdminQueue;
  readonly identifier: Identifier;
  readonly events: EventRequest;
  private readonly memory: DmaBuffer[] = [];
  private readonly clock: () => number;

  /** @throws Error of the allocator; nothing is left allocated then */
  constructor(
    device: NvmeDevice,
    capabilities: Capabilities,
    clock: () => number,
    onEvent: (event: AsyncEvent) => void,
  ) {
    this.clock = clock;
    const take = (bytes: number) => {
      const buffer = device.dma.allocate(bytes, true);
      this.memory.push(buffer);
      return buffer;
    };
    try {
      const tailDoorbell = DOORBELL_BASE >> 2;
      this.queue = new AdminQueue({
        id: 0,
        entries: ADMIN_ENTRIES,
        sq: take(ADMIN_ENTRIES * SQE_BYTES).memory,
        cq: take(ADMIN_ENTRIES * CQE_BYTES).memory,
        doorbells: device.bar,
        tailDoorbell,
        headDoorbell: tailDoorbell + (capabilities.doorbellStride >> 2),
      });
      this.identifier = new Identifier(this.queue, take(4096), clock, device.name);
      this.events = new EventRequest(this.queue, take(4096), clock, onEvent);
    } catch (error) {
      this.free();
      throw error;
    }
  }

  /** Tell the (disabled) controller where the admin queue is. */
  program(registers: NvmeRegisters): void {
    const [sq, cq] = this.memory as [DmaBuffer, DmaBuffer];
    registers.write('AQA', (ADMIN_ENTRIES - 1) | ((ADMIN_ENTRIES - 1) << 16));
    registers.write64('ASQ', ioAddressOf(sq.memory, 0));
    registers.write64('ACQ', ioAddressOf(cq.memory, 0));
  }

  /** @param done status, and how many I/O queue pairs are granted */
  setQueueCount(wanted: number, done: (status: number, granted: number) => void): void {
    const fill = (words: Uint32Array, base: number) => {
      words[base + SqeWord.CDW10] = FeatureId.NUMBER_OF_QUEUES;
      words[base + SqeWord.CDW11] = (wanted - 1) | ((wanted - 1) << 16);
    };
    const answer = (status: number, dw0: number) =>
      done(status, Math.min((dw0 & 0xffff) + 1, (dw0 >>> 16) + 1, wanted));
    this.send(AdminOpcode.SET_FEATURES, fill, answer);
  }

  /** Ask for notices when namespaces change. A refusal costs the notices only. */
  wantNamespaceNotices(): void {
    const fill = (words: Uint32Array, base: number) => {
      words[base + SqeWord.CDW10] = FeatureId.ASYNC_EVENT_CONFIGURATION;
      words[base + SqeWord.CDW11] = 0x100;
    };
    this.send(AdminOpcode.SET_FEATURES, fill, () => {});
  }

  /** Create the completion queue, then the submission queue. @param done what failed, or '', and its status */
  createQueue(queue: QueueMemory, interrupts: boolean, done: (what: string, status: number) => void): void {
    const size = (queue.entries - 1) * 65536 + queue.id;
    const completion = (words: Uint32Array, base: number) => {
      putAddress(words, base + SqeWord.PRP1, ioAddressOf(queue.cq.memory, 0));
      words[base + SqeWord.CDW10] = size;
      words[base + SqeWord.CDW11] = interrupts ? (queue.id << 16) | 3 : 1; // vector, IEN, PC
    };
    const submission = (words: Uint32Array, base: number) => {
      putAddress(words, base + SqeWord.PRP1, ioAddressOf(queue.sq.memory, 0));
      words[base + SqeWord.CDW10] = size;
      words[base + SqeWord.CDW11] = (queue.id << 16) | 1; // its completion queue, PC
    };
    this.send(AdminOpcode.CREATE_IO_CQ, completion, (status) => {
      if (status !== 0) return done(`create completion queue ${queue.id}`, status);
      this.send(AdminOpcode.CREATE_IO_SQ, submission, (answer) =>
        done(answer === 0 ? '' : `create submission queue ${queue.id}`, answer),
      );
    });
  }

  abort(queueId: number, cid: number, done: AdminDone): void {
    const fill = (words: Uint32Array, base: number) => {
      words[base + SqeWord.CDW10] = queueId | (cid << 16);
    };
    this.send(AdminOpcode.ABORT, fill, done);
  }

  private send(opcode: number, fill: (words: Uint32Array, base: number) => void, done: AdminDone): void {
    this.queue.send(opcode, 0, fill, done, this.clock());
  }

  /** Only when the device can touch none of it. */
  free(): void {
    for (const buffer of this.memory.splice(0)) buffer.free();
  }
}
