/**
 * A modern virtio PCI function in this process: configuration space, common configuration, queues. Registers act when they are
 * written, as a hypervisor's do. It judges its driver: DMA while bus mastering is off, wild addresses and rings
 * that make no sense are violations.
 */
import { ByteConfig, type Capability, capabilities } from '../../src/pci/config-space.ts';
import * as libc from '../../src/sys/libc.ts';
import type { DeviceAccess, MemoryPart, Registers } from '../../src/vvu/driver/device-access.ts';
import { FakeDma, SINGLE_PAGES } from './fake-dma.ts';

/** One vendor capability; `more` are the words from byte 16 on. */
export interface FakeCap {
  type: number;
  bar: number;
  id?: number;
  offset: number;
  length: number;
  more?: number[];
}

const DRIVER_OK = 4;
const NEEDS_RESET = 0x40;
const NO_VECTOR = 0xffff;

export class FakeQueue {
  size = 0;
  vector = NO_VECTOR;
  enabled = false;
  desc = 0;
  driver = 0;
  device = 0;
  lastAvail = 0;
  used = 0;
}

/** A chain of the driver, as the device reads it. */
export interface FakeChain {
  head: number;
  readable: { address: number; bytes: number }[];
  writable: { address: number; bytes: number }[];
}

export const BLOCK_BAR = 4;

export abstract class FakeVirtioPci implements DeviceAccess {
  readonly bdf = '0000:00:07.0';
  readonly config: ByteConfig;
  readonly capabilities: readonly Capability[];
  readonly dma: FakeDma;
  readonly vectors: number;
  readonly violations: string[] = [];
  readonly queues: FakeQueue[];
  /** Device status. */
  status = 0;
  resets = 0;
  busMaster = false;
  closed = false;
  private readonly queueMost: number;
  private eventFds: readonly number[] = [];
  private configVector = NO_VECTOR;
  private selected = 0;
  private featureSelect = 0;
  private readonly features = 0x1_3000_0000n;

  constructor(options: {
    deviceId: number;
    caps: readonly FakeCap[];
    queues: number;
    queueMost?: number;
    vectors: number;
    dma?: FakeDma;
  }) {
    this.dma = options.dma ?? new FakeDma(SINGLE_PAGES);
    this.vectors = options.vectors;
    this.queueMost = options.queueMost ?? 128;
    this.queues = Array.from({ length: options.queues }, () => new FakeQueue());
    this.config = new ByteConfig(configBytes(options.deviceId, options.caps));
    this.capabilities = capabilities(this.config, this.bdf);
  }

  abstract barSize(bar: number): number;
  abstract memory(bar: number, offset: number, bytes: number): MemoryPart;
  /** Registers beyond the common configuration. */
  protected abstract readDevice(bar: number, at: number, width: number): number;
  protected abstract writeDevice(bar: number, at: number, width: number, value: number): void;
  protected abstract notified(queue: number): void;
  protected abstract onReset(): void;
  protected onDriverOk(): void {}

  registers(bar: number, offset: number, bytes: number): Registers {
    if (offset + bytes > this.barSize(bar)) throw new Error(`BAR ${bar} ends before ${offset + bytes}`);
    const check = (at: number, width: number) => {
      if (at % width !== 0 || at + width > bytes) throw new RangeError(`register ${at} of ${bytes}`);
      return offset + at;
    };
    const read = (width: number) => (at: number) => this.read(bar, check(at, width), width);
    const write = (width: number) => (at: number, value: number) => this.write(bar, check(at, width), width, value);
    return {
      read8: read(1),
      read16: read(2),
      read32: read(4),
      write8: write(1),
      write16: write(2),
      write32: write(4),
    };
  }

  connectInterrupts(fds: readonly number[]): void {
    this.eventFds = [...fds];
  }

  setBusMaster(on: boolean): void {
    this.busMaster = on;
    if (!on) this.status &= ~DRIVER_OK; // as QEMU does
  }

