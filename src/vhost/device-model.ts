/**
 * What a kind of virtio device (scsi, blk) is to a session. The session owns messages, memory and vring states; the
 * model owns what the requests mean. One model serves one session.
 */
import type { RunningRing } from './running-ring.ts';

/** The model's side of a vring, from its start until it has stopped. Driven by the reactor; hot path. */
export interface ModelQueue {
  /** Take at most `budget` requests. @returns how many things were done. Not called while the vring is disabled. */
  poll(budget: number): number;
  /** About to sleep: ask for kicks where they are wanted. @returns true when there is work after all */
  arm(): boolean;
  /** Awake again. */
  disarm(): void;
  /** The vring has stopped, nothing is outstanding: forget it. */
  stopped(): void;
}

export interface DeviceModel {
  /** For logs and RPC: "scsi". */
  readonly name: string;
  /** Feature word to offer: the device's own bits and those of rings. Bit 30 is the session's. */
  readonly features: bigint;
  /** Names of the device's own bits, for RPC. */
  readonly featureBits: Readonly<Record<string, number>>;
  /** Vrings it can serve: GET_QUEUE_NUM, and the bound of every index a front end names. */
  readonly maxQueues: number;
  /** Bytes of config space served by GET_CONFIG; 0 when the front end makes it up itself. */
  readonly configBytes: number;
  /** Its front end cannot do without the config bytes: a transport that does not carry CONFIG cannot serve it. */
  readonly needsConfig?: boolean;
  /** A copy of config bytes, or null when the range is not all there. */
  readConfig(offset: number, size: number): Uint8Array | null;
  /** @returns null, or why the bytes cannot be written. `migrating`: read-only fields may be set, too. */
  writeConfig(offset: number, data: Uint8Array, migrating: boolean): string | null;
  /** Set by the session of a model with config space: to be called when its bytes have changed by themselves. */
  onConfigChange?: (() => void) | null;
  /** The front end accepted these features (offered ones only). May come again at any time. */
  setFeatures(features: bigint): void;
  /** A vring starts. */
  startQueue(ring: RunningRing): ModelQueue;
  /** For RPC. */
  describe(): Record<string, unknown>;
  /** The session is over; no vring runs and nothing is outstanding. */
  close(): void;
}
