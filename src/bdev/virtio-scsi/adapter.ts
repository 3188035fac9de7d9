import type { ControlLoop } from '../../pci/control-loop.ts';
import { DeviceQueues } from '../../pci/device-queues.ts';
import type { QueueBoard } from '../../pci/queue-board.ts';
import type { QueueLoop } from '../../pci/reactor-queue.ts';
import { logger } from '../../sys/log.ts';
import { featureMask, featureNames, hasFeature, VirtioFeature } from '../../virtio/features.ts';
import {
  VIRTIO_SCSI_CONFIG,
  VIRTIO_SCSI_REQUEST,
  VirtioScsiEvent,
  VirtioScsiFeature,
  VirtioScsiQueue,
} from '../../virtio/scsi-device.ts';
import { SLOT_BYTES } from './command-ring.ts';
import { Commander } from './commander.ts';
import { ControlQueues, type ScsiEvent } from './control-queues.ts';
import { BOUNCE_BYTES, planQueue, type QueuePlan, RequestQueueMemory } from './queue-memory.ts';
import { ScsiRequestQueue } from './request-queue.ts';
import { type ScanResult, scan } from './scan.ts';
import type { BellShare, ScsiShare } from './share.ts';
import type { ScsiTransport } from './transport.ts';

const log = logger('virtio-scsi');

/**
 * A virtio-scsi adapter, owned by the main thread: brings the device up, keeps control and event queue, scans, aborts, resets. Reactors own
 * the request queues and speak with it over the board, as with an NVMe controller.
 *
 * starting -> ready <-> resetting; at the end off, failed or removed
 */
export type AdapterState = 'starting' | 'ready' | 'resetting' | 'off' | 'failed' | 'removed';

export interface AdapterOptions {
  /** Request queues wanted: one a reactor. Default 4. */
  queues?: number;
  /** Ring entries, default 128. */
  queueSize?: number;
  /** Milliseconds until a command is aborted. Default 30000. */
  timeoutMs?: number;
  /** Bounce buffers of 128 KiB a queue. Default 16. */
  bounceBuffers?: number;
}

export interface AdapterListener {
  /** Units may have come or gone behind these targets: scan them. */
  changed(targets: readonly number[]): void;
  /** A unit's parameters (its size, say) have changed. */
  parametersChanged(target: number, lun: number): void;
  /** A reactor has left word. */
  rung(): void;
  /** The adapter is no more; every request ends in an error. */
  lost(reason: string): void;
}

const WANTED = featureMask(
  VirtioFeature.INDIRECT_DESC,
  VirtioFeature.EVENT_IDX,
  VirtioScsiFeature.HOTPLUG,
  VirtioScsiFeature.CHANGE,
);

/** What a transport without a configuration is taken for. */
const DEFAULTS = { numQueues: 64, segMax: 126, maxSectors: 0xffff, maxTarget: 255 };
const MAX_QUEUES = 64;
/** How often the device is looked at while all is well. Milliseconds. */
const TICK_MS = 1000;
const POLL_TICK_MS = 20;
const HOLD_MS = 10_000;
const SECTOR = 512;
/** Most data of one command. Bytes. */
const MAX_TRANSFER = 0x40_0000;
const MAX_RESETS = 3;
const REQUEST = VIRTIO_SCSI_REQUEST.fields;

let instances = 0;

export class VirtioScsiAdapter {
  readonly name: string;
  state: AdapterState = 'starting';
  /** Why the last reset or loss happened. */
  reason = '';
  readonly stats = { resets: 0, aborts: 0, events: 0 };
  maxTarget = 0;
  /** Bytes of data a command may have, as the device says. */
  maxTransfer = 0;
  private readonly key: string;
  private readonly transport: ScsiTransport;
  private readonly loop: ControlLoop & QueueLoop;
  private readonly listener: AdapterListener;
  private readonly options: Required<AdapterOptions>;
  private readonly queues = new DeviceQueues<RequestQueueMemory>();
  private features = 0n;
  private plan: QueuePlan | null = null;
  private control: ControlQueues | null = null;
  private bells: BellShare[] = [];
  private timer: { cancel(): void } | null = null;
  private failures = 0;
  private closing = false;
  private scanning: Promise<unknown> = Promise.resolve();
  private resetting: Promise<void> = Promise.resolve();

