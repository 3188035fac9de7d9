/**
 * A controller's socket: listens, and makes a session of each front end that connects. Sessions share nothing but
 * what their models share. A session that ends lives on until its requests are completed.
 */
import type { MemoryListener } from '../bdev/bdev.ts';
import type { EventLoop, Watch } from '../sys/event-loop.ts';
import type { Fd } from '../sys/fd.ts';
import { accept, type Listener, listenUnix } from '../sys/socket.ts';
import { type CoalescingSettings, NO_COALESCING } from './coalescing.ts';
import type { DeviceModel } from './device-model.ts';
import { MAX_SESSIONS } from './limits.ts';
import { RegionWaiters } from './region-waiters.ts';
import { Session } from './session.ts';
import { UnixTransport } from './unix-transport.ts';
import { warn } from './warn.ts';

export interface VhostServerOptions {
  readonly loop: EventLoop;
  /** Socket file. One that a dead process left is replaced. */
  readonly path: string;
  /** Permission bits of the socket file. */
  readonly mode?: number;
  /** The device of one session. */
  readonly model: () => DeviceModel;
  readonly memoryListener?: MemoryListener;
  readonly memSlots?: number;
}

/** How a session ended, for RPC. */
export interface SessionEnd {
  readonly reason: string;
  readonly last_error: string | null;
  /** ISO 8601. */
  readonly at: string;
}

/** Kept for the operator. */
const ENDS_KEPT = 8;

export class VhostServer {
  readonly path: string;
  readonly sessions = new Set<Session>();
  /** The last few, oldest first. */
  readonly ends: SessionEnd[] = [];
  accepted = 0;
  /** Interrupt coalescing of all sessions; change it at any time. */
  readonly coalescing: CoalescingSettings = { ...NO_COALESCING };

  private readonly options: VhostServerOptions;
  private readonly listener: Listener;
  private readonly watch: Watch;
  private closing = false;
  private whenClosed: (() => void)[] = [];
  private readonly regions = new RegionWaiters(this.sessions);

  /** @throws SysError when nothing can listen there */
  constructor(options: VhostServerOptions) {
    this.options = options;
    this.path = options.path;
    this.listener = listenUnix(options.path, options.mode);
    try {
      this.watch = options.loop.watch(this.listener.fd.number, () => this.callers());
    } catch (error) {
      this.listener.close();
      throw error;
    }
  }

  private callers(): void {
    try {
      for (let fd = accept(this.listener.fd); fd !== undefined; fd = accept(this.listener.fd)) {
        if (this.sessions.size >= MAX_SESSIONS) {
          fd.close();
          warn(`${this.path}: a front end was turned away, ${MAX_SESSIONS} are connected`);
          continue;
        }
        this.accepted++;
        this.begin(fd);
      }
    } catch (error) {
      warn(`${this.path}: ${(error as Error).message}`);
    }
  }

  /** @param fd a caller's; closed when there is no session for it */
  private begin(fd: Fd): void {
    const transport = new UnixTransport(this.options.loop, fd, this.path);
    let session: Session;
    try {
      session = new Session({
        loop: this.options.loop,
        transport,
        model: this.options.model(),
        memoryListener: this.options.memoryListener,
        memSlots: this.options.memSlots,
        coalescing: this.coalescing,
        regionInUse: (key, then) => this.regions.inUse(key, then),
        onClosed: (s) => this.sessionClosed(s),
      });
    } catch (error) {
      transport.close();
      throw error;
    }
    this.sessions.add(session);
    session.open();
  }

  private sessionClosed(session: Session): void {
    this.sessions.delete(session);
    this.ends.push({
      reason: session.ended ?? '',
      last_error: session.lastError,
      at: new Date().toISOString(),
    });
    if (this.ends.length > ENDS_KEPT) this.ends.shift();
    this.regions.sessionClosed();
    if (this.sessions.size === 0) this.finishClosing();
  }

  /** Listen no more and end all sessions. `then` runs when nothing is in flight and everything is freed. */
  close(then: () => void = () => {}): void {
    this.whenClosed.push(then);
    if (!this.closing) {
      this.closing = true;
      this.watch.close();
      this.listener.close();
      for (const session of this.sessions) session.end('the controller was removed');
    }
    if (this.sessions.size === 0) this.finishClosing();
  }

  private finishClosing(): void {
    if (!this.closing) return;
    for (const then of this.whenClosed.splice(0)) then();
  }

  /** For RPC. */
  describe(): Record<string, unknown> {
    return {
      socket: this.path,
      accepted: this.accepted,
      coalescing: { delay_us: this.coalescing.delayUs, iops_threshold: this.coalescing.iopsThreshold },
      sessions: [...this.sessions].map((s) => s.describe()),
      ended_sessions: [...this.ends],
    };
  }
}
