import type { ControlLoop } from '../../pci/control-loop.ts';
import type { DmaAllocator } from '../../pci/dma.ts';
import type { QueueAddresses } from '../../virtio/virtio-pci.ts';
import type { BellShare } from './share.ts';

/**
 * How an adapter is reached: a PCI function, or a vhost-user back end on a socket. Main thread; everything that may take a while is a
 * promise, and a promise that fails says why.
 */
export interface ScsiTransport {
  /** For messages and `describe`. */
  readonly name: string;
  readonly kind: 'pci' | 'user';
  readonly dma: DmaAllocator;
  /** Interrupts can be connected: to `main` and to each queue's eventfd. */
  readonly vectors: number;
  /** Reset, and become ready to negotiate. */
  reset(): Promise<void>;
  /** @returns the features both sides have. @throws Error when they do not agree */
  negotiate(wanted: bigint): Promise<bigint>;
  /** The device's configuration (VIRTIO_SCSI_CONFIG), or null where the transport has none. */
  readConfig(): Promise<Uint8Array | null>;
  /** Virtqueues, control and event queue included. */
  queueCount(): Promise<number>;
  /** Largest ring of a queue; 0: not there. */
  queueSize(index: number): Promise<number>;
  /** Before queues are enabled: where interrupts go. @param queues eventfd of each request queue */
  connect(main: number, queues: readonly number[]): void;
  /** @param vector 0 for main, 1 and up for request queues */
  enableQueue(index: number, size: number, at: QueueAddresses, vector: number): Promise<BellShare>;
  start(): Promise<void>;
  /** What the device says of itself now. */
  health(): 'ok' | 'needs reset' | 'gone';
  /** It is lost, or asked for back. Called once. */
  onLost(loop: ControlLoop, fn: (reason: string) => void): void;
  /** The device touches no memory after this. Never throws. */
  quiet(): void;
  /** Give everything back. Quiet before. */
  close(): void;
}
