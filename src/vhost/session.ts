/**
 * One front end: its negotiation, memory and vrings, from connection to the last completed request. The rule of
 * ending: a session that has lost its front end stops at once, but frees memory only when nothing is in flight.
 *
 * Everything runs on one reactor, in callbacks; handlers of the single messages stand in handlers.ts.
 */
import type { MemoryListener } from '../bdev/bdev.ts';
import type { EventLoop, Poller, Timer } from '../sys/event-loop.ts';
import { closeAll, type Fd } from '../sys/fd.ts';
import { logger } from '../sys/log.ts';
import { featureNames, hasFeature, VirtioFeature } from '../virtio/features.ts';
import { BackendChannel } from './backend-channel.ts';
import { type CoalescingSettings, NO_COALESCING } from './coalescing.ts';
import type { DeviceModel } from './device-model.ts';
import { Drain } from './drain.ts';
import { HANDLERS } from './handlers.ts';
import type { InflightRegion } from './inflight.ts';
import { MAX_MEM_SLOTS, POLL_ONLY_MS } from './limits.ts';
import { MemoryTables } from './memory-table.ts';
import {
  BackendRequest,
  backendMessage,
  FLAG_NEED_REPLY,
  fdCountError,
  type MessageRow,
  messageName,
  messageRow,
  ProtocolFeature,
  Request,
  replyMessage,
  u64Payload,
  VhostFeature,
} from './messages.ts';
import { LATER, type Outcome } from './outcome.ts';
import { RunningRing, type RunningRingOwner } from './running-ring.ts';
import type { IncomingMessage, Transport, TransportHandler } from './transport.ts';
import { Vring } from './vring.ts';
import { warn } from './warn.ts';

const log = logger('vhost');

/** Virtio device status bit: something is wrong that only a reset cures. */
const DEVICE_NEEDS_RESET = 0x40;

/** What every session implements. */
const OUR_PROTOCOL_FEATURES = [
  ProtocolFeature.MQ,
  ProtocolFeature.REPLY_ACK,
  ProtocolFeature.INFLIGHT_SHMFD,
  ProtocolFeature.RESET_DEVICE,
  ProtocolFeature.CONFIGURE_MEM_SLOTS,
  ProtocolFeature.STATUS,
];
/** What comes with a model that has config space: reading it, and hearing of its changes. */
const CONFIG_PROTOCOL_FEATURES = [ProtocolFeature.CONFIG, ProtocolFeature.BACKEND_REQ];

function bit(n: number): bigint {
  return 1n << BigInt(n);
}

/** Why a transport cannot serve a device, or null. The target asks before it makes a controller. */
export function transportLacks(
  model: Pick<DeviceModel, 'name' | 'needsConfig'>,
  transport: Pick<Transport, 'name' | 'protocolFeatures'>,
): string | null {
  if (model.needsConfig !== true || (transport.protocolFeatures & bit(ProtocolFeature.CONFIG)) !== 0n) return null;
  return `${transport.name} does not let the CONFIG messages through that a ${model.name} device needs; use a SCSI controller, or a socket`;
}

export interface SessionOptions {
  readonly loop: EventLoop;
  readonly transport: Transport;
  readonly model: DeviceModel;
  /** Hears of guest memory that devices may have to reach. */
  readonly memoryListener?: MemoryListener | undefined;
  /** GET_MAX_MEM_SLOTS; default MAX_MEM_SLOTS. */
  readonly memSlots?: number | undefined;
  /**
   * Whether another session still has requests in flight that this inflight region records. If so, `then` is called
   * when it has none any more.
   */
  readonly regionInUse?: ((key: string, then: () => void) => boolean) | undefined;
  /** When notifications are held back; the object may change. Default never. */
  readonly coalescing?: CoalescingSettings | undefined;
  /** Over: nothing in flight, everything freed. */
  readonly onClosed: (session: Session) => void;
}

export class Session implements TransportHandler, RunningRingOwner, Poller {
  readonly loop: EventLoop;
  readonly transport: Transport;
  readonly model: DeviceModel;
  readonly memory: MemoryTables;
  readonly memSlots: number;
  readonly vrings: readonly Vring[];
  readonly offered: bigint;
  readonly protocolOffered: bigint;
  /** Accepted by the front end: offered ones only. */
  features = 0n;
  protocolFeatures = 0n;
  /** Virtio device status as the front end says it. */
  status = 0;
  inflight: InflightRegion | null = null;
  readonly regionInUse: NonNullable<SessionOptions['regionInUse']>;
  /** Why the session ends or has ended; null while it lives. */
  ended: string | null = null;
  /** The last thing that went wrong, for the operator. */
  lastError: string | null = null;