  constructor(
    transport: ScsiTransport,
    loop: ControlLoop & QueueLoop,
    listener: AdapterListener,
    options: AdapterOptions = {},
  ) {
    this.name = transport.name;
    this.key = `${transport.name}#${++instances}`;
    this.transport = transport;
    this.loop = loop;
    this.listener = listener;
    this.options = {
      queues: options.queues ?? 4,
      queueSize: options.queueSize ?? 128,
      timeoutMs: options.timeoutMs ?? 30_000,
      bounceBuffers: options.bounceBuffers ?? 16,
    };
  }

  /** Bring it up. @throws Error; everything but the transport is released then */
  async start(): Promise<void> {
    this.queues.listen(this.loop, () => this.tick());
    this.transport.onLost(this.loop, (reason) => this.lose('removed', reason));
    try {
      await this.bringUp();
    } catch (error) {
      this.release('failed');
      throw error;
    }
    this.ready();
  }

  private async bringUp(): Promise<void> {
    const { transport } = this;
    await transport.reset();
    const features = await transport.negotiate(WANTED);
    if (this.queues.board !== null && features !== this.features) {
      throw new Error(`${this.name}: after a reset it offers other features (${featureNames(features).join(', ')})`);
    }
    this.features = features;
    if (this.queues.board === null) await this.makeQueues();
    await this.enableQueues();
    this.checkLost();
    await transport.start();
    this.checkLost();
    this.control?.fill();
  }

  /** One that was lost while it was brought up must not be left running. @throws Error then */
  private checkLost(): void {
    if (!this.ended) return;
    this.transport.quiet();
    throw new Error(`${this.name}: ${this.reason}`);
  }

  /** The first time: what the device has, and memory for as much of it as we use. */
  private async makeQueues(): Promise<void> {
    const { transport, options, queues } = this;
    const config = parseConfig(await transport.readConfig());
    const virtqueues = await transport.queueCount();
    const there = Math.min(config.numQueues, virtqueues - VirtioScsiQueue.FIRST_REQUEST);
    if (there < 1) throw new Error(`${this.name}: it has ${virtqueues} queues; a SCSI adapter has three or more`);
    const wanted = Math.min(there, Math.max(1, options.queues), MAX_QUEUES);
    const count = queues.count(wanted, transport.vectors);
    const largest = await transport.queueSize(VirtioScsiQueue.FIRST_REQUEST);
    if (largest < 2) throw new Error(`${this.name}: its request queue has room for ${largest} descriptors`);
    const has = (bit: number) => hasFeature(this.features, bit);
    const plan = planQueue(
      largest,
      Math.max(1, config.segMax),
      has(VirtioFeature.INDIRECT_DESC),
      has(VirtioFeature.EVENT_IDX),
      options.queueSize,
    );
    this.plan = plan;
    this.maxTarget = config.maxTarget;
    this.maxTransfer = Math.min(MAX_TRANSFER, config.maxSectors * SECTOR);
    this.control = new ControlQueues(transport.dma, plan.eventIdx);
    for (let i = 0; i < count; i++) {
      queues.list.push(
        new RequestQueueMemory(VirtioScsiQueue.FIRST_REQUEST + i, plan, options.bounceBuffers, transport.dma),
      );
    }
    queues.open(plan.size);
    if (transport.vectors > 0) transport.connect(queues.mainFd, queues.queueFds);
  }

  private async enableQueues(): Promise<void> {
    const { transport } = this;
    const control = this.control as ControlQueues;
    control.begin();
    const { CONTROL, EVENT } = VirtioScsiQueue;
    const controlBell = await transport.enableQueue(CONTROL, control.control.size, control.control.addresses, 0);
    const eventBell = await transport.enableQueue(EVENT, control.events.size, control.events.addresses, 0);
    control.setBells(controlBell, eventBell);
    const bells: BellShare[] = [];
    for (const [i, queue] of this.queues.list.entries()) {
      queue.clear();
      bells.push(await transport.enableQueue(queue.index, queue.size, queue.addresses, 1 + i));
    }
    this.bells = bells; // all at once: reactors take queues meanwhile, and wait for the device with them
  }

