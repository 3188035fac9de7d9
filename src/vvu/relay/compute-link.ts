import type { EventLoop, Watch } from '../../sys/event-loop.ts';
import { EventFd } from '../../sys/eventfd.ts';
import { closeAll, type Fd } from '../../sys/fd.ts';
import { BackendChannel } from '../../vhost/backend-channel.ts';
import { createInflight } from '../../vhost/inflight.ts';
import {
  BackendRequest,
  FLAG_NEED_REPLY,
  FLAG_REPLY,
  FLAG_VERSION,
  HEADER_BYTES,
  inflightPayload,
  messageName,
  ProtocolFeature,
  parseInflight,
  parseU64,
  parseVringFd,
  Request,
  replyMessage,
  u64Payload,
} from '../../vhost/messages.ts';
import { type IncomingMessage, type TransportHandler, takeFd } from '../../vhost/transport.ts';
import { UnixTransport } from '../../vhost/unix-transport.ts';
import { RELAYED_FEATURES } from '../relayed-features.ts';
import { inflightOfFile, type PlacedMessage, tableOfFiles } from './carried-files.ts';
import { RELAYED, type RelayedRow } from './compute-messages.ts';
import type { Arrival } from './mapped-memory.ts';

/**
 * A compute VM's connection to the relay: takes the descriptors off its messages and passes the rest on, and checks the driver's
 * answers. It answers nothing by itself but what it refuses.
 */

/** Questions that may be open at a time; front ends have one. */
const MAX_OPEN_QUESTIONS = 16;
const REPLY_ACK = 1n << BigInt(ProtocolFeature.REPLY_ACK);

export interface ComputeEvents {
  /** A message without descriptors, for the driver. */
  toDriver(message: Uint8Array): void;
  /** Files for the window came. Nothing more is read until they are placed or refused. */
  filesArrived(arrival: Arrival): void;
  /** The compute VM kicked a vring. */
  kicked(vring: number): void;
  /** The connection has ended, by whichever side. */
  ended(reason: string): void;
}

export class ComputeLink implements TransportHandler {
  readonly name: string;
  private readonly loop: EventLoop;
  private readonly transport: UnixTransport;
  private readonly events: ComputeEvents;
  private readonly vrings: number;
  private readonly calls = new Map<number, EventFd>();
  private readonly kicks = new Map<number, { event: EventFd; watch: Watch }>();
  /** Ids of the questions that the driver has not answered. */
  private readonly open_: number[] = [];
  private replyAck = false;
  /** What SET_BACKEND_REQ_FD brought: the driver's news go there. */
  private backend: BackendChannel | null = null;
  private opened = false;
  private closed = false;
  private held = 0;
  /** The message whose files are on their way into the window. */
  private carried: PlacedMessage | null = null;

  constructor(loop: EventLoop, fd: Fd, name: string, vrings: number, events: ComputeEvents) {
    this.loop = loop;
    this.name = name;
    this.vrings = vrings;
    this.events = events;
    this.transport = new UnixTransport(loop, fd, name);
  }

  /** The driver is there: begin to read. */
  open(): void {
    this.opened = true;
    this.transport.open(this);
  }

  get isOpen(): boolean {
    return this.opened && !this.closed;
  }

  get wasOpened(): boolean {
    return this.opened;
  }

  /** Read nothing until as many `release`s. */
  hold(): void {
    if (this.held++ === 0) this.transport.pause();
  }

  release(): void {
    if (--this.held === 0 && !this.closed) this.transport.resume();
  }

  message(message: IncomingMessage): void {
    const row = RELAYED.get(message.id);
    const error = row === undefined ? 'it can not go through the relay' : this.take(row, message);
    closeAll(message.fds);
    if (error !== null) this.refuse(message.id, message.flags, error);
  }

