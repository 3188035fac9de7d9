/**
 * A virtio-scsi adapter in plain memory, with the project's own SCSI target behind it: rings, requests, events, task management. It does
 * nothing until `step` is called. Tests make it slow, deaf, lying or gone.
 */

import type { BellShare } from '../../src/bdev/virtio-scsi/share.ts';
import type { ScsiTransport } from '../../src/bdev/virtio-scsi/transport.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Memory } from '../../src/memory/memory.ts';
import { SgList } from '../../src/memory/sg-list.ts';
import type { ControlLoop } from '../../src/pci/control-loop.ts';
import { Lun } from '../../src/scsi/lun.ts';
import { ScsiTarget } from '../../src/scsi/target.ts';
import { ScsiTask, TaskResponse } from '../../src/scsi/task.ts';
import { type Tmf, TmfResponse } from '../../src/scsi/task-management.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import { Fd } from '../../src/sys/fd.ts';
import { DeviceRing } from '../../src/virtio/device-ring.ts';
import { featureMask, hasFeature, VirtioFeature } from '../../src/virtio/features.ts';
import { VirtioScsiFeature, VirtioScsiResponse } from '../../src/virtio/scsi-device.ts';
import type { QueueAddresses } from '../../src/virtio/virtio-pci.ts';
import { MemoryChannel } from '../scsi/support/memory-channel.ts';
import type { FakeDma } from '../support/fake-dma.ts';

export interface FakeAdapterOptions {
  features?: bigint;
  queues?: number;
  queueSize?: number;
  vectors?: number;
  segMax?: number;
  maxSectors?: number;
  maxTarget?: number;
}

/** Instead of doing a command: a virtio response, a SAM status with sense, or nothing at all. */
export type Fault =
  | { response: number }
  | { status: number; sense?: [key: number, asc: number, ascq: number] }
  | 'forget';

interface Request {
  readonly queue: number;
  readonly head: number;
  readonly task: ScsiTask;
  readonly target: number;
  readonly response: SgList;
}

interface FakeQueue {
  readonly ring: DeviceRing;
  readonly vector: number;
}

export class FakeVirtioScsi implements ScsiTransport {
  readonly name = '0000:00:05.0';
  readonly kind = 'pci';
  readonly dma: FakeDma;
  readonly vectors: number;
  readonly options: Required<FakeAdapterOptions>;
  readonly targets = new Map<number, ScsiTarget>();
  readonly channels = new Map<string, MemoryChannel>();
  /** Requests taken from the rings and not done. */
  pending: Request[] = [];
  /** Operation codes done, in order. */
  readonly done: number[] = [];
  readonly aborted: number[] = [];
  auto = true;
  hung = false;
  fault: (cdb: Uint8Array, target: number) => Fault | undefined = () => undefined;
  state: 'ok' | 'needs reset' | 'gone' = 'ok';
  resets = 0;
  /** A reset that fails so many times. */
  failingResets = 0;
  quiets = 0;
  running = false;
  readonly queues = new Map<number, FakeQueue>();
  private readonly notify = new Memory(new SharedArrayBuffer(4096));
  private fds: number[] = [];
  private removal: ((reason: string) => void) | null = null;
  private events: { event: number; target: number; lun: number; reason: number }[] = [];
  private dmaVersion = -1;
  private accepted = 0n;

  constructor(dma: FakeDma, options: FakeAdapterOptions = {}) {
    this.dma = dma;
    this.options = {
      features:
        options.features ??
        featureMask(
          VirtioFeature.VERSION_1,
          VirtioFeature.INDIRECT_DESC,
          VirtioFeature.EVENT_IDX,
          VirtioScsiFeature.HOTPLUG,
          VirtioScsiFeature.CHANGE,
        ),
      queues: options.queues ?? 4,
      queueSize: options.queueSize ?? 128,
      vectors: options.vectors ?? 0,
      segMax: options.segMax ?? 126,
      maxSectors: options.maxSectors ?? 2048,
      maxTarget: options.maxTarget ?? 7,
    };
    this.vectors = this.options.vectors;
  }

  /** A disk at this place. */
  addDisk(target: number, lun: number, info: ConstructorParameters<typeof MemoryChannel>[0] = {}): MemoryChannel {
    const channel = new MemoryChannel(info);
    this.channels.set(`${target}/${lun}`, channel);
    let at = this.targets.get(target);
    if (at === undefined) {
      at = new ScsiTarget();
      this.targets.set(target, at);
    }
    at.addLun(new Lun({ channel, id: lun }));
    return channel;
  }

  // ScsiTransport

  async reset(): Promise<void> {
    if (this.state === 'gone') throw new Error(`${this.name}: the device has gone`);
    if (this.failingResets-- > 0) throw new Error(`${this.name}: its reset did not end`);
    this.resets++;
    this.state = 'ok';
    this.stopped();
  }

