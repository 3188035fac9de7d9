import type { EventLoop, Poller, Watch } from '../../sys/event-loop.ts';
import { EventFd } from '../../sys/eventfd.ts';
import { logger } from '../../sys/log.ts';
import type { DeviceModel } from '../../vhost/device-model.ts';
import { HEADER_BYTES, headerError, type InflightDescription, type MemoryRegion } from '../../vhost/messages.ts';
import { RegionWaiters } from '../../vhost/region-waiters.ts';
import type { SessionEnd } from '../../vhost/server.ts';
import { Session, type SessionOptions } from '../../vhost/session.ts';
import type { KickSource, Notifier, RegionMapping } from '../../vhost/transport.ts';
import { VvuDevice } from './device.ts';
import type { DeviceAccess } from './device-access.ts';
import { FirstMessageLink } from './first-message-link.ts';
import type { LayoutName } from './layout-names.ts';
import type { Link, LinkEvents } from './link.ts';
import { mapWindow } from './memory-window.ts';
import { PollPace } from './poll-pace.ts';
import { RelayLink } from './relay-link.ts';
import { StatusLink } from './status-link.ts';
import { type VvuCarrier, VvuTransport } from './vvu-transport.ts';

const log = logger('vvu');

/**
 * A controller's vvu device: the counterpart of a listening socket. It takes messages off the device, makes a session of each
 * front end, and looks after link, kicks and interrupts. One device serves one front end at a time; a session that
 * has lost its own lives on until its requests are completed.
 */
export interface VvuPortOptions {
  readonly loop: EventLoop;
  readonly access: DeviceAccess;
  /** The device of one session. */
  readonly model: () => DeviceModel;
  readonly memoryListener?: SessionOptions['memoryListener'];
  /** Take the device for this layout. */
  readonly layout?: LayoutName | undefined;
  /** Look all the time, use no interrupts. */
  readonly poll?: boolean;
}

/** Messages handled in one pass. */
const MESSAGES_AT_ONCE = 16;
/** How often registers are looked at where no interrupt tells of a change, ns: each look is an exit from the VM. */
const CHECK_NS = 20e6;
/** The same with interrupts, as a safety net. */
const SLOW_CHECK_NS = 1e9;
const ENDS_KEPT = 8;
/** After so many recoveries in a row the device is given up. */
const MAX_RECOVERIES = 8;
const PAYLOAD_LIMIT = 4096 - HEADER_BYTES;

export class VvuPort implements VvuCarrier, LinkEvents, Poller {
  readonly name: string;
  readonly device: VvuDevice;
  readonly sessions = new Set<Session>();
  readonly ends: SessionEnd[] = [];
  accepted = 0;
  /** Why the device is of no use any more; null while it is. */
  failed: string | null = null;

  private readonly options: VvuPortOptions;
  private readonly loop: EventLoop;
  private readonly access: DeviceAccess;
  private readonly link: Link;
  private readonly relay: RelayLink | null;
  private readonly events: EventFd[];
  private readonly watches: Watch[] = [];
  private readonly pace: PollPace;
  /** Vrings with a kick vector, to be set again after a link-up, and what to call at a kick. */
  private readonly listening = new Map<number, () => void>();
  /** Vrings that run and whose kicks nobody tells. */
  private unheard = 0;
  private readonly regions = new RegionWaiters(this.sessions);
  private current: { transport: VvuTransport; session: Session } | null = null;
  private checkDue = true;
  private lastCheck = 0;
  private draining = false;
  private recoveries = 0;
  private closing = false;
  private ending = false;
  private whenClosed: (() => void)[] = [];

  /** @throws Error when the device can't be used; `access` is closed then */
  constructor(options: VvuPortOptions) {
    this.options = options;
    this.loop = options.loop;
    this.access = options.access;
    this.name = options.access.bdf;
    this.pace = new PollPace(this.loop);
    const wanted = options.poll === true ? 0 : Math.min(2, this.access.vectors);
    this.events = Array.from({ length: wanted }, () => new EventFd());
    try {
      const eventFds = this.events.map((e) => e.fd.number);
      this.device = new VvuDevice({ access: this.access, layout: options.layout, eventFds });
      this.device.start();
    } catch (error) {
      for (const e of this.events) e.close();
      this.access.close();
      throw error;
    }
    this.relay = this.device.layout.link === 'relay' ? this.makeRelayLink() : null;
    this.link = this.relay ?? this.makeLink();
    for (const event of this.events) this.watches.push(this.loop.watch(event.fd.number, () => this.interrupted(event)));
    this.loop.addPoller(this);
    this.link.begin();
    log('%s: %j', this.name, this.device.describe());
  }

  private makeRelayLink(): RelayLink {
    return new RelayLink({ loop: this.loop, events: this, send: (message) => this.device.queues.send(message) });
  }

