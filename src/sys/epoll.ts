/**
 * epoll(7) with tokens: the bytes of struct epoll_event, and nothing else. Token = the 64-bit user data as two u32.
 */
import { EPOLL_CTL, O } from './constants.ts';
import { check, ERRNO, SysError } from './errno.ts';
import { Fd } from './fd.ts';
import * as libc from './libc.ts';

/** struct epoll_event: u32 events, u64 data; packed on x86-64 only. */
export const EPOLL_EVENT = process.arch === 'x64' ? { size: 12, data: 4 } : { size: 16, data: 8 };

/** Events taken by one wait. More wait for the next. */
const MAX_EVENTS = 64;

export class Epoll {
  readonly fd = Fd.take(check(libc.epoll_create1(O.CLOEXEC), 'epoll_create1'));
  private readonly buffer = new ArrayBuffer(MAX_EVENTS * EPOLL_EVENT.size);
  private readonly bytes = new Uint8Array(this.buffer);
  // Every field lies at a multiple of 4 in both layouts.
  private readonly words = new Uint32Array(this.buffer);
  private readonly one = new Uint32Array(EPOLL_EVENT.size / 4);
  private readonly oneBytes = new Uint8Array(this.one.buffer);

  private control(op: number, fd: number, events: number, lo: number, hi: number): number {
    this.one[0] = events;
    this.one[EPOLL_EVENT.data / 4] = lo;
    this.one[EPOLL_EVENT.data / 4 + 1] = hi;
    return libc.epoll_ctl(this.fd.number, op, fd, this.oneBytes) === 0 ? 0 : libc.errno();
  }

  /** @returns 0 or errno */
  add(fd: number, events: number, lo: number, hi: number): number {
    return this.control(EPOLL_CTL.ADD, fd, events, lo, hi);
  }

  /** @returns 0 or errno */
  modify(fd: number, events: number, lo: number, hi: number): number {
    return this.control(EPOLL_CTL.MOD, fd, events, lo, hi);
  }

  /** @returns 0 or errno */
  remove(fd: number): number {
    return this.control(EPOLL_CTL.DEL, fd, 0, 0, 0);
  }

  /** @returns how many events there are; 0 also when a signal cut the wait short. Does not allocate. */
  wait(timeoutMs: number): number {
    const n = libc.epoll_wait(this.fd.number, this.bytes, MAX_EVENTS, timeoutMs);
    if (n >= 0) return n;
    const error = libc.errno();
    if (error === ERRNO.EINTR) return 0;
    throw new SysError('epoll_wait', error);
  }

  /** Of event `i` of the last wait. */
  eventsOf(i: number): number {
    return this.words[(i * EPOLL_EVENT.size) >> 2];
  }

  tokenLo(i: number): number {
    return this.words[(i * EPOLL_EVENT.size + EPOLL_EVENT.data) >> 2];
  }

  tokenHi(i: number): number {
    return this.words[(i * EPOLL_EVENT.size + EPOLL_EVENT.data + 4) >> 2];
  }

  close(): void {
    this.fd.close();
  }
}
