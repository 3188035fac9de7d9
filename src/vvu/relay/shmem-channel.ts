import { EPOLL } from '../../sys/constants.ts';
import type { EventLoop, Watch } from '../../sys/event-loop.ts';
import type { Fd } from '../../sys/fd.ts';
import { recvWithFds, sendWithFds } from '../../sys/socket.ts';
import { FLAG_NEED_REPLY, FLAG_REPLY, FLAG_VERSION, HEADER_BYTES } from '../../vhost/messages.ts';

/**
 * The back-end channel to the appliance's QEMU (SET_BACKEND_REQ_FD), for mapping files into its shared-memory BAR. One request
 * at a time, each answered. The caller sees to it that the device is started: QEMU does not survive a request
 * for a device that is not.
 */

const SHMEM_MAP = 9;
const SHMEM_UNMAP = 10;
/** u8 shmid, 7 of padding, u64 fd_offset, u64 shm_offset, u64 len, u64 flags */
const PAYLOAD_BYTES = 40;
const FLAG_MAP_RW = 1n;
const REPLY_BYTES = HEADER_BYTES + 8;

export interface ShmemRange {
  /** Bytes in the shared-memory region. */
  readonly at: number;
  readonly bytes: number;
}

interface Pending {
  readonly bytes: Uint8Array;
  readonly fd: Fd | null;
  readonly id: number;
  /** @param error null, or why it was refused */
  readonly done: (error: string | null) => void;
}

function request(id: number, range: ShmemRange, fdOffset: number): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + PAYLOAD_BYTES);
  const v = new DataView(bytes.buffer);
  v.setUint32(0, id, true);
  v.setUint32(4, FLAG_VERSION | FLAG_NEED_REPLY, true);
  v.setUint32(8, PAYLOAD_BYTES, true);
  v.setBigUint64(HEADER_BYTES + 8, BigInt(fdOffset), true);
  v.setBigUint64(HEADER_BYTES + 16, BigInt(range.at), true);
  v.setBigUint64(HEADER_BYTES + 24, BigInt(range.bytes), true);
  v.setBigUint64(HEADER_BYTES + 32, id === SHMEM_MAP ? FLAG_MAP_RW : 0n, true);
  return bytes;
}

export class ShmemChannel {
  private readonly loop: EventLoop;
  private readonly fd: Fd;
  private readonly queue: Pending[] = [];
  private readonly watch: Watch;
  private readonly reply = new Uint8Array(REPLY_BYTES);
  private got = 0;
  private sent = false;
  private dead: string | null = null;

  private constructor(loop: EventLoop, fd: Fd) {
    this.loop = loop;
    this.fd = fd;
    this.watch = loop.watch(fd.number, () => this.ready());
  }

  /**
   * @param fd a connected socket, owned from now on
   * @returns null when it is nothing that can be waited on: a plain file, say, which is closed
   */
  static open(loop: EventLoop, fd: Fd): ShmemChannel | null {
    try {
      return new ShmemChannel(loop, fd);
    } catch {
      fd.close();
      return null;
    }
  }

  get idle(): boolean {
    return this.queue.length === 0;
  }

  /** @param fd a duplicate that becomes the channel's */
  map(fd: Fd, fdOffset: number, range: ShmemRange, done: (error: string | null) => void): void {
    this.ask({ bytes: request(SHMEM_MAP, range, fdOffset), fd, id: SHMEM_MAP, done });
  }

  unmap(range: ShmemRange, done: (error: string | null) => void): void {
    this.ask({ bytes: request(SHMEM_UNMAP, range, 0), fd: null, id: SHMEM_UNMAP, done });
  }

  private ask(pending: Pending): void {
    if (this.dead !== null) {
      pending.fd?.close();
      const { dead } = this;
      this.loop.defer(() => pending.done(dead));
      return;
    }
    this.queue.push(pending);
    if (this.queue.length === 1) this.transmit();
  }

  private transmit(): void {
    const first = this.queue[0];
    if (first === undefined) return;
    try {
      // The message is far smaller than any socket buffer, and alone: it goes in one piece or, for the moment, not at all.
      const n = sendWithFds(this.fd, first.bytes, first.fd === null ? [] : [first.fd]);
      if (n < 0) {
        this.watch.modify(EPOLL.IN | EPOLL.OUT);
        return;
      }
      if (n !== first.bytes.length) throw new Error('a request went only in part');
      first.fd?.close();
      this.sent = true;
      this.watch.modify(EPOLL.IN);
    } catch (error) {
      this.fail((error as Error).message);
    }
  }

  private ready(): void {
    try {
      if (!this.sent && this.queue.length > 0) this.transmit();
      const { bytes, fds } = recvWithFds(this.fd, this.reply.subarray(this.got), 0);
      for (const fd of fds) fd.close();
      if (bytes < 0) return;
      if (bytes === 0) {
        this.fail('the QEMU of the appliance closed the back-end channel');
        return;
      }
      this.got += bytes;
      if (this.got === REPLY_BYTES) this.answered();
    } catch (error) {
      this.fail((error as Error).message);
    }
  }

  private answered(): void {
    this.got = 0;
    const v = new DataView(this.reply.buffer);
    const pending = this.sent ? this.queue.shift() : undefined;
    this.sent = false;
    if (pending === undefined || v.getUint32(0, true) !== pending.id || (v.getUint32(4, true) & FLAG_REPLY) === 0) {
      pending?.done('an answer that fits no request');
      this.fail('an answer that fits no request');
      return;
    }
    const refused = v.getUint32(HEADER_BYTES, true) !== 0 || v.getUint32(HEADER_BYTES + 4, true) !== 0;
    this.transmit();
    pending.done(refused ? "refused by the appliance's QEMU (its log says why)" : null);
  }

  private fail(reason: string): void {
    if (this.dead !== null) return;
    this.dead = reason;
    this.watch.close();
    this.fd.close();
    for (const pending of this.queue.splice(0)) {
      pending.fd?.close();
      pending.done(reason);
    }
  }

  close(): void {
    this.fail('the appliance has gone');
  }
}