  private backend: Pick<BackendChannel, 'configChanged' | 'close'> | null = null;
  /** The config space has changed while no vring ran. */
  private configStale = false;
  private readonly coalescing: CoalescingSettings;
  private readonly onClosed: (session: Session) => void;
  private readonly active: RunningRing[] = [];
  private drain: Drain | null = null;
  /** A message waits for its outcome. */
  private pending: { id: number; flags: number; row: MessageRow } | null = null;
  private interrupted = false;
  /** The operator knows that this front end's memory can be taken away under us. */
  private toldOfShrinking = false;
  private pollTimer: Timer | null = null;
  private closed = false;
  private messages = 0;
  private refused = 0;
  private kicks = 0;

  constructor(options: SessionOptions) {
    this.loop = options.loop;
    this.transport = options.transport;
    this.model = options.model;
    this.memSlots = options.memSlots ?? MAX_MEM_SLOTS;
    this.memory = new MemoryTables(options.transport, this.memSlots, options.memoryListener ?? null);
    this.regionInUse = options.regionInUse ?? (() => false);
    this.coalescing = options.coalescing ?? NO_COALESCING;
    this.onClosed = options.onClosed;
    this.vrings = Array.from({ length: options.model.maxQueues }, (_, i) => new Vring(i));
    this.offered = options.model.features | bit(VhostFeature.PROTOCOL_FEATURES);
    const own = [...OUR_PROTOCOL_FEATURES, ...(options.model.configBytes > 0 ? CONFIG_PROTOCOL_FEATURES : [])];
    this.protocolOffered = own.reduce((word, n) => word | bit(n), 0n) & options.transport.protocolFeatures;
    if (options.model.configBytes > 0) options.model.onConfigChange = () => this.configChanged();
  }

  /** Begin to talk. A device that the transport cannot carry ends at once: its front end could only fail later. */
  open(): void {
    this.transport.open(this);
    const lack = transportLacks(this.model, this.transport);
    if (lack !== null) this.end(lack);
  }

  // Messages.

  message(message: IncomingMessage): void {
    this.messages++;
    this.loop.rouse(this);
    if (log.enabled) log('%s: %s flags %d', this.transport.name, messageName(message.id), message.flags);
    const fresh = this.interrupted && message.id === Request.GET_FEATURES;
    this.interrupted = false;
    const row = messageRow(message.id);
    let outcome: Outcome;
    try {
      if (row === undefined) outcome = 'not supported';
      else outcome = this.rowError(row, message) ?? (fresh ? this.startAfresh() : HANDLERS[row.name](this, message));
    } catch (error) {
      outcome = (error as Error).message; // a failure of the host: no memory, no descriptors
      if (log.enabled) log('%s: %O', messageName(message.id), error);
    }
    closeAll(message.fds);
    if (outcome === LATER) {
      this.pending = { id: message.id, flags: message.flags, row: row as MessageRow };
      if (this.ended === null) this.transport.pause();
    } else {
      this.reply(message.id, message.flags, row, outcome);
    }
  }

  private rowError(row: MessageRow, message: IncomingMessage): string | null {
    if (row.needs !== undefined && (this.protocolOffered & bit(row.needs)) === 0n) {
      return 'it needs a protocol feature that was not offered';
    }
    return fdCountError(row, message.fds.length, this.transport.carriesFds);
  }

  /** The outcome of the message that was answered LATER. */
  finish(outcome: Outcome): void {
    const pending = this.pending;
    this.pending = null;
    if (pending === null || this.ended !== null) return;
    this.reply(pending.id, pending.flags, pending.row, outcome);
    if (this.ended === null) this.transport.resume();
  }

  /** The one reply path. */
  private reply(id: number, flags: number, row: MessageRow | undefined, outcome: Outcome): void {
    if (outcome === LATER || this.ended !== null) return;
    if (outcome !== null && typeof outcome !== 'string') {
      this.transport.reply(replyMessage(id, outcome.payload), outcome.fds);
      return;
    }
    if (outcome !== null) {
      this.refused++;
      this.lastError = `${messageName(id)}: ${outcome}`;
      warn(`${this.transport.name}: refused ${this.lastError}`);
    }
    const acked = (flags & FLAG_NEED_REPLY) !== 0 && this.hasProtocol(ProtocolFeature.REPLY_ACK);
    if (acked && row?.reply !== 'own') {
      this.transport.reply(replyMessage(id, u64Payload(outcome === null ? 0n : 1n)));
    } else if (outcome !== null) {
      // Nobody can be told: the front end would go on as if the message had worked, or wait for ever.
      this.end(`${messageName(id)} refused: ${outcome}`);
    }
  }

