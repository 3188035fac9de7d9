/**
 * A thread of the pool: takes jobs, makes the blocking call, tells the result. It never touches a job that it has not taken, nor
 * one that it has given back.
 */
import { workerData } from 'node:worker_threads';
import { BLK } from './constants.ts';
import { ERRNO } from './errno.ts';
import { RWF_DSYNC } from './io-engine.ts';
import * as libc from './libc.ts';
import { Ctl, JOB, JOB64, JOBS, JobOp, JobTable, type PoolThreadData } from './thread-pool-io.ts';

const { shared, bell } = workerData as PoolThreadData;
const { ctl, todo, done, job, job64 } = new JobTable(shared);
/** {u64 start, u64 length} of BLKDISCARD. */
const range = new BigUint64Array(2);
const rangeBytes = new Uint8Array(range.buffer);

function discard(fd: number, position: number, bytes: number): number {
  range[0] = BigInt(position);
  range[1] = BigInt(bytes);
  return libc.ioctlBytes(fd, BLK.DISCARD, rangeBytes);
}

function call(n: number): number {
  const at = n * JOB.WORDS;
  const fd = job[at + JOB.FD];
  const count = job[at + JOB.COUNT];
  const position = job64[n * JOB64.WORDS + JOB64.POSITION];
  const address = job64[n * JOB64.WORDS + JOB64.ADDRESS];
  switch (job[at + JOB.OP]) {
    case JobOp.READV:
      return libc.preadv2At(fd, address, count, position, 0);
    case JobOp.WRITEV:
      return libc.pwritev2At(fd, address, count, position, job[at + JOB.FLAGS] !== 0 ? RWF_DSYNC : 0);
    case JobOp.FDATASYNC:
      return libc.fdatasync(fd);
    case JobOp.FALLOCATE:
      return libc.fallocate(fd, count, position, address);
    default:
      return discard(fd, position, address);
  }
}

function execute(n: number): void {
  let result = call(n);
  if (result < 0) result = -(libc.errno() || ERRNO.EIO);
  job[n * JOB.WORDS + JOB.RESULT] = result;
  // Before the reactor can know of the result, so that it does not close the bell under our hands.
  Atomics.add(ctl, Ctl.RINGING, 1);
  // A place is free again long before it comes round: there are as many places as jobs.
  const place = Atomics.add(ctl, Ctl.DONE_TAIL, 1) & (JOBS - 1);
  // Publishes the result: whoever sees the number sees its words.
  Atomics.store(done, place, n + 1);
  if (Atomics.load(ctl, Ctl.ARMED) !== 0) libc.eventfd_write(bell, 1);
  Atomics.sub(ctl, Ctl.RINGING, 1);
}

Atomics.add(ctl, Ctl.RUNNING, 1);
for (;;) {
  // The bell is read before the ring: a job that comes between the two changes it, and nobody sleeps over it.
  const heard = Atomics.load(ctl, Ctl.BELL);
  if (Atomics.load(ctl, Ctl.STOP) !== 0) break;
  const head = Atomics.load(ctl, Ctl.TODO_HEAD);
  if (head === Atomics.load(ctl, Ctl.TODO_TAIL)) {
    Atomics.wait(ctl, Ctl.BELL, heard, 1000);
    continue;
  }
  const n = Atomics.load(todo, head & (JOBS - 1));
  if (Atomics.compareExchange(ctl, Ctl.TODO_HEAD, head, (head + 1) | 0) === head) execute(n);
}
