/**
 * Asynchronous file I/O for one reactor: the interface of its three engines (io_uring, threads, at once). A request is a *tag*: the port
 * of who asked and a slot of his; it is answered exactly once, by the call's result or by `ioComplete`.
 */
import type { Poller } from './event-loop.ts';
import type { IovecTable } from './iovec-table.ts';

/** The answer will come through `ioComplete`. Any other result is the answer: bytes, or minus errno. */
export const PENDING = -0x4000_0000;

/** Slots that one port may use: a tag's low 16 bits. */
export const SLOT_BITS = 16;
const SLOT_MASK = 0xffff;

export function tagOf(port: number, slot: number): number {
  return (port << SLOT_BITS) | slot;
}

export function slotOf(tag: number): number {
  return tag & SLOT_MASK;
}

export function portOf(tag: number): number {
  return tag >>> SLOT_BITS;
}

export interface IoHandler {
  /** @param result bytes, or minus errno */
  ioComplete(slot: number, result: number): void;
}

/**
 * `poll`, `arm` and `disarm` are the event loop's; an engine registers itself with the loop it is made for.
 * Positions and lengths are bytes, exact Numbers. `file` is what addFile gave.
 */
export interface IoEngine extends Poller {
  readonly kind: 'io_uring' | 'threads' | 'inline';
  /** @returns the port for this handler's tags */
  attach(handler: IoHandler): number;
  /** Nothing of the port may be pending. */
  detach(port: number): void;
  /** Make a descriptor known. It stays its owner's, who closes it after removeFile. */
  addFile(fd: number): number;
  removeFile(file: number): void;
  /** Read into the iovecs of the tag's slot, from their position on. */
  readv(tag: number, file: number, iovecs: IovecTable): number;
  /** @param dsync the data is on stable storage when it ends (RWF_DSYNC) */
  writev(tag: number, file: number, iovecs: IovecTable, dsync: boolean): number;
  fdatasync(tag: number, file: number): number;
  /** @param mode FALLOC_FL bits */
  fallocate(tag: number, file: number, mode: number, position: number, bytes: number): number;
  /** Discard blocks of a block device; -EOPNOTSUPP where the engine cannot. */
  discard(tag: number, file: number, position: number, bytes: number): number;
  /** Ends with -EAGAIN in a later pass: to try something again then. */
  later(tag: number): number;
  close(): void;
}

/** RWF_DSYNC of preadv2(2): per write, as O_DSYNC. */
export const RWF_DSYNC = 2;

/** Handlers by port, for the engines. */
export class Ports {
  private readonly handlers: (IoHandler | null)[] = [];

  attach(handler: IoHandler): number {
    const free = this.handlers.indexOf(null);
    const port = free >= 0 ? free : this.handlers.length;
    if (port > 0x7fff) throw new RangeError('too many users of one I/O engine');
    this.handlers[port] = handler;
    return port;
  }

  detach(port: number): void {
    this.handlers[port] = null;
  }

  complete(tag: number, result: number): void {
    const handler = this.handlers[portOf(tag)];
    // Null only for a completion that nobody asked for: the kernel would have to be wrong.
    if (handler !== null && handler !== undefined) handler.ioComplete(slotOf(tag), result);
  }
}

/** Tags that end in a later pass. Two arrays take turns, so that what is added meanwhile waits for the next. */
export class LaterList {
  private now: number[] = [];
  private next: number[] = [];

  get length(): number {
    return this.next.length;
  }

  add(tag: number): void {
    this.next.push(tag);
  }

  /** End all that were added before now. @returns how many */
  run(ports: Ports, result: number): number {
    const due = this.next;
    if (due.length === 0) return 0;
    this.next = this.now;
    this.now = due;
    let i = 0;
    try {
      while (i < due.length) ports.complete(due[i++], result);
    } finally {
      // When a handler throws, the others are not forgotten.
      for (let rest = i; rest < due.length; rest++) this.next.push(due[rest]);
      due.length = 0;
    }
    return i;
  }
}