  hasProtocol(feature: number): boolean {
    return (this.protocolFeatures & bit(feature)) !== 0n;
  }

  /** After an interruption, somebody opens a new conversation: nothing of the old one counts. */
  private startAfresh(): Outcome {
    return this.stopRings([...this.active], 'a new front end', true, () => {
      for (const vring of this.vrings) {
        vring.reset();
        vring.close();
      }
      this.memory.clear();
      this.inflight?.close();
      this.inflight = null;
      this.backend?.close();
      this.backend = null;
      this.features = this.protocolFeatures = 0n;
      this.status = 0;
      this.finish({ payload: u64Payload(this.offered) });
    });
  }

  // Messages of our own.

  setBackendChannel(fd: Fd): void {
    this.backend?.close();
    this.backend = new BackendChannel(this.loop, fd, (reason) => {
      this.backend = null;
      this.lastError = `messages to the front end: ${reason}`;
      warn(`${this.transport.name}: ${this.lastError}`);
    });
    if (this.configStale) this.configChanged();
  }

  /** The same where the transport itself brings such messages. */
  setBackendWay(): void {
    const { transport } = this;
    const configChanged = () => transport.sendBackend?.(backendMessage(BackendRequest.CONFIG_CHANGE));
    this.backend = { configChanged, close: () => {} };
    if (this.configStale) this.configChanged();
  }

  /**
   * The device's config space is another. Front ends pay no attention while the device is stopped, and then go on with
   * what they had read: so they are told when it starts.
   */
  private configChanged(): void {
    const running = this.active.length > 0;
    this.configStale = !running;
    if (running) this.backend?.configChanged();
  }

  // Vrings.

  vringAt(index: number): Vring | string {
    return this.vrings[index] ?? `vring ${index}, there are ${this.vrings.length}`;
  }

  enable(vring: Vring, enabled: boolean): void {
    vring.enabled = enabled;
    if (vring.running !== null) vring.running.enabled = enabled;
  }

  /** A front end kicked: the loop is awake, and polls every vring unless the session dozes. */
  readonly kicked = (): void => {
    this.kicks++;
    this.loop.rouse(this);
  };

  /** Start it if all is known. Called whenever something it may have waited for has come. */
  tryStart(vring: Vring): void {
    if (vring.running !== null || vring.waitsFor(this.memory.changes > 0).length > 0) return;
    const ring = vring.makeRing({
      table: this.memory.current,
      eventIdx: hasFeature(this.features, VirtioFeature.EVENT_IDX),
      indirect: hasFeature(this.features, VirtioFeature.INDIRECT_DESC),
      jumpIsIdle: this.transport.memoryFlickers,
      inflight: this.inflight,
    });
    if (typeof ring === 'string') {
      if (vring.problem !== ring) this.broken(vring, ring);
      vring.problem = ring;
      return;
    }
    vring.problem = null;
    vring.starts++;
    const { index, kick, call, enabled } = vring;
    if (kick === null) return;
    const { loop, memory, coalescing } = this;
    const running = new RunningRing({ owner: this, loop, memory, coalescing, index, ring, kick, call, enabled });
    vring.running = running;
    running.begin(this.model.startQueue(running));
    if (this.active.push(running) === 1) this.loop.addPoller(this);
    if (vring.recovered > 0) log(`${this.transport.name}: vring ${index} does ${vring.recovered} requests again`);
    running.checkBroken(); // by what the inflight region said
    if (this.configStale) this.configChanged();
  }

  /** The memory table has changed: every vring finds its place again, or is broken. */
  memoryChanged(): void {
    const table = this.memory.current;
    const { unsealed } = this.memory;
    if (unsealed !== null && !this.toldOfShrinking) {
      this.toldOfShrinking = true;
      warn(
        `${this.transport.name}: ${unsealed} lies in a file that cannot be sealed: whoever can truncate it can kill this process; ` +
          'use memory-backend-memfd where front ends are not trusted',
      );
    }
    for (const vring of this.vrings) {
      const running = vring.running;
      if (running === null) {
        this.tryStart(vring);
        continue;
      }
      this.replaceRing(vring, running, table);
    }
  }

  /** A running vring's addresses or memory changed. */
  replaceRing(vring: Vring, running: RunningRing, table = this.memory.current): void {
    running.memoryChanged();
    const place = vring.place(table);
    if (typeof place === 'string') running.ring.broken ??= place;
    else running.ring.replaceMemory(place, table.guest);
    running.checkBroken();
  }

  ringBroke(running: RunningRing): void {
    const vring = this.vrings[running.index] as Vring;
    this.broken(vring, running.ring.broken ?? 'unknown');
  }

