import type { ControlLoop } from '../../pci/control-loop.ts';
import { EventFd } from '../../sys/eventfd.ts';
import { Fd } from '../../sys/fd.ts';
import { featureMask, featureNames, hasFeature, VirtioFeature } from '../../virtio/features.ts';
import { VirtioScsiFeature } from '../../virtio/scsi-device.ts';
import type { QueueAddresses } from '../../virtio/virtio-pci.ts';
import type { BellShare } from './share.ts';
import type { ScsiTransport } from './transport.ts';
import { UserLink, UserMessage } from './user-link.ts';
import { USER_BASE, UserMemory } from './user-memory.ts';

/**
 * A vhost-user-scsi back end on a Unix socket as an adapter: we are the front end. A reset is a new connection, which every back end takes;
 * rings, kicks and calls stay the same over it.
 */

/** Feature bit that says that there are protocol features, and those of them that we use. */
const PROTOCOL_FEATURES = 30;
const MQ = 1n << 0n;
const REPLY_ACK = 1n << 3n;
/** Where the back end does not say: control, event, one request queue. */
const PLAIN_QUEUES = 3;
const MAX_RING = 1024;

export class UserScsiTransport implements ScsiTransport {
  readonly name: string;
  readonly kind = 'user';
  readonly dma = new UserMemory();
  /** Calls are eventfds: as many as queues. */
  readonly vectors = 65;
  private readonly loop: ControlLoop;
  private link: UserLink | null = null;
  private offered = 0n;
  private accepted = 0n;
  private queues = PLAIN_QUEUES;
  private enabled: number[] = [];
  private readonly kicks = new Map<number, EventFd>();
  private calls: readonly number[] = [];
  private lost: (reason: string) => void = () => {};

  /** @param path of the back end's socket */
  constructor(path: string, loop: ControlLoop) {
    this.name = path;
    this.loop = loop;
  }

  async reset(): Promise<void> {
    this.quiet();
    let link: UserLink;
    try {
      link = new UserLink(this.name, this.loop, (reason) => this.lost(reason));
    } catch (error) {
      const { code } = error as { code?: string };
      const hint =
        code === 'ENOENT' || code === 'ECONNREFUSED' ? 'no vhost-user back end listens there; start it first' : '';
      throw Object.assign(new Error(`${(error as Error).message}${hint === '' ? '' : `: ${hint}`}`), { code });
    }
    this.link = link;
    this.offered = await link.ask(UserMessage.GET_FEATURES);
    await link.tell(UserMessage.SET_OWNER);
    if (!hasFeature(this.offered, PROTOCOL_FEATURES)) return;
    const protocol = (await link.ask(UserMessage.GET_PROTOCOL_FEATURES)) & (MQ | REPLY_ACK);
    await link.tell(UserMessage.SET_PROTOCOL_FEATURES, u64(protocol));
    link.acknowledges = (protocol & REPLY_ACK) !== 0n;
    if ((protocol & MQ) !== 0n) this.queues = Number(await link.ask(UserMessage.GET_QUEUE_NUM));
  }

  async negotiate(wanted: bigint): Promise<bigint> {
    if (!hasFeature(this.offered, VirtioFeature.VERSION_1)) {
      const names = featureNames(this.offered, VirtioScsiFeature).join(', ');
      throw new Error(`${this.name}: the back end is none of virtio 1.x (it offers ${names})`);
    }
    const ours = wanted | featureMask(VirtioFeature.VERSION_1, PROTOCOL_FEATURES);
    this.accepted = this.offered & ours;
    const link = this.alive();
    await link.tell(UserMessage.SET_FEATURES, u64(this.accepted));
    const { size, fd } = this.dma;
    await link.tell(UserMessage.SET_MEM_TABLE, words(u32(1, 0), u64(USER_BASE), u64(size), u64(USER_BASE), u64(0)), [
      fd,
    ]);
    return this.accepted & ~featureMask(PROTOCOL_FEATURES);
  }

  private alive(): UserLink {
    if (this.link === null || this.link.closed) throw new Error(`${this.name}: the back end has hung up`);
    return this.link;
  }

  /** vhost-user leaves it to the front end: there is nothing to read. */
  async readConfig(): Promise<null> {
    return null;
  }

  async queueCount(): Promise<number> {
    return this.queues;
  }

  async queueSize(): Promise<number> {
    return MAX_RING;
  }

  connect(main: number, queues: readonly number[]): void {
    this.calls = [main, ...queues];
  }

  async enableQueue(index: number, size: number, at: QueueAddresses, vector: number): Promise<BellShare> {
    const link = this.alive();
    let kick = this.kicks.get(index);
    if (kick === undefined) {
      kick = new EventFd();
      this.kicks.set(index, kick);
    }
    await link.tell(UserMessage.SET_VRING_NUM, u32(index, size));
    await link.tell(UserMessage.SET_VRING_BASE, u32(index, 0));
    const addresses = words(u32(index, 0), u64(at.desc), u64(at.device), u64(at.driver), u64(0));
    await link.tell(UserMessage.SET_VRING_ADDR, addresses);
    const call = this.calls[vector];
    if (call !== undefined) await link.tell(UserMessage.SET_VRING_CALL, u64(index), [Fd.take(call)]);
    await link.tell(UserMessage.SET_VRING_KICK, u64(index), [kick.fd]);
    this.enabled.push(index);
    return { kind: 'eventfd', fd: kick.fd.number };
  }

  async start(): Promise<void> {
    if (!hasFeature(this.accepted, PROTOCOL_FEATURES)) return; // rings are enabled by their kicks
    for (const index of this.enabled) await this.alive().tell(UserMessage.SET_VRING_ENABLE, u32(index, 1));
  }

  health(): 'ok' | 'gone' {
    return this.link !== null && !this.link.closed ? 'ok' : 'gone';
  }

  onLost(_loop: ControlLoop, fn: (reason: string) => void): void {
    this.lost = fn;
  }

  /** A back end that is hung up on lets go by itself; what it may still write to is a file of its own, nobody else's memory. */
  quiet(): void {
    this.link?.close();
    this.link = null;
    this.enabled = [];
  }

  close(): void {
    this.quiet();
    for (const kick of this.kicks.values()) kick.close();
    this.kicks.clear();
    this.dma.close();
  }
}

function u32(...values: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

function u64(value: bigint | number): Uint8Array {
  return new Uint8Array(BigUint64Array.of(BigInt(value)).buffer);
}

function words(...parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}
