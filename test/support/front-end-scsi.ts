/**
 * A guest's virtio SCSI driver over a {@link FrontEnd}: commands, task management and events, laid out as Linux does
 * it (header, response and data in descriptors of their own) or cut up as the caller likes.
 */
import { IoList } from '../../src/virtio/io-list.ts';
import { type FrontEnd, type FrontEndRing, pump } from './front-end.ts';

export interface ScsiOptions {
  lun?: number;
  /** lun[8] as it is sent, instead of target and lun. */
  lunBytes?: readonly number[];
  queue?: number;
  /** Data-out. */
  out?: Uint8Array;
  /** Bytes of data-in offered. */
  inLength?: number;
  tag?: bigint;
  /** Cut header, response and data into descriptors of this many bytes. */
  cut?: number;
  /** Bytes of the response area; default 108. */
  responseBytes?: number;
  /** Bytes of the header; default 51. */
  headerBytes?: number;
}

export interface ScsiAnswer {
  response: number;
  status: number;
  residual: number;
  sense: Uint8Array;
  data: Uint8Array;
  /** Length in the used element. */
  used: number;
}

export interface Pending {
  head: number;
  ring: FrontEndRing;
  answer: ScsiAnswer | null;
  readonly responseAt: number;
  readonly dataAt: number;
  readonly inLength: number;
}

export class ScsiDriver {
  readonly frontEnd: FrontEnd;
  private readonly pending: Pending[] = [];
  private nextTag = 1n;

  constructor(frontEnd: FrontEnd) {
    this.frontEnd = frontEnd;
  }

  /** Put a command into a ring and kick if the device wants that. */
  submit(target: number, cdb: readonly number[], options: ScsiOptions = {}): Pending {
    const { guest } = this.frontEnd;
    const ring = this.frontEnd.ring(options.queue ?? 2);
    const { lun = 0, out = new Uint8Array(0), inLength = 0, headerBytes = 51, responseBytes = 108 } = options;
    const header = Buffer.alloc(Math.max(51, headerBytes));
    header.set(options.lunBytes ?? [1, target, lun >> 8 === 0 ? 0 : 0x40 | (lun >> 8), lun & 0xff], 0);
    header.writeBigUInt64LE(options.tag ?? this.nextTag++, 8);
    header.set(cdb, 19);
    const headerAt = guest.alloc(headerBytes, 1);
    guest.write(headerAt, header.subarray(0, headerBytes));
    const outAt = guest.alloc(Math.max(1, out.length), 1);
    guest.write(outAt, out);
    const responseAt = guest.alloc(Math.max(1, responseBytes), 4);
    guest.write(responseAt, new Uint8Array(responseBytes).fill(0xee));
    const dataAt = guest.alloc(Math.max(1, inLength), 1);
    const cut = options.cut ?? 1 << 30;
    const [readable, writable] = [new IoList(512), new IoList(512)];
    const put = (list: IoList, at: number, bytes: number) => {
      for (let done = 0; done < bytes; done += cut) list.pushAddress(at + done, Math.min(cut, bytes - done));
    };
    put(readable, headerAt, headerBytes);
    put(readable, outAt, out.length);
    put(writable, responseAt, responseBytes);
    put(writable, dataAt, inLength);
    const head = ring.driver.add(readable, writable, false);
    if (head < 0) throw new Error('ScsiDriver: the ring is full');
    const pending: Pending = { head, ring, answer: null, responseAt, dataAt, inLength };
    this.pending.push(pending);
    if (ring.driver.publish()) ring.kick.signal();
    return pending;
  }

  /** Take what is done off the rings. */
  collect(): void {
    for (const ring of this.frontEnd.rings) {
      if (ring.index < 2) continue;
      if (ring.call.drain()) ring.interrupts++;
      for (let head = ring.driver.poll(); head >= 0; head = ring.driver.poll()) {
        const i = this.pending.findIndex((p) => p.ring === ring && p.head === head);
        if (i < 0) throw new Error(`ScsiDriver: head ${head} came back, and nobody waits for it`);
        const [p] = this.pending.splice(i, 1);
        p.answer = this.parse(p, ring.driver.usedLength);
      }
      if (ring.driver.broken !== null) throw new Error(`ScsiDriver: ${ring.driver.broken}`);
    }
  }

