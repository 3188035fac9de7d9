import type { BdevShare } from '../bdev/bdev.ts';
import type { SavedReservations } from '../scsi/reservation-store.ts';
import type { LayoutName } from '../vvu/driver/layout-names.ts';

/**
 * What the main thread asks of a reactor, and what it answers: plain data that survives structured clone. Everything a
 * reactor does on the main thread's behalf goes through here, also with --single-thread.
 */

export interface OpenController {
  name: string;
  /** Path of the socket, or address of the vvu device. */
  place: string;
  transport: 'unix' | 'vvu';
  /** Take the vvu device for this layout. */
  layout?: LayoutName | undefined;
  /** Relative target port identifier: tells the controllers of one disk apart. */
  port: number;
  /** The disk of a block controller. Without it, it is a SCSI controller. */
  disk?: OpenDiskOf | undefined;
}

export interface OpenDiskOf {
  bdev: BdevShare;
  /** As for {@link AddTarget}: should the disk be served by SCSI controllers, too. */
  state: SharedArrayBuffer | undefined;
  readOnly: boolean;
}

export interface AddTarget {
  controller: string;
  /** 0 to 7. */
  target: number;
  /** Identifier of the SCSI device, over all controllers. */
  id: number;
  bdev: BdevShare;
  /** Memory of the disk's LunState, when LUNs on several reactors may share it. */
  state: SharedArrayBuffer | undefined;
  /** Persistent reservations may be kept over restarts (APTPL): save them by a {@link SaveRequest}. */
  persistent?: boolean;
}

/** Every command: its parameters and its result. */
export interface Commands {
  openController: [OpenController, undefined];
  /** Begin to accept front ends. */
  startController: [{ name: string }, undefined];
  /** Refused with EBUSY while a front end is connected, unless `force`. */
  closeController: [{ name: string; force: boolean }, undefined];
  addTarget: [AddTarget, undefined];
  /** Done when the target has no request left. */
  removeTarget: [{ controller: string; target: number }, undefined];
  /** Take a block controller's disk away. Done when it has no request left. */
  removeDisk: [{ controller: string }, undefined];
  /** The answer to a {@link SaveRequest}. */
  reservationsSaved: [{ id: number; ok: boolean }, undefined];
  /** The disk goes: what waits in its channel ends with REMOVED. */
  bdevRemoved: [{ name: string; uuid: string }, undefined];
  bdevResized: [BdevShare, undefined];
  /** The disk has rate limits now. Once in its life: the limits themselves are in shared memory. */
  bdevLimited: [BdevShare, undefined];
  /** Interrupt coalescing of a controller, at any time. */
  setCoalescing: [{ name: string; delayUs: number; iopsThreshold: number }, undefined];
  describe: [{ name: string }, ControllerState];
  /** Everything known of a controller's vrings and memory, for a person. */
  dump: [{ name: string }, Record<string, unknown>];
  inflight: [{ olderThanMs: number }, InflightRequest[]];
  stats: [Record<string, never>, ReactorStats];
  setLogs: [{ namespaces: string }, undefined];
  /** Close all controllers, finish what is in flight, then answer and end. */
  shutdown: [Record<string, never>, undefined];
}

export type CommandName = keyof Commands;
export type CommandParams<K extends CommandName> = Commands[K][0];
export type CommandResult<K extends CommandName> = Commands[K][1];

/** A controller as its reactor sees it. */
export interface ControllerState {
  /** One a connected front end. */
  sessions: Record<string, unknown>[];
}

/** As vhost_get_inflight shows it. */
export interface InflightRequest {
  ctrlr: string;
  /** null for a block device. */
  target: number | null;
  lun: number | null;
  vring: number;
  head: number;
  age_ms: number;
  /** Name of the command, e.g. "READ(10)"; of the request type of a block device, e.g. "IN". */
  opcode: string;
  /** Hexadecimal; null for a block device. */
  cdb: string | null;
  /** First sector of a block device's request. */
  sector?: number;
  /** What it waits for. */
  where: 'disk' | 'turn';
}

export interface ReactorStats {
  passes: number;
  busyNs: number;
  idleNs: number;
  sleeps: number;
  wakes: number;
  errors: number;
  heapUsed: number;
  channels: { bdev: string; in_flight: number; luns: number; zero_copy: boolean }[];
}

/** Main thread to reactor. */
export interface CommandMessage {
  id: number;
  name: CommandName;
  params: unknown;
}

/** Reactor to main thread, of its own accord: bring this to stable storage, and answer by `reservationsSaved`. */
export interface SaveRequest {
  save: { id: number; uuid: string; saved: SavedReservations | null; sequence: number };
}

/** Reactor to main thread. */
export type AnswerMessage = { id: number; result: unknown } | { id: number; error: PlainError };

/** An Error that has crossed a thread: class and code in words. */
export interface PlainError {
  name: string;
  message: string;
  code?: string;
  errno?: number;
  stack?: string;
}
