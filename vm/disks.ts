/** Disks: raw images for machines, and the SCSI disks that a guest's Linux sees. */
import { closeSync, existsSync, ftruncateSync, openSync } from 'node:fs';
import type { Machine } from './machine.ts';

/** A raw image, sparse and zeroed, unless there is one already. Returns its path. */
export function diskImage(path: string, mebibytes: number): string {
  if (!existsSync(path)) {
    const fd = openSync(path, 'w');
    ftruncateSync(fd, mebibytes * 2 ** 20);
    closeSync(fd);
  }
  return path;
}

export interface GuestDisk {
  /** SCSI target number. */
  target: number;
  lun: number;
  vendor: string;
  product: string;
  revision: string;
  /** e.g. /dev/sda */
  device: string;
  /** e.g. /dev/sg0 */
  generic: string;
}

/** Parses `lsscsi -g`, whose columns have the widths of the INQUIRY fields. */
export function parseLsscsi(output: string): GuestDisk[] {
  const disks: GuestDisk[] = [];
  for (const line of output.split('\n')) {
    const match = /^\[\d+:\d+:(\d+):(\d+)\]\s+disk\s+(.{8}) (.{16}) (.{4})\s+(\S+)\s+(\S+)/.exec(line);
    if (match === null) continue;
    const [vendor, product, revision] = match.slice(3, 6).map((text) => text.trim());
    const [device, generic] = match.slice(6);
    disks.push({ target: Number(match[1]), lun: Number(match[2]), vendor, product, revision, device, generic });
  }
  return disks;
}

/** Waits until the guest sees disks of these products (and no others); returns them in that order. */
export async function awaitDisks(vm: Machine, products: string[], timeoutSeconds = 60): Promise<GuestDisk[]> {
  const deadline = performance.now() + timeoutSeconds * 1000;
  for (;;) {
    const listed = await vm.run('lsscsi -g');
    const disks = parseLsscsi(listed);
    const found = products.map((product) => disks.find((d) => d.product === product && d.device !== '-'));
    if (disks.length === products.length && !found.includes(undefined)) return found as GuestDisk[];
    if (performance.now() > deadline) {
      throw new Error(`the guest does not see (only) ${products.join(', ')} after ${timeoutSeconds} s:\n${listed}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}
