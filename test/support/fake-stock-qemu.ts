/**
 * A stock QEMU with `vhost-user-test-device-pci` in this process: a PCI function for the driver, and the vhost-user front end that a
 * relay serves. Where the real one stops with a signal, `aborts` says why.
 */

import type { DmaBuffer } from '../../src/pci/dma.ts';
import type { EventLoop, Watch } from '../../src/sys/event-loop.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import { closeAll, type Fd } from '../../src/sys/fd.ts';
import { type Mapping, mapFile, memfd } from '../../src/sys/mapping.ts';
import { connectUnix, recvWithFds, sendWithFds, socketPair } from '../../src/sys/socket.ts';
import type { MemoryPart } from '../../src/vvu/driver/device-access.ts';
import { FakeDma } from './fake-dma.ts';
import { BLOCK_BAR, FakeVirtioPci, VIRTIO_CAPS } from './fake-virtio-pci.ts';
import { FakeBar } from './fake-vvu-bar.ts';
import { addrBytes, header, tableBytes, u32s, u64 } from './front-end.ts';

const RAM_BYTES = 8 * 2 ** 20;
const RAM_GPA = 0x10_0000;
const USER_BASE = 0x7f55_0000_0000;
const WINDOW_BAR = 2;
export const FAKE_WINDOW = 0x1000_0000;
const BACKEND_CHANNEL_MESSAGE = 52;

/** DMA memory in a file, as the appliance's RAM is. */
class FileDma extends FakeDma {
  readonly fd = memfd('appliance', RAM_BYTES, { seal: false });
  private readonly mapping: Mapping = mapFile(this.fd, { size: RAM_BYTES });
  private free = 0;

  override allocate(bytes: number): DmaBuffer {
    const length = Math.ceil(bytes / 4096) * 4096;
    const memory = this.mapping.memoryAt(this.free, length);
    memory.ioAddress = RAM_GPA + this.free;
    this.free += length;
    if (this.free > RAM_BYTES) throw new Error('FileDma: full');
    this.allocated++;
    return {
      memory,
      share: () => {
        throw new Error('FileDma: no shares');
      },
      free: () => {
        this.allocated--;
      },
    };
  }

  close(): void {
    this.mapping.unmap();
    this.fd.close();
  }
}

interface Section {
  at: number;
  bytes: number;
  fd: Fd;
  offset: number;
}

export class FakeStockQemu extends FakeVirtioPci {
  readonly bar = new FakeBar(FAKE_WINDOW);
  readonly ram: FileDma;
  readonly aborts: string[] = [];
  /** Mapped by the relay. */
  readonly sections: Section[] = [];
  /** Times memory was mapped. */
  maps = 0;
  /** Refuse the next mapping. */
  refuseMaps = false;
  /** The relay hung up. */
  lost = false;
  started = false;
  private readonly loop: EventLoop;
  private readonly socket: Fd;
  private readonly channel: Fd;
  private readonly watches: Watch[] = [];
  private kicks: EventFd[] = [];
  private calls: { event: EventFd; watch: Watch }[] = [];
  private readonly request = Buffer.alloc(BACKEND_CHANNEL_MESSAGE);
  private got = 0;
  private fds: Fd[] = [];

  constructor(loop: EventLoop, path: string, vrings: number) {
    const ram = new FileDma();
    super({
      deviceId: 0x1066,
      caps: [...VIRTIO_CAPS, { type: 8, bar: WINDOW_BAR, id: 0, offset: 0, length: 0, more: [0, 16] }],
      queues: 2 + vrings,
      vectors: 1,
      dma: ram,
    });
    this.ram = ram;
    this.loop = loop;
    this.socket = connectUnix(path);
    const [mine, theirs] = socketPair();
    this.channel = mine;
    this.watches.push(loop.watch(this.socket.number, () => this.answer()));
    this.watches.push(loop.watch(mine.number, () => this.asked()));
    this.send(1);
    this.send(15);
    this.send(16, u64((1n << 0n) | (1n << 3n) | (1n << 5n) | (1n << 10n) | (1n << 22n)));
    this.send(17);
    this.send(44);
    this.send(21, Buffer.alloc(0), [theirs]);
    theirs.close();
    this.send(3);
  }

  private send(id: number, payload: Buffer = Buffer.alloc(0), fds: readonly Fd[] = [], flags = 1): void {
    if (this.lost) return;
    try {
      const bytes = Buffer.concat([header(id, flags, payload.length), payload]);
      if (sendWithFds(this.socket, bytes, fds) !== bytes.length) this.aborts.push(`message ${id} was not taken whole`);
    } catch {
      this.relayLost();
    }
  }

  private relayLost(): void {
    if (this.lost) return;
    this.lost = true;
    for (const watch of this.watches.splice(0)) watch.close();
  }

  /** Answers are not needed here, but for what is offered; only that they come. */
  answers = 0;
  /** Protocol feature bits of the relay. */
  offered: number[] = [];

  private answer(): void {
    const buffer = Buffer.alloc(65536);
    const { bytes, fds } = recvWithFds(this.socket, buffer, 8);
    closeAll(fds);
    if (bytes === 0) this.relayLost();
    if (bytes > 0) this.answers++;
    for (let at = 0; at + 12 <= bytes; at += 12 + buffer.readUInt32LE(at + 8)) {
      if (buffer.readUInt32LE(at) !== 15) continue;
      const word = buffer.readBigUInt64LE(at + 12);
      this.offered = Array.from({ length: 64 }, (_, i) => i).filter((i) => (word & (1n << BigInt(i))) !== 0n);
    }
  }

