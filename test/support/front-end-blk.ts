/**
 * A guest's virtio block driver and its QEMU's device over a {@link FrontEnd}: config space, back-end messages, and
 * requests laid out as Linux does it (header, data and status in descriptors of their own) or cut up as the caller likes.
 */
import type { Fd } from '../../src/sys/fd.ts';
import { recvWithFds, socketPair } from '../../src/sys/socket.ts';
import { IoList } from '../../src/virtio/io-list.ts';
import { bit, type FrontEnd, type FrontEndRing, ID, pump, settle, u32s } from './front-end.ts';

// virtio 1.2 §5.2.6, written out a second time.
export const T = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, LIFETIME: 10, DISCARD: 11, WRITE_ZEROES: 13, ERASE: 14 };
export const S = { OK: 0, IOERR: 1, UNSUPP: 2 };
export const F = { SEG_MAX: 2, RO: 5, BLK_SIZE: 6, FLUSH: 9, TOPOLOGY: 10, WCE: 11, MQ: 12, DISCARD: 13, ZEROES: 14 };

/** MQ, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT, RESET_DEVICE, MEM_SLOTS, STATUS. */
export const BLK_PROTOCOL = [0, 3, 5, 9, 12, 13, 15, 16].reduce((word, n) => word | bit(n), 0n);
const SET_BACKEND_REQ_FD = 21;
/** Linux takes all it knows: everything that is offered. */
export const ALL_FEATURES = 0xffff_ffff_ffffn;

export interface BlkOptions {
  queue?: number;
  out?: Uint8Array;
  inLength?: number;
  /** Cut everything into descriptors of this many bytes. */
  cut?: number;
  headerBytes?: number;
  statusBytes?: number;
}

export interface BlkAnswer {
  status: number;
  data: Uint8Array;
  used: number;
}

export interface BlkPending {
  head: number;
  ring: FrontEndRing;
  statusAt: number;
  dataAt: number;
  inLength: number;
  answer: BlkAnswer | null;
}

/** Ranges of DISCARD and WRITE_ZEROES: sector, sectors, flags. */
export function ranges(...list: readonly (readonly [number | bigint, number, number?])[]): Buffer {
  const b = Buffer.alloc(16 * list.length);
  list.forEach(([sector, sectors, flags = 0], i) => {
    b.writeBigUInt64LE(BigInt.asUintN(64, BigInt(sector)), 16 * i);
    b.writeUInt32LE(sectors >>> 0, 16 * i + 8);
    b.writeUInt32LE(flags >>> 0, 16 * i + 12);
  });
  return b;
}

export class BlkDriver {
  readonly frontEnd: FrontEnd;
  private readonly pending: BlkPending[] = [];
  /** Our end of the socket for back-end messages. */
  private backend: Fd | null = null;

  constructor(frontEnd: FrontEnd) {
    this.frontEnd = frontEnd;
  }

  // QEMU's side.

  /** @returns null when the back end says no */
  config(offset = 0, size = 60): Buffer | null {
    const payload = Buffer.concat([u32s(offset, size, 0), Buffer.alloc(size)]);
    const reply = this.frontEnd.ask(ID.GET_CONFIG, payload);
    return reply.payload.length === 0 ? null : reply.payload.subarray(12);
  }

  /** @returns the acknowledgement: 0 is good */
  setConfig(offset: number, data: readonly number[], flags = 0): bigint {
    return this.frontEnd.tell(
      ID.SET_CONFIG,
      Buffer.concat([u32s(offset, data.length, flags), Buffer.from(data)]),
      [],
      true,
    );
  }

  openBackendChannel(): bigint {
    const [ours, theirs] = socketPair();
    this.backend?.close();
    this.backend = ours;
    const answer = this.frontEnd.tell(SET_BACKEND_REQ_FD, undefined, [theirs], true);
    settle(this.frontEnd.loop);
    theirs.close();
    return answer;
  }

