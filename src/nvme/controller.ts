import type { ControlLoop } from '../pci/control-loop.ts';
import { DeviceQueues } from '../pci/device-queues.ts';
import type { QueueBoard } from '../pci/queue-board.ts';
import { Ended } from '../pci/reactor-queue.ts';
import { logger } from '../sys/log.ts';
import { AdminCommands } from './admin-commands.ts';
import { type Capabilities, queuesInBar, readCapabilities } from './capabilities.ts';
import { IdentifyCns } from './commands.ts';
import type { NvmeDevice } from './device.ts';
import type { AsyncEvent } from './events.ts';
import { type ControllerInfo, type NamespaceInfo, parseController } from './identify.ts';
import { MAX_NAMESPACES } from './namespaces.ts';
import { BOUNCE_BYTES, QueueMemory } from './queue-memory.ts';
import { NvmeRegisters } from './registers.ts';
import type { NvmeShare } from './share.ts';
import { NvmeStatus, statusText } from './status.ts';

const log = logger('nvme');

/**
 * A controller, owned by the main thread: its life as a state machine in which every state has a time limit (NVMe Base
 * 2.0 §3.5). Reactors own the I/O queues and speak with it over the board.
 *
 * start: check -> disable -> enable -> identify -> features -> create -> scan -> ready
 * reset: ready -> hold (reactors let go) -> disable -> ... -> ready (they send again what was outstanding)
 * end:   ready -> hold -> shutdown -> off; or failed, or removed
 */
export type ControllerState =
  | 'new'
  | 'check'
  | 'disable'
  | 'enable'
  | 'identify'
  | 'features'
  | 'create'
  | 'scan'
  | 'ready'
  | 'hold'
  | 'shutdown'
  | 'off'
  | 'failed'
  | 'removed';

export interface NvmeControllerOptions {
  /** I/O queue pairs wanted: one a reactor. Default 4. */
  ioQueues?: number;
  /** Entries of an I/O queue, default 128. */
  entries?: number;
  /** Milliseconds until a command is aborted. Default 30000. */
  timeoutMs?: number;
  /** Milliseconds an admin command may take. Default 10000. */
  adminTimeoutMs?: number;
  /** Bounce buffers of 128 KiB a queue. Default 16. */
  bounceBuffers?: number;
}

export interface ControllerListener {
  /** Namespaces came, went or changed: look at `controller.namespaces`. */
  namespacesChanged?(controller: NvmeController): void;
  /** The controller is no more (failed or removed); every request ends in an error. */
  lost?(controller: NvmeController, reason: string): void;
}

/** How often registers are looked at while something is awaited, and while nothing is. Milliseconds. */
const BUSY_TICK_MS = 2;
const IDLE_TICK_MS = 1000;
/** A look that comes so much too late was kept from coming: by other work, or because the machine stood still. Milliseconds. */
const STALL_MS = 50;
/** Attempts of one start. */
const MAX_STARTS = 3;
const MAX_QUEUES = 64;
/** CC for NVM command set, 4 KiB pages, entries of 64 and 16 bytes. */
const CC_SETTINGS = (6 << 16) | (4 << 20);
const CC_EN = 1;
const CC_SHN_NORMAL = 1 << 14;
const SHST_COMPLETE = 2;
/** How long reactors may take to let go of their queues. Milliseconds. */
const HOLD_MS = 10_000;

let instances = 0;

export class NvmeController {
  readonly name: string;
  readonly registers: NvmeRegisters;
  state: ControllerState = 'new';
  /** Why the last reset or loss happened; '' when nothing did. */
  reason = '';
  info: ControllerInfo | null = null;
  namespaces: NamespaceInfo[] = [];
  /** Namespaces that are there and are not served, with the reason. */
  refused: string[] = [];
  readonly stats = { resets: 0, aborts: 0, events: 0 };

  private readonly key: string;
  private readonly device: NvmeDevice;
  private readonly loop: ControlLoop;
  private readonly listener: ControllerListener;
  private readonly options: Required<NvmeControllerOptions>;
  private readonly queues = new DeviceQueues<QueueMemory>();
  private caps: Capabilities | null = null;
  private admin: AdminCommands | null = null;
  private deadline = Number.POSITIVE_INFINITY;
  private timer: { cancel(): void } | null = null;
  private nextTick = Number.POSITIVE_INFINITY;
  private inTick = false;
  private starts = 0;
  private whenStarted: ((error: Error | null) => void) | null = null;
  private whenOff: (() => void)[] = [];
  private afterHold: 'disable' | 'shutdown' = 'disable';
  private rescanAsked = false;
  private aborts: { queue: number; cid: number }[] = [];
  private abortsOut = 0;

