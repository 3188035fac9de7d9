/**
 * A vhost-user front end over a real socket: the other side of src/vhost for tests, written from the protocol and
 * not from our message table. It speaks as QEMU does (7.2's order and 11.1's), and it can send any bytes with any
 * descriptors. Everything runs in one thread: waiting means turning the back end's loop.
 */
import type { EventLoop } from '../../src/sys/event-loop.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import type { Fd } from '../../src/sys/fd.ts';
import { connectUnix, recvWithFds, sendWithFds } from '../../src/sys/socket.ts';
import { DriverRing } from '../../src/virtio/driver-ring.ts';
import type { SharedGuest, SharedRegion } from './front-end-memory.ts';
import { openFds as fdList } from './open-fds.ts';

export const ID = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  RESET_DEVICE: 34,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
} as const;

/** Protocol features by bit. */
export const PF = {
  MQ: 0,
  REPLY_ACK: 3,
  CONFIG: 9,
  INFLIGHT: 12,
  RESET_DEVICE: 13,
  MEM_SLOTS: 15,
  STATUS: 16,
} as const;

export const NEED_REPLY = 8;
const NOFD = 0x100;

export const bit = (n: number): bigint => 1n << BigInt(n);

/** What QEMU's vhost-user-scsi accepts for a modern Linux: HOTPLUG, CHANGE, INDIRECT, EVENT_IDX, PROTOCOL, VERSION_1. */
export const LINUX_FEATURES = bit(1) | bit(2) | bit(28) | bit(29) | bit(30) | bit(32);
/** What SeaBIOS accepts. */
export const SEABIOS_FEATURES = bit(30) | bit(32);

export interface ReplyMessage {
  id: number;
  flags: number;
  payload: Buffer;
  fds: Fd[];
}

export function header(id: number, flags: number, size: number): Buffer {
  const b = Buffer.alloc(12);
  b.writeUInt32LE(id >>> 0, 0);
  b.writeUInt32LE(flags >>> 0, 4);
  b.writeUInt32LE(size >>> 0, 8);
  return b;
}

export function u64(value: bigint | number): Buffer {
  const b = Buffer.alloc(8);
  b.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
  return b;
}

export function u32s(...values: number[]): Buffer {
  const b = Buffer.alloc(4 * values.length);
  values.forEach((v, i) => {
    b.writeUInt32LE(v >>> 0, 4 * i);
  });
  return b;
}

export type RegionFields = Pick<SharedRegion, 'gpa' | 'size' | 'uva' | 'offset'>;

export function regionBytes(r: RegionFields): Buffer {
  return Buffer.concat([u64(r.gpa), u64(r.size), u64(r.uva), u64(r.offset)]);
}

export function tableBytes(regions: readonly RegionFields[]): Buffer {
  return Buffer.concat([u32s(regions.length, 0), ...regions.map(regionBytes)]);
}

export function addrBytes(index: number, desc: number, avail: number, used: number): Buffer {
  return Buffer.concat([u32s(index, 0), u64(desc), u64(used), u64(avail), u64(0)]);
}

export function inflightBytes(size: number, offset: number, queues: number, queueSize: number): Buffer {
  const b = Buffer.alloc(24);
  b.writeBigUInt64LE(BigInt(size), 0);
  b.writeBigUInt64LE(BigInt(offset), 8);
  b.writeUInt16LE(queues, 16);
  b.writeUInt16LE(queueSize, 18);
  return b;
}

/** Long enough for an emulated CPU on a busy machine; who waits in vain fails anyway. Milliseconds. */
const PATIENCE = 60_000;

/** Turn the loop until something holds. */
export function pump(loop: EventLoop, until: () => boolean, what = 'a condition', ms = PATIENCE): void {
  const end = performance.now() + ms;
  while (!until()) {
    loop.turn(0);
    if (performance.now() > end) throw new Error(`waited ${ms} ms for ${what}`);
  }
}

