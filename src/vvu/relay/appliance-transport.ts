import type { EventLoop } from '../../sys/event-loop.ts';
import { EventFd } from '../../sys/eventfd.ts';
import { closeAll, type Fd } from '../../sys/fd.ts';
import {
  FLAG_NEED_REPLY,
  HEADER_BYTES,
  type MemoryRegion,
  ProtocolFeature,
  parseState,
  parseU64,
  Request,
  replyMessage,
  u64Payload,
} from '../../vhost/messages.ts';
import type {
  IncomingMessage,
  KickSource,
  Notifier,
  RegionMapping,
  Transport,
  TransportHandler,
} from '../../vhost/transport.ts';
import { takeFd } from '../../vhost/transport.ts';
import { UnixTransport } from '../../vhost/unix-transport.ts';
import { ShmemChannel } from './shmem-channel.ts';

/**
 * The appliance's QEMU as our front end: a Unix transport that also knows shared memory. What a session knows goes on to the session;
 * what belongs to shared memory and to doorbells is answered here.
 */

const SET_BACKEND_REQ_FD = 21;
const GET_SHMEM_CONFIG = 44;
/** Bits of protocol features that come with shared memory. */
const BACKEND_REQ = 5;
const BACKEND_SEND_FD = 10;
const SHMEM = 22;
const SHMEM_FEATURES = (1n << BigInt(BACKEND_REQ)) | (1n << BigInt(BACKEND_SEND_FD)) | (1n << BigInt(SHMEM));
/** Entries that QEMU's structure has. */
const SHMEM_ENTRIES = 256;
const REPLY_ACK = 1n << BigInt(ProtocolFeature.REPLY_ACK);

/** Queues before those of the doorbells. */
export const MESSAGE_QUEUES = 2;

export interface ApplianceEvents {
  /** The driver rang the doorbell of this vring. */
  rung(vring: number): void;
  /** The device was started or stopped. */
  startedChanged(started: boolean): void;
}

function shmemConfig(windowBytes: number): Uint8Array {
  const payload = new Uint8Array(8 + 8 * SHMEM_ENTRIES);
  const v = new DataView(payload.buffer);
  v.setUint32(0, 1, true);
  v.setBigUint64(8, BigInt(windowBytes), true);
  return payload;
}

export class ApplianceTransport implements Transport, TransportHandler {
  readonly name: string;
  /** Of the session. Memory slots (bit 15) stay out: with them QEMU does not survive a restart of the device with memory mapped. */
  readonly protocolFeatures = (1n << BigInt(ProtocolFeature.MQ)) | REPLY_ACK;
  readonly carriesFds = true;
  readonly memoryFlickers = false;
  /** The device may be asked to map: from the first vring that is enabled to the first that is not. */
  started = false;
  channel: ShmemChannel | null = null;

  private readonly inner: UnixTransport;
  private readonly loop: EventLoop;
  private readonly windowBytes: number;
  private readonly events: ApplianceEvents;
  private handler: TransportHandler | null = null;
  private replyAck = false;
  /** How the driver hears of kicks, by vring. */
  private readonly notifiers = new Map<number, Notifier>();

  constructor(loop: EventLoop, fd: Fd, name: string, windowBytes: number, events: ApplianceEvents) {
    this.loop = loop;
    this.inner = new UnixTransport(loop, fd, name);
    this.name = name;
    this.windowBytes = windowBytes;
    this.events = events;
  }

  open(handler: TransportHandler): void {
    this.handler = handler;
    this.inner.open(this);
  }

  message(message: IncomingMessage): void {
    switch (message.id) {
      case SET_BACKEND_REQ_FD:
        this.setChannel(message);
        return;
      case GET_SHMEM_CONFIG:
        closeAll(message.fds);
        this.inner.reply(replyMessage(GET_SHMEM_CONFIG, shmemConfig(this.windowBytes)));
        return;
      case Request.SET_PROTOCOL_FEATURES:
        this.replyAck = (parseU64(message.payload) & REPLY_ACK) !== 0n;
        break;
      case Request.SET_VRING_ENABLE:
        this.setStarted(parseState(message.payload).num === 1);
        break;
      case Request.GET_VRING_BASE:
        this.setStarted(false);
        break;
      default:
        break;
    }
    this.handler?.message(message);
  }

  private setStarted(started: boolean): void {
    if (this.started === started) return;
    this.started = started;
    this.events.startedChanged(started);
  }

  private setChannel(message: IncomingMessage): void {
    const fd = takeFd(message);
    closeAll(message.fds);
    this.channel?.close();
    this.channel = fd === undefined ? null : ShmemChannel.open(this.loop, fd);
    if (this.replyAck && (message.flags & FLAG_NEED_REPLY) !== 0) {
      this.inner.reply(replyMessage(SET_BACKEND_REQ_FD, u64Payload(this.channel === null ? 1n : 0n)));
    }
  }

  linkDown(reason: string): void {
    this.setStarted(false);
    this.channel?.close();
    this.channel = null;
    this.handler?.linkDown(reason);
  }

  linkInterrupted(): void {}

  pause(): void {
    this.inner.pause();
  }

  resume(): void {
    this.inner.resume();
  }

  reply(message: Uint8Array, fds?: readonly Fd[]): void {
    const v = new DataView(message.buffer, message.byteOffset, message.byteLength);
    if (v.getUint32(0, true) === Request.GET_PROTOCOL_FEATURES) {
      v.setBigUint64(HEADER_BYTES, v.getBigUint64(HEADER_BYTES, true) | SHMEM_FEATURES, true);
    }
    this.inner.reply(message, fds);
  }

  mapRegions(regions: readonly MemoryRegion[], fds: readonly Fd[]): RegionMapping[] | string {
    return this.inner.mapRegions(regions, fds);
  }

  kickSource(index: number, fd: Fd | undefined, wake: () => void): KickSource | string {
    if (index < MESSAGE_QUEUES || fd === undefined) return this.inner.kickSource(index, fd, wake);
    try {
      const event = EventFd.adopt(fd);
      const watch = this.loop.watch(event.fd.number, () => {
        if (event.drain()) this.events.rung(index - MESSAGE_QUEUES);
      });
      const close = () => {
        watch.close();
        event.close();
      };
      return { notifies: true, close };
    } catch (error) {
      fd.close();
      return (error as Error).message;
    }
  }

  notifier(kind: 'call' | 'err', index: number, fd: Fd | undefined): Notifier | null | string {
    const inner = this.inner.notifier(kind, index, fd);
    if (kind !== 'call' || index < MESSAGE_QUEUES) return inner;
    const vring = index - MESSAGE_QUEUES;
    if (inner === null || typeof inner === 'string') {
      this.notifiers.delete(vring);
      return inner;
    }
    this.notifiers.set(vring, inner);
    const close = () => {
      if (this.notifiers.get(vring) === inner) this.notifiers.delete(vring);
      inner.close();
    };
    // The session signals each vring that starts; here that would be a kick nobody made.
    return { signal: () => {}, close };
  }

  /** Tell the driver that the compute VM has kicked this vring. */
  kick(vring: number): void {
    this.notifiers.get(vring)?.signal();
  }

  close(): void {
    this.started = false;
    this.channel?.close();
    this.channel = null;
    this.inner.close();
  }
}
