import { PCI_HEADER } from '../../pci/config-space.ts';
import type { DmaBuffer } from '../../pci/dma.ts';
import { logger } from '../../sys/log.ts';
import type { Notifier } from '../../vhost/transport.ts';
import { featureMask, hasFeature, VirtioFeature } from '../../virtio/features.ts';
import {
  CommonConfig,
  type QueueAddresses,
  VIRTIO_MSI_NO_VECTOR,
  VIRTIO_PCI_COMMON_CFG,
  VirtioStatus,
} from '../../virtio/virtio-pci-common.ts';
import type { DeviceAccess, Registers } from './device-access.ts';
import type { LayoutName } from './layout-names.ts';
import { FIXED_BAR, type LayoutRow, recognise } from './layouts.ts';
import { idleQueuePlace, MessageQueues, ringSize } from './message-queues.ts';
import { CapType, capOf, type VirtioCap, virtioCaps } from './virtio-caps.ts';

const log = logger('vvu');

/**
 * One vvu PCI function: registers, doorbells, kick vectors, its start and its end. Knows what the registers mean, and nothing of
 * messages. Its rule is about resets: the forks forget an open socket when they are reset while the driver has its
 * side down, and never tell of it again; so a device that is fresh is not reset at all, and one that must be
 * reset has SLAVE_UP raised first.
 */

/** Bits of the vvu status register. */
export const SLAVE_UP = 1;
export const MASTER_UP = 2;

/** Vectors: messages, link and sent buffers share one; kicks have the other where there are two. */
export const MESSAGE_VECTOR = 0;
export const KICK_VECTOR = 1;

/** Queues before those of the doorbells. */
const MESSAGE_QUEUES = 2;
/** Entries of a queue that carries notifications only. */
const IDLE_SIZE = 2;
/** Vrings that a message can name. */
const MAX_VRINGS = 256;
const RESET_MS = 2000;
const PAGE = 4096;

/** Where the compute VM's memory appears. */
export interface WindowPlace {
  readonly bar: number;
  readonly base: number;
  /** Bytes from `base` to the end of the BAR, or of what the device says. */
  readonly size: number;
}

export interface VvuDeviceOptions {
  readonly access: DeviceAccess;
  /** Take this layout, whatever the device looks like. */
  readonly layout?: LayoutName | undefined;
  /** Connect interrupts to these eventfds: messages, kicks. Empty: poll. */
  readonly eventFds: readonly number[];
}

/** Which interrupts work; -1 for none. */
export interface Vectors {
  readonly messages: number;
  readonly kicks: number;
}

export class VvuDevice {
  readonly layout: LayoutRow;
  readonly maxVrings: number;
  readonly window: WindowPlace;
  readonly vectors: Vectors;
  queues!: MessageQueues;
  /** Times this process has reset it. */
  resets = 0;

  private readonly access: DeviceAccess;
  private readonly common: CommonConfig;
  private readonly device: Registers | null;
  private readonly notifyRegisters: Registers;
  private readonly notifyCap: VirtioCap;
  private readonly notifyOff: number[] = [];
  private readonly doorbellRegisters: Registers;
  private readonly doorbellStride: number;
  private readonly kickRegisters: Registers | null;
  private readonly queueCount: number;
  private idlePage: DmaBuffer | null = null;
  private started = false;

  /** @throws Error when it is no vvu device, or one that lacks something */
  constructor(options: VvuDeviceOptions) {
    const { access } = options;
    this.access = access;
    const deviceId = access.config.read(PCI_HEADER.fields.device[0], 2);
    const caps = virtioCaps(access.config, access.capabilities);
    const layout = recognise({ deviceId, caps, barSize: (bar) => access.barSize(bar) }, options.layout);
    if (typeof layout === 'string') throw new Error(`${access.bdf}: ${layout}`);
    this.layout = layout;
    this.common = new CommonConfig(
      this.registersOf(capOf(caps, CapType.COMMON) as VirtioCap, VIRTIO_PCI_COMMON_CFG.size),
    );
    const deviceCap = capOf(caps, CapType.DEVICE);
    if (deviceCap === undefined && layout.link !== 'relay') throw new Error(`${access.bdf}: no device configuration`);
    this.device = layout.link === 'relay' ? null : this.registersOf(deviceCap as VirtioCap, 24);
    this.notifyCap = capOf(caps, CapType.NOTIFY) as VirtioCap;
    this.notifyRegisters = this.registersOf(this.notifyCap, this.notifyCap.length);
    this.queueCount = this.common.queues;
    this.maxVrings = Math.min(
      MAX_VRINGS,
      layout.doorbells === 'queues' ? this.queueCount - MESSAGE_QUEUES : (this.device as Registers).read32(4),
    );
    if (this.queueCount < MESSAGE_QUEUES || this.maxVrings < 1) {
      throw new Error(`${access.bdf}: ${this.queueCount} queues for ${this.maxVrings} vrings`);
    }
    const place = this.placeDoorbells(caps);
    this.doorbellRegisters = place.registers;
    this.doorbellStride = place.stride;
    this.window = this.placeWindow(caps);
    const kickCap = capOf(caps, CapType.NOTIFICATION);
    this.kickRegisters =
      layout.doorbells === 'capability' && kickCap !== undefined ? this.registersOf(kickCap, 4) : null;
    this.vectors = this.connect(options.eventFds);
    log('%s: layout %s (%s), %d vrings', access.bdf, layout.name, layout.what, this.maxVrings);
  }

