import { ioAddressOf } from '../../memory/io-address.ts';
import type { Memory } from '../../memory/memory.ts';
import type { DmaAllocator, DmaBuffer } from '../../pci/dma.ts';
import { HEADER_BYTES } from '../../vhost/messages.ts';
import { DriverRing } from '../../virtio/driver-ring.ts';
import { IoList } from '../../virtio/io-list.ts';
import { availBytes, descBytes, usedBytes } from '../../virtio/layout.ts';
import type { QueueAddresses } from '../../virtio/virtio-pci-common.ts';

/**
 * The vvu device's two virtqueues: rxq brings vhost-user messages, one in a buffer, and txq takes ours. The rules: a message is
 * copied before anything looks at it, and nothing leaves that is not exactly one whole message, because some devices stop
 * for good (and take their VM with them) at any other.
 */

/** Bytes of a buffer. The longest message of any device is below 700; one that did not fit would stop the device. */
export const BUFFER_BYTES = 4096;
export const RX_BUFFERS = 128;
export const TX_BUFFERS = 32;
/** Messages that wait for a free buffer; a front end has one question open at a time, so there are hardly ever any. */
const MAX_WAITING = 256;

/** One page holds a ring of this many entries with all its parts. */
export const MAX_RING = 128;

/** A queue's ring in a page of its own. */
class QueuePage {
  readonly buffer: DmaBuffer;
  readonly ring: DriverRing;
  readonly place: QueueAddresses;

  constructor(dma: DmaAllocator, size: number) {
    this.buffer = dma.allocate(4096, true);
    const { memory } = this.buffer;
    const avail = descBytes(size);
    const used = Math.ceil((avail + availBytes(size, false)) / 4) * 4;
    if (used + usedBytes(size, false) > memory.length) throw new Error(`a ring of ${size} does not fit in a page`);
    const part = (offset: number) => ({ memory, offset });
    const ring = DriverRing.create({ desc: part(0), avail: part(avail), used: part(used) }, { size, eventIdx: false });
    if (typeof ring === 'string') throw new Error(ring);
    this.ring = ring;
    const address = ioAddressOf(memory, 0);
    this.place = { desc: address, driver: address + avail, device: address + used };
  }
}

/** Ring size to set for a queue that offers `most`. */
export function ringSize(most: number): number {
  return Math.min(MAX_RING, 2 ** Math.floor(Math.log2(most)));
}

export class MessageQueues {
  readonly rxPlace: QueueAddresses;
  readonly txPlace: QueueAddresses;
  /** Messages received and sent. */
  received = 0;
  sent = 0;
  private readonly rxPage: QueuePage;
  private readonly txPage: QueuePage;
  private readonly rxBuffers: DmaBuffer;
  private readonly txBuffers: DmaBuffer;
  /** By head: which buffer it holds. */
  private readonly rxOf: Uint16Array;
  private readonly txOf: Uint16Array;
  private readonly txFree: number[] = [];
  private readonly waiting: Uint8Array[] = [];
  private readonly out = new IoList(1);
  private readonly into = new IoList(1);
  private readonly none = new IoList(1);
  private readonly copy = new Uint8Array(BUFFER_BYTES);
  private readonly notify: (queue: number) => void;

  /** @param notify tell the device that queue 0 (rx) or 1 (tx) has new buffers @throws Error without DMA memory */
  constructor(dma: DmaAllocator, rxSize: number, txSize: number, notify: (queue: number) => void) {
    this.notify = notify;
    this.rxPage = new QueuePage(dma, rxSize);
    this.txPage = new QueuePage(dma, txSize);
    this.rxPlace = this.rxPage.place;
    this.txPlace = this.txPage.place;
    this.rxOf = new Uint16Array(rxSize);
    this.txOf = new Uint16Array(txSize);
    this.rxBuffers = dma.allocate(Math.min(RX_BUFFERS, rxSize) * BUFFER_BYTES, false);
    this.txBuffers = dma.allocate(Math.min(TX_BUFFERS, txSize) * BUFFER_BYTES, false);
    for (let i = 0; i < Math.min(RX_BUFFERS, rxSize); i++) this.give(i);
    for (let i = Math.min(TX_BUFFERS, txSize) - 1; i >= 0; i--) this.txFree.push(i);
    this.rxPage.ring.publish();
  }

