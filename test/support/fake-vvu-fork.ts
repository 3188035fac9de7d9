/**
 * The vvu device of the QEMU forks (rows A and B) in this process: a chardev socket for the compute VM's QEMU on one side, a PCI
 * function on the other. Written from what those devices do, their faults included; what would end the fork's QEMU is kept in
 * `aborts`.
 */

import type { EventLoop, Watch } from '../../src/sys/event-loop.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import { closeAll, type Fd } from '../../src/sys/fd.ts';
import { accept, type Listener, listenUnix, recvWithFds, sendWithFds } from '../../src/sys/socket.ts';
import type { MemoryPart } from '../../src/vvu/driver/device-access.ts';
import { BLOCK_BAR, type FakeChain, FakeVirtioPci, VIRTIO_CAPS } from './fake-virtio-pci.ts';
import { FakeBar } from './fake-vvu-bar.ts';

export type ForkVariant = 'A' | 'B';
type State = 'initial' | 'slave_up' | 'opened' | 'connected';
type ForkEvent = 'slave_up' | 'slave_down' | 'opened' | 'closed' | 'reset' | 'master_error' | 'slave_error';

/** The other side has closed. */
const EPOLLRDHUP = 0x2000;

const RXQ = 0;
const TXQ = 1;
/** Messages that pass; everything else drops the link. */
const ALLOWED = new Set([1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18]);
/** GET_PROTOCOL_FEATURES and SET_PROTOCOL_FEATURES are cut to these bits. */
const PROTOCOL_MASK = 0x3n;
const VARIANT = {
  A: { maxPayload: 264, maxId: 24, vectors: 3, stride: 2, window: 0x1000 },
  B: { maxPayload: 632, maxId: 33, vectors: 1027, stride: 4, window: 0x3000 },
} as const;

export class FakeVvuFork extends FakeVirtioPci {
  readonly variant: ForkVariant;
  readonly bar = new FakeBar();
  readonly path: string;
  state: State = 'initial';
  /** vvu status register. */
  link = 0;
  /** What would have ended the appliance's QEMU. */
  readonly aborts: string[] = [];
  /** Times the link was dropped with the socket open. */
  bounces = 0;
  /** Doorbell writes, by vring. */
  readonly rung = new Map<number, number>();
  private readonly loop: EventLoop;
  private readonly listener: Listener;
  private readonly accepting: Watch;
  private socket: Fd | null = null;
  private watch: Watch | null = null;
  /** The chardev's own idea: a socket is open. */
  private buffer = Buffer.alloc(0);
  private fds: Fd[] = [];
  private ready: { bytes: Buffer } | null = null;
  private readonly calls = new Map<number, EventFd>();
  private readonly kicks = new Map<number, { event: EventFd; watch: Watch }>();
  private readonly kickVectors = new Map<number, number>();
  private kickSelect = 0;
  private paused = false;

  constructor(loop: EventLoop, path: string, variant: ForkVariant) {
    const { stride, vectors } = VARIANT[variant];
    const extra =
      variant === 'A'
        ? []
        : [
            { type: 6, bar: 2, offset: 0, length: 0x2000, more: [stride] },
            { type: 7, bar: 2, offset: 0x2000, length: 0x1000 },
            { type: 8, bar: 2, offset: 0x3000, length: 0x1000 },
          ];
    super({ deviceId: 0x1017, caps: [...VIRTIO_CAPS, ...extra], queues: 2, vectors });
    this.loop = loop;
    this.path = path;
    this.variant = variant;
    this.listener = listenUnix(path);
    this.accepting = loop.watch(this.listener.fd.number, () => this.accept());
  }

  barSize(bar: number): number {
    return bar === 2 ? 64 * 2 ** 30 : bar === BLOCK_BAR ? 0x4000 : 0;
  }

  memory(bar: number, offset: number, bytes: number): MemoryPart {
    if (bar !== 2) throw new Error(`no memory in BAR ${bar}`);
    return this.bar.part(offset, bytes);
  }

