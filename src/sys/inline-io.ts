/**
 * File I/O at once, on the calling thread: for files that live in memory (tmpfs), where handing a request over costs more than
 * doing it. Nothing here waits for a device.
 */
import { ERRNO } from './errno.ts';
import type { EventLoop } from './event-loop.ts';
import { type IoEngine, type IoHandler, LaterList, PENDING, Ports, RWF_DSYNC, slotOf } from './io-engine.ts';
import type { IovecTable } from './iovec-table.ts';
import * as libc from './libc.ts';

function result(n: number): number {
  return n >= 0 ? n : -libc.errno();
}

export class InlineEngine implements IoEngine {
  readonly kind = 'inline';
  private readonly ports = new Ports();
  private readonly deferred = new LaterList();
  private readonly loop: EventLoop;

  constructor(loop: EventLoop) {
    this.loop = loop;
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
    const slot = slotOf(tag);
    return result(libc.preadv2At(file, iovecs.address[slot], iovecs.count[slot], iovecs.position[slot], 0));
  }

  writev(tag: number, file: number, iovecs: IovecTable, dsync: boolean): number {
    const slot = slotOf(tag);
    const flags = dsync ? RWF_DSYNC : 0;
    return result(libc.pwritev2At(file, iovecs.address[slot], iovecs.count[slot], iovecs.position[slot], flags));
  }

  fdatasync(_tag: number, file: number): number {
    return result(libc.fdatasync(file));
  }

  fallocate(_tag: number, file: number, mode: number, position: number, bytes: number): number {
    return result(libc.fallocate(file, mode, position, bytes));
  }

  discard(): number {
    return -ERRNO.EOPNOTSUPP;
  }

  later(tag: number): number {
    this.deferred.add(tag);
    return PENDING;
  }

  poll(): number {
    return this.deferred.length > 0 ? this.deferred.run(this.ports, -ERRNO.EAGAIN) : 0;
  }

  arm(): boolean {
    return this.deferred.length > 0;
  }

  disarm(): void {}

  close(): void {
    this.loop.removePoller(this);
  }
}