  private makeLink(): Link {
    const kind = this.device.layout.link;
    return kind === 'status' ? new StatusLink(this.device, this) : new FirstMessageLink(this.device, this);
  }

  private interrupted(event: EventFd): void {
    event.drain();
    this.checkDue = true;
    // An interrupt of a shared vector may mean anything.
    for (const wake of this.listening.values()) wake();
  }

  // VvuCarrier: what the current session's transport asks.

  get protocolFeatures(): bigint {
    return this.device.layout.protocolFeatures;
  }

  get memoryFlickers(): boolean {
    return this.device.layout.memoryFlickers;
  }

  resumed(): void {
    this.loop.defer(() => {
      this.checkDue = true; // a link-down may have waited for it
    });
  }

  send(transport: VvuTransport, message: Uint8Array): void {
    // Nothing goes out without a front end: some devices stop for good when a message finds none.
    if (!this.link.up || this.current?.transport !== transport) return;
    try {
      this.device.queues.send(message);
    } catch (error) {
      log.warn('%s: %s', this.name, (error as Error).message);
      this.checkDue = true;
    }
  }

  mapRegions(regions: readonly MemoryRegion[]): RegionMapping[] | string {
    const { window, layout } = this.device;
    const relay = this.relay;
    const generation = relay?.takeGeneration(regions.length) ?? -1;
    return mapWindow(this.access, window, layout.regions, regions, () => relay?.released(generation));
  }

  mapInflight({ mmapOffset, mmapSize }: InflightDescription): RegionMapping | string {
    const { window, layout } = this.device;
    const relay = this.relay;
    if (relay === null) return 'this device brings no inflight regions';
    const generation = relay.takeGeneration(1);
    const piece = { offset: mmapOffset, size: mmapSize };
    const mapped = mapWindow(this.access, window, layout.regions, [piece], () => relay.released(generation));
    return typeof mapped === 'string' ? mapped : mapped[0];
  }

  kickSource(index: number, wake: () => void): KickSource | string {
    this.recoveries = 0; // a vring starts: the device has served since it last stopped
    const heard = this.device.listenToKicks(index);
    const kicked = () => wake(); // its own function: the same vring may be started again before this source is closed
    if (heard) this.listening.set(index, kicked);
    else this.unheard++;
    let open = true;
    return {
      notifies: heard,
      paced: true,
      close: () => {
        if (!open) return;
        open = false;
        if (!heard) this.unheard--;
        else if (this.listening.get(index) === kicked) this.listening.delete(index);
      },
    };
  }

  notifier(index: number): Notifier | string {
    return index < this.device.maxVrings
      ? this.device.doorbell(index)
      : `the device has no doorbell for vring ${index}`;
  }

  closed(transport: VvuTransport): void {
    if (this.current?.transport !== transport) return;
    const { session } = this.current;
    this.current = null;
    this.device.queues.forgetWaiting();
    this.link.hangUp(session.ended ?? 'the session ended');
  }

  // LinkEvents.

  linkUp(): void {
    if (this.closing) return;
    this.programKicks();
    this.newSession();
  }

  private newSession(): void {
    const transport = new VvuTransport(this);
    const { loop } = this;
    const session = new Session({
      loop,
      transport,
      model: this.options.model(),
      memoryListener: this.options.memoryListener,
      regionInUse: (key, then) => this.regions.inUse(key, then),
      onClosed: (s) => this.sessionClosed(s),
    });
    this.accepted++;
    this.sessions.add(session);
    this.current = { transport, session };
    session.open();
  }

  linkInterrupted(reason: string): void {
    this.programKicks();
    if (this.current !== null) this.current.transport.interrupted(reason);
    else if (!this.closing) this.newSession();
  }

  linkDown(reason: string): void {
    this.device.queues.forgetWaiting();
    const current = this.current;
    this.current = null;
    current?.transport.down(reason);
  }

  /** Devices forget the vectors of kicks when they drop the link. */
  private programKicks(): void {
    for (const vring of this.listening.keys()) this.device.listenToKicks(vring);
  }

  drainMessages(): boolean {
    this.receive(Number.POSITIVE_INFINITY);
    return this.current?.transport.paused !== true || !this.device.queues.hasReceived;
  }

  // Messages.

  /** @returns messages handled */
  private receive(limit: number): number {
    let n = 0;
    while (n < limit && this.current?.transport.paused !== true) {
      const message = this.device.queues.receive();
      if (message === null) break;
      n++;
      this.handle(message);
    }
    return n;
  }

  private handle(message: Uint8Array): void {
    if (message.length > 0 && message.length < HEADER_BYTES) {
      this.garbled(`${message.length} bytes`);
      return;
    }
    if (this.link.intercept(message)) return;
    this.forSession(message);
    this.relay?.messageDone();
  }

