/** Which file descriptors this process has open: tests compare before and after. */
import { readdirSync, readlinkSync } from 'node:fs';

/** 'number -> what it is', ascending. Without those of the listing itself and of the loader that runs the TypeScript. */
export function openFds(): string[] {
  const list: string[] = [];
  for (const name of readdirSync('/proc/self/fd').sort((a, b) => Number(a) - Number(b))) {
    try {
      const what = readlinkSync(`/proc/self/fd/${name}`);
      if (!/\/tsx-\d+/.test(what)) list.push(`${name} -> ${what}`);
    } catch {
      // that of the listing, closed by now
    }
  }
  return list;
}

/** What is open now and was not then. (The loader closes sockets of its own at any time: what is gone says nothing.) */
export function leakedFds(before: readonly string[]): string[] {
  return openFds().filter((line) => !before.includes(line));
}