  /** Back-end messages that have come: request, flags and size of each. */
  backendMessages(): number[][] {
    settle(this.frontEnd.loop);
    const buffer = Buffer.alloc(4096);
    const { bytes } = recvWithFds(this.backend as Fd, buffer, 0);
    const found: number[][] = [];
    for (let at = 0; at + 12 <= bytes; at += 12) found.push([0, 4, 8].map((o) => buffer.readUInt32LE(at + o)));
    return found;
  }

  closeBackendChannel(): void {
    this.backend?.close();
    this.backend = null;
  }

  // The guest's side.

  submit(type: number, sector: number | bigint, options: BlkOptions = {}): BlkPending {
    const { guest } = this.frontEnd;
    const { out = new Uint8Array(0), inLength = 0, headerBytes = 16, statusBytes = 1 } = options;
    const ring = this.frontEnd.ring(options.queue ?? 0);
    const header = Buffer.alloc(Math.max(16, headerBytes));
    header.writeUInt32LE(type >>> 0, 0);
    header.writeBigUInt64LE(BigInt.asUintN(64, BigInt(sector)), 8);
    const headerAt = guest.alloc(Math.max(1, headerBytes), 1);
    guest.write(headerAt, header.subarray(0, headerBytes));
    const outAt = guest.alloc(Math.max(1, out.length), 1);
    guest.write(outAt, out);
    const dataAt = guest.alloc(Math.max(1, inLength), 1);
    guest.write(dataAt, new Uint8Array(inLength).fill(0xee));
    const statusAt = guest.alloc(Math.max(1, statusBytes), 1);
    guest.write(statusAt, [0xee]);
    const cut = options.cut ?? 1 << 30;
    const [readable, writable] = [new IoList(1024), new IoList(1024)];
    const put = (list: IoList, at: number, bytes: number) => {
      for (let done = 0; done < bytes; done += cut) list.pushAddress(at + done, Math.min(cut, bytes - done));
    };
    put(readable, headerAt, headerBytes);
    put(readable, outAt, out.length);
    put(writable, dataAt, inLength);
    put(writable, statusAt, statusBytes);
    const head = ring.driver.add(readable, writable, false);
    if (head < 0) throw new Error('BlkDriver: the ring is full');
    const pending: BlkPending = { head, ring, statusAt, dataAt, inLength, answer: null };
    this.pending.push(pending);
    if (ring.driver.publish()) ring.kick.signal();
    return pending;
  }

  /** Take what is done off the rings. */
  collect(): void {
    const { guest } = this.frontEnd;
    for (const ring of this.frontEnd.rings) {
      if (ring.call.drain()) ring.interrupts++;
      for (let head = ring.driver.poll(); head >= 0; head = ring.driver.poll()) {
        const i = this.pending.findIndex((p) => p.ring === ring && p.head === head);
        if (i < 0) throw new Error(`BlkDriver: head ${head} came back, and nobody waits for it`);
        const [p] = this.pending.splice(i, 1);
        const status = guest.read(p.statusAt, 1)[0];
        p.answer = { status, data: guest.read(p.dataAt, p.inLength), used: ring.driver.usedLength };
      }
      if (ring.driver.broken !== null) throw new Error(`BlkDriver: ${ring.driver.broken}`);
    }
  }

  wait(p: BlkPending): BlkAnswer {
    const done = () => {
      this.collect();
      return p.answer !== null;
    };
    pump(this.frontEnd.loop, done, 'a block request');
    return p.answer as BlkAnswer;
  }

  run(type: number, sector: number | bigint, options: BlkOptions = {}): BlkAnswer {
    return this.wait(this.submit(type, sector, options));
  }

  read(sector: number, bytes: number, options: BlkOptions = {}): BlkAnswer {
    return this.run(T.IN, sector, { ...options, inLength: bytes });
  }

  write(sector: number, out: Uint8Array, options: BlkOptions = {}): BlkAnswer {
    return this.run(T.OUT, sector, { ...options, out });
  }

  /** Nobody waits any more: the rings are gone. */
  forget(): void {
    this.pending.length = 0;
  }

  get waiting(): number {
    return this.pending.length;
  }
}