  // Registers.

  protected readDevice(bar: number, at: number): number {
    if (bar === BLOCK_BAR && at === 0x2000) return this.link;
    if (bar === BLOCK_BAR && at === 0x2004) return 1024;
    if (bar === 2 && this.variant === 'B' && at === 0x2000) return this.kickSelect;
    if (bar === 2 && this.variant === 'B' && at === 0x2002) return this.kickVectors.get(this.kickSelect) ?? 0xffff;
    return 0;
  }

  protected writeDevice(bar: number, at: number, width: number, value: number): void {
    if (bar === BLOCK_BAR && at === 0x2000) {
      if (width !== 4) this.violations.push(`status written with ${width} bytes`);
      if ((value & ~3) !== 0) {
        this.needReset('bad status');
        return;
      }
      if ((value & 1) !== 0 && (this.link & 1) === 0) this.event('slave_up');
      else if ((value & 1) === 0 && (this.link & 1) !== 0) this.event('slave_down');
      return;
    }
    const { stride } = VARIANT[this.variant];
    if (bar === 2 && at < 1024 * stride) {
      if (width !== 2) this.violations.push(`doorbell written with ${width} bytes`);
      const vring = Math.floor(at / stride);
      this.rung.set(vring, (this.rung.get(vring) ?? 0) + 1);
      this.calls.get(vring)?.signal();
      return;
    }
    if (bar === 2 && this.variant === 'B' && at === 0x2000) {
      if (width === 2 && value < 1024) this.kickSelect = value;
    } else if (bar === 2 && this.variant === 'B' && at === 0x2002) {
      this.kickVectors.set(this.kickSelect, value);
    } else if (bar === 2) {
      this.violations.push(`write to 0x${at.toString(16)} of BAR 2`);
    }
  }

  // The connection state machine.

  private event(e: ForkEvent): void {
    const up = (): void => {
      this.state = 'connected';
      this.link = 3;
      this.configChanged();
      this.rewatch();
    };
    if (e === 'master_error' || e === 'slave_error') {
      if (this.state !== 'connected') {
        this.aborts.push(`${e} in state ${this.state}`);
        return;
      }
      this.drop(true);
      return;
    }
    switch (`${this.state}/${e}`) {
      case 'initial/slave_up':
        this.state = 'slave_up';
        this.link = 1;
        break;
      case 'initial/opened':
        this.state = 'opened';
        this.rewatch();
        break;
      case 'slave_up/slave_down':
      case 'slave_up/reset':
        this.state = 'initial';
        this.link = 0;
        break;
      case 'slave_up/opened':
      case 'opened/slave_up':
        up();
        break;
      case 'opened/closed':
        this.state = 'initial';
        break;
      case 'opened/reset':
        this.state = 'initial'; // the socket is open, and nothing will tell of it again
        this.rewatch();
        break;
      case 'connected/slave_down':
      case 'connected/reset':
        this.drop(false);
        break;
      case 'connected/closed':
        this.drop(true);
        break;
    }
  }

  private drop(interrupt: boolean): void {
    this.state = 'initial';
    this.link = 0;
    this.ready = null;
    this.buffer = Buffer.alloc(0);
    closeAll(this.fds.splice(0));
    for (const call of this.calls.values()) call.close();
    this.calls.clear();
    for (const [vring, kick] of this.kicks) {
      kick.watch.close();
      kick.event.close();
      this.kickVectors.delete(vring);
    }
    this.kicks.clear();
    if (interrupt) this.configChanged();
    if (this.socket !== null) {
      this.bounces++;
      this.event('opened');
    }
    this.rewatch();
  }

  protected onReset(): void {
    this.event('reset');
  }

  protected override onDriverOk(): void {
    this.rewatch();
  }

  // The socket.

  private accept(): void {
    if (this.socket !== null) return; // one at a time: the next one waits
    const fd = accept(this.listener.fd);
    if (fd === undefined) return;
    this.socket = fd;
    this.event('opened');
  }

