import type { BdevInfo } from '../../../src/bdev/bdev.ts';
import { Memory } from '../../../src/memory/memory.ts';
import type { SgList } from '../../../src/memory/sg-list.ts';
import { Lun, type LunOptions } from '../../../src/scsi/lun.ts';
import { ScsiTarget } from '../../../src/scsi/target.ts';
import { ScsiTask } from '../../../src/scsi/task.ts';
import { MemoryChannel } from './memory-channel.ts';

/**
 * A target with one unit over a memory disk, and `run(cdb, dataOut) -> result`: the whole of what a byte-table test
 * needs. Buffers have guard bytes around them; a write there fails the test.
 */

const GUARD = 16;
const GUARD_BYTE = 0xa5;

export interface Result {
  response: number;
  status: number;
  /** "05/24/00", or "" without sense. */
  sense: string;
  senseBytes: Uint8Array;
  /** What was written to the data-in buffer: `transferred` bytes. */
  dataIn: Uint8Array;
  transferred: number;
}

export interface RunOptions {
  /** Data-in buffer, bytes. Default 64 KiB. */
  room?: number;
  nexus?: number;
  lun?: number;
  attr?: number;
  tag?: number;
  /** Cut the buffers into pieces of this many bytes. */
  pieces?: number;
}

/** Bytes of hex text: pairs of digits; what follows // in a line is a comment. */
export function hex(text: string): Uint8Array {
  const digits = text.replaceAll(/\/\/.*/g, '').replaceAll(/\s/g, '');
  if (!/^([0-9a-fA-F]{2})*$/.test(digits)) throw new Error(`not hex: ${text}`);
  return Uint8Array.from(digits.match(/../g) ?? [], (b) => Number.parseInt(b, 16));
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join(' ');
}

/** "05/24/00" of sense data in either format. */
export function senseText(bytes: Uint8Array): string {
  if (bytes.length === 0) return '';
  const triple = (bytes[0] & 0x7f) >= 0x72 ? [bytes[1], bytes[2], bytes[3]] : [bytes[2] & 0x0f, bytes[12], bytes[13]];
  return triple.map((b) => b.toString(16).padStart(2, '0')).join('/');
}

function fill(sg: SgList, bytes: number, content: Uint8Array | null, pieces: number): Memory {
  const memory = new Memory(new ArrayBuffer(Math.ceil((bytes + 2 * GUARD) / 8) * 8));
  memory.u8.fill(GUARD_BYTE);
  if (content !== null) memory.u8.set(content, GUARD);
  sg.reset();
  for (let at = 0; at < bytes; at += pieces) sg.push(memory, GUARD + at, Math.min(pieces, bytes - at));
  return memory;
}

/** A task that is on its way. */
export class Sent {
  readonly task: ScsiTask;
  done = 0;
  private readonly into: Memory;
  private readonly room: number;

  constructor(cdb: Uint8Array, dataOut: Uint8Array, options: RunOptions) {
    this.task = new ScsiTask({
      taskDone: () => {
        this.done++;
      },
    });
    const task = this.task;
    task.cdb.set(cdb.subarray(0, task.cdb.length));
    task.lun = options.lun ?? 0;
    task.nexus = options.nexus ?? 0;
    task.attr = options.attr ?? 0;
    task.tagLo = options.tag ?? 0;
    this.room = options.room ?? 65536;
    const pieces = options.pieces ?? 65536;
    fill(task.dataOut, dataOut.length, dataOut, pieces);
    this.into = fill(task.dataIn, this.room, null, pieces);
  }

  /** @throws Error when the task has not come back exactly once, or the buffer's surroundings were written */
  result(): Result {
    const { task } = this;
    if (this.done !== 1) throw new Error(`the task came back ${this.done} times`);
    const u8 = this.into.u8;
    // A task that was given up may have had its data already.
    const mine = task.response === 0 ? Math.min(this.room, task.transferred) : this.room;
    const touched = u8.findIndex((b, i) => b !== GUARD_BYTE && !(i >= GUARD && i < GUARD + mine));
    if (touched >= 0 && task.dataOut.bytes === 0) throw new Error(`byte ${touched - GUARD} was written unasked`);
    const dataIn = task.dataOut.bytes > 0 ? new Uint8Array(0) : u8.slice(GUARD, GUARD + task.transferred);
    const senseBytes = task.sense.slice(0, task.senseLength);
    return {
      response: task.response,
      status: task.status,
      sense: senseText(senseBytes),
      senseBytes,
      dataIn,
      transferred: task.transferred,
    };
  }
}

export class Unit {
  readonly channel: MemoryChannel;
  readonly target = new ScsiTarget();
  readonly lun: Lun;

  constructor(info: Partial<BdevInfo> = {}, options: Partial<LunOptions> = {}) {
    this.channel = (options.channel as MemoryChannel | undefined) ?? new MemoryChannel(info);
    this.lun = new Lun({ id: 0, ...options, channel: this.channel });
    this.target.addLun(this.lun);
  }

  send(cdb: string | Uint8Array, dataOut: string | Uint8Array = '', options: RunOptions = {}): Sent {
    const out = typeof dataOut === 'string' ? hex(dataOut) : dataOut;
    const sent = new Sent(typeof cdb === 'string' ? hex(cdb) : cdb, out, {
      ...options,
      room: options.room ?? (out.length > 0 ? 0 : 65536),
    });
    this.target.execute(sent.task);
    return sent;
  }

  /** Let what waits go on until nothing does. */
  settle(): void {
    for (let i = 0; this.target.wantsPoll && i < 100_000; i++) this.target.poll();
  }

  run(cdb: string | Uint8Array, dataOut: string | Uint8Array = '', options: RunOptions = {}): Result {
    const sent = this.send(cdb, dataOut, options);
    this.settle();
    return sent.result();
  }
}