  private registersOf(cap: VirtioCap, bytes: number): Registers {
    if (cap.length < bytes) throw new Error(`${this.access.bdf}: capability ${cap.type} has only ${cap.length} bytes`);
    return this.access.registers(cap.bar, cap.offset, bytes);
  }

  private placeDoorbells(caps: readonly VirtioCap[]): { registers: Registers; stride: number } {
    if (this.layout.doorbells === 'queues') return { registers: this.notifyRegisters, stride: 0 };
    if (this.layout.doorbells === 'fixed') {
      const bytes = this.maxVrings * 2;
      return { registers: this.access.registers(FIXED_BAR, 0, bytes), stride: 2 };
    }
    const cap = capOf(caps, CapType.DOORBELL) as VirtioCap;
    const stride = cap.multiplier;
    if (stride % 2 !== 0 || cap.length < (this.maxVrings - 1) * stride + 2) {
      throw new Error(
        `${this.access.bdf}: ${cap.length} bytes of doorbells, ${stride} apart, for ${this.maxVrings} vrings`,
      );
    }
    return { registers: this.registersOf(cap, (this.maxVrings - 1) * stride + 2), stride };
  }

  private placeWindow(caps: readonly VirtioCap[]): WindowPlace {
    let [bar, base] = [FIXED_BAR, 0];
    if (this.layout.doorbells === 'fixed') {
      // One register more than there are vrings: the log's.
      base = Math.ceil(((this.device as Registers).read32(4) + 1) / (PAGE / 2)) * PAGE;
    } else {
      const cap = capOf(caps, CapType.SHARED_MEMORY) as VirtioCap;
      // The length of the forks' capability means nothing: the window goes on to the end of the BAR.
      [bar, base] = [cap.bar, cap.offset];
    }
    const size = this.access.barSize(bar) - base;
    if (size <= 0) throw new Error(`${this.access.bdf}: the memory window begins beyond BAR ${bar}`);
    return { bar, base, size };
  }

  private connect(eventFds: readonly number[]): Vectors {
    const fds = eventFds.slice(0, Math.min(2, this.access.vectors));
    if (fds.length === 0) return { messages: -1, kicks: -1 };
    this.access.connectInterrupts(fds);
    // Where doorbells are queues, kicks are those queues' interrupts, and one vector may have to do for all.
    const kicks = !this.layout.kicks ? -1 : fds.length > 1 ? KICK_VECTOR : MESSAGE_VECTOR;
    return { messages: MESSAGE_VECTOR, kicks };
  }

  /** @throws Error when the device refuses a step */
  start(): void {
    this.comeClean();
    const { common, access } = this;
    common.status = VirtioStatus.ACKNOWLEDGE;
    common.status = VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER;
    const offered = common.deviceFeatures();
    if (!hasFeature(offered, VirtioFeature.VERSION_1)) throw new Error(`${access.bdf}: not a modern virtio device`);
    common.acceptFeatures(offered & featureMask(VirtioFeature.VERSION_1, VirtioFeature.ACCESS_PLATFORM));
    const ready = VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER | VirtioStatus.FEATURES_OK;
    common.status = ready;
    if ((common.status & VirtioStatus.FEATURES_OK) === 0)
      throw new Error(`${access.bdf}: the device refused VERSION_1`);
    this.startQueues();
    access.setBusMaster(true);
    common.status = ready | VirtioStatus.DRIVER_OK;
    this.started = true;
    this.queues.begin();
  }

  /**
   * A fresh device is left as it is. One that an earlier driver left behind is reset: with bus mastering off, so that it cannot write to
   * memory that is not that driver's any more, and with SLAVE_UP, so that it does not forget an open socket.
   */
  private comeClean(): void {
    const { common, access } = this;
    const touched = VirtioStatus.DRIVER | VirtioStatus.FEATURES_OK | VirtioStatus.DRIVER_OK;
    const status = common.status;
    if (status === 0xff) throw new Error(`${access.bdf}: registers read all ones: the device has gone`);
    if ((status & (touched | VirtioStatus.NEEDS_RESET | VirtioStatus.FAILED)) === 0) return;
    log('%s: device status 0x%s: somebody left it behind', access.bdf, status.toString(16));
    access.setBusMaster(false);
    this.reset();
  }