/** Some passes: enough for anything that is ready to happen. */
export function settle(loop: EventLoop, passes = 20): void {
  for (let i = 0; i < passes; i++) loop.turn(0);
}

/** How many descriptors this process has open, without the loader's own. */
export function openFds(): number {
  return fdList().length;
}

/** A vring as the front end and the guest's driver hold it. */
export class FrontEndRing {
  readonly index: number;
  readonly size: number;
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  readonly driver: DriverRing;
  readonly kick = new EventFd();
  readonly call = new EventFd();
  readonly err = new EventFd();
  /** Interrupts seen. */
  interrupts = 0;

  constructor(guest: SharedGuest, index: number, size: number, eventIdx: boolean) {
    this.index = index;
    this.size = size;
    this.desc = guest.alloc(16 * size, 16);
    this.avail = guest.alloc(6 + 2 * size, 2);
    this.used = guest.alloc(6 + 8 * size, 4);
    const place = { desc: guest.part(this.desc), avail: guest.part(this.avail), used: guest.part(this.used) };
    const driver = DriverRing.create(place, { size, eventIdx });
    if (typeof driver === 'string') throw new Error(driver);
    this.driver = driver;
  }

  close(): void {
    this.kick.close();
    this.call.close();
    this.err.close();
  }
}

export interface FrontEndOptions {
  loop: EventLoop;
  path: string;
  guest: SharedGuest;
  /** Whose order of messages. */
  version?: '7.2' | '11.1';
  /** Protocol features this front end knows; it accepts what is offered of them. */
  protocol?: bigint;
  queues?: number;
  queueSize?: number;
}

export class FrontEnd {
  readonly loop: EventLoop;
  readonly guest: SharedGuest;
  readonly version: '7.2' | '11.1';
  readonly path: string;
  readonly queues: number;
  readonly queueSize: number;
  socket: Fd;
  /** Accepted protocol features. */
  protocol = 0n;
  features = 0n;
  offered = 0n;
  rings: FrontEndRing[] = [];
  /** The region that survives a reconnect. */
  inflight: { fd: Fd; bytes: Buffer } | null = null;
  private readonly wanted: bigint;
  private memorySent = false;

  constructor(options: FrontEndOptions) {
    this.loop = options.loop;
    this.guest = options.guest;
    this.path = options.path;
    this.version = options.version ?? '11.1';
    this.wanted =
      options.protocol ??
      [PF.MQ, PF.REPLY_ACK, PF.INFLIGHT, PF.RESET_DEVICE, PF.MEM_SLOTS, PF.STATUS].reduce((w, n) => w | bit(n), 0n);
    this.queues = options.queues ?? 3;
    this.queueSize = options.queueSize ?? 128;
    this.socket = connectUnix(this.path);
  }

  // Bytes.

  /** Send bytes as they are, in one piece. */
  raw(bytes: Uint8Array, fds: readonly Fd[] = []): void {
    let at = 0;
    while (at < bytes.length) {
      const sent = sendWithFds(this.socket, bytes.subarray(at), at === 0 ? fds : []);
      if (sent > 0) at += sent;
      else this.loop.turn(0);
    }
  }

  send(id: number, payload: Uint8Array = Buffer.alloc(0), flags = 1, fds: readonly Fd[] = []): void {
    this.raw(Buffer.concat([header(id, flags, payload.length), payload]), fds);
  }

  /** The next message from the back end, or null when it hung up. */
  receive(): ReplyMessage | null {
    const fds: Fd[] = [];
    const read = (bytes: number): Buffer | null => {
      const buffer = Buffer.alloc(bytes);
      let got = 0;
      let gone = false;
      pump(
        this.loop,
        () => {
          if (got === bytes) return true;
          const r = recvWithFds(this.socket, buffer.subarray(got), 8);
          fds.push(...r.fds);
          gone = r.bytes === 0;
          if (r.bytes > 0) got += r.bytes;
          return gone || got === bytes;
        },
        'a reply',
      );
      return gone ? null : buffer;
    };
    const head = read(12);
    if (head === null) return null;
    const size = head.readUInt32LE(8);
    const payload = size === 0 ? Buffer.alloc(0) : read(size);
    if (payload === null) return null;
    return { id: head.readUInt32LE(0), flags: head.readUInt32LE(4), payload, fds };
  }