  private forSession(message: Uint8Array): void {
    const v = new DataView(message.buffer, message.byteOffset, message.byteLength);
    const [id, flags, size] = [v.getUint32(0, true), v.getUint32(4, true), v.getUint32(8, true)];
    if (size > PAYLOAD_LIMIT || message.length !== HEADER_BYTES + size) {
      this.garbled(`${message.length} bytes whose header says ${size} of payload`);
      return;
    }
    if (!this.link.up && !this.draining) {
      // The device says that the link is up before it brings the first message: look again rather than drop it.
      this.draining = true;
      this.link.check();
      this.draining = false;
    }
    if (this.current === null && this.link.up && !this.closing) this.newSession();
    const current = this.current;
    if (current === null) {
      log('%s: message %d without a front end', this.name, id);
      return;
    }
    const error = headerError(id, flags, size);
    if (error !== null) current.session.end(error);
    else current.transport.deliver({ id, flags, payload: message.subarray(HEADER_BYTES), fds: [] });
  }

  private garbled(what: string): void {
    log.warn('%s: the device brought no message: %s', this.name, what);
    this.current?.session.end(`the device brought no message: ${what}`);
  }

  // Poller.

  poll(): number {
    if (this.failed !== null) return 0;
    const { queues } = this.device;
    let done = queues.reap() + this.receive(MESSAGES_AT_ONCE);
    const patience = this.device.vectors.messages >= 0 ? SLOW_CHECK_NS : CHECK_NS;
    if (this.checkDue || this.loop.now - this.lastCheck > patience) {
      this.checkDue = false;
      this.lastCheck = this.loop.now;
      done += this.check();
    }
    return done;
  }

  private check(): number {
    const before = this.link.up;
    if (queuesBroken(this.device) || this.device.needsReset) this.recover();
    else this.link.check();
    return before === this.link.up ? 0 : 1;
  }

  /** The device stopped: set it up anew. Where in the stream it was is lost, so the session goes too. */
  private recover(): void {
    const why = this.device.queues.broken ?? 'it says that it needs a reset';
    log.warn('%s: the device stopped (%s); setting it up again', this.name, why);
    this.linkDown(`the device stopped: ${why}`);
    try {
      if (++this.recoveries > MAX_RECOVERIES) throw new Error(`it stopped ${this.recoveries} times`);
      this.device.recover();
      this.link.begin();
    } catch (error) {
      this.failed = (error as Error).message;
      log.warn('%s: given up: %s', this.name, this.failed);
    }
  }

  arm(): boolean {
    if (this.failed !== null) return false;
    const interrupts = this.device.vectors.messages >= 0;
    if (!interrupts || this.unheard > 0) this.pace.arm(this.current === null);
    const work = this.device.queues.arm();
    // A paused session leaves messages where they are; they are no reason to stay awake.
    return work && this.current?.transport.paused !== true;
  }

  disarm(): void {
    if (this.failed === null) this.device.queues.suppress();
  }

  // The end.

  private sessionClosed(session: Session): void {
    this.sessions.delete(session);
    this.ends.push({ reason: session.ended ?? '', last_error: session.lastError, at: new Date().toISOString() });
    if (this.ends.length > ENDS_KEPT) this.ends.shift();
    this.regions.sessionClosed();
    if (this.sessions.size === 0) this.finishClosing();
  }

  /** End all sessions, then reset the device and give it back. `then` runs when it touches no memory any more. */
  close(then: () => void = () => {}): void {
    this.whenClosed.push(then);
    if (!this.closing) {
      this.closing = true;
      for (const session of this.sessions) session.end('the controller was removed');
    }
    if (this.sessions.size === 0) this.finishClosing();
  }

  private finishClosing(): void {
    if (!this.closing || this.ending) return;
    this.ending = true;
    this.link.end(() => {
      this.loop.removePoller(this);
      this.pace.close();
      for (const watch of this.watches) watch.close();
      this.device.stop();
      this.access.close();
      for (const event of this.events) event.close();
      this.failed ??= 'closed';
      for (const then of this.whenClosed.splice(0)) then();
    });
  }

  /** For RPC. */
  describe(): Record<string, unknown> {
    return {
      socket: this.name,
      accepted: this.accepted,
      link: this.link.up ? 'up' : 'down',
      ...(this.link.hint === null ? {} : { hint: this.link.hint }),
      ...(this.failed === null ? {} : { failed: this.failed }),
      device: this.device.describe(),
      poll_interval_ms: this.pace.intervalMs,
      sessions: [...this.sessions].map((s) => s.describe()),
      ended_sessions: [...this.ends],
    };
  }
}

function queuesBroken(device: VvuDevice): boolean {
  return device.queues.broken !== null;
}