  private broken(vring: Vring, reason: string): void {
    vring.fail(reason);
    this.lastError = `vring ${vring.index} is broken: ${reason}`;
    warn(`${this.transport.name}: ${this.lastError}`);
    vring.err?.signal();
  }

  /** Device status with what only we know. */
  currentStatus(): number {
    const broken = this.vrings.some(
      (v) => v.problem !== null || (v.running !== null && v.running.ring.broken !== null),
    );
    return broken ? this.status | DEVICE_NEEDS_RESET : this.status;
  }

  /**
   * Stop these vrings; `then` runs when nothing of theirs is outstanding, in a pass of its own.
   * @param abandon their completions are nobody's any more
   */
  stopRings(rings: readonly RunningRing[], what: string, abandon: boolean, then: () => void): typeof LATER {
    this.loop.rouse(this);
    this.drain?.cancel();
    const slow = (reason: string) => {
      this.lastError = reason;
      warn(`${this.transport.name}: ${reason}`);
    };
    this.drain = new Drain(this.loop, rings, what, slow, () => {
      this.drain = null;
      then();
    });
    for (const running of rings) {
      if (abandon) running.abandon();
      else running.stop();
    }
    return LATER;
  }

  ringIdle(running: RunningRing): void {
    if (this.drain?.idle(running)) this.retire(running);
  }

  /** A stopped vring is no longer polled; its next start begins where it stopped. */
  private retire(running: RunningRing): void {
    const i = this.active.indexOf(running);
    if (i < 0) return;
    this.active.splice(i, 1);
    if (this.active.length === 0) this.loop.removePoller(this);
    running.ended();
    (this.vrings[running.index] as Vring).stopped(running);
  }

  // Poller.

  poll(): number {
    let done = 0;
    const active = this.active;
    for (let i = 0; i < active.length; i++) done += active[i].poll();
    return done;
  }

  arm(): boolean {
    let work = false;
    let unheard = false;
    for (const running of this.active) {
      if (running.arm()) work = true;
      if (!running.kick.notifies && running.kick.paced !== true) unheard = true;
    }
    if (unheard && this.pollTimer === null) {
      this.pollTimer = this.loop.after(POLL_ONLY_MS, () => {
        this.pollTimer = null;
      });
    }
    return work;
  }

  disarm(): void {
    for (const running of this.active) running.disarm();
  }

  /** With nothing in flight the next thing to happen is a kick, or a message. */
  doze(): boolean {
    for (const running of this.active) if (running.outstanding > 0 || !running.kick.notifies) return false;
    if (this.drain === null && !this.arm()) return true;
    this.disarm();
    return false;
  }

  // The end.

  linkDown(reason: string): void {
    this.end(reason);
  }

  linkInterrupted(reason: string): void {
    this.interrupted = true;
    this.lastError = `the link was interrupted: ${reason}`;
    warn(`${this.transport.name}: ${this.lastError}`);
  }

  /** End it: by the front end's leave, by its fault, or by ours. `onClosed` follows. */
  end(reason: string): void {
    if (this.ended !== null) return;
    this.ended = reason;
    log(`${this.transport.name}: session ends: ${reason}`);
    this.transport.close();
    this.pending = null;
    this.stopRings([...this.active], 'the end of the session', true, () => this.free());
  }

  private free(): void {
    if (this.closed) return;
    this.closed = true;
    this.pollTimer?.cancel();
    for (const vring of this.vrings) vring.close();
    this.memory.clear();
    this.inflight?.close();
    this.inflight = null;
    this.backend?.close();
    this.backend = null;
    if (this.model.configBytes > 0) this.model.onConfigChange = null;
    this.model.close();
    this.onClosed(this);
  }

  /** Requests taken and not completed. */
  get outstanding(): number {
    return this.active.reduce((n, r) => n + r.outstanding, 0);
  }

  /** For RPC: an element of "sessions". */
  describe(): Record<string, unknown> {
    const known = this.memory.changes > 0;
    const used = this.vrings.filter((v) => v.kick !== null || v.running !== null || v.num > 0 || v.failures > 0);
    return {
      transport: this.transport.name,
      state: this.ended !== null ? 'ending' : this.drain !== null ? 'draining' : 'open',
      ended: this.ended,
      last_error: this.lastError,
      features: featureNames(this.features, { ...VhostFeature, ...this.model.featureBits }),
      protocol_features: featureNames(this.protocolFeatures, ProtocolFeature),
      device_status: this.currentStatus(),
      messages: this.messages,
      refused: this.refused,
      kicks: this.kicks,
      outstanding: this.outstanding,
      inflight_tracking: this.inflight !== null,
      memory: this.memory.describe(),
      vrings: used.map((v) => v.describe(known)),
      [this.model.name]: this.model.describe(),
    };
  }
}