  /** Buffers are there: tell the device, once it is started. */
  begin(): void {
    this.notify(0);
  }

  private give(buffer: number): void {
    this.into.reset();
    this.into.pushAddress(ioAddressOf(this.rxBuffers.memory, buffer * BUFFER_BYTES), BUFFER_BYTES);
    this.rxOf[this.rxPage.ring.add(this.none, this.into, false)] = buffer;
  }

  /** The next message, a copy valid until the next call; or null. Its framing is the caller's to check. */
  receive(): Uint8Array | null {
    const { ring } = this.rxPage;
    const head = ring.poll();
    if (head < 0) return null;
    const buffer = this.rxOf[head];
    const length = ring.usedLength;
    const at = buffer * BUFFER_BYTES;
    this.copy.set(this.rxBuffers.memory.u8.subarray(at, at + length));
    this.give(buffer);
    if (ring.publish()) this.notify(0);
    this.received++;
    return this.copy.subarray(0, length);
  }

  /** Something has been received and not taken. */
  get hasReceived(): boolean {
    return this.rxPage.ring.arm();
  }

  /**
   * Send one whole message.
   * @throws Error when it is none (a bug of ours: better here than in the device)
   */
  send(message: Uint8Array): void {
    const size =
      message.length < HEADER_BYTES ? Number.NaN : new DataView(message.buffer, message.byteOffset).getUint32(8, true);
    if (message.length !== HEADER_BYTES + size || message.length > BUFFER_BYTES) {
      throw new Error(`a message of ${message.length} bytes whose header says ${size}`);
    }
    if (this.waiting.length >= MAX_WAITING) throw new Error('the device does not take messages any more');
    this.waiting.push(message);
    this.flush();
  }

  private flush(): void {
    const { ring } = this.txPage;
    while (this.waiting.length > 0 && this.txFree.length > 0) {
      const message = this.waiting.shift() as Uint8Array;
      const buffer = this.txFree.pop() as number;
      const { memory } = this.txBuffers;
      memory.u8.set(message, buffer * BUFFER_BYTES);
      this.out.reset();
      this.out.pushAddress(ioAddressOf(memory, buffer * BUFFER_BYTES), message.length);
      const head = ring.add(this.out, this.none, false);
      if (head < 0) return; // the ring is broken, and says so
      this.txOf[head] = buffer;
      this.sent++;
    }
    if (ring.publish()) this.notify(1);
  }

  /** Take sent buffers back. A used buffer does not mean that the message was delivered. @returns how many */
  reap(): number {
    const { ring } = this.txPage;
    let n = 0;
    for (let head = ring.poll(); head >= 0; head = ring.poll()) {
      this.txFree.push(this.txOf[head]);
      n++;
    }
    if (n > 0 && this.waiting.length > 0) this.flush();
    return n;
  }

  /** Forget what waits: the link it was for is down. */
  forgetWaiting(): void {
    this.waiting.length = 0;
  }

  /** Ask for interrupts. @returns true when there is something already */
  arm(): boolean {
    const work = this.rxPage.ring.arm();
    return (this.waiting.length > 0 && this.txPage.ring.arm()) || work;
  }

  suppress(): void {
    this.rxPage.ring.suppress();
    this.txPage.ring.suppress();
  }

  /** Why the device can't be believed any more, or null. */
  get broken(): string | null {
    const { rxPage, txPage } = this;
    if (rxPage.ring.broken !== null) return `rxq: ${rxPage.ring.broken}`;
    return txPage.ring.broken === null ? null : `txq: ${txPage.ring.broken}`;
  }

  /** The device has been reset: nothing writes there any more. */
  free(): void {
    for (const b of [this.rxPage.buffer, this.txPage.buffer, this.rxBuffers, this.txBuffers]) b.free();
  }

  describe(): Record<string, unknown> {
    return {
      received: this.received,
      sent: this.sent,
      waiting: this.waiting.length,
      rxq: this.rxPage.ring.dump(),
      txq: this.txPage.ring.dump(),
    };
  }
}

/** A page for queues that carry notifications only: devices want their addresses, nobody reads them. */
export function idleQueuePlace(memory: Memory, size: number): QueueAddresses {
  const address = ioAddressOf(memory, 0);
  const avail = descBytes(size);
  return {
    desc: address,
    driver: address + avail,
    device: address + Math.ceil((avail + availBytes(size, false)) / 4) * 4,
  };
}