  private parse(p: Pending, used: number): ScsiAnswer {
    const r = Buffer.from(this.frontEnd.guest.read(p.responseAt, 108));
    return {
      response: r[11],
      status: r[10],
      residual: r.readUInt32LE(4),
      sense: r.subarray(12, 12 + Math.min(96, r.readUInt32LE(0))),
      data: this.frontEnd.guest.read(p.dataAt, p.inLength),
      used,
    };
  }

  wait(p: Pending): ScsiAnswer {
    pump(
      this.frontEnd.loop,
      () => {
        this.collect();
        return p.answer !== null;
      },
      'a SCSI command',
    );
    return p.answer as ScsiAnswer;
  }

  /** A command from beginning to end. */
  run(target: number, cdb: readonly number[], options: ScsiOptions = {}): ScsiAnswer {
    return this.wait(this.submit(target, cdb, options));
  }

  /** Commands that have not come back. */
  get waiting(): number {
    return this.pending.length;
  }

  /** Nobody waits for it any more: its ring is gone. */
  forget(p: Pending): void {
    this.pending.splice(this.pending.indexOf(p), 1);
  }

  /** As {@link run}, but again while the unit tells attentions (after power on or a reset). */
  ready(target: number, cdb: readonly number[], options: ScsiOptions = {}): ScsiAnswer {
    for (let i = 0; ; i++) {
      const answer = this.run(target, cdb, options);
      if (answer.status !== 2 || (answer.sense[2] & 0xf) !== 6 || i === 8) return answer;
    }
  }

  /** A control request; waits for its answer. @returns the writable bytes */
  control(request: Uint8Array, answerBytes: number): Uint8Array {
    const { guest, loop } = this.frontEnd;
    const ring = this.frontEnd.ring(0);
    const at = guest.alloc(request.length, 4);
    guest.write(at, request);
    const answerAt = guest.alloc(Math.max(1, answerBytes), 4);
    guest.write(answerAt, new Uint8Array(answerBytes).fill(0xee));
    const [out, into] = [new IoList(4), new IoList(4)];
    out.pushAddress(at, request.length);
    if (answerBytes > 0) into.pushAddress(answerAt, answerBytes);
    const head = ring.driver.add(out, into, false);
    if (ring.driver.publish()) ring.kick.signal();
    pump(
      loop,
      () => {
        this.collect();
        return ring.driver.poll() === head;
      },
      'a control request',
    );
    return guest.read(answerAt, answerBytes);
  }

  /** Task management. @returns the response code */
  tmf(subtype: number, target: number, lun = 0, tag = 0n): number {
    const b = Buffer.alloc(24);
    b.writeUInt32LE(0, 0);
    b.writeUInt32LE(subtype >>> 0, 4);
    b.set([1, target, 0, lun], 8);
    b.writeBigUInt64LE(tag, 16);
    return this.control(b, 1)[0];
  }

  // Events.

  private readonly eventBuffers = new Map<number, number>();

  giveEventBuffers(count: number, bytes = 16): void {
    const ring = this.frontEnd.ring(1);
    for (let i = 0; i < count; i++) {
      const at = this.frontEnd.guest.alloc(16, 4);
      const [out, into] = [new IoList(1), new IoList(1)];
      into.pushAddress(at, bytes);
      this.eventBuffers.set(ring.driver.add(out, into, false), at);
    }
    if (ring.driver.publish()) ring.kick.signal();
  }

  /** The next event, or null when there is none now. */
  takeEvent(): { event: number; lun: number[]; reason: number } | null {
    const ring = this.frontEnd.ring(1);
    const head = ring.driver.poll();
    if (head < 0) return null;
    const b = Buffer.from(this.frontEnd.guest.read(this.eventBuffers.get(head) as number, 16));
    return { event: b.readUInt32LE(0), lun: [...b.subarray(4, 8)], reason: b.readUInt32LE(12) };
  }

  waitEvent(): { event: number; lun: number[]; reason: number } {
    let found: ReturnType<ScsiDriver['takeEvent']> = null;
    pump(
      this.frontEnd.loop,
      () => {
        found ??= this.takeEvent();
        return found !== null;
      },
      'an event',
    );
    return found as unknown as { event: number; lun: number[]; reason: number };
  }
}

/** READ(10) and WRITE(10). */
export function read10(lba: number, blocks: number): number[] {
  return [0x28, 0, lba >>> 24, (lba >> 16) & 255, (lba >> 8) & 255, lba & 255, 0, blocks >> 8, blocks & 255, 0];
}

export function write10(lba: number, blocks: number): number[] {
  return [0x2a, ...read10(lba, blocks).slice(1)];
}
