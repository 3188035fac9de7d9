/** sd_notify(3): tell the service manager how we are. One datagram to the socket it named. */
import { AF_UNIX, MSG, SOCK } from './constants.ts';
import { check } from './errno.ts';
import { Fd } from './fd.ts';
import * as libc from './libc.ts';
import { unixAddress } from './socket-address.ts';

/**
 * @param state e.g. 'READY=1', 'STOPPING=1', 'STATUS=...'; lines separated by newlines
 * @returns false when no service manager asked ($NOTIFY_SOCKET is not set)
 * @throws Error when it cannot be told
 */
export function notifySystemd(state: string, path = process.env['NOTIFY_SOCKET']): boolean {
  if (path === undefined || path === '') return false;
  const address = unixAddress(path, true);
  const fd = Fd.take(check(libc.socket(AF_UNIX, SOCK.DGRAM | SOCK.CLOEXEC, 0), 'socket'));
  try {
    const text = new TextEncoder().encode(state);
    check(libc.sendto(fd.number, text, text.length, MSG.NOSIGNAL, address, address.length), 'sendto', path);
    return true;
  } finally {
    fd.close();
  }
}
