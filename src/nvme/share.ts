import type { DmaShare } from '../pci/dma.ts';

/** What a reactor gets of a controller: plain values that survive structured clone. */

export interface NvmeQueueShare {
  /** Identifier of the submission and the completion queue, 1 and up. */
  readonly id: number;
  readonly entries: number;
  readonly sq: DmaShare;
  readonly cq: DmaShare;
  /** One page a command: PRP list, SGL segment or DSM ranges. */
  readonly lists: DmaShare;
  /** Bounce buffers, {@link NvmeShare.bounceBytes} each. */
  readonly bounce: DmaShare;
  /** Doorbells, as word indices of the BAR. */
  readonly tailDoorbell: number;
  readonly headDoorbell: number;
  /** Eventfd by which the device (when `interrupts`) and the main thread wake the queue's reactor. */
  readonly wakeFd: number;
  readonly interrupts: boolean;
}

/** What commands may ask of the controller. */
export interface NvmeLimits {
  /** Bytes of data a command. */
  readonly maxTransfer: number;
  readonly sgl: 'none' | 'dword' | 'byte';
  readonly compare: boolean;
  readonly datasetManagement: boolean;
  readonly writeZeroes: boolean;
  readonly volatileWriteCache: boolean;
}

export interface NvmeShare {
  /** Names this start of this controller within the process. */
  readonly key: string;
  /** For messages: the PCI address. */
  readonly name: string;
  readonly board: SharedArrayBuffer;
  readonly bar: DmaShare;
  /** Eventfd that the main thread watches: there is something on the board. */
  readonly bellFd: number;
  readonly bounceBytes: number;
  /** Milliseconds after which a command is aborted; after half as long again the controller is reset. */
  readonly timeoutMs: number;
  readonly limits: NvmeLimits;
  readonly queues: readonly NvmeQueueShare[];
}