  private hungUp(): void {
    this.watch?.close();
    this.watch = null;
    this.socket?.close();
    this.socket = null;
    this.event('closed');
    this.accept();
  }

  /** A reads only while connected and so never learns of a hang-up otherwise; B does. */
  private rewatch(): void {
    this.watch?.close();
    this.watch = null;
    if (this.socket === null) return;
    const reading = this.state === 'connected' && this.ready === null && !this.paused;
    if (reading) this.watch = this.loop.watch(this.socket.number, () => this.readable());
    else if (this.variant === 'B') this.watch = this.loop.watch(this.socket.number, () => this.hungUp(), EPOLLRDHUP);
  }

  private readable(): void {
    const want = this.buffer.length < 12 ? 12 : 12 + this.buffer.readUInt32LE(8);
    const piece = Buffer.alloc(want - this.buffer.length);
    if (piece.length > 0) {
      const r = recvWithFds(this.socket as Fd, piece, 8);
      this.fds.push(...r.fds);
      if (r.bytes < 0) return;
      if (r.bytes === 0) {
        this.hungUp();
        return;
      }
      this.buffer = Buffer.concat([this.buffer, piece.subarray(0, r.bytes)]);
    }
    if (this.buffer.length < 12) return;
    const size = this.buffer.readUInt32LE(8);
    if (size > VARIANT[this.variant].maxPayload) {
      this.event('master_error');
      return;
    }
    if (this.buffer.length === 12 + size) this.received();
  }

  private received(): void {
    const bytes = this.buffer;
    this.buffer = Buffer.alloc(0);
    const fds = this.fds.splice(0);
    const error = this.inspect(bytes, fds);
    closeAll(fds);
    if (error) {
      this.event('master_error');
      return;
    }
    this.ready = { bytes };
    this.rewatch();
    this.deliver();
  }

  /** @returns true when the message drops the link */
  private inspect(message: Buffer, fds: Fd[]): boolean {
    // The device's own copy has room for the longest message, and zeroes behind this one.
    const bytes = Buffer.alloc(12 + VARIANT[this.variant].maxPayload);
    message.copy(bytes);
    const refused = this.judge(bytes, fds);
    bytes.copy(message, 0, 0, message.length);
    return refused;
  }

  private judge(bytes: Buffer, fds: Fd[]): boolean {
    const id = bytes.readUInt32LE(0);
    const flags = bytes.readUInt32LE(4);
    if ((flags & 3) !== 1 || (flags & 4) !== 0 || id >= VARIANT[this.variant].maxId || !ALLOWED.has(id)) return true;
    switch (id) {
      case 5:
        return !this.mapMemory(bytes.subarray(12), fds);
      case 11:
        if (this.variant === 'B') this.forgetVring(bytes.readUInt32LE(12));
        return false;
      case 12:
        return this.setKick(bytes, fds);
      case 13: {
        const vring = bytes.readUInt32LE(12) & 0xff;
        this.calls.get(vring)?.close();
        this.calls.delete(vring);
        const fd = fds.shift();
        if (fd !== undefined) this.calls.set(vring, EventFd.adopt(fd));
        return false;
      }
      case 16:
        bytes.writeBigUInt64LE(bytes.readBigUInt64LE(12) & PROTOCOL_MASK, 12);
        return false;
      default:
        return false;
    }
  }

  private setKick(bytes: Buffer, fds: Fd[]): boolean {
    const word = bytes.readUInt32LE(12);
    if (this.variant === 'A') {
      bytes.writeUInt32LE((word | 0x100) >>> 0, 12);
      return false;
    }
    const vring = word & 0xff;
    this.closeKick(vring);
    const fd = fds.shift();
    if (fd === undefined) {
      if ((word & 0x100) === 0) this.aborts.push('SET_VRING_KICK without descriptor and flag');
      return false;
    }
    const event = EventFd.adopt(fd);
    const watch = this.loop.watch(event.fd.number, () => {
      event.drain();
      const vector = this.kickVectors.get(vring);
      if (vector !== undefined && vector !== 0xffff) this.interrupt(vector);
    });
    this.kicks.set(vring, { event, watch });
    return false;
  }

