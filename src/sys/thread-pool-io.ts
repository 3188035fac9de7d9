/**
 * File I/O by a pool of threads that make blocking calls, for kernels and containers that forbid io_uring. Slower: a request
 * crosses to another thread and back. One pool a reactor.
 *
 * Reactor and threads share one piece of memory: a table of jobs, a ring of jobs to do (one writer, many readers) and a ring of jobs done
 * (many writers, one reader). Every word that says who may touch a job goes through Atomics.
 */
import { ERRNO } from './errno.ts';
import type { EventLoop, Watch } from './event-loop.ts';
import { EventFd } from './eventfd.ts';
import { type IoEngine, type IoHandler, LaterList, PENDING, Ports, slotOf } from './io-engine.ts';
import type { IovecTable } from './iovec-table.ts';
import { logger } from './log.ts';
import { startWorker } from './worker.ts';

const log = logger('thread-io');

/** Jobs at a time; more wait in the engine. A power of two. */
export const JOBS = 512;
export const THREADS = 4;
/** A thread that has not said that it runs after this long never will. Nanoseconds. */
const START_LIMIT_NS = 30e9;

/** What a thread does with a job. */
export const JobOp = { READV: 0, WRITEV: 1, FDATASYNC: 2, FALLOCATE: 3, DISCARD: 4 } as const;

/** Control words (Int32). */
export const Ctl = {
  /** Ring of jobs to do: next one to take, next free place. They wrap. */
  TODO_HEAD: 0,
  TODO_TAIL: 1,
  /** Changes whenever there is something to look at: the threads sleep on it. */
  BELL: 2,
  /** Ring of jobs done: next free place. */
  DONE_TAIL: 3,
  /** The reactor sleeps: ring its eventfd. */
  ARMED: 4,
  STOP: 5,
  /** Threads that run. */
  RUNNING: 6,
  /** Threads between the end of a job and the last use of the eventfd. */
  RINGING: 7,
} as const;
const CTL_WORDS = 16;

/** Integers of a job: operation, descriptor, count or mode, flags, result, tag. */
export const JOB = { OP: 0, FD: 1, COUNT: 2, FLAGS: 3, RESULT: 4, TAG: 5, WORDS: 8 } as const;
/** Doubles of a job: position, and address of the iovecs or length in bytes. */
export const JOB64 = { POSITION: 0, ADDRESS: 1, WORDS: 2 } as const;

/** The shared memory, seen the same way from both sides. */
export class JobTable {
  readonly shared: SharedArrayBuffer;
  readonly ctl: Int32Array;
  readonly todo: Int32Array;
  /** Job number + 1; 0 where the reader waits for the writer. */
  readonly done: Int32Array;
  readonly job: Int32Array;
  readonly job64: Float64Array;

  constructor(shared?: SharedArrayBuffer) {
    const ints = CTL_WORDS + JOBS * 2 + JOBS * JOB.WORDS;
    this.shared = shared ?? new SharedArrayBuffer(ints * 4 + JOBS * JOB64.WORDS * 8);
    this.ctl = new Int32Array(this.shared, 0, CTL_WORDS);
    this.todo = new Int32Array(this.shared, CTL_WORDS * 4, JOBS);
    this.done = new Int32Array(this.shared, (CTL_WORDS + JOBS) * 4, JOBS);
    this.job = new Int32Array(this.shared, (CTL_WORDS + JOBS * 2) * 4, JOBS * JOB.WORDS);
    this.job64 = new Float64Array(this.shared, ints * 4, JOBS * JOB64.WORDS);
  }
}

/** What a thread is started with. */
export interface PoolThreadData {
  readonly shared: SharedArrayBuffer;
  readonly bell: number;
}

export class ThreadPoolEngine implements IoEngine {
  readonly kind = 'threads';
  private readonly table = new JobTable();
  private readonly ports = new Ports();
  private readonly deferred = new LaterList();
  private readonly bell = new EventFd();
  private readonly loop: EventLoop;
  private readonly watch: Watch;
  private readonly free = new Int32Array(JOBS);
  private freeCount = JOBS;
  private todoTail = 0;
  private doneHead = 0;
  /** Jobs written since the threads were last woken. */
  private unannounced = 0;
  private readonly started: number;
  private running = false;
  private polling = false;

  constructor(loop: EventLoop, threads = THREADS) {
    this.loop = loop;
    this.started = loop.now;
    for (let i = 0; i < JOBS; i++) this.free[i] = JOBS - 1 - i;
    const data: PoolThreadData = { shared: this.table.shared, bell: this.bell.fd.number };
    for (let i = 0; i < threads; i++) {
      const worker = startWorker(new URL('./thread-pool-worker.ts', import.meta.url), data, { name: `file I/O ${i}` });
      worker.on('error', (error) => log.warn('a file I/O thread failed:', error));
      worker.unref();
    }
    this.watch = loop.watch(this.bell.fd.number, () => this.bell.drain());
    loop.addPoller(this);
  }

  attach(handler: IoHandler): number {
    return this.ports.attach(handler);
  }

  detach(port: number): void {
    this.ports.detach(port);
  }

  addFile(fd: number): number {
    return fd;
  }

  removeFile(): void {}

  readv(tag: number, file: number, iovecs: IovecTable): number {
    return this.transfer(JobOp.READV, tag, file, iovecs, 0);
  }

  writev(tag: number, file: number, iovecs: IovecTable, dsync: boolean): number {
    return this.transfer(JobOp.WRITEV, tag, file, iovecs, dsync ? 1 : 0);
  }