  private stopped(): void {
    this.running = false;
    this.queues.clear();
    this.pending = [];
  }

  async negotiate(wanted: bigint): Promise<bigint> {
    const accepted = this.options.features & (wanted | featureMask(VirtioFeature.VERSION_1));
    this.accepted = accepted;
    return accepted;
  }

  async readConfig(): Promise<Uint8Array> {
    const config = new Uint8Array(36);
    const v = new DataView(config.buffer);
    v.setUint32(0, this.options.queues, true);
    v.setUint32(4, this.options.segMax, true);
    v.setUint32(8, this.options.maxSectors, true);
    v.setUint16(30, this.options.maxTarget, true);
    v.setUint32(32, 16383, true);
    return config;
  }

  async queueCount(): Promise<number> {
    return this.options.queues + 2;
  }

  async queueSize(): Promise<number> {
    return this.options.queueSize;
  }

  connect(main: number, queues: readonly number[]): void {
    this.fds = [main, ...queues];
  }

  async enableQueue(index: number, size: number, at: QueueAddresses, vector: number): Promise<BellShare> {
    const part = (address: number) => {
      const place = this.dma.word(address);
      if (place === undefined) throw new Error(`queue ${index} at a wild address`);
      return { memory: place.memory, offset: place.index * 4 };
    };
    const ring = DeviceRing.create(
      { desc: part(at.desc), avail: part(at.driver), used: part(at.device) },
      {
        guest: new GuestMemory(this.dma.windows()),
        size,
        eventIdx: hasFeature(this.accepted, VirtioFeature.EVENT_IDX),
        indirect: hasFeature(this.accepted, VirtioFeature.INDIRECT_DESC),
        base: 0,
      },
    );
    if (typeof ring === 'string') throw new Error(ring);
    ring.armNotifications();
    this.queues.set(index, { ring, vector });
    const window = {
      place: { buffer: this.notify.u8.buffer as SharedArrayBuffer },
      bytes: 4096,
      ioAddress: -1,
      ioPages: null,
    };
    return { kind: 'register', window, offset: 4 * index, value: index };
  }

  async start(): Promise<void> {
    this.running = true;
  }

  health(): 'ok' | 'needs reset' | 'gone' {
    return this.state;
  }

  onLost(_loop: ControlLoop, fn: (reason: string) => void): void {
    this.removal = fn;
  }

  quiet(): void {
    this.quiets++;
    this.stopped();
  }

  close(): void {}

  // What tests do to it

  requestRemoval(): void {
    this.removal?.('the host asks for the device back');
  }

  /** Every look at it gives all ones; its rings stand still. */
  pull(): void {
    this.state = 'gone';
    this.stopped();
  }

  event(event: number, target: number, lun: number, reason: number): void {
    this.events.push({ event, target, lun, reason });
  }

  /** Look at all rings, do what is there (when `auto`). */
  step(): void {
    if (!this.running || this.hung) return;
    if (this.dmaVersion !== this.dma.version) {
      this.dmaVersion = this.dma.version;
      const guest = new GuestMemory(this.dma.windows());
      for (const { ring } of this.queues.values()) ring.replaceMemory(ring['place'], guest);
    }
    for (const [index, { ring }] of this.queues) {
      if (index === 1) continue;
      for (let head = ring.pop(); head >= 0; head = ring.pop()) this.take(index, ring, head);
      if (ring.broken !== null) this.state = 'needs reset';
    }
    if (this.auto) while (this.finish(0));
    this.sendEvents();
  }

  private sendEvents(): void {
    const queue = this.queues.get(1);
    if (queue === undefined) return;
    for (let event = this.events[0]; event !== undefined; event = this.events[0]) {
      const head = queue.ring.pop();
      if (head < 0) break;
      this.events.shift();
      const [out, into] = [new SgList(8), new SgList(8)];
      if (!queue.ring.readChain(head, out, into)) break;
      const bytes = new Memory(new ArrayBuffer(16));
      bytes.u32[0] = event.event;
      bytes.u8.set([1, event.target, 0x40 | (event.lun >> 8), event.lun & 0xff], 4);
      bytes.u32[3] = event.reason;
      into.scatter(0, bytes, 0, 16);
      queue.ring.push(head, 16);
    }
    this.publish(1);
  }

  private publish(index: number): void {
    const queue = this.queues.get(index);
    if (queue?.ring.publish() !== true) return;
    const fd = this.fds[queue.vector];
    if (fd !== undefined) new EventFd(Fd.take(fd)).signal();
  }

