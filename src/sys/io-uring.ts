/**
 * io_uring(7): submission and completion rings, mapped and driven from here. One thread owns a ring. Its one rule: shared words are
 * read and written as aligned 32-bit words, and an index is published with Atomics.store after what it covers.
 *
 * This class knows entries and user data; what they mean is io-uring-engine.ts's.
 */
import { ERRNO, SysError } from './errno.ts';
import { EventFd } from './eventfd.ts';
import { Fd } from './fd.ts';
import type { IovecTable } from './iovec-table.ts';
import * as libc from './libc.ts';
import { type Mapping, mapFile } from './mapping.ts';

/** Opcodes, linux/io_uring.h. */
export const IORING_OP = { NOP: 0, READV: 1, WRITEV: 2, FSYNC: 3, FALLOCATE: 17, URING_CMD: 46 } as const;

const SETUP = {
  CQSIZE: 1 << 3,
  SUBMIT_ALL: 1 << 7,
  COOP_TASKRUN: 1 << 8,
  TASKRUN_FLAG: 1 << 9,
  SINGLE_ISSUER: 1 << 12,
  DEFER_TASKRUN: 1 << 13,
} as const;
const FEAT = { SINGLE_MMAP: 1 << 0, NODROP: 1 << 1, SUBMIT_STABLE: 1 << 2 } as const;
const ENTER_GETEVENTS = 1;
const REGISTER = { FILES: 2, EVENTFD: 4, FILES_UPDATE: 6, PROBE: 8 } as const;
const OFF_SQES = 0x1000_0000;
/** Bits of the SQ flags word. */
const SQ_CQ_OVERFLOW = 1 << 1;
const SQ_TASKRUN = 1 << 2;
/** Bit of the CQ flags word. */
const CQ_EVENTFD_DISABLED = 1;
/** Bits of an entry's flags. */
export const IOSQE_FIXED_FILE = 1;
export const FSYNC_DATASYNC = 1;

/** struct io_uring_params as 30 words: where each of those we use lies. */
const PARAM = { CQ_ENTRIES: 1, FLAGS: 2, FEATURES: 5, SQ_OFF: 10, CQ_OFF: 20, WORDS: 30 } as const;
/** struct io_sqring_offsets and io_cqring_offsets, words from SQ_OFF and CQ_OFF. */
const SQ_OFF = { TAIL: 1, ENTRIES: 3, FLAGS: 4, ARRAY: 6 } as const;
const CQ_OFF = { HEAD: 0, TAIL: 1, ENTRIES: 3, CQES: 5, FLAGS: 6 } as const;
/** struct io_uring_sqe: 16 words. */
const SQE = { OP: 0, FD: 1, OFF: 2, ADDR: 4, LEN: 6, RW_FLAGS: 7, USER_DATA: 8, CMD: 12, WORDS: 16 } as const;
/** struct io_uring_cqe: 4 words {user_data lo, hi, res, flags}. */
const CQE_WORDS = 4;

/**
 * Setup flags to try, the best first. DEFER_TASKRUN (6.1): completions of asynchronous work are made when we ask for them, in our own
 * call, instead of by an interrupt of this thread. COOP_TASKRUN (5.19): the same wish, weaker.
 */
const SETUPS = [
  SETUP.SUBMIT_ALL | SETUP.SINGLE_ISSUER | SETUP.DEFER_TASKRUN | SETUP.TASKRUN_FLAG,
  SETUP.SUBMIT_ALL | SETUP.COOP_TASKRUN | SETUP.TASKRUN_FLAG,
  0,
];

/** Called for each completion. */
export interface CompletionHandler {
  /** @param result as the system call's: 0 or more, or minus errno */
  completion(userData: number, result: number): void;
}

function setup(entries: number, cqEntries: number, words: Uint32Array): number {
  const bytes = new Uint8Array(words.buffer);
  for (const flags of SETUPS) {
    words.fill(0);
    words[PARAM.FLAGS] = flags | SETUP.CQSIZE;
    words[PARAM.CQ_ENTRIES] = cqEntries;
    const fd = libc.io_uring_setup(entries, bytes);
    if (fd >= 0) return fd;
    const error = libc.errno();
    if (error !== ERRNO.EINVAL) throw new SysError('io_uring_setup', error);
  }
  throw new SysError('io_uring_setup', ERRNO.EINVAL);
}

/** Whether the kernel knows all these opcodes. IORING_REGISTER_PROBE came with 5.6, which is the oldest we drive. */
function probe(fd: number, opcodes: readonly number[]): boolean {
  const OPS = 64;
  // struct io_uring_probe: 16 bytes {last_op, ops_len, ...}, then 8 bytes an opcode {op, resv, u16 flags (bit 0: supported), ...}
  const table = new Uint8Array(16 + OPS * 8);
  if (libc.io_uring_register(fd, REGISTER.PROBE, table, OPS) < 0) return false;
  return opcodes.every((op) => op < table[1] && (table[16 + op * 8 + 2] & 1) !== 0);
}

