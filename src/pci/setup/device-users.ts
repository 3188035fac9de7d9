import { basename } from 'node:path';
import type { Machine } from './machine.ts';

/**
 * Who uses a PCI function: what would break if it were taken from its kernel driver. File systems on its disks (through
 * partitions, device mapper and RAID), swap, and network interfaces that are up.
 */

export interface DeviceUser {
  /** "/dev/nvme0n1p2 is mounted on /" */
  readonly what: string;
  /** Taking the device away would hurt. */
  readonly blocking: boolean;
}

interface Mount {
  readonly dev: string;
  readonly point: string;
  readonly source: string;
}

/** Lines of mountinfo: id parent major:minor root point options ... - type source options. Spaces are written \040. */
export function parseMountinfo(content: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of content.split('\n')) {
    const [left, right] = line.split(' - ');
    const fields = left?.split(' ') ?? [];
    if (fields.length < 5 || right === undefined) continue;
    const plain = (text: string) =>
      text.replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8)));
    mounts.push({
      dev: fields[2] as string,
      point: plain(fields[4] as string),
      source: plain(right.split(' ')[1] ?? ''),
    });
  }
  return mounts;
}

/** Block devices of the function: disks, their partitions, and what is built upon them. Names as in /dev. */
export function blockDevicesOf(machine: Machine, bdf: string): string[] {
  const found = new Set<string>();
  const add = (name: string) => {
    if (found.has(name)) return;
    found.add(name);
    // A disk's folder has a folder for each partition; each has its holders (dm-0, md0).
    const folder = machine.sys('class/block', name);
    for (const entry of machine.list(folder)) {
      if (machine.text(machine.sys('class/block', name, entry, 'partition')) !== undefined) add(entry);
    }
    for (const holder of machine.list(machine.sys('class/block', name, 'holders'))) add(holder);
  };
  for (const name of machine.list(machine.sys('block'))) {
    if (machine.link(machine.sys('block', name))?.split('/').includes(bdf)) add(name);
  }
  return [...found];
}

export function usersOf(machine: Machine, bdf: string): DeviceUser[] {
  const users: DeviceUser[] = [];
  const mounts = parseMountinfo(machine.text(machine.proc('self/mountinfo')) ?? '');
  const swaps = (machine.text(machine.proc('swaps')) ?? '')
    .split('\n')
    .slice(1)
    .map((l) => l.split(/\s+/)[0] ?? '');
  for (const name of blockDevicesOf(machine, bdf)) {
    const dev = machine.text(machine.sys('class/block', name, 'dev'));
    const label = machine.text(machine.sys('class/block', name, 'dm/name'));
    const mine = (path: string) => basename(path) === name || (label !== undefined && basename(path) === label);
    // Some file systems (btrfs) have a device number of their own: look at the source's name too.
    for (const mount of mounts.filter((m) => m.dev === dev || mine(m.source))) {
      users.push({ what: `/dev/${name} is mounted on ${mount.point}`, blocking: true });
    }
    if (swaps.some(mine)) users.push({ what: `/dev/${name} is swap space`, blocking: true });
    const holders = machine.list(machine.sys('class/block', name, 'holders'));
    if (holders.length > 0) users.push({ what: `/dev/${name} is part of ${holders.join(', ')}`, blocking: true });
  }
  for (const name of machine.list(machine.sys('class/net'))) {
    if (!machine.link(machine.sys('class/net', name))?.split('/').includes(bdf)) continue;
    const up = machine.text(machine.sys('class/net', name, 'operstate')) === 'up';
    users.push({ what: `network interface ${name}${up ? ' is up' : ''}`, blocking: up });
  }
  return users;
}
