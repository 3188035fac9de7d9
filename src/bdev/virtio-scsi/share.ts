import type { DmaShare } from '../../pci/dma.ts';

/** What a reactor gets of a virtio-scsi adapter: plain values that survive structured clone. */

/** How a queue is told of new requests. */
export type BellShare =
  | { readonly kind: 'register'; readonly window: DmaShare; readonly offset: number; readonly value: number }
  | { readonly kind: 'eventfd'; readonly fd: number };

export interface ScsiQueueShare {
  /** Virtqueue number, 2 and up. */
  readonly index: number;
  readonly size: number;
  readonly eventIdx: boolean;
  /** Rings: descriptors, then (page aligned) available and used. */
  readonly desc: DmaShare;
  readonly avail: DmaShare;
  readonly used: DmaShare;
  /** Indirect tables, `entries` descriptors each; null without the feature. */
  readonly tables: { readonly memory: DmaShare; readonly entries: number } | null;
  /** Data segments of one request, at most. */
  readonly segments: number;
  /** SLOT_BYTES a request: header, response, parameters. */
  readonly slots: DmaShare;
  readonly bounce: DmaShare;
  /** A page that stays zero: the data of WRITE SAME. */
  readonly zeroes: DmaShare;
  readonly bell: BellShare;
  readonly wakeFd: number;
  readonly interrupts: boolean;
}

export interface ScsiShare {
  /** Names this start of the adapter within the process. */
  readonly key: string;
  readonly name: string;
  readonly board: SharedArrayBuffer;
  readonly bellFd: number;
  readonly bounceBytes: number;
  /** The device reaches the adapter's own memory and nothing else, whatever addresses guest memory has for others. */
  readonly bounceOnly: boolean;
  readonly timeoutMs: number;
  readonly queues: readonly ScsiQueueShare[];
}

/** What a logical unit can do, found out by the scan. */
export interface UnitShare {
  readonly target: number;
  readonly lun: number;
  /** Bytes of data a command. */
  readonly maxTransfer: number;
  /** UNMAP: blocks a command; 0: not supported. */
  readonly maxUnmapBlocks: number;
  /** WRITE SAME(16) of zeroes: blocks a command; 0: not supported. */
  readonly maxSameBlocks: number;
  readonly writeCache: boolean;
  /** FUA is obeyed; else a flush follows. */
  readonly fua: boolean;
  /** Two Int32 and one double: {@link UnitState}. */
  readonly state: SharedArrayBuffer;
}