  /** Whether the back end has hung up; messages that came before are dropped. */
  get hungUp(): boolean {
    for (;;) {
      const r = recvWithFds(this.socket, Buffer.alloc(4096), 8);
      for (const fd of r.fds) fd.close();
      if (r.bytes === 0) return true;
      if (r.bytes < 0) return false;
    }
  }

  // Messages.

  /** Ask, and return the reply; it must be one to this question. */
  ask(id: number, payload?: Uint8Array, flags = 1, fds: readonly Fd[] = []): ReplyMessage {
    this.send(id, payload, flags, fds);
    const reply = this.receive();
    if (reply === null) throw new Error(`the back end hung up on message ${id}`);
    if (reply.id !== id || reply.flags !== 5) throw new Error(`message ${id} answered by ${reply.id}/${reply.flags}`);
    return reply;
  }

  askU64(id: number): bigint {
    return this.ask(id).payload.readBigUInt64LE();
  }

  /** Tell; with `ack` ask for an acknowledgement where that was negotiated. @returns its value, 0 is good */
  tell(id: number, payload?: Uint8Array, fds: readonly Fd[] = [], ack = this.version === '11.1'): bigint {
    if (!ack || !this.has(PF.REPLY_ACK)) {
      this.send(id, payload, 1, fds);
      return 0n;
    }
    return this.ask(id, payload, 1 | NEED_REPLY, fds).payload.readBigUInt64LE();
  }

  has(feature: number): boolean {
    return (this.protocol & bit(feature)) !== 0n;
  }

  // QEMU's sequences.

  /** Back-end initialisation: when QEMU starts, or has reconnected. */
  init(): void {
    this.offered = this.askU64(ID.GET_FEATURES);
    if ((this.offered & bit(30)) !== 0n) {
      this.protocol = this.askU64(ID.GET_PROTOCOL_FEATURES) & this.wanted;
      this.send(ID.SET_PROTOCOL_FEATURES, u64(this.protocol));
      if (this.has(PF.MQ)) this.askU64(ID.GET_QUEUE_NUM);
      if (this.has(PF.MEM_SLOTS)) this.askU64(ID.GET_MAX_MEM_SLOTS);
    }
    this.send(ID.SET_OWNER);
    this.askU64(ID.GET_FEATURES);
    const early = Array.from({ length: this.queues }, () => [new EventFd(), new EventFd()] as const);
    early.forEach(([call, err], i) => {
      this.tell(ID.SET_VRING_CALL, u64(i), [call.fd]);
      this.tell(ID.SET_VRING_ERR, u64(i), [err.fd]);
    });
    settle(this.loop);
    for (const [call, err] of early) {
      call.close();
      err.close();
    }
    if (this.has(PF.RESET_DEVICE)) this.tell(ID.RESET_DEVICE, undefined, [], false);
  }

  /** The guest's driver makes fresh rings. */
  makeRings(indices: readonly number[], features: bigint, size = this.queueSize): void {
    for (const ring of this.rings) ring.close();
    const eventIdx = (features & this.offered & bit(29)) !== 0n;
    this.rings = indices.map((i) => new FrontEndRing(this.guest, i, size, eventIdx));
  }

  ring(index: number): FrontEndRing {
    const ring = this.rings.find((r) => r.index === index);
    if (ring === undefined) throw new Error(`FrontEnd: no ring ${index}`);
    return ring;
  }

  sendMemory(regions: readonly SharedRegion[] = this.guest.regions): void {
    if (this.has(PF.MEM_SLOTS)) {
      // QEMU does not repeat the regions that it has sent in this connection.
      if (this.memorySent) return;
      for (const r of regions) {
        const refused = this.tell(ID.ADD_MEM_REG, Buffer.concat([u64(0), regionBytes(r)]), [r.fd], true);
        if (refused !== 0n) throw new Error('ADD_MEM_REG was refused');
      }
    } else {
      const fds = regions.map((r) => r.fd);
      if (this.tell(ID.SET_MEM_TABLE, tableBytes(regions), fds, true) !== 0n) throw new Error('table was refused');
    }
    this.memorySent = true;
  }