  close(): void {
    this.setBusMaster(false);
    this.closed = true;
  }

  /** The driver's process dies: its memory and its interrupts go, the device stays as it is. */
  driverDied(): void {
    this.eventFds = [];
    this.busMaster = false;
    this.status &= ~DRIVER_OK;
  }

  get running(): boolean {
    return (this.status & DRIVER_OK) !== 0;
  }

  protected interrupt(vector: number): void {
    const fd = this.eventFds[vector];
    if (fd !== undefined && fd >= 0) libc.eventfd_write(fd, 1);
  }

  protected configChanged(): void {
    if (this.running) this.interrupt(this.configVector);
  }

  /** virtio_error: only a reset helps. */
  protected needReset(why: string): void {
    this.stopped = why;
    this.status |= NEEDS_RESET;
    this.configChanged();
  }

  /** Why it needs a reset. */
  stopped: string | null = null;

  // Common configuration.

  private read(bar: number, at: number, width: number): number {
    if (bar !== BLOCK_BAR || at >= 0x1000) return this.readDevice(bar, at, width);
    const queue = this.queues[this.selected];
    switch (at) {
      case 4:
        return Number((this.features >> BigInt(32 * this.featureSelect)) & 0xffff_ffffn);
      case 16:
        return this.configVector;
      case 18:
        return this.queues.length;
      case 20:
        return this.status;
      case 24:
        return queue === undefined ? 0 : queue.size === 0 ? this.queueMost : queue.size;
      case 26:
        return queue?.vector ?? 0;
      case 30:
        return this.selected;
      default:
        return 0;
    }
  }

  private write(bar: number, at: number, width: number, value: number): void {
    if (bar !== BLOCK_BAR || at >= 0x1000) {
      if (bar === BLOCK_BAR && at >= 0x3000 && at < 0x4000) {
        if (width !== 2) this.violations.push(`notified by a write of ${width} bytes`);
        if (this.running && this.stopped === null) this.notified((at - 0x3000) >> 2);
        return;
      }
      this.writeDevice(bar, at, width, value);
      return;
    }
    const queue = this.queues[this.selected];
    const low = (old: number) => old - (old % 0x1_0000_0000) + value;
    const high = (old: number) => (old % 0x1_0000_0000) + value * 0x1_0000_0000;
    switch (at) {
      case 0:
        this.featureSelect = value & 1;
        break;
      case 16:
        this.configVector = value < this.vectors ? value : NO_VECTOR;
        break;
      case 20:
        this.writeStatus(value);
        break;
      case 22:
        this.selected = value;
        break;
      case 24:
        queue.size = value;
        break;
      case 26:
        queue.vector = value < this.vectors ? value : NO_VECTOR;
        break;
      case 28:
        queue.enabled = true;
        if (queue.desc % 16 !== 0 || queue.device % 4 !== 0) this.violations.push('a queue part is not aligned');
        break;
      case 32:
        queue.desc = low(queue.desc);
        break;
      case 36:
        queue.desc = high(queue.desc);
        break;
      case 40:
        queue.driver = low(queue.driver);
        break;
      case 44:
        queue.driver = high(queue.driver);
        break;
      case 48:
        queue.device = low(queue.device);
        break;
      case 52:
        queue.device = high(queue.device);
        break;
    }
  }

  private writeStatus(value: number): void {
    if (value === 0) {
      this.resets++;
      this.status = 0;
      this.stopped = null;
      this.configVector = NO_VECTOR;
      for (const i of this.queues.keys()) this.queues[i] = new FakeQueue();
      this.onReset();
      return;
    }
    const wasRunning = this.running;
    this.status = value | (this.status & NEEDS_RESET);
    if (this.running && !wasRunning) {
      if (!this.busMaster) this.violations.push('DRIVER_OK without bus mastering');
      this.onDriverOk();
    }
  }