  constructor(
    device: NvmeDevice,
    loop: ControlLoop,
    listener: ControllerListener = {},
    options: NvmeControllerOptions = {},
  ) {
    this.name = device.name;
    this.key = `${device.name}#${++instances}`;
    this.device = device;
    this.loop = loop;
    this.listener = listener;
    this.options = {
      ioQueues: options.ioQueues ?? 4,
      entries: options.entries ?? 128,
      timeoutMs: options.timeoutMs ?? 30_000,
      adminTimeoutMs: options.adminTimeoutMs ?? 10_000,
      bounceBuffers: options.bounceBuffers ?? 16,
    };
    this.registers = new NvmeRegisters(device.bar, device.name);
  }

  /** Bring it up. @param done null, or why it can't be used (everything is released then). Never called before this returns. */
  start(done: (error: Error | null) => void): void {
    if (this.state !== 'new') throw new Error(`${this.name}: started twice`);
    this.whenStarted = done;
    this.queues.listen(this.loop, () => this.tick());
    this.device.onRemovalRequest(() => this.lose('removed', 'the host asks for the device back'));
    this.state = 'check';
    this.schedule();
  }

  /** Reset the controller; what is outstanding is sent again. Ignored unless it works. */
  reset(reason: string): void {
    if (this.state !== 'ready') return;
    this.stats.resets++;
    this.reason = reason;
    log('%s: reset: %s', this.name, reason);
    this.aborts = [];
    this.abortsOut = 0;
    this.afterHold = 'disable';
    this.hold();
    this.schedule();
  }

  /** Stop it in order and release everything. Channels must have been closed. Harmless in any state. */
  shutdown(done: () => void): void {
    if (this.state === 'off') {
      done();
      return;
    }
    this.whenOff.push(done);
    if (this.state === 'failed' || this.state === 'removed' || this.state === 'new') {
      this.release();
      return;
    }
    this.afterHold = 'shutdown';
    if (this.state !== 'hold' && this.state !== 'shutdown') this.hold();
    this.tick();
  }

  /** For a reactor: everything to take a queue pair. @throws Error unless the controller works, or will again */
  share(): NvmeShare {
    const { board, bellFd, list, interrupts } = this.queues;
    if (board === null || this.info === null || this.state === 'off') {
      throw new Error(`${this.name}: the controller is ${this.state}`);
    }
    return {
      key: this.key,
      name: this.name,
      board: board.shared,
      bar: this.device.shareBar(),
      bellFd,
      bounceBytes: BOUNCE_BYTES,
      timeoutMs: this.options.timeoutMs,
      limits: this.info,
      queues: list.map((q) => q.share(interrupts)),
    };
  }

  get queueCount(): number {
    return this.queues.list.length;
  }

  get usesInterrupts(): boolean {
    return this.queues.interrupts;
  }

  get ended(): boolean {
    return this.state === 'off' || this.state === 'failed' || this.state === 'removed';
  }

  // The clockwork.

  private schedule(): void {
    this.timer?.cancel();
    this.timer = null;
    if (this.ended) return;
    const busy = this.state !== 'ready' || (this.admin?.queue.outstanding ?? 0) > 0;
    const ms = busy ? BUSY_TICK_MS : IDLE_TICK_MS;
    this.nextTick = this.loop.now + ms * 1e6;
    this.timer = this.loop.after(ms, () => this.tick());
  }

  /** One look at everything: on a timer, on the admin interrupt, and when a reactor rings. */
  private tick(): void {
    if (this.inTick || this.ended) return;
    this.inTick = true;
    this.forgiveStall();
    try {
      this.look();
    } catch (error) {
      this.startFailed((error as Error).message);
    } finally {
      this.inTick = false;
    }
    this.schedule();
  }

  /** When this thread could not run, the device may have answered long ago: what passed meanwhile does not count. */
  private forgiveStall(): void {
    const late = this.loop.now - this.nextTick;
    if (late < STALL_MS * 1e6) return;
    this.deadline += late;
    this.admin?.queue.forgive(late);
  }

