import type { Config } from '../rpc/methods/config.ts';
import type { QuickDisk } from './options.ts';

/** `--malloc 64M --file disk.img`: a configuration of one controller with these disks as targets 0, 1, and so on. */

export const QUICK_CONTROLLER = 'vhost.0';
export const QUICK_DISKS = 8;

const BLOCK = 512;

export function quickConfig(disks: readonly QuickDisk[]): Config {
  const counts = { malloc: 0, null: 0, file: 0 };
  const bdevs: Config['subsystems'][number]['config'] = [];
  const targets: typeof bdevs = [];
  disks.forEach((disk, num) => {
    const count = counts[disk.kind]++;
    const name = `${{ malloc: 'Malloc', null: 'Null', file: 'Aio' }[disk.kind]}${count}`;
    if (disk.kind === 'file') bdevs.push({ method: 'bdev_aio_create', params: { name, filename: disk.path } });
    else {
      const params = { name, num_blocks: disk.bytes / BLOCK, block_size: BLOCK };
      bdevs.push({ method: `bdev_${disk.kind}_create`, params });
    }
    targets.push({
      method: 'vhost_scsi_controller_add_target',
      params: { ctrlr: QUICK_CONTROLLER, scsi_target_num: num, bdev_name: name },
    });
  });
  const controller = { method: 'vhost_create_scsi_controller', params: { ctrlr: QUICK_CONTROLLER } };
  return {
    subsystems: [
      { subsystem: 'bdev', config: bdevs },
      { subsystem: 'vhost', config: [controller, ...targets] },
    ],
  };
}
