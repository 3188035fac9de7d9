/**
 * The least of a vhost-user front end that a load needs: connect, share memory, start queues. It trusts the back end
 * (it is ours, or one that somebody wants to measure) and stops with an Error at the first surprise.
 */

import type { Memory } from '../../src/memory/memory.ts';
import { EventFd } from '../../src/sys/eventfd.ts';
import type { Fd } from '../../src/sys/fd.ts';
import { type Mapping, mapFile, memfd } from '../../src/sys/mapping.ts';
import { connectUnix, recvWithFds, sendWithFds } from '../../src/sys/socket.ts';
import { FLAG_VERSION, HEADER_BYTES, Request, VhostFeature } from '../../src/vhost/messages.ts';

const REPLY_SECONDS = 10;
/** Where the guest's memory begins for the front end: any number that is not a guest address by accident. */
const USER_BASE = 0x7f00_0000_0000;

const nap = new Int32Array(new SharedArrayBuffer(4));
const doze = () => {
  Atomics.wait(nap, 0, 0, 1);
};

export class FrontEnd {
  readonly mapping: Mapping;
  readonly memory: Memory;
  /** Virtio features both sides have. */
  readonly features: bigint;
  private readonly socket: Fd;
  private readonly memfd: Fd;
  private readonly wait: () => void;

  /**
   * @param wanted virtio feature bits to take when offered
   * @param bytes of guest memory to look into, from guest address 0 on
   * @param wait what to do while a reply is awaited; a back end on the same thread gets its turn here
   * @param all bytes of guest memory, one region at guest address 0
   */
  constructor(path: string, wanted: bigint, bytes: number, wait: () => void = doze, all: number = bytes) {
    this.wait = wait;
    this.socket = connectUnix(path);
    this.memfd = memfd('bench-guest', all);
    this.mapping = mapFile(this.memfd, { size: bytes });
    this.memory = this.mapping.memoryAt(0, bytes);
    // Touch every page: the first use of a page is the kernel's work, not the target's.
    for (let at = 0; at < bytes; at += 4096) this.memory.u8[at] = 0;
    const offered = this.getU64(Request.GET_FEATURES);
    const protocol = 1n << BigInt(VhostFeature.PROTOCOL_FEATURES);
    this.features = offered & (wanted | protocol);
    if ((offered & protocol) !== 0n) {
      const mq = 1n;
      this.send(Request.SET_PROTOCOL_FEATURES, u64(this.getU64(Request.GET_PROTOCOL_FEATURES) & mq));
    }
    this.send(Request.SET_OWNER);
    this.send(Request.SET_FEATURES, u64(this.features));
    const table = new DataView(new ArrayBuffer(8 + 32));
    table.setUint32(0, 1, true);
    table.setBigUint64(16, BigInt(all), true);
    table.setBigUint64(24, BigInt(USER_BASE), true);
    this.send(Request.SET_MEM_TABLE, new Uint8Array(table.buffer), [this.memfd]);
  }

  /** Touch the pages of data buffers that lie beyond what is looked into. */
  touch(at: number, bytes: number): void {
    const part = mapFile(this.memfd, { offset: at, size: bytes });
    part.memoryAt(0, bytes).u8.fill(1);
    part.unmap();
  }

  /** Start vring `index` whose parts lie at these guest addresses. @returns its kick and call eventfds */
  startQueue(index: number, size: number, at: { desc: number; avail: number; used: number }): [EventFd, EventFd] {
    const kick = new EventFd();
    const call = new EventFd();
    this.send(Request.SET_VRING_NUM, pair(index, size));
    this.send(Request.SET_VRING_BASE, pair(index, 0));
    const addr = new DataView(new ArrayBuffer(40));
    addr.setUint32(0, index, true);
    for (const [offset, value] of [
      [8, at.desc],
      [16, at.used],
      [24, at.avail],
    ] as const) {
      addr.setBigUint64(offset, BigInt(USER_BASE + value), true);
    }
    this.send(Request.SET_VRING_ADDR, new Uint8Array(addr.buffer));
    this.send(Request.SET_VRING_CALL, u64(BigInt(index)), [call.fd]);
    this.send(Request.SET_VRING_KICK, u64(BigInt(index)), [kick.fd]);
    if ((this.features & (1n << BigInt(VhostFeature.PROTOCOL_FEATURES))) !== 0n) {
      this.send(Request.SET_VRING_ENABLE, pair(index, 1));
    }
    return [kick, call];
  }

  /** Stop a vring: when it answers, the back end has let go of it. */
  stopQueue(index: number): void {
    this.send(Request.GET_VRING_BASE, pair(index, 0));
    this.receive(Request.GET_VRING_BASE);
  }

  /** Wait until the back end has handled everything sent so far. */
  settle(): void {
    this.getU64(Request.GET_FEATURES);
  }

  close(): void {
    this.socket.close();
    this.mapping.unmap();
    this.memfd.close();
  }

  private getU64(request: number): bigint {
    this.send(request);
    const payload = this.receive(request);
    return new DataView(payload.buffer, payload.byteOffset).getBigUint64(0, true);
  }

  private send(request: number, payload: Uint8Array = new Uint8Array(0), fds: Fd[] = []): void {
    const message = new Uint8Array(HEADER_BYTES + payload.length);
    const view = new DataView(message.buffer);
    view.setUint32(0, request, true);
    view.setUint32(4, FLAG_VERSION, true);
    view.setUint32(8, payload.length, true);
    message.set(payload, HEADER_BYTES);
    if (sendWithFds(this.socket, message, fds) !== message.length) throw new Error('the back end does not read');
  }

  private receive(request: number): Uint8Array {
    const header = this.receiveBytes(HEADER_BYTES);
    const view = new DataView(header.buffer);
    if (view.getUint32(0, true) !== request) throw new Error(`reply to ${view.getUint32(0, true)}, not ${request}`);
    return this.receiveBytes(view.getUint32(8, true));
  }

  private receiveBytes(count: number): Uint8Array {
    const bytes = new Uint8Array(count);
    const until = performance.now() + REPLY_SECONDS * 1000;
    for (let got = 0; got < count; ) {
      const { bytes: n } = recvWithFds(this.socket, bytes.subarray(got), 0);
      if (n === 0) throw new Error('the back end hung up');
      if (n > 0) got += n;
      else if (performance.now() > until) throw new Error(`no reply in ${REPLY_SECONDS} s`);
      else this.wait();
    }
    return bytes;
  }
}

function u64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  return bytes;
}

function pair(a: number, b: number): Uint8Array {
  const bytes = new Uint8Array(8);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, a, true);
  view.setUint32(4, b, true);
  return bytes;
}
