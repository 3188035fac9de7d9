/**
 * What stands between a session and its front end: how messages, file descriptors, memory and notifications travel.
 * `unix` is a socket on the same host; `vvu` is the virtio-vhost-user PCI device. Its one rule: a transport knows
 * messages as bytes, and nothing of vrings' meaning or of SCSI.
 *
 * Everything runs on the session's reactor: calls and callbacks are synchronous, none is made from another thread.
 */
import type { Memory } from '../memory/memory.ts';
import type { Fd } from '../sys/fd.ts';
import type { InflightDescription, MemoryRegion } from './messages.ts';

export interface IncomingMessage {
  readonly id: number;
  readonly flags: number;
  /** A private copy, valid until the next message is delivered. */
  readonly payload: Uint8Array;
  /** Owned by the session from the moment of delivery: handlers take theirs by takeFd, the rest is closed. */
  readonly fds: Fd[];
}

/** The session, as its transport sees it. */
export interface TransportHandler {
  /** One message, checked by `headerError`. Not called while paused. */
  message(message: IncomingMessage): void;
  /** The front end is gone, or what it sent cannot be understood. Called once, last. The reason is for the operator. */
  linkDown(reason: string): void;
  /**
   * The link was interrupted and the stream goes on where it was (vvu: the device refused a message). State is kept;
   * if the next message opens a new conversation (GET_FEATURES), the session starts afresh by itself.
   */
  linkInterrupted(reason: string): void;
}

/** How the front end tells us of new buffers. */
export interface KickSource {
  /** False: nobody tells, the vring has to be looked at all the time. */
  readonly notifies: boolean;
  /** With `notifies` false: the transport itself ends a sleeping loop's sleep often enough. */
  readonly paced?: boolean;
  close(): void;
}

/** How we tell the front end of used buffers, or of an error. `signal` neither allocates nor throws. */
export interface Notifier {
  signal(): void;
  close(): void;
}

/** A region as this process sees it. */
export interface RegionMapping {
  /** Names the bytes: two regions with equal keys are the same memory, mapped alike. */
  readonly key: string;
  /** Somebody else can make the file under it shorter, and touching what is missing then would kill this process (SIGBUS). */
  readonly mayShrink?: boolean;
  /** Memory from `offset` of the region on, at least `bytes` long and within the region. */
  memoryAt(offset: number, bytes: number): Memory;
  /** Unmap; every Memory given out is revoked. */
  release(): void;
}

export interface Transport {
  /** Where the front end is, for logs and RPC: a socket's path, a PCI address. */
  readonly name: string;
  /** Protocol feature bits that can work over this transport; the session offers no others. */
  readonly protocolFeatures: bigint;
  /** Messages bring file descriptors. False: kicks, calls and memory come in the transport's own way. */
  readonly carriesFds: boolean;
  /** The memory under a running vring may read as zeroes for a while (see DeviceRingOptions.jumpIsIdle). */
  readonly memoryFlickers: boolean;

  /** Begin to deliver messages. Called once. */
  open(handler: TransportHandler): void;
  /** Deliver no message until `resume`. The front end waits meanwhile: its messages stay in the stream. */
  pause(): void;
  resume(): void;
  /**
   * Send a whole reply. Order is kept; a front end that does not read stops its own stream.
   * @param fds passed along and then closed, also when sending fails (then `linkDown` follows).
   */
  reply(message: Uint8Array, fds?: readonly Fd[]): void;
  /**
   * Make regions visible, in the table's order. Either all or none.
   * @param whole the regions are the whole table (SET_MEM_TABLE), not additions
   * @param fds one a region where the transport carries them; they stay the caller's
   * @returns the mappings in order, or why not, for the operator
   */
  mapRegions(regions: readonly MemoryRegion[], fds: readonly Fd[], whole: boolean): RegionMapping[] | string;
  /**
   * Make the region of a SET_INFLIGHT_FD visible. Only of transports that carry no descriptors and offer the message.
   * @returns the mapping, or why not
   */
  mapInflight?(description: InflightDescription): RegionMapping | string;
  /**
   * Bring a message of the back end's own to the front end, which has sent SET_BACKEND_REQ_FD. Only of transports that carry
   * no descriptors and offer BACKEND_REQ. It is lost when the front end has gone.
   */
  sendBackend?(message: Uint8Array): void;
  /**
   * Vring `index` was started by SET_VRING_KICK.
   * @param fd what came with it (now the transport's, also on failure), if any
   * @param wake to call when the front end kicks, before the next pass
   * @returns the source, or why the descriptor is no use
   */
  kickSource(index: number, fd: Fd | undefined, wake: () => void): KickSource | string;
  /**
   * Where used buffers (`call`) or errors (`err`) of vring `index` are reported.
   * @param fd as for `kickSource`; undefined with NOFD
   * @returns null when there is no way: the front end polls
   */
  notifier(kind: 'call' | 'err', index: number, fd: Fd | undefined): Notifier | null | string;
  /** End the link. No callback follows. */
  close(): void;
}

/** Take ownership of the first descriptor of a message; the session closes those that are left. */
export function takeFd(message: IncomingMessage): Fd | undefined {
  return message.fds.shift();
}