  // Queues.

  private u32(address: number): number {
    const word = this.dma.word(address);
    return word === undefined ? 0 : Atomics.load(word.memory.u32, word.index);
  }

  private setU32(address: number, value: number): void {
    const word = this.dma.word(address);
    if (word !== undefined) Atomics.store(word.memory.u32, word.index, value >>> 0);
  }

  protected hasBuffer(index: number): boolean {
    const queue = this.queues[index];
    return queue.enabled && this.running && ((this.u32(queue.driver) >>> 16) - queue.lastAvail) % 0x1_0000 !== 0;
  }

  protected pop(index: number): FakeChain | null {
    if (!this.busMaster) this.violations.push('DMA with bus mastering off');
    const queue = this.queues[index];
    if (!this.hasBuffer(index)) return null;
    const slot = queue.lastAvail % queue.size;
    const at = queue.driver + 4 + 2 * slot;
    const word = this.u32(at - (at % 4));
    const head = at % 4 === 0 ? word & 0xffff : word >>> 16;
    queue.lastAvail = (queue.lastAvail + 1) & 0xffff;
    const chain: FakeChain = { head, readable: [], writable: [] };
    for (let i = head, n = 0; n <= queue.size; n++) {
      const d = queue.desc + 16 * i;
      const address = this.u32(d) + this.u32(d + 4) * 0x1_0000_0000;
      const flags = this.u32(d + 12) & 0xffff;
      ((flags & 2) !== 0 ? chain.writable : chain.readable).push({ address, bytes: this.u32(d + 8) });
      if ((flags & 1) === 0) return chain;
      i = this.u32(d + 12) >>> 16;
    }
    this.violations.push(`queue ${index}: an endless chain`);
    return null;
  }

  protected push(index: number, head: number, bytes: number): void {
    const queue = this.queues[index];
    const slot = queue.device + 4 + 8 * (queue.used % queue.size);
    this.setU32(slot, head);
    this.setU32(slot + 4, bytes);
    queue.used = (queue.used + 1) & 0xffff;
    this.setU32(queue.device, queue.used << 16); // flags 0: always kick
    const suppressed = (this.u32(queue.driver) & 1) !== 0;
    if (!suppressed) this.interrupt(queue.vector);
  }
}

function configBytes(deviceId: number, caps: readonly FakeCap[]): Uint8Array {
  const bytes = new Uint8Array(256);
  const v = new DataView(bytes.buffer);
  v.setUint16(0, 0x1af4, true);
  v.setUint16(2, deviceId, true);
  v.setUint16(6, 0x10, true);
  let at = 0x40;
  bytes[0x34] = at;
  caps.forEach((cap, i) => {
    const length = 16 + 4 * (cap.more?.length ?? 0);
    bytes[at] = 9;
    bytes[at + 1] = i === caps.length - 1 ? 0 : at + length;
    bytes[at + 2] = length;
    bytes[at + 3] = cap.type;
    bytes[at + 4] = cap.bar;
    bytes[at + 5] = cap.id ?? 0;
    v.setUint32(at + 8, cap.offset % 0x1_0000_0000, true);
    v.setUint32(at + 12, cap.length % 0x1_0000_0000, true);
    cap.more?.forEach((word, k) => {
      v.setUint32(at + 16 + 4 * k, word, true);
    });
    at += length;
  });
  return bytes;
}

/** The capabilities that every modern virtio function has. */
export const VIRTIO_CAPS: readonly FakeCap[] = [
  { type: 1, bar: BLOCK_BAR, offset: 0, length: 0x1000 },
  { type: 3, bar: BLOCK_BAR, offset: 0x1000, length: 0x1000 },
  { type: 4, bar: BLOCK_BAR, offset: 0x2000, length: 0x1000 },
  { type: 2, bar: BLOCK_BAR, offset: 0x3000, length: 0x1000, more: [4] },
];