  /** @returns null, or why the message is refused */
  private take(row: RelayedRow, message: IncomingMessage): string | null {
    const bytes = new Uint8Array(HEADER_BYTES + message.payload.length);
    const v = new DataView(bytes.buffer);
    v.setUint32(0, message.id, true);
    v.setUint32(4, message.flags, true);
    v.setUint32(8, message.payload.length, true);
    bytes.set(message.payload, HEADER_BYTES);
    if (row.vring === 'state' && v.getUint32(HEADER_BYTES, true) >= this.vrings) {
      return `vring ${v.getUint32(HEADER_BYTES, true)}, the device has ${this.vrings}`;
    }
    const questions = row.answered || (this.replyAck && (message.flags & FLAG_NEED_REPLY) !== 0);
    if (questions && this.open_.length >= MAX_OPEN_QUESTIONS) return 'too many questions at once';
    if (message.id === Request.SET_MEM_TABLE) return this.carry(message, tableOfFiles(message));
    if (message.id === Request.SET_INFLIGHT_FD) return this.carry(message, inflightOfFile(message, this.vrings));
    if (message.id === Request.GET_INFLIGHT_FD) return this.giveInflight(message);
    const error = row.vring === 'fd' ? this.takeVringFd(message) : null;
    if (error !== null) return error;
    if (message.id === Request.SET_BACKEND_REQ_FD && !this.setBackend(takeFd(message))) return 'no descriptor';
    if (message.id === Request.SET_PROTOCOL_FEATURES) {
      const accepted = parseU64(message.payload) & RELAYED_FEATURES;
      this.replyAck = (accepted & REPLY_ACK) !== 0n;
      v.setBigUint64(HEADER_BYTES, accepted, true);
    } else if (message.id === Request.GET_VRING_BASE) {
      this.dropKick(v.getUint32(HEADER_BYTES, true));
    }
    if (questions) this.open_.push(message.id);
    this.events.toDriver(bytes);
    return null;
  }

  private takeVringFd(message: IncomingMessage): string | null {
    const parsed = parseVringFd(message.payload);
    if (parsed === undefined) return 'bits 9 to 63 must be zero';
    const { index, noFd } = parsed;
    if (index >= this.vrings) return `vring ${index}, the device has ${this.vrings}`;
    const fd = takeFd(message);
    if (noFd !== (fd === undefined)) {
      fd?.close();
      return noFd ? 'a descriptor, and the flag that says there is none' : 'no descriptor, and no flag that says so';
    }
    try {
      if (message.id === Request.SET_VRING_KICK) this.setKick(index, fd);
      else if (message.id === Request.SET_VRING_CALL) this.setCall(index, fd);
      else fd?.close(); // errors are told by nobody here
    } catch (error) {
      return (error as Error).message;
    }
    return null;
  }

  private setBackend(fd: Fd | undefined): boolean {
    if (fd === undefined) return false;
    this.backend?.close();
    const channel: BackendChannel = new BackendChannel(this.loop, fd, () => {
      if (this.backend === channel) this.backend = null; // it listens no more: its news are lost
    });
    this.backend = channel;
    return true;
  }

  /** An eventfd of the compute VM held us up: whoever does that has no business here. */
  private readonly blocked = (): void => {
    this.loop.defer(() => this.close('it made an eventfd block, and held up the relay by it'));
  };

  private setKick(vring: number, fd: Fd | undefined): void {
    this.dropKick(vring);
    if (fd === undefined) return;
    const event = EventFd.adopt(fd, this.blocked);
    const watch = this.loop.watch(event.fd.number, () => {
      if (event.drain()) this.events.kicked(vring);
    });
    this.kicks.set(vring, { event, watch });
  }

  private setCall(vring: number, fd: Fd | undefined): void {
    const old = this.calls.get(vring);
    if (fd === undefined) this.calls.delete(vring);
    else this.calls.set(vring, EventFd.adopt(fd, this.blocked));
    old?.close();
  }

