/** Which file descriptors this process has open: tests compare before and after. */
import { readdirSync, readlinkSync } from 'node:fs';

/** 'number -> what it is', ascending. The descriptor of the listing itself is not in it. */
export function openFds(): string[] {
  const list: string[] = [];
  for (const name of readdirSync('/proc/self/fd').sort((a, b) => Number(a) - Number(b))) {
    try {
      list.push(`${name} -> ${readlinkSync(`/proc/self/fd/${name}`)}`);
    } catch {
      // that of the listing, closed by now
    }
  }
  return list;
}