  // PCI function.

  barSize(bar: number): number {
    return bar === WINDOW_BAR ? 64 * 2 ** 30 : bar === BLOCK_BAR ? 0x4000 : 0;
  }

  memory(bar: number, offset: number, bytes: number): MemoryPart {
    if (bar !== WINDOW_BAR) throw new Error(`no memory in BAR ${bar}`);
    return this.bar.part(offset, bytes);
  }

  protected readDevice(): number {
    this.aborts.push('a read of the device configuration, which this device has not');
    return 0;
  }

  protected writeDevice(bar: number): void {
    this.violations.push(`a write to BAR ${bar}`);
  }

  protected notified(queue: number): void {
    this.kicks[queue]?.signal();
  }

  protected override onDriverOk(): void {
    if (this.lost) this.aborts.push('DRIVER_OK with the relay dead');
    this.started = true;
    this.send(2, u64((1n << 30n) | (1n << 32n)));
    this.sendMemory();
    this.queues.forEach((q, i) => {
      const kick = new EventFd();
      const event = new EventFd();
      const watch = this.loop.watch(event.fd.number, () => {
        if (event.drain()) this.interrupt(q.vector);
      });
      this.kicks.push(kick);
      this.calls.push({ event, watch });
      const uva = (gpa: number) => USER_BASE + gpa - RAM_GPA;
      this.send(8, u32s(i, q.size));
      this.send(10, u32s(i, 0));
      this.send(9, addrBytes(i, uva(q.desc), uva(q.driver), uva(q.device)));
      this.send(12, u64(i), [kick.fd]);
      this.send(13, u64(i), [event.fd]);
      kick.signal();
    });
    for (const i of this.queues.keys()) this.send(18, u32s(i, 1));
  }

  private sendMemory(): void {
    const ram = { gpa: RAM_GPA, size: RAM_BYTES, uva: USER_BASE, offset: 0, fd: this.ram.fd };
    const extra = this.sections.map((s) => ({
      gpa: this.bar.physical + s.at,
      size: s.bytes,
      uva: USER_BASE + 2 ** 40 + s.at,
      offset: s.offset,
      fd: s.fd,
    }));
    if (extra.length > 6) this.aborts.push('more memory sections than vhost-user has room for');
    const regions = [ram, ...extra];
    this.send(
      5,
      tableBytes(regions),
      regions.map((r) => r.fd),
      9,
    );
  }

  protected onReset(): void {
    if (!this.started) return;
    this.started = false;
    for (const i of this.kicks.keys()) this.send(18, u32s(i, 0));
    for (const i of this.kicks.keys()) this.send(11, u32s(i, 0));
    for (const kick of this.kicks.splice(0)) kick.close();
    for (const { event, watch } of this.calls.splice(0)) {
      watch.close();
      event.close();
    }
    for (const s of this.sections.splice(0)) s.fd.close();
    this.bar.clear();
  }

  // The back-end channel.

  private asked(): void {
    const r = recvWithFds(this.channel, this.request.subarray(this.got), 8);
    this.fds.push(...r.fds);
    if (r.bytes === 0) {
      this.relayLost();
      return;
    }
    if (r.bytes < 0) return;
    this.got += r.bytes;
    if (this.got < BACKEND_CHANNEL_MESSAGE) return;
    this.got = 0;
    const id = this.request.readUInt32LE(0);
    const number = (at: number) => Number(this.request.readBigUInt64LE(12 + at));
    const fds = this.fds.splice(0);
    const [offset, at, bytes] = [number(8), number(16), number(24)];
    if (!this.started) this.aborts.push('a mapping request while the device is not started');
    let error = true;
    if (id === 9) error = !this.map(fds, offset, at, bytes);
    else if (id === 10) error = !this.unmap(at, bytes);
    closeAll(fds);
    const reply = Buffer.concat([header(id, 5, 8), u64(error ? 1 : 0)]);
    sendWithFds(this.channel, reply, []);
    if (!error && this.started) this.sendMemory();
  }

  private map(fds: Fd[], offset: number, at: number, bytes: number): boolean {
    const taken = this.sections.some((s) => at < s.at + s.bytes && s.at < at + bytes);
    if (this.refuseMaps || fds.length !== 1 || offset % 4096 !== 0 || taken || at + bytes > FAKE_WINDOW) return false;
    if (at % 4096 !== 0 || bytes % 4096 !== 0) this.aborts.push('an odd place or length, which QEMU does not refuse');
    const fd = fds.shift() as Fd;
    this.bar.place(at, fd, offset, bytes);
    this.sections.push({ at, bytes, fd, offset });
    this.maps++;
    return true;
  }

  private unmap(at: number, bytes: number): boolean {
    const i = this.sections.findIndex((s) => s.at === at && s.bytes === bytes);
    if (i < 0) return false;
    this.sections[i].fd.close();
    this.sections.splice(i, 1);
    this.bar.clear(at, bytes);
    return true;
  }

  /** The appliance's QEMU ends. */
  destroy(): void {
    this.lost = true;
    for (const watch of this.watches.splice(0)) watch.close();
    for (const kick of this.kicks.splice(0)) kick.close();
    for (const { event, watch } of this.calls.splice(0)) {
      watch.close();
      event.close();
    }
    for (const s of this.sections.splice(0)) s.fd.close();
    this.socket.close();
    this.channel.close();
    this.bar.close();
    this.ram.close();
  }
}