  private reset(): void {
    const { common, access } = this;
    if (
      this.layout.losesOpenSocket &&
      (common.status & VirtioStatus.NEEDS_RESET) === 0 &&
      (this.linkStatus & SLAVE_UP) === 0
    ) {
      this.raiseLink();
    }
    common.status = 0;
    const limit = performance.now() + RESET_MS;
    while (common.status !== 0) {
      if (performance.now() > limit) throw new Error(`${access.bdf}: the device does not finish its reset`);
    }
    this.resets++;
    this.started = false;
  }

  private startQueues(): void {
    const { access, common, vectors } = this;
    if (vectors.messages >= 0 && this.layout.link === 'status' && !common.setConfigVector(vectors.messages)) {
      throw new Error(`${access.bdf}: the device refused the vector for changes of its configuration`);
    }
    const sizes = [0, 1].map((queue) => {
      const most = common.queueSize(queue);
      if (most < 2) throw new Error(`${access.bdf}: queue ${queue} has ${most} entries`);
      return ringSize(most);
    });
    this.queues = new MessageQueues(access.dma, sizes[0], sizes[1], (queue) => this.notify(queue));
    const places = [this.queues.rxPlace, this.queues.txPlace];
    const vector = vectors.messages >= 0 ? vectors.messages : VIRTIO_MSI_NO_VECTOR;
    for (const [queue, place] of places.entries()) this.enable(queue, sizes[queue], place, vector);
    if (this.layout.doorbells !== 'queues') return;
    this.idlePage = access.dma.allocate(PAGE, true);
    const idle = idleQueuePlace(this.idlePage.memory, IDLE_SIZE);
    const kicks = vectors.kicks >= 0 ? vectors.kicks : VIRTIO_MSI_NO_VECTOR;
    for (let i = 0; i < this.maxVrings; i++) this.enable(MESSAGE_QUEUES + i, IDLE_SIZE, idle, kicks);
  }

  private enable(queue: number, size: number, at: QueueAddresses, vector: number): void {
    const notify = this.common.setUpQueue(queue, size, at, vector);
    if (notify < 0) throw new Error(`${this.access.bdf}: the device refused vector ${vector} for queue ${queue}`);
    if (notify * this.notifyCap.multiplier + 2 > this.notifyCap.length) {
      throw new Error(`${this.access.bdf}: queue ${queue} would be notified beyond the notification registers`);
    }
    this.common.enableQueue();
    this.notifyOff[queue] = notify;
  }

  private notify(queue: number): void {
    this.notifyRegisters.write16(this.notifyOff[queue] * this.notifyCap.multiplier, queue);
  }

  // The link's registers (layouts with a status register).

  get linkStatus(): number {
    return this.device === null ? 0 : this.device.read32(0);
  }

  /** Set SLAVE_UP. One write of the whole word: any other bit, or another width, makes some devices stop. */
  raiseLink(): void {
    this.device?.write32(0, SLAVE_UP);
  }

  /** The device found something that only a reset cures. */
  get needsReset(): boolean {
    return (this.common.status & VirtioStatus.NEEDS_RESET) !== 0;
  }

  /** Cure it. Messages on their way are lost. @throws Error when it can't be cured */
  recover(): void {
    this.access.setBusMaster(false);
    this.reset();
    this.free();
    this.start();
  }

  // Vrings.

  /** The doorbell of a vring: two bytes, written; what is written does not count. */
  doorbell(vring: number): Notifier {
    const { doorbellRegisters: registers } = this;
    const queue = MESSAGE_QUEUES + vring;
    if (this.layout.doorbells === 'queues') {
      const at = this.notifyOff[queue] * this.notifyCap.multiplier;
      return { signal: () => registers.write16(at, queue), close: () => {} };
    }
    const at = vring * this.doorbellStride;
    return { signal: () => registers.write16(at, vring), close: () => {} };
  }

  /** Ask for an interrupt at each kick of a vring. @returns whether there will be one */
  listenToKicks(vring: number): boolean {
    const { kicks } = this.vectors;
    if (kicks < 0) return false;
    if (this.layout.doorbells === 'queues') return true; // set up with the queue
    const registers = this.kickRegisters;
    if (registers === null) return false;
    // Two writes of 16 bits each: one of 32 would be taken for an index.
    registers.write16(0, vring);
    registers.write16(2, kicks);
    return registers.read16(2) === kicks;
  }

  /** After this it touches no memory. Harmless when called twice. */
  stop(): void {
    if (!this.started) return;
    try {
      this.reset();
    } catch (error) {
      log.warn((error as Error).message);
    }
    this.access.setBusMaster(false);
    this.free();
  }

  private free(): void {
    this.queues.free();
    this.idlePage?.free();
    this.idlePage = null;
  }

  describe(): Record<string, unknown> {
    return {
      layout: this.layout.name,
      device: this.layout.what,
      vrings: this.maxVrings,
      interrupts: this.vectors.messages >= 0 ? 'msix' : 'polled',
      kicks: this.vectors.kicks >= 0 ? 'msix' : 'polled',
      window: { bar: this.window.bar, offset: this.window.base, size: this.window.size },
      resets: this.resets,
      ...(this.queues === undefined ? {} : { queues: this.queues.describe() }),
    };
  }
}