  private look(): void {
    if (this.registers.gone) {
      this.lose('removed', 'registers read all ones: the device has gone');
      return;
    }
    const queue = this.admin?.queue;
    queue?.poll(this.loop.now);
    if (queue !== undefined && queue.broken !== null) {
      this.trouble(queue.broken);
      return;
    }
    const late = queue?.overdue(this.loop.now - this.options.adminTimeoutMs * 1e6) ?? null;
    if (late !== null) {
      this.trouble(`admin command ${late} was not answered in ${this.options.adminTimeoutMs} ms`);
      return;
    }
    this.progress();
    if (this.loop.now > this.deadline && !this.ended) this.expired();
  }

  private enter(state: ControllerState): void {
    if (this.ended) return;
    if (log.enabled) log('%s: %s -> %s', this.name, this.state, state);
    this.state = state;
    this.deadline = this.loop.now + this.limitMs(state) * 1e6;
    this.act(state);
  }

  /** Milliseconds a state may last. */
  private limitMs(state: ControllerState): number {
    const { adminTimeoutMs } = this.options;
    switch (state) {
      case 'disable':
      case 'enable':
        return this.caps?.readyMs ?? 500;
      case 'identify':
      case 'features':
        return 2 * adminTimeoutMs;
      case 'create':
        return (1 + 2 * this.queueCount) * adminTimeoutMs;
      case 'scan':
        return (2 + 2 * MAX_NAMESPACES) * adminTimeoutMs;
      case 'hold':
        return HOLD_MS;
      case 'shutdown':
        return Math.max(5000, Math.min(60_000, (this.info?.shutdownMicroseconds ?? 0) / 1000));
      default:
        return Number.POSITIVE_INFINITY;
    }
  }

  /** What is done when a state begins. */
  private act(state: ControllerState): void {
    switch (state) {
      case 'disable':
        // One that is still starting must become ready before it may be disabled (CC.EN, §3.1.4.5): progress() waits for that.
        if (this.registers.field('CSTS', 'RDY') === 1) this.registers.write('CC', 0);
        return;
      case 'enable':
        this.admin?.queue.abandon(Ended.ABORTED, this.loop.now);
        this.admin?.program(this.registers);
        this.registers.write('CC', CC_SETTINGS | CC_EN);
        return;
      case 'identify':
        this.identify();
        return;
      case 'features':
        this.features();
        return;
      case 'create':
        for (const queue of this.queues.list) queue.clear();
        this.create(0);
        return;
      case 'scan':
        this.scan(() => this.enter('ready'));
        return;
      case 'ready':
        this.ready();
        return;
      case 'shutdown':
        this.registers.write('CC', CC_SETTINGS | CC_EN | CC_SHN_NORMAL);
        return;
    }
  }

  /** Leave the states that wait for something that can be looked at. */
  private progress(): void {
    switch (this.state) {
      case 'check':
        this.check();
        return;
      case 'disable':
        if (this.registers.field('CC', 'EN') === 1) {
          if (this.registers.field('CSTS', 'RDY') === 1) this.registers.write('CC', 0);
        } else if (this.registers.field('CSTS', 'RDY') === 0) this.enter('enable');
        return;
      case 'enable':
        if (this.registers.field('CSTS', 'CFS') === 1) {
          this.trouble('controller fatal status (CSTS.CFS) while starting');
          return;
        }
        if (this.registers.field('CSTS', 'RDY') === 1) this.enter('identify');
        return;
      case 'hold':
        if (this.queues.unacknowledged.length === 0) this.held();
        return;
      case 'shutdown':
        if (this.registers.field('CSTS', 'SHST') === SHST_COMPLETE) {
          this.registers.write('CC', 0);
          this.release();
        }
        return;
      case 'ready':
        this.watchOver();
        return;
    }
  }