  private ready(): void {
    this.state = 'ready';
    this.queues.run();
    this.schedule();
  }

  get ended(): boolean {
    return this.state === 'off' || this.state === 'failed' || this.state === 'removed';
  }

  // The clockwork.

  private schedule(): void {
    this.timer?.cancel();
    this.timer = null;
    if (this.ended) return;
    // Without interrupts events are found by looking.
    this.timer = this.loop.after(this.transport.vectors > 0 ? TICK_MS : POLL_TICK_MS, () => this.tick());
  }

  private tick(): void {
    if (this.state !== 'ready') return;
    const health = this.transport.health();
    if (health === 'gone') {
      this.lose('removed', 'its registers read all ones: the device has gone');
      return;
    }
    const lie = this.control?.poll((event) => this.onEvent(event)) ?? null;
    const board = this.queues.board as QueueBoard;
    if (health === 'needs reset') this.reset('the device asks for a reset (DEVICE_NEEDS_RESET)');
    else if (lie !== null) this.reset(lie);
    else if (board.takeResetAsked()) this.reset('a queue asked for it: a command was answered wrongly or not at all');
    else this.passAborts(board);
    this.listener.rung();
    this.schedule();
  }

  private passAborts(board: QueueBoard): void {
    for (const [index, queue] of this.queues.list.entries()) {
      for (const slot of board.takeAborts(index)) {
        const { memory } = queue.slots;
        const at = slot * SLOT_BYTES;
        const lun = memory.u8.slice(at + REQUEST.lun[0], at + REQUEST.lun[0] + 8);
        const id = (at + REQUEST.id[0]) >> 2;
        if (this.control?.abort(lun, memory.u32[id], memory.u32[id + 1])) this.stats.aborts++;
      }
    }
  }

  private onEvent(event: ScsiEvent): void {
    this.stats.events++;
    log('%s: event %o', this.name, event);
    if (event.missed) this.listener.changed(this.allTargets);
    else if (event.event === VirtioScsiEvent.TRANSPORT_RESET) this.listener.changed([event.target]);
    if (event.event === VirtioScsiEvent.PARAM_CHANGE) this.listener.parametersChanged(event.target, event.lun);
  }

  get allTargets(): number[] {
    return Array.from({ length: this.maxTarget + 1 }, (_, i) => i);
  }

  /** What stands behind these targets. Uses a request queue that is free; waits for one. Scans come one after the other. */
  scan(targets: readonly number[]): Promise<ScanResult> {
    const next = this.scanning.then(() => this.scanNow(targets));
    this.scanning = next.catch(() => {});
    return next;
  }

  private async scanNow(targets: readonly number[]): Promise<ScanResult> {
    let told = false;
    for (;;) {
      if (this.ended || this.closing) throw new Error(`${this.name}: the adapter is ${this.state}`);
      let queue: ScsiRequestQueue;
      try {
        queue = ScsiRequestQueue.open({ ...this.share(), key: `${this.key}/scan` }, this.loop);
      } catch {
        if (!told)
          log(
            '%s: every request queue is a reactor’s; the scan waits for one (attach it with more: vq_count)',
            this.name,
          );
        told = true;
        await new Promise<void>((resolve) => {
          this.loop.after(TICK_MS, resolve);
        });
        continue;
      }
      const commander = new Commander(queue);
      try {
        const found = await scan(commander, targets, this.name);
        // What was found before it was lost is not there any more.
        if (this.ended || this.closing) throw new Error(`${this.name}: the adapter is ${this.state}`);
        return found;
      } finally {
        commander.close();
      }
    }
  }

