/** What a hostile peer does to an eventfd that it shares with us. */
import { F, O } from '../../src/sys/constants.ts';
import type { EventFd } from '../../src/sys/eventfd.ts';
import { write } from '../../src/sys/fd.ts';
import * as libc from '../../src/sys/libc.ts';

/** O_NONBLOCK is the open file's, so the peer decides about it too. @throws Error when it cannot be cleared */
export function block(event: EventFd): void {
  const flags = libc.fcntl(event.fd.number, F.GETFL, 0);
  if (libc.fcntl(event.fd.number, F.SETFL, flags & ~O.NONBLOCK) !== 0) throw new Error('F_SETFL');
}

/** The next write of anybody would have to wait. */
export function fill(event: EventFd): void {
  const most = new Uint8Array(new BigUint64Array([0xffff_ffff_ffff_fffen]).buffer);
  if (write(event.fd, most) !== 8) throw new Error('the eventfd cannot be filled');
}

export function blockAndFill(event: EventFd): void {
  block(event);
  fill(event);
}
