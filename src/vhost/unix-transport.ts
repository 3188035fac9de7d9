/**
 * vhost-user over a Unix socket: messages as a byte stream, descriptors beside it. Its one rule: no received byte or
 * descriptor is lost or leaked, however the stream is cut into pieces.
 */
import { EPOLL } from '../sys/constants.ts';
import type { EventLoop, Watch } from '../sys/event-loop.ts';
import { EventFd } from '../sys/eventfd.ts';
import { closeAll, type Fd } from '../sys/fd.ts';
import { recvWithFds, sendWithFds } from '../sys/socket.ts';
import { MAX_FDS, MAX_PAYLOAD } from './limits.ts';
import { HEADER_BYTES, headerError, type MemoryRegion, messageName, ProtocolFeature } from './messages.ts';
import type { KickSource, Notifier, RegionMapping, Transport, TransportHandler } from './transport.ts';
import { mapRegionFds } from './unix-memory.ts';

/** Messages taken before the loop looks after its other work. */
const MESSAGES_AT_ONCE = 16;

/** A vring without a kick descriptor is polled. */
const POLLED: KickSource = { notifies: false, close: () => {} };

class KickFd implements KickSource {
  readonly notifies = true;
  private readonly event: EventFd;
  private readonly watch: Watch;

  constructor(loop: EventLoop, fd: Fd, wake: () => void, onBlocked: () => void) {
    const event = EventFd.adopt(fd, onBlocked);
    this.event = event;
    try {
      this.watch = loop.watch(event.fd.number, () => {
        event.drain();
        wake();
      });
    } catch (error) {
      event.close();
      throw error;
    }
  }

  close(): void {
    this.watch.close();
    this.event.close();
  }
}

export class UnixTransport implements Transport {
  readonly name: string;
  /** Everything a socket on one host can carry. */
  readonly protocolFeatures =
    2n ** BigInt(ProtocolFeature.STATUS + 1) - 1n - 2n ** BigInt(ProtocolFeature.INBAND_NOTIFICATIONS);
  readonly carriesFds = true;
  readonly memoryFlickers = false;

  private readonly loop: EventLoop;
  private readonly fd: Fd;
  private handler: TransportHandler | null = null;
  private watch: Watch | null = null;
  private paused = false;
  private closed = false;

  // The message that is being received: header first, then payload, in as many pieces as come.
  private readonly buffer = new Uint8Array(HEADER_BYTES + MAX_PAYLOAD);
  private readonly header = new DataView(this.buffer.buffer, 0, HEADER_BYTES);
  private got = 0;
  private want = HEADER_BYTES;
  private fds: Fd[] = [];

  /** Replies that the socket did not take yet. While there are any, nothing is received: that bounds them. */
  private readonly outbox: { bytes: Uint8Array; fds: readonly Fd[] }[] = [];

  /** @param fd a connected socket, owned from now on */
  constructor(loop: EventLoop, fd: Fd, name: string) {
    this.loop = loop;
    this.fd = fd;
    this.name = name;
  }

  open(handler: TransportHandler): void {
    this.handler = handler;
    this.rewatch();
  }

  pause(): void {
    this.paused = true;
    this.rewatch();
  }

  resume(): void {
    this.paused = false;
    this.rewatch();
  }

  /** Watch for what is wanted now. Nothing: no watch at all, for epoll reports a peer that hung up always. */
  private rewatch(): void {
    const events = this.outbox.length > 0 ? EPOLL.OUT : this.paused ? 0 : EPOLL.IN;
    if (this.closed || events === 0) {
      this.watch?.close();
      this.watch = null;
    } else {
      this.watchFor(events);
    }
  }

  /** Without a watch nobody would ever hear of this front end again: when there can be none, the link ends. */
  private watchFor(events: number): void {
    try {
      if (this.watch === null) this.watch = this.loop.watch(this.fd.number, this.ready, events);
      else this.watch.modify(events);
    } catch (error) {
      this.failLater(error as Error);
    }
  }