  private dropKick(vring: number): void {
    const kick = this.kicks.get(vring);
    kick?.watch.close();
    kick?.event.close();
    this.kicks.delete(vring);
  }

  /**
   * The region in which a target notes what it has in flight: made here, because it has to outlive the appliance. QEMU keeps it
   * and brings it again after whatever happened.
   */
  private giveInflight(message: IncomingMessage): string | null {
    if (this.open_.length > 0) return 'another question is open'; // our answer would overtake the driver's
    const made = createInflight(parseInflight(message.payload), this.vrings);
    if (typeof made === 'string') return made;
    this.transport.reply(replyMessage(message.id, inflightPayload(made.description, message.payload.length)), [
      made.fd,
    ]);
    return null;
  }

  /** A message whose files go into the window before it goes on. */
  private carry(message: IncomingMessage, carried: PlacedMessage | string): string | null {
    if (typeof carried === 'string') return carried;
    this.carried = carried;
    this.hold();
    this.events.filesArrived({
      ranges: carried.ranges,
      fds: message.fds.splice(0),
      placed: (generation, places) => this.placed(carried, generation, places),
      refused: (reason) => this.refused(carried, reason),
    });
    return null;
  }

  private placed(carried: PlacedMessage, generation: number, places: readonly number[]): void {
    if (this.carried !== carried || this.closed) return;
    this.carried = null;
    carried.place(generation, places);
    if (this.replyAck && (carried.flags & FLAG_NEED_REPLY) !== 0) this.open_.push(carried.id);
    this.events.toDriver(carried.bytes);
    this.release();
  }

  private refused(carried: PlacedMessage, reason: string): void {
    if (this.carried !== carried || this.closed) return;
    this.carried = null;
    this.refuse(carried.id, carried.flags, reason);
    if (!this.closed) this.release();
  }

  private refuse(id: number, flags: number, reason: string): void {
    // An answer must not overtake those of questions before it.
    if (
      this.replyAck &&
      (flags & FLAG_NEED_REPLY) !== 0 &&
      RELAYED.get(id)?.answered !== true &&
      this.open_.length === 0
    ) {
      this.transport.reply(replyMessage(id, u64Payload(1n)));
    } else {
      this.close(`${messageName(id)} refused: ${reason}`);
    }
  }

  /** A message of the driver for the compute VM. @returns null, or what is wrong with it */
  answer(message: Uint8Array): string | null {
    const v = new DataView(message.buffer, message.byteOffset, message.byteLength);
    const id = v.getUint32(0, true);
    const flags = v.getUint32(4, true);
    if (flags === FLAG_VERSION && id === BackendRequest.CONFIG_CHANGE && message.length === HEADER_BYTES) {
      this.backend?.configChanged();
      return null;
    }
    if (flags !== (FLAG_VERSION | FLAG_REPLY)) return `${messageName(id)}: no answer by its flags`;
    if (this.open_[0] !== id) return `${messageName(id)}: an answer, and nobody asked`;
    this.open_.shift();
    const copy = message.slice();
    if (id === Request.GET_PROTOCOL_FEATURES && copy.length === HEADER_BYTES + 8) {
      const w = new DataView(copy.buffer);
      w.setBigUint64(HEADER_BYTES, w.getBigUint64(HEADER_BYTES, true) & RELAYED_FEATURES, true);
    }
    this.transport.reply(copy);
    return null;
  }

  /** Interrupt the compute VM for a vring. */
  ring(vring: number): void {
    this.calls.get(vring)?.signal();
  }

  linkDown(reason: string): void {
    this.close(reason);
  }

  linkInterrupted(): void {}

  close(reason: string): void {
    if (this.closed) return;
    this.closed = true;
    this.transport.close();
    for (const vring of [...this.kicks.keys()]) this.dropKick(vring);
    for (const call of this.calls.values()) call.close();
    this.calls.clear();
    this.backend?.close();
    this.backend = null;
    this.events.ended(reason);
  }
}