  /** Ready: what reactors ask for, and the controller's own word that it has failed. */
  private watchOver(): void {
    if (this.registers.field('CSTS', 'CFS') === 1) {
      this.reset('controller fatal status (CSTS.CFS)');
      return;
    }
    const board = this.queues.board as QueueBoard;
    if (board.takeResetAsked()) {
      this.reset('a queue asked for it: a command was answered wrongly or not at all');
      return;
    }
    for (let queue = 0; queue < board.queues; queue++) {
      for (const cid of board.takeAborts(queue)) this.aborts.push({ queue, cid });
    }
    while (this.aborts.length > 0 && this.abortsOut < (this.info?.aborts ?? 1)) {
      const { queue, cid } = this.aborts.shift() as { queue: number; cid: number };
      this.stats.aborts++;
      this.abortsOut++;
      // Whether it helped shows in the queue: the command comes back, or its reactor asks for a reset.
      this.admin?.abort(this.queues.list[queue]?.id ?? 0, cid, (status) => {
        if (status <= 0x7ff) this.abortsOut--;
      });
    }
    if (!this.rescanAsked) return;
    this.rescanAsked = false;
    this.scan(() => this.listener.namespacesChanged?.(this));
  }

  private expired(): void {
    const state = this.state;
    const limit = this.limitMs(state);
    this.deadline = Number.POSITIVE_INFINITY;
    if (state === 'hold') {
      const open = this.queues.unacknowledged.map((q) => q + 1).join(', ');
      this.lose('failed', `reactors did not let go of queues ${open} in ${limit} ms`);
      return;
    }
    if (state === 'shutdown') {
      this.release(); // it was asked politely
      return;
    }
    const what =
      state === 'disable' ? 'CSTS.RDY did not become 0' : state === 'enable' ? 'CSTS.RDY did not become 1' : 'no end';
    this.trouble(`${state}: ${what} in ${limit} ms`);
  }

  /** Something is wrong with the controller: a reset when it was working, else a failed start. */
  private trouble(reason: string): void {
    if (this.state === 'ready') this.reset(reason);
    else if (this.state === 'hold' || this.state === 'shutdown')
      this.admin?.queue.abandon(Ended.ABORTED, this.loop.now);
    else this.startFailed(reason);
  }

  private hold(): void {
    this.queues.hold();
    this.enter('hold');
  }

  /** No reactor touches a queue any more. */
  private held(): void {
    this.admin?.queue.abandon(Ended.ABORTED, this.loop.now);
    if (this.afterHold === 'disable') this.enter('disable');
    else if (this.registers.field('CSTS', 'RDY') === 1) this.enter('shutdown');
    else this.release();
  }

  private startFailed(reason: string): void {
    // A controller that does not follow its registers may follow a function reset.
    const again = (this.whenStarted === null || this.state === 'disable') && this.whenOff.length === 0;
    if (++this.starts < MAX_STARTS && again && this.caps !== null && !this.ended) {
      log('%s: %s; function reset', this.name, reason);
      this.admin?.queue.abandon(Ended.ABORTED, this.loop.now);
      this.device.quiet();
      this.device.enableDma();
      this.enter('disable');
      return;
    }
    this.lose('failed', reason);
  }

  /** The end without order: everything outstanding ends in errors, the device is made quiet. */
  private lose(state: 'failed' | 'removed', reason: string): void {
    if (this.ended) return;
    const text = `${this.name}: ${reason.replace(`${this.name}: `, '')}`;
    log('%s (%s in state %s)', text, state, this.state);
    this.reason = reason;
    this.state = state;
    this.schedule();
    this.device.quiet();
    this.queues.end(state);
    this.admin?.queue.abandon(state === 'failed' ? Ended.FAILED : Ended.REMOVED, this.loop.now);
    const started = this.whenStarted;
    this.whenStarted = null;
    if (started === null) this.listener.lost?.(this, text);
    // Reactors may still look at their queues' memory until their channels are closed: then shutdown() is called.
    if (started !== null || this.whenOff.length > 0) this.release();
    started?.(new Error(text));
  }

  /** Give everything back. The device is quiet before its memory is freed. */
  private release(): void {
    this.device.quiet();
    if (!this.ended) this.state = 'off';
    this.schedule();
    this.queues.free();
    this.admin?.free();
    this.admin = null;
    for (const off of this.whenOff.splice(0)) off();
  }

  // The steps of a start.

  private check(): void {
    this.caps = readCapabilities(this.registers, this.name);
    this.admin = new AdminCommands(
      this.device,
      this.caps,
      () => this.loop.now,
      (event) => this.onEvent(event),
    );
    this.device.enableDma();
    this.enter('disable');
  }