  private readonly ready = (): void => {
    try {
      if (this.outbox.length > 0) this.flush();
      for (let n = 0; n < MESSAGES_AT_ONCE; n++) {
        if (this.closed || this.paused || this.outbox.length > 0 || !this.receive()) return;
      }
    } catch (error) {
      this.fail((error as Error).message);
    }
  };

  /** Take what is there of the current message. @returns false when there is no more for now */
  private receive(): boolean {
    const piece = this.buffer.subarray(this.got, this.want);
    const { bytes, fds, truncated } = recvWithFds(this.fd, piece, MAX_FDS - this.fds.length);
    this.fds.push(...fds);
    if (truncated) return this.fail(`a message with more than ${MAX_FDS} descriptors, or more than we may open`);
    if (bytes < 0) return false;
    if (bytes === 0) {
      const where = this.got > 0 ? ' in the middle of a message' : '';
      return this.fail(`the front end closed the connection${where}`);
    }
    this.got += bytes;
    if (this.got < this.want) return true;
    if (this.got === HEADER_BYTES) {
      const size = this.header.getUint32(8, true);
      const error = this.headerError(size);
      if (error !== null) return this.fail(error);
      this.want = HEADER_BYTES + size;
      if (size > 0) return true;
    }
    this.deliver();
    return true;
  }

  private headerError(size: number): string | null {
    const id = this.header.getUint32(0, true);
    if (size > MAX_PAYLOAD) return `${messageName(id)}: payload of ${size} bytes, at most ${MAX_PAYLOAD}`;
    return headerError(id, this.header.getUint32(4, true), size);
  }

  private deliver(): void {
    const message = {
      id: this.header.getUint32(0, true),
      flags: this.header.getUint32(4, true),
      payload: this.buffer.subarray(HEADER_BYTES, this.got),
      fds: this.fds,
    };
    this.fds = [];
    this.got = 0;
    this.want = HEADER_BYTES;
    this.handler?.message(message);
  }

  reply(message: Uint8Array, fds: readonly Fd[] = []): void {
    this.outbox.push({ bytes: message, fds });
    if (this.closed) this.dropOutbox();
    else this.flush();
  }

  private flush(): void {
    try {
      for (let first = this.outbox[0]; first !== undefined; first = this.outbox[0]) {
        const sent = sendWithFds(this.fd, first.bytes, first.fds);
        if (sent < 0) break;
        closeAll(first.fds);
        first.fds = []; // they went with the first byte
        if (sent < first.bytes.length) {
          first.bytes = first.bytes.subarray(sent);
          break;
        }
        this.outbox.shift();
      }
      this.rewatch();
    } catch (error) {
      this.failLater(error as Error);
    }
  }

  /** The session may be in the middle of a handler: it hears of it in a pass of its own. */
  private failLater({ message }: Error): void {
    this.loop.defer(() => this.fail(message));
  }

  private dropOutbox(): void {
    for (const { fds } of this.outbox) closeAll(fds);
    this.outbox.length = 0;
  }

  private fail(reason: string): false {
    if (!this.closed) {
      this.close();
      this.handler?.linkDown(reason);
    }
    return false;
  }

  /** An eventfd of the front end held us up. Perhaps in the middle of a completion, so the end comes in a pass of its own. */
  private readonly blocked = (): void => {
    this.loop.defer(() => this.fail('it made an eventfd block, and held up this thread by it'));
  };

  mapRegions(regions: readonly MemoryRegion[], fds: readonly Fd[]): RegionMapping[] | string {
    return mapRegionFds(regions, fds);
  }

  kickSource(_index: number, fd: Fd | undefined, wake: () => void): KickSource | string {
    if (fd === undefined) return POLLED;
    try {
      return new KickFd(this.loop, fd, wake, this.blocked);
    } catch (error) {
      return (error as Error).message;
    }
  }

  notifier(_kind: 'call' | 'err', _index: number, fd: Fd | undefined): Notifier | null | string {
    if (fd === undefined) return null;
    try {
      return EventFd.adopt(fd, this.blocked);
    } catch (error) {
      return (error as Error).message;
    }
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.rewatch();
    closeAll(this.fds);
    this.fds = [];
    this.dropOutbox();
    this.fd.close();
  }
}