export class IoUring {
  /** Readable while completions wait, between `arm` and `disarm`. */
  readonly eventFd: EventFd;
  private readonly fd: Fd;
  private readonly rings: Mapping;
  private readonly sqesMapping: Mapping;
  /** Both rings, as words; the kernel's half of them changes under us. */
  private readonly ring: Uint32Array;
  private readonly ringSigned: Int32Array;
  private readonly sqes: Uint32Array;
  private readonly sqMask: number;
  private readonly cqMask: number;
  // Word indexes of the shared fields.
  private readonly sqTailAt: number;
  private readonly sqFlagsAt: number;
  private readonly cqHeadAt: number;
  private readonly cqTailAt: number;
  private readonly cqFlagsAt: number;
  private readonly cqesAt: number;
  /** Our own copies of the indexes that we alone write; u32, wrapping. */
  private sqTail: number;
  private cqHead: number;
  /** Entries written since the last successful enter. */
  private unsubmitted = 0;
  private files: Int32Array | undefined;
  /** struct io_uring_files_update {u32 offset, u32 resv, u64 address of the descriptors}: both live as long as the ring. */
  private readonly fileUpdate = new Uint32Array(4);
  private readonly updatedFd = new Int32Array(new ArrayBuffer(4));
  private closed = false;

  /**
   * @param entries most entries written between two submits; a power of two
   * @param cqEntries most completions waiting before the kernel has to keep them aside; a power of two
   * @throws SysError; see {@link ioUringUnavailable} for the reasons
   */
  constructor(entries: number, cqEntries: number) {
    const words = new Uint32Array(PARAM.WORDS);
    this.fd = Fd.take(setup(entries, cqEntries, words));
    try {
      const needed = FEAT.SINGLE_MMAP | FEAT.NODROP | FEAT.SUBMIT_STABLE;
      const { READV, WRITEV, FSYNC, FALLOCATE } = IORING_OP;
      if ((words[PARAM.FEATURES] & needed) !== needed || !probe(this.fd.number, [READV, WRITEV, FSYNC, FALLOCATE])) {
        throw new SysError('io_uring_setup', ERRNO.ENOSYS, '(the kernel is older than 5.6)');
      }
      const sq = (field: number) => words[PARAM.SQ_OFF + field];
      const cq = (field: number) => words[PARAM.CQ_OFF + field];
      const sqEntries = words[0];
      const cqes = words[PARAM.CQ_ENTRIES];
      const size = Math.max(sq(SQ_OFF.ARRAY) + sqEntries * 4, cq(CQ_OFF.CQES) + cqes * CQE_WORDS * 4);
      this.rings = mapFile(this.fd, { size });
      this.sqesMapping = mapFile(this.fd, { offset: OFF_SQES, size: sqEntries * SQE.WORDS * 4 });
      const memory = this.rings.memoryAt(0, size);
      this.ring = memory.u32;
      this.ringSigned = new Int32Array(memory.u32.buffer, memory.u32.byteOffset, memory.u32.length);
      this.sqes = this.sqesMapping.memoryAt(0, this.sqesMapping.size).u32;
      this.sqMask = sqEntries - 1;
      this.cqMask = cqes - 1;
      this.sqTailAt = sq(SQ_OFF.TAIL) >> 2;
      this.sqFlagsAt = sq(SQ_OFF.FLAGS) >> 2;
      this.cqHeadAt = cq(CQ_OFF.HEAD) >> 2;
      this.cqTailAt = cq(CQ_OFF.TAIL) >> 2;
      this.cqFlagsAt = cq(CQ_OFF.FLAGS) >> 2;
      this.cqesAt = cq(CQ_OFF.CQES) >> 2;
      // Entry i of the index array always names entry i of the table: both wrap alike.
      for (let i = 0; i < sqEntries; i++) this.ring[(sq(SQ_OFF.ARRAY) >> 2) + i] = i;
      this.sqTail = Atomics.load(this.ring, this.sqTailAt);
      this.cqHead = Atomics.load(this.ring, this.cqHeadAt);
      this.eventFd = new EventFd();
      this.register(REGISTER.EVENTFD, new Uint8Array(new Int32Array([this.eventFd.fd.number]).buffer), 1);
      this.disarm();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Can the kernel do this opcode too. */
  knows(opcode: number): boolean {
    return probe(this.fd.number, [opcode]);
  }

  private register(opcode: number, arg: Uint8Array, count: number): void {
    if (libc.io_uring_register(this.fd.number, opcode, arg, count) < 0) {
      throw new SysError('io_uring_register', libc.errno(), `opcode ${opcode}`);
    }
  }

  /**
   * Keep `count` places for registered files: entries with IOSQE_FIXED_FILE then save the kernel a reference count a request.
   * @returns false where the kernel does not want to
   */
  reserveFiles(count: number): boolean {
    const files = new Int32Array(count).fill(-1);
    if (libc.io_uring_register(this.fd.number, REGISTER.FILES, new Uint8Array(files.buffer), count) < 0) return false;
    const address = libc.addressOf(this.updatedFd);
    this.fileUpdate[2] = address;
    this.fileUpdate[3] = address / 0x1_0000_0000;
    this.files = files;
    return true;
  }

  /** @returns the file's index, or -1 when there is no place: use the descriptor then */
  addFile(fd: number): number {
    const index = this.files === undefined ? -1 : this.files.indexOf(-1);
    return index >= 0 && this.updateFile(index, fd) ? index : -1;
  }

  removeFile(index: number): void {
    this.updateFile(index, -1);
  }

  private updateFile(index: number, fd: number): boolean {
    if (this.files === undefined) return false;
    this.fileUpdate[0] = index;
    this.updatedFd[0] = fd;
    const { byteLength, buffer } = this.fileUpdate;
    const arg = new Uint8Array(buffer, 0, byteLength);
    if (libc.io_uring_register(this.fd.number, REGISTER.FILES_UPDATE, arg, 1) !== 1) return false;
    this.files[index] = fd;
    return true;
  }

  /** Entries that can be written before the next `submit`. */
  get room(): number {
    return this.sqMask + 1 - this.unsubmitted;
  }

  /** Entries written and not yet submitted. */
  get waiting(): number {
    return this.unsubmitted;
  }

  /** As {@link put}, for READV and WRITEV of a slot's iovecs: nothing larger than 31 bits passes through the call. */
  putVector(
    opcode: number,
    flags: number,
    file: number,
    iovecs: IovecTable,
    slot: number,
    opFlags: number,
    userData: number,
  ): void {
    const sqes = this.sqes;
    const at = (this.sqTail & this.sqMask) * SQE.WORDS;
    const position = iovecs.position[slot];
    const address = iovecs.address[slot];
    sqes[at + SQE.OP] = opcode | (flags << 8);
    sqes[at + SQE.FD] = file;
    sqes[at + SQE.OFF] = position;
    sqes[at + SQE.OFF + 1] = position / 0x1_0000_0000;
    sqes[at + SQE.ADDR] = address;
    sqes[at + SQE.ADDR + 1] = address / 0x1_0000_0000;
    sqes[at + SQE.LEN] = iovecs.count[slot];
    sqes[at + SQE.RW_FLAGS] = opFlags;
    this.end(at, userData);
  }

  private end(at: number, userData: number): void {
    const sqes = this.sqes;
    sqes[at + SQE.USER_DATA] = userData;
    for (let i = SQE.USER_DATA + 1; i < SQE.WORDS; i++) sqes[at + i] = 0;
    this.sqTail = (this.sqTail + 1) >>> 0;
    this.unsubmitted++;
  }

  /**
   * Write an entry; it goes to the kernel with the next {@link submit}. The caller has seen to it that there is `room`.
   * @param flags IOSQE bits
   * @param file descriptor or registered index
   * @param position u64: file offset, in bytes
   * @param address of the iovecs; for FALLOCATE the length in bytes
   * @param length entries at `address`; for FALLOCATE the mode
   * @param opFlags RWF or FSYNC bits
   * @param userData u32, comes back with the completion
   */
  put(
    opcode: number,
    flags: number,
    file: number,
    position: number,
    address: number,
    length: number,
    opFlags: number,
    userData: number,
  ): void {
    const sqes = this.sqes;
    const at = (this.sqTail & this.sqMask) * SQE.WORDS;
    sqes[at + SQE.OP] = opcode | (flags << 8);
    sqes[at + SQE.FD] = file;
    sqes[at + SQE.OFF] = position;
    sqes[at + SQE.OFF + 1] = position / 0x1_0000_0000;
    sqes[at + SQE.ADDR] = address;
    sqes[at + SQE.ADDR + 1] = address / 0x1_0000_0000;
    sqes[at + SQE.LEN] = length;
    sqes[at + SQE.RW_FLAGS] = opFlags;
    this.end(at, userData);
  }

  /** As {@link put} for URING_CMD on a block device: discard `bytes` at `position` (6.12). */
  putDiscard(command: number, flags: number, file: number, position: number, bytes: number, userData: number): void {
    const at = (this.sqTail & this.sqMask) * SQE.WORDS;
    this.put(IORING_OP.URING_CMD, flags, file, command, position, 0, 0, userData);
    this.sqes[at + SQE.CMD] = bytes; // addr3
    this.sqes[at + SQE.CMD + 1] = bytes / 0x1_0000_0000;
  }

  /**
   * Hand what was written to the kernel, in one call.
   * @returns 0, or the positive errno: EAGAIN and EBUSY pass, so try again later; anything else will not get better
   */
  submit(): number {
    if (this.unsubmitted === 0) return 0;
    // Publishes the entries: their stores must not be seen after the index.
    Atomics.store(this.ring, this.sqTailAt, this.sqTail);
    const result = libc.io_uring_enter(this.fd.number, this.unsubmitted, 0, this.hasWork() ? ENTER_GETEVENTS : 0);
    if (result >= 0) {
      this.unsubmitted -= result;
      return 0;
    }
    const error = libc.errno();
    return error === ERRNO.EINTR ? ERRNO.EAGAIN : error;
  }

  /** Take back what could not be submitted. @param each gets the user data of every entry, oldest first */
  dropUnsubmitted(each: (userData: number) => void): void {
    const n = this.unsubmitted;
    const first = this.sqTail - n;
    this.unsubmitted = 0;
    this.sqTail = first >>> 0;
    Atomics.store(this.ring, this.sqTailAt, this.sqTail);
    for (let i = 0; i < n; i++) each(this.sqes[((first + i) & this.sqMask) * SQE.WORDS + SQE.USER_DATA]);
  }

  /** The kernel has completions to make, or kept some aside, and needs a call to give them. */
  private hasWork(): boolean {
    return (this.ring[this.sqFlagsAt] & (SQ_TASKRUN | SQ_CQ_OVERFLOW)) !== 0;
  }

  /**
   * Take all completions there are. A handler may write new entries, and may close the ring.
   * @returns how many
   */
  reap(handler: CompletionHandler): number {
    if (this.hasWork()) libc.io_uring_enter(this.fd.number, 0, 0, ENTER_GETEVENTS);
    const ring = this.ring;
    if (ring[this.cqTailAt] === this.cqHead) return 0;
    // Acquire: the entries are read after the index that covers them.
    const tail = Atomics.load(ring, this.cqTailAt);
    let n = 0;
    try {
      while (this.cqHead !== tail && !this.closed) {
        const at = this.cqesAt + (this.cqHead & this.cqMask) * CQE_WORDS;
        const userData = ring[at];
        const result = this.ringSigned[at + 2];
        this.cqHead = (this.cqHead + 1) >>> 0;
        n++;
        handler.completion(userData, result);
      }
    } finally {
      // Release: the kernel may reuse the entries only after we have read them. Also when a handler has thrown.
      if (!this.closed) Atomics.store(ring, this.cqHeadAt, this.cqHead);
    }
    return n;
  }

  /** Ask for the eventfd. @returns true when something waits already */
  arm(): boolean {
    // StoreLoad: the kernel looks at this word after it has published a completion; we look at its index after storing the word.
    Atomics.store(this.ring, this.cqFlagsAt, 0);
    const flags = Atomics.load(this.ring, this.sqFlagsAt);
    return (
      (flags & (SQ_TASKRUN | SQ_CQ_OVERFLOW)) !== 0 ||
      Atomics.load(this.ring, this.cqTailAt) !== this.cqHead ||
      this.unsubmitted > 0
    );
  }

  /** Spare the kernel the eventfd: we poll. */
  disarm(): void {
    Atomics.store(this.ring, this.cqFlagsAt, CQ_EVENTFD_DISABLED);
  }

  /** Nothing may be in flight whose buffers are about to go. Closing again is harmless. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.fd.close();
    // In a constructor that failed, the later fields are not there yet.
    (this.eventFd as EventFd | undefined)?.close();
    (this.rings as Mapping | undefined)?.unmap();
    (this.sqesMapping as Mapping | undefined)?.unmap();
  }
}

let verdict: string | null | undefined;

/**
 * Why io_uring cannot be used here, in words for the operator; null when it can. Asked once a thread.
 */
export function ioUringUnavailable(): string | null {
  if (verdict !== undefined) return verdict;
  try {
    new IoUring(8, 16).close();
    verdict = null;
  } catch (error) {
    verdict = reason(error);
  }
  return verdict;
}

function reason(error: unknown): string {
  if (!(error instanceof SysError)) return error instanceof Error ? error.message : String(error);
  if (error.errno === ERRNO.ENOSYS) return 'this kernel has no io_uring, or one older than Linux 5.6';
  if (error.errno === ERRNO.EPERM || error.errno === ERRNO.EACCES) {
    return "io_uring is forbidden here: see sysctl kernel.io_uring_disabled, or the container's seccomp profile";
  }
  if (error.errno === ERRNO.ENOMEM) return 'no memory for io_uring: raise the memlock limit (ulimit -l)';
  return `io_uring does not work here: ${error.message}`;
}