  /**
   * The answer of a step: false when it failed (which is then taken care of), or was overtaken by a reset or a shutdown: those must not be
   * led back into the start by an answer that was on its way.
   */
  private went(step: ControllerState, what: string, status: number): boolean {
    if (this.state !== step) return false;
    if (status === NvmeStatus.SUCCESS) return true;
    if (status <= 0x7ff) this.trouble(`${what}: ${statusText(status)}`);
    return false;
  }

  private identify(): void {
    this.admin?.identifier.identify(IdentifyCns.CONTROLLER, 0, (status, bytes) => {
      if (!this.went('identify', 'identify controller', status)) return;
      const info = parseController(bytes, (this.caps as Capabilities).minPage, this.name);
      const before = this.info;
      if (before !== null && (info.serial !== before.serial || info.model !== before.model)) {
        return this.lose(
          'failed',
          `after a reset it is ${info.model} ${info.serial}, not ${before.model} ${before.serial}`,
        );
      }
      this.info = info;
      this.enter('features');
    });
  }

  private features(): void {
    const bar = queuesInBar(this.device.bar.length, (this.caps as Capabilities).doorbellStride);
    const wanted = Math.max(1, Math.min(this.options.ioQueues, bar, MAX_QUEUES));
    this.admin?.setQueueCount(wanted, (status, granted) => {
      if (!this.went('features', 'set number of queues', status)) return;
      if (this.queues.board === null) this.makeQueues(granted);
      else if (granted < this.queueCount) {
        return this.lose('failed', `after a reset it grants ${granted} I/O queues, ${this.queueCount} are in use`);
      }
      this.enter('create');
    });
  }

  private makeQueues(granted: number): void {
    const caps = this.caps as Capabilities;
    const { dma, vectors } = this.device;
    const entries = Math.max(2, Math.min(this.options.entries, caps.maxEntries));
    const { queues } = this;
    const count = queues.count(granted, vectors);
    for (let id = 1; id <= count; id++) {
      queues.list.push(new QueueMemory(id, entries, this.options.bounceBuffers, caps.doorbellStride, dma));
    }
    queues.open(entries - 1);
    if (vectors > 0) this.device.connectInterrupts([queues.mainFd, ...queues.queueFds]);
  }

  private create(index: number): void {
    const queue = this.queues.list[index];
    if (queue === undefined) {
      this.enter('scan');
      return;
    }
    this.admin?.createQueue(queue, this.usesInterrupts, (what, status) => {
      if (this.went('create', what, status)) this.create(index + 1);
    });
  }

  private scan(then: () => void): void {
    const [major = 0, minor = 0] = (this.caps as Capabilities).version.split('.').map(Number);
    const modern = major > 1 || (major === 1 && minor >= 3);
    const { state } = this;
    this.admin?.identifier.scan(this.info as ControllerInfo, modern, (scan, error) => {
      if (this.state !== state) return; // overtaken
      if (scan === null) {
        this.trouble(error);
        return;
      }
      this.namespaces = scan.found;
      this.refused = scan.refused;
      for (const why of scan.refused) log('%s', why);
      then();
    });
  }

  private ready(): void {
    this.starts = 0;
    this.reason = this.stats.resets === 0 ? '' : this.reason;
    if (this.info?.namespaceNotices) this.admin?.wantNamespaceNotices();
    this.admin?.events.start();
    this.queues.run();
    const started = this.whenStarted;
    this.whenStarted = null;
    if (started !== null) started(null);
    else this.listener.namespacesChanged?.(this);
  }

  private onEvent(event: AsyncEvent): void {
    this.stats.events++;
    log('%s: event type %d info 0x%s', this.name, event.type, event.info.toString(16));
    if (event.namespacesChanged) this.rescanAsked = true;
  }

  /** For RPC: registers, queues, and what it has been through. */
  dump(): Record<string, unknown> {
    return {
      state: this.state,
      reason: this.reason,
      interrupts: this.usesInterrupts,
      ...this.stats,
      refused: this.refused,
      registers: this.ended ? {} : this.registers.dump(),
      admin: this.admin?.queue.dump() ?? {},
      queues: this.queues.list.map((q, i) => ({ id: q.id, entries: q.entries, claimed: this.queues.isClaimed(i) })),
    };
  }
}