  /** Reset the device; what is outstanding is sent again. Ignored unless it works, and goes on working. */
  reset(reason: string): void {
    if (this.state !== 'ready' || this.closing) return;
    this.state = 'resetting';
    this.reason = reason;
    this.stats.resets++;
    log('%s: reset: %s', this.name, reason);
    this.resetting = this.resetNow().catch((error: Error) => this.lose('failed', error.message));
  }

  private async resetNow(): Promise<void> {
    this.queues.hold();
    for (let waited = 0; this.queues.unacknowledged.length > 0; waited++) {
      if (waited > HOLD_MS) throw new Error(`reactors did not let go of their queues in ${HOLD_MS} ms`);
      await new Promise<void>((resolve) => {
        this.loop.after(1, resolve);
      });
    }
    for (;;) {
      if (this.state !== 'resetting' || this.closing) return;
      try {
        await this.bringUp();
        break;
      } catch (error) {
        if (++this.failures >= MAX_RESETS) throw error;
        log('%s: %s; once more', this.name, (error as Error).message);
      }
    }
    this.failures = 0;
    if (this.state === 'resetting' && !this.closing) this.ready();
  }

  /** For a reactor: everything to take a request queue. @throws Error when it has ended */
  share(): ScsiShare {
    const { board, bellFd, list, interrupts } = this.queues;
    if (board === null || this.state === 'off') throw new Error(`${this.name}: the adapter is ${this.state}`);
    return {
      key: this.key,
      name: this.name,
      board: board.shared,
      bellFd,
      bounceBytes: BOUNCE_BYTES,
      bounceOnly: this.transport.kind === 'user',
      timeoutMs: this.options.timeoutMs,
      queues: list.map((q, i) => q.share(this.bells[i] as BellShare, interrupts)),
    };
  }

  private lose(state: 'failed' | 'removed', reason: string): void {
    if (this.ended) return;
    log('%s: %s (%s)', this.name, reason, state);
    const wasUp = this.queues.board !== null && this.state !== 'starting';
    this.reason = reason;
    this.state = state;
    this.schedule();
    this.transport.quiet();
    this.queues.end(state);
    if (wasUp) this.listener.lost(`${this.name}: ${reason.replace(`${this.name}: `, '')}`);
  }

  /** Stop and release everything. Channels must have been closed. */
  async shutdown(): Promise<void> {
    if (this.state === 'off') return;
    const lost = this.ended;
    this.closing = true;
    // Nothing new from here on: a scan under way ends with its queue.
    this.queues.end('removed');
    await this.scanning;
    // A reset under way goes on with the queues' memory.
    await this.resetting;
    this.release(lost ? this.state : 'off');
  }

  private release(state: AdapterState): void {
    this.transport.quiet();
    this.state = state;
    this.timer?.cancel();
    this.timer = null;
    this.queues.free();
    this.control?.free();
    this.control = null;
    this.transport.close();
  }

  /** For RPC. */
  describe(): Record<string, unknown> {
    return {
      state: this.state,
      reason: this.reason,
      transport: this.transport.kind,
      features: featureNames(this.features, VirtioScsiFeature),
      interrupts: this.queues.interrupts,
      ...this.stats,
      queues: this.queues.list.map((q, i) => ({ index: q.index, size: q.size, claimed: this.queues.isClaimed(i) })),
      segments: this.plan?.segments ?? 0,
    };
  }
}

/** @throws Error for values that can't be */
function parseConfig(bytes: Uint8Array | null): typeof DEFAULTS {
  if (bytes === null) return DEFAULTS;
  const v = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const at = VIRTIO_SCSI_CONFIG.fields;
  const maxSectors = v.getUint32(at.max_sectors[0], true);
  return {
    numQueues: v.getUint32(at.num_queues[0], true),
    segMax: v.getUint32(at.seg_max[0], true),
    // 0 means no limit to some devices; less than a page of data is nothing to work with.
    maxSectors: maxSectors < 8 ? DEFAULTS.maxSectors : maxSectors,
    // lun[1] is one byte.
    maxTarget: Math.min(255, v.getUint16(at.max_target[0], true)),
  };
}