  private closeKick(vring: number): void {
    const kick = this.kicks.get(vring);
    kick?.watch.close();
    kick?.event.close();
    this.kicks.delete(vring);
  }

  private forgetVring(vring: number): void {
    this.closeKick(vring);
    this.calls.get(vring)?.close();
    this.calls.delete(vring);
  }

  private mapMemory(payload: Buffer, fds: Fd[]): boolean {
    const n = payload.readUInt32LE(0);
    if (n > 8 || fds.length !== n) return false;
    this.bar.clear();
    let at: number = VARIANT[this.variant].window;
    for (let i = 0; i < n; i++) {
      const size = Number(payload.readBigUInt64LE(8 + 32 * i + 8));
      const offset = Number(payload.readBigUInt64LE(8 + 32 * i + 24));
      try {
        this.bar.place(at, fds[i], 0, offset + size);
      } catch {
        return false; // no file, or a piece of it that cannot be mapped: the master is hung up on
      }
      at += offset + size;
    }
    return true;
  }

  /** Hold messages back (the device's main loop is busy elsewhere). */
  hold(on: boolean): void {
    this.paused = on;
    this.rewatch();
    if (!on) this.deliver();
  }

  private deliver(): void {
    if (this.ready === null || this.paused || this.stopped !== null || !this.hasBuffer(RXQ)) return;
    const chain = this.pop(RXQ) as FakeChain;
    const { bytes } = this.ready;
    this.ready = null;
    const room = chain.writable[0]?.bytes ?? 0;
    if (chain.readable.length > 0 || room < bytes.length) {
      this.needReset('rx buffer too small');
      return;
    }
    this.dma.access(chain.writable[0].address, bytes.length, bytes, 0, true);
    this.push(RXQ, chain.head, bytes.length);
    this.rewatch();
  }

  protected notified(queue: number): void {
    if (queue === RXQ) this.deliver();
    if (queue === TXQ) this.transmit();
  }

  private transmit(): void {
    for (let chain = this.pop(TXQ); chain !== null; chain = this.pop(TXQ)) {
      const length = chain.readable.reduce((n, b) => n + b.bytes, 0);
      if (chain.writable.length > 0 || length < 12 || length > 12 + VARIANT[this.variant].maxPayload) {
        this.needReset(`tx buffer of ${length} bytes`);
        return;
      }
      const bytes = Buffer.alloc(length);
      let at = 0;
      for (const b of chain.readable) {
        this.dma.access(b.address, b.bytes, bytes, at, false);
        at += b.bytes;
      }
      if (length !== 12 + bytes.readUInt32LE(8)) {
        this.needReset('tx buffer of another size than its message');
        return;
      }
      this.push(TXQ, chain.head, length);
      this.forward(bytes);
    }
  }

  private forward(bytes: Buffer): void {
    const id = bytes.readUInt32LE(0);
    const flags = bytes.readUInt32LE(4);
    if ((flags & 3) !== 1 || (flags & 4) === 0 || id >= VARIANT[this.variant].maxId || !ALLOWED.has(id)) {
      this.event('slave_error');
      return;
    }
    if (this.state !== 'connected' || this.socket === null) return; // dropped without a word
    if (id === 15) bytes.writeBigUInt64LE(bytes.readBigUInt64LE(12) & PROTOCOL_MASK, 12);
    try {
      sendWithFds(this.socket, bytes, []);
    } catch {
      this.hungUp();
    }
  }

  /** The whole device goes. */
  destroy(): void {
    this.drop(false);
    this.accepting.close();
    this.watch?.close();
    this.watch = null;
    this.listener.close();
    this.socket?.close();
    this.socket = null;
    for (const call of this.calls.values()) call.close();
    this.bar.close();
  }
}
