import { Memory } from '../../memory/memory.ts';
import { SgList } from '../../memory/sg-list.ts';
import type { DeviceModel, ModelQueue } from '../../vhost/device-model.ts';
import type { RunningRing } from '../../vhost/running-ring.ts';
import { featureMask, VirtioFeature } from '../../virtio/features.ts';
import { MESSAGE_QUEUES } from './appliance-transport.ts';

/**
 * The vvu device that the appliance sees, as a device model: rxq gives the driver messages, txq takes its own, one whole message in a
 * buffer. The other queues carry notifications only; nothing is ever in their rings.
 */

const MAX_MESSAGE = 4096;
/** Segments of a buffer. */
const SEGMENTS = 64;

export interface RelayModelEvents {
  /** A message from the driver; a copy, valid during the call. */
  fromDriver(message: Uint8Array): void;
  /** Messages were taken by the driver: there is room for more. */
  taken(): void;
  /** rxq or txq was stopped: the driver has gone. */
  stopped(): void;
}

export class RelayModel implements DeviceModel {
  readonly name = 'relay';
  readonly features = featureMask(VirtioFeature.VERSION_1);
  readonly featureBits = {};
  readonly maxQueues: number;
  readonly configBytes = 0;
  /** For the driver, oldest first. */
  readonly outbox: Uint8Array[] = [];
  readonly events: RelayModelEvents;
  received = 0;
  sent = 0;

  constructor(vrings: number, events: RelayModelEvents) {
    this.maxQueues = MESSAGE_QUEUES + vrings;
    this.events = events;
  }

  readConfig(): null {
    return null;
  }

  writeConfig(): string {
    return 'there is no configuration';
  }

  setFeatures(): void {}

  startQueue(ring: RunningRing): ModelQueue {
    if (ring.index === 0) return new RxQueue(ring, this);
    return ring.index === 1 ? new TxQueue(ring, this) : IDLE_QUEUE;
  }

  describe(): Record<string, unknown> {
    return { received: this.received, sent: this.sent, waiting: this.outbox.length };
  }

  close(): void {
    this.outbox.length = 0;
  }
}

const IDLE_QUEUE: ModelQueue = { poll: () => 0, arm: () => false, disarm: () => {}, stopped: () => {} };

abstract class MessageQueue implements ModelQueue {
  protected readonly ring: RunningRing;
  protected readonly model: RelayModel;
  protected readonly out = new SgList(SEGMENTS);
  protected readonly into = new SgList(SEGMENTS);
  protected readonly scratch = new Memory(new ArrayBuffer(MAX_MESSAGE));

  constructor(ring: RunningRing, model: RelayModel) {
    this.ring = ring;
    this.model = model;
  }

  abstract poll(budget: number): number;
  abstract arm(): boolean;

  disarm(): void {
    this.ring.ring.suppressNotifications();
  }

  stopped(): void {
    this.out.forget();
    this.into.forget();
    this.model.events.stopped();
  }
}

class RxQueue extends MessageQueue {
  poll(budget: number): number {
    const { outbox } = this.model;
    let n = 0;
    while (n < budget && outbox.length > 0) {
      const head = this.ring.next();
      if (head < 0 || !this.ring.read(head, this.out, this.into)) break;
      const message = outbox[0];
      if (this.out.bytes > 0 || this.into.bytes < message.length) {
        this.ring.fail(head, `a buffer of ${this.into.bytes} bytes for a message of ${message.length}`);
        break;
      }
      outbox.shift();
      this.scratch.u8.set(message);
      this.into.scatter(0, this.scratch, 0, message.length);
      this.ring.complete(head, message.length);
      this.model.sent++;
      n++;
    }
    if (n > 0) this.model.events.taken();
    return n;
  }

  arm(): boolean {
    // Buffers are of no use while there is nothing to put in them.
    return this.model.outbox.length > 0 && this.ring.ring.armNotifications();
  }
}

class TxQueue extends MessageQueue {
  poll(budget: number): number {
    let n = 0;
    while (n < budget) {
      const head = this.ring.next();
      if (head < 0 || !this.ring.read(head, this.out, this.into)) break;
      const bytes = this.out.bytes;
      if (this.into.bytes > 0 || bytes > MAX_MESSAGE) {
        this.ring.fail(head, `a message of ${bytes} bytes, with ${this.into.bytes} to be written`);
        break;
      }
      this.out.gather(0, this.scratch, 0, bytes);
      this.ring.complete(head, 0);
      this.model.received++;
      n++;
      this.model.events.fromDriver(this.scratch.u8.subarray(0, bytes));
    }
    return n;
  }

  arm(): boolean {
    return this.ring.ring.armNotifications();
  }
}