  private take(index: number, ring: DeviceRing, head: number): void {
    const [out, into] = [new SgList(300), new SgList(300)];
    if (!ring.readChain(head, out, into)) return;
    if (index === 0) {
      this.control(ring, head, out, into);
      return;
    }
    const header = new Memory(new ArrayBuffer(56));
    if (out.gather(0, header, 0, 51) !== 51) throw new Error('a request without its header');
    const task = new ScsiTask({ taskDone: () => {} });
    task.cdb.set(header.u8.subarray(19, 51));
    task.lun = ((header.u8[2] & 0x3f) << 8) | header.u8[3];
    task.tagLo = header.u32[2];
    task.tagHi = header.u32[3];
    task.dataOut = tail(out, 51);
    task.dataIn = tail(into, 108);
    this.pending.push({ queue: index, head, task, target: header.u8[1] as number, response: into });
  }

  private control(ring: DeviceRing, head: number, out: SgList, into: SgList): void {
    const request = new Memory(new ArrayBuffer(24));
    out.gather(0, request, 0, 24);
    const lun = ((request.u8[10] & 0x3f) << 8) | request.u8[11];
    const [tagLo, tagHi] = [request.u32[4], request.u32[5]];
    const answer = (response: number) => {
      const byte = new Memory(new ArrayBuffer(8));
      byte.u8[0] = response;
      into.scatter(0, byte, 0, 1);
      ring.push(head, 1);
    };
    this.aborted.push(tagLo);
    const at = this.pending.findIndex((r) => r.task.tagLo === tagLo && r.task.tagHi === tagHi);
    const [victim] = at < 0 ? [] : this.pending.splice(at, 1);
    if (victim !== undefined) this.respond(victim, { response: VirtioScsiResponse.ABORTED });
    const target = this.targets.get(request.u8[9] as number);
    if (target === undefined) answer(VirtioScsiResponse.BAD_TARGET);
    else {
      target.taskManagement(request.u32[1] as Tmf, lun, tagLo, tagHi, (response) =>
        answer(
          response === TmfResponse.FUNCTION_SUCCEEDED ? VirtioScsiResponse.FUNCTION_SUCCEEDED : VirtioScsiResponse.OK,
        ),
      );
    }
    this.publish(0);
  }

  /** Do the pending request at this place. */
  finish(index: number): boolean {
    const [request] = this.pending.splice(index, 1);
    if (request === undefined) return false;
    const { task, target } = request;
    const fault = this.fault(task.cdb, target);
    if (fault === 'forget') return true;
    if (fault !== undefined) {
      this.respond(request, fault);
      return true;
    }
    const at = this.targets.get(target);
    if (at === undefined) {
      this.respond(request, { response: VirtioScsiResponse.BAD_TARGET });
      return true;
    }
    this.done.push(task.cdb[0] as number);
    (task as { owner: { taskDone(task: ScsiTask): void } }).owner = { taskDone: () => this.respond(request) };
    at.execute(task);
    return true;
  }

  private respond(request: Request, fault?: Exclude<Fault, 'forget'>): void {
    const queue = this.queues.get(request.queue);
    if (queue === undefined) return;
    const { task } = request;
    const bytes = new Memory(new ArrayBuffer(112));
    const size = task.dataOut.bytes + task.dataIn.bytes;
    if (fault === undefined) {
      bytes.u32[0] = task.senseLength;
      bytes.u32[1] = size - task.transferred;
      bytes.u8[10] = task.status;
      bytes.u8[11] = task.response === TaskResponse.OK ? 0 : VirtioScsiResponse.FAILURE;
      bytes.u8.set(task.sense, 12);
    } else if ('response' in fault) bytes.u8[11] = fault.response;
    else {
      bytes.u8[10] = fault.status;
      if (fault.sense !== undefined) {
        bytes.u32[0] = 18;
        bytes.u8.set([0x70, 0, fault.sense[0], 0, 0, 0, 0, 10, 0, 0, 0, 0, fault.sense[1], fault.sense[2]], 12);
      }
      bytes.u32[1] = fault.status === 0 ? 0 : size;
    }
    request.response.scatter(0, bytes, 0, 108);
    queue.ring.push(request.head, 108 + (task.dataIn.bytes > 0 ? task.transferred : 0));
    this.publish(request.queue);
  }
}

/** What a list has from byte `from` on. */
function tail(sg: SgList, from: number): SgList {
  const rest = new SgList(Math.max(1, sg.count), 2048);
  let skip = from;
  for (let i = 0; i < sg.count; i++) {
    if (skip >= sg.length[i]) {
      skip -= sg.length[i];
      continue;
    }
    rest.push(sg.memory[i] as Memory, sg.offset[i] + skip, sg.length[i] - skip);
    skip = 0;
  }
  return rest;
}