  getInflight(): void {
    const reply = this.ask(ID.GET_INFLIGHT_FD, inflightBytes(0, 0, this.queues, this.queueSize));
    this.inflight?.fd.close();
    this.inflight = { fd: reply.fds[0], bytes: reply.payload };
  }

  private setInflight(): void {
    if (!this.has(PF.INFLIGHT)) return;
    if (this.inflight === null) this.getInflight();
    const { fd, bytes } = this.inflight as { fd: Fd; bytes: Buffer };
    this.tell(ID.SET_INFLIGHT_FD, bytes, [fd]);
  }

  /**
   * Device start with the rings that `makeRings` made.
   * @param bases next available index by ring index; default 0
   */
  start(features = LINUX_FEATURES, bases: ReadonlyMap<number, number> = new Map()): void {
    this.features = features & (this.offered | bit(2));
    const old = this.version === '7.2';
    if (old) this.setInflight();
    this.tell(ID.SET_FEATURES, u64(this.features), [], false);
    if (this.has(PF.STATUS)) {
      this.askU64(ID.GET_STATUS);
      this.tell(ID.SET_STATUS, u64(8), [], false);
    }
    if (!old) {
      this.setInflight();
      this.tell(ID.SET_FEATURES, u64(this.features), [], false);
    }
    this.sendMemory();
    for (const r of this.rings) this.startRing(r, bases.get(r.index) ?? 0);
    if ((this.features & bit(30)) !== 0n) {
      for (let i = 0; i < this.queues; i++) this.tell(ID.SET_VRING_ENABLE, u32s(i, 1));
    }
    for (let i = 0; i < this.queues; i++) {
      const ring = this.rings.find((r) => r.index === i);
      if (ring !== undefined) this.tell(ID.SET_VRING_CALL, u64(i), [ring.call.fd]);
    }
    settle(this.loop);
  }

  startRing(r: FrontEndRing, base: number): void {
    this.send(ID.SET_VRING_NUM, u32s(r.index, r.size));
    this.send(ID.SET_VRING_BASE, u32s(r.index, base));
    const { guest } = this;
    this.send(ID.SET_VRING_ADDR, addrBytes(r.index, guest.uva(r.desc), guest.uva(r.avail), guest.uva(r.used)));
    this.tell(ID.SET_VRING_ERR, u64(r.index), [r.err.fd]);
    this.tell(ID.SET_VRING_KICK, u64(r.index), [r.kick.fd]);
  }

  /** Device stop. @returns the next available index of each live ring */
  stop(): Map<number, number> {
    if ((this.features & bit(30)) !== 0n) {
      for (let i = 0; i < this.queues; i++) this.tell(ID.SET_VRING_ENABLE, u32s(i, 0));
    }
    const bases = new Map<number, number>();
    for (const r of this.rings) {
      const { payload } = this.ask(ID.GET_VRING_BASE, u32s(r.index, 0));
      bases.set(r.index, payload.readUInt32LE(4));
    }
    return bases;
  }

  resetDevice(): void {
    if (this.has(PF.RESET_DEVICE)) this.tell(ID.RESET_DEVICE);
  }

  noCall(index: number): void {
    this.tell(ID.SET_VRING_CALL, u64(index | NOFD));
  }

  /** Close the connection; rings and memory stay the guest's. */
  disconnect(): void {
    this.socket.close();
    this.memorySent = false;
  }

  reconnect(): void {
    this.socket = connectUnix(this.path);
  }

  close(): void {
    this.socket.close();
    for (const r of this.rings) r.close();
    this.rings = [];
    this.inflight?.fd.close();
    this.inflight = null;
  }
}
