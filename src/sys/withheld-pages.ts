/**
 * Who could keep a page of a file back for ever: the owner of a FUSE mount answers page faults, and even fstat and
 * statfs, when it likes. The one rule: a peer's descriptor is judged here first, by what the kernel knows alone; no
 * call in this file asks the file system.
 */
import { readFileSync } from 'node:fs';
import { F } from './constants.ts';
import { describeFd, type Fd } from './fd.ts';
import * as libc from './libc.ts';

/**
 * File system type of a mount. Lines of /proc/self/mountinfo: id, parent, device, root, mount point, options, any
 * number of optional fields, "-", type, source, options (proc_pid_mountinfo(5)).
 */
export function typeOfMount(mountinfo: string, id: string): string | undefined {
  for (const line of mountinfo.split('\n')) {
    if (!line.startsWith(`${id} `)) continue;
    return line.slice(line.indexOf(' - ') + 3).split(' ', 1)[0];
  }
  return undefined;
}

/** What is wrong with a file whose pages are to be mapped, or null. */
export function withheldPages(fd: Fd): string | null {
  // Only files of tmpfs (memfd) and hugetlbfs know seals: their pages are the kernel's own.
  if (libc.fcntl(fd.number, F.GET_SEALS, 0) >= 0) return null;
  const [, id = ''] = /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd.number}`, 'latin1')) ?? [];
  const type = typeOfMount(readFileSync('/proc/self/mountinfo', 'latin1'), id);
  if (type === undefined) return `its descriptor is no file of a mount seen from here (${describeFd(fd)})`;
  return type.startsWith('fuse') ? 'its file lies on a FUSE file system, whose pages can be withheld' : null;
}
