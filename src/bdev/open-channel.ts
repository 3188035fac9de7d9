import type { EventLoop } from '../sys/event-loop.ts';
import type { BdevChannel, BdevShare } from './bdev.ts';
import { BdevError } from './errors.ts';
import { openFileChannel } from './file-channel.ts';
import { openMallocChannel } from './malloc-channel.ts';
import { openNullChannel } from './null-bdev.ts';
import { openNvmeChannel } from './nvme-channel.ts';
import { QosChannel } from './qos.ts';
import { openVirtioScsiChannel } from './virtio-scsi-channel.ts';

/**
 * From a disk's share to a reactor's channel: one row a kind. A new kind adds its row here, so that every reactor thread
 * knows it; `registerKind` is for tests.
 */

export type ChannelOpener = (share: BdevShare, loop: EventLoop) => BdevChannel;

const OPENERS = new Map<string, ChannelOpener>([
  ['malloc', openMallocChannel],
  ['null', openNullChannel],
  ['nvme', openNvmeChannel],
  ['virtio_scsi', openVirtioScsiChannel],
  ['aio', openFileChannel],
]);

/** Add a kind, on this thread. */
export function registerKind(kind: string, opener: ChannelOpener): void {
  OPENERS.set(kind, opener);
}

/**
 * Open a disk on the reactor of `loop`. The channel registers what it needs to be polled and woken with the loop itself.
 * @throws BdevError for an unknown kind, SysError when the host refuses
 */
export function openChannel(share: BdevShare, loop: EventLoop): BdevChannel {
  const opener = OPENERS.get(share.kind);
  if (opener === undefined) throw new BdevError('EINVAL', `disk ${share.info.name}: unknown kind "${share.kind}"`);
  const channel = opener(share, loop);
  return share.qos === undefined ? channel : new QosChannel(channel, share.qos, loop);
}
