/** struct sockaddr_un (unix(7)): u16 family, then up to 108 bytes of path. */
import { AF_UNIX } from './constants.ts';

/** Longest path, bytes: 108 with the closing zero. */
export const MAX_SOCKET_PATH = 107;

/**
 * @param path of the file system, or '@name' for an abstract one (systemd's notation) when `abstract` allows it
 * @throws Error with `code` EINVAL for a path that no socket can have
 */
export function unixAddress(path: string, abstract = false): Uint8Array {
  const name = new TextEncoder().encode(path);
  if (name.length === 0 || name.length > MAX_SOCKET_PATH) {
    const what = `socket path '${path}' has ${name.length} bytes; 1 to ${MAX_SOCKET_PATH} are possible`;
    throw Object.assign(new Error(what), { code: 'EINVAL' });
  }
  if (name.includes(0)) throw new Error('socket path contains a zero byte');
  const isAbstract = abstract && path.startsWith('@');
  const address = new Uint8Array(2 + name.length + (isAbstract ? 0 : 1));
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(name, 2);
  if (isAbstract) address[2] = 0;
  return address;
}