  private transfer(op: number, tag: number, fd: number, iovecs: IovecTable, flags: number): number {
    const n = this.begin(op, tag, fd, iovecs.count[slotOf(tag)], flags);
    if (n < 0) return this.later(tag);
    const { job64 } = this.table;
    job64[n * JOB64.WORDS + JOB64.POSITION] = iovecs.position[slotOf(tag)];
    job64[n * JOB64.WORDS + JOB64.ADDRESS] = iovecs.address[slotOf(tag)];
    return this.publish(n);
  }

  fdatasync(tag: number, file: number): number {
    return this.put(JobOp.FDATASYNC, tag, file, 0, 0, 0);
  }

  fallocate(tag: number, file: number, mode: number, position: number, bytes: number): number {
    return this.put(JobOp.FALLOCATE, tag, file, position, bytes, mode);
  }

  discard(tag: number, file: number, position: number, bytes: number): number {
    return this.put(JobOp.DISCARD, tag, file, position, bytes, 0);
  }

  later(tag: number): number {
    this.deferred.add(tag);
    return PENDING;
  }

  private put(op: number, tag: number, fd: number, position: number, bytes: number, mode: number): number {
    const n = this.begin(op, tag, fd, mode, 0);
    if (n < 0) return this.later(tag);
    const { job64 } = this.table;
    job64[n * JOB64.WORDS + JOB64.POSITION] = position;
    job64[n * JOB64.WORDS + JOB64.ADDRESS] = bytes;
    return this.publish(n);
  }

  /** Take a job and write its integers. @returns its number, -1 when there is none */
  private begin(op: number, tag: number, fd: number, count: number, flags: number): number {
    if (this.freeCount === 0) return -1;
    const n = this.free[--this.freeCount];
    const { job } = this.table;
    const at = n * JOB.WORDS;
    job[at + JOB.OP] = op;
    job[at + JOB.FD] = fd;
    job[at + JOB.COUNT] = count;
    job[at + JOB.FLAGS] = flags;
    job[at + JOB.TAG] = tag;
    return n;
  }

  private publish(n: number): number {
    const { todo, ctl } = this.table;
    Atomics.store(todo, this.todoTail & (JOBS - 1), n);
    this.todoTail = (this.todoTail + 1) | 0;
    // Whoever sees the new tail sees the job's words.
    Atomics.store(ctl, Ctl.TODO_TAIL, this.todoTail);
    this.unannounced++;
    return PENDING;
  }

  /** Wake as many threads as there are new jobs. */
  private announce(): number {
    const n = this.unannounced;
    if (n === 0) return 0;
    this.unannounced = 0;
    Atomics.add(this.table.ctl, Ctl.BELL, 1);
    Atomics.notify(this.table.ctl, Ctl.BELL, n);
    return n;
  }

  poll(): number {
    if (this.polling) return 0;
    this.polling = true;
    try {
      return (
        (this.deferred.length > 0 ? this.deferred.run(this.ports, -ERRNO.EAGAIN) : 0) + this.announce() + this.reap()
      );
    } finally {
      this.polling = false;
    }
  }

  private reap(): number {
    if (this.freeCount === JOBS) return 0;
    const { done, job } = this.table;
    let n = 0;
    for (;;) {
      const place = this.doneHead & (JOBS - 1);
      const number = Atomics.load(done, place) - 1;
      if (number < 0) break;
      Atomics.store(done, place, 0);
      this.doneHead = (this.doneHead + 1) | 0;
      const tag = job[number * JOB.WORDS + JOB.TAG];
      const result = job[number * JOB.WORDS + JOB.RESULT];
      this.free[this.freeCount++] = number;
      n++;
      this.ports.complete(tag, result);
    }
    if (n === 0 && !this.running) this.checkStart();
    return n;
  }

  /** Jobs wait and no thread has ended one: say so, rather than let the guest wait for ever. */
  private checkStart(): void {
    this.running = Atomics.load(this.table.ctl, Ctl.RUNNING) > 0;
    if (this.running || this.loop.now - this.started < START_LIMIT_NS) return;
    log.warn('no file I/O thread has started; requests fail');
    const { ctl, todo, job } = this.table;
    // Takes the jobs as a thread would: one that starts late after all finds none of them.
    for (;;) {
      const head = Atomics.load(ctl, Ctl.TODO_HEAD);
      if (head === this.todoTail) return;
      const number = Atomics.load(todo, head & (JOBS - 1));
      if (Atomics.compareExchange(ctl, Ctl.TODO_HEAD, head, (head + 1) | 0) !== head) continue;
      this.free[this.freeCount++] = number;
      this.ports.complete(job[number * JOB.WORDS + JOB.TAG], -ERRNO.EIO);
    }
  }

  arm(): boolean {
    // StoreLoad, on both sides: a thread looks at ARMED after it has stored the job done; we look at the ring after storing ARMED.
    Atomics.store(this.table.ctl, Ctl.ARMED, 1);
    const place = this.doneHead & (JOBS - 1);
    return this.deferred.length > 0 || this.unannounced > 0 || Atomics.load(this.table.done, place) !== 0;
  }

  disarm(): void {
    Atomics.store(this.table.ctl, Ctl.ARMED, 0);
  }

  /** Nothing may be pending. The threads end by themselves. */
  close(): void {
    this.loop.removePoller(this);
    this.watch.close();
    Atomics.store(this.table.ctl, Ctl.STOP, 1);
    Atomics.add(this.table.ctl, Ctl.BELL, 1);
    Atomics.notify(this.table.ctl, Ctl.BELL);
    // A few instructions of a thread; bounded, because a thread may have been ended in the middle of them.
    const end = performance.now() + 100;
    while (Atomics.load(this.table.ctl, Ctl.RINGING) !== 0 && performance.now() < end);
    this.bell.close();
  }
}
