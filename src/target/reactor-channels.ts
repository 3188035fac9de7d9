import type { BdevChannel, BdevShare, MemoryListener } from '../bdev/bdev.ts';
import { openChannel } from '../bdev/open-channel.ts';
import { QosChannel } from '../bdev/qos.ts';
import type { Memory } from '../memory/memory.ts';
import { LunState } from '../scsi/lun-state.ts';
import type { EventLoop } from '../sys/event-loop.ts';

/**
 * A reactor's channels: one a disk, however many LUNs serve it, opened by the first and closed after the last. Channels
 * that do DMA hear of all guest memory on the reactor.
 */

export interface OpenDisk {
  readonly name: string;
  /** Replaced once, when the disk gets its first rate limits. */
  channel: BdevChannel;
  readonly state: LunState;
  users: number;
}

export class ReactorChannels implements MemoryListener {
  private readonly loop: EventLoop;
  private readonly disks = new Map<string, OpenDisk>();
  /** What a disk's LUNs share, kept while the disk exists: reservations outlive a LUN. */
  private readonly states = new Map<string, LunState>();
  private readonly memories = new Set<Memory>();

  constructor(loop: EventLoop) {
    this.loop = loop;
  }

  /** @param shared memory of the disk's LunState, when other reactors have it too */
  open(share: BdevShare, shared: SharedArrayBuffer | undefined): OpenDisk {
    const { name } = share.info;
    let disk = this.disks.get(name);
    if (disk === undefined) {
      const channel = openChannel(share, this.loop);
      const listener = memoryListener(channel);
      for (const memory of this.memories) listener?.memoryAdded(memory);
      disk = { name, channel, state: this.stateOf(share, shared), users: 0 };
      this.disks.set(name, disk);
    }
    disk.users++;
    return disk;
  }

  /** A LUN is done with it. Nothing of that LUN is in flight. */
  release(disk: OpenDisk): void {
    if (--disk.users > 0) return;
    if (this.disks.get(disk.name) === disk) this.disks.delete(disk.name);
    disk.channel.close();
  }

  private stateOf({ info }: BdevShare, shared: SharedArrayBuffer | undefined): LunState {
    if (shared !== undefined) return new LunState(shared);
    // By UUID: a disk that was deleted and made again is another disk.
    let state = this.states.get(info.uuid);
    if (state === undefined) {
      state = new LunState();
      this.states.set(info.uuid, state);
    }
    return state;
  }

  find(name: string): OpenDisk | undefined {
    return this.disks.get(name);
  }

  /** Keep to the rate limits of the share from now on. What is in flight goes on as it is. */
  limit(disk: OpenDisk, share: BdevShare): void {
    if (share.qos === undefined || disk.channel instanceof QosChannel) return;
    disk.channel = new QosChannel(disk.channel, share.qos, this.loop);
  }

  /** The disk is being deleted: what waits and what comes ends with REMOVED. */
  removed(name: string, uuid: string): void {
    this.states.delete(uuid);
    this.disks.get(name)?.channel.remove?.();
  }

  all(): IterableIterator<OpenDisk> {
    return this.disks.values();
  }

  memoryAdded(memory: Memory): void {
    this.memories.add(memory);
    for (const { channel } of this.disks.values()) memoryListener(channel)?.memoryAdded(memory);
  }

  memoryRemoved(memory: Memory): void {
    this.memories.delete(memory);
    for (const { channel } of this.disks.values()) memoryListener(channel)?.memoryRemoved(memory);
  }
}

function memoryListener(channel: BdevChannel): MemoryListener | undefined {
  return 'memoryAdded' in channel ? (channel as unknown as MemoryListener) : undefined;
}
