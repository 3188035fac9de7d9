/** A VM's disk that fails: QEMU's blkdebug is put under its node while the guest uses it, and taken out again. */
import type { Qmp } from '../../vm/qmp.ts';

export interface Injected {
  /** Which requests. */
  iotype: 'read' | 'write' | 'flush';
  /** Only the first of them. */
  once?: boolean;
  /** Linux errno. What a device makes of it is QEMU's: NVMe has one status for reads and one for writes. */
  errno?: number;
}

const EIO = 5;
/** A SCSI disk of QEMU's answers it with MEDIUM ERROR, and EIO with ABORTED COMMAND. */
export const ENODATA = 61;

/** @param disks by node, over a file whose node is called `${node}-file` */
export async function withErrors<T>(qmp: Qmp, disks: Record<string, Injected>, body: () => Promise<T>): Promise<T> {
  const put = (node: string, file: string) =>
    qmp.execute('blockdev-reopen', { options: [{ driver: 'raw', 'node-name': node, file }] });
  for (const [node, { iotype, once = false, errno = EIO }] of Object.entries(disks)) {
    await qmp.execute('blockdev-add', {
      driver: 'blkdebug',
      'node-name': `${node}-fails`,
      image: `${node}-file`,
      'inject-error': [{ event: 'none', iotype, errno, once }],
    });
    await put(node, `${node}-fails`);
  }
  try {
    return await body();
  } finally {
    for (const node of Object.keys(disks)) {
      await put(node, `${node}-file`);
      await qmp.execute('blockdev-del', { 'node-name': `${node}-fails` });
    }
  }
}
