import { inflightError } from '../../vhost/inflight.ts';
import { MAX_TABLE_REGIONS } from '../../vhost/limits.ts';
import { tableError } from '../../vhost/memory-table.ts';
import { FLAG_VERSION, HEADER_BYTES, parseInflight, parseTable } from '../../vhost/messages.ts';
import type { IncomingMessage } from '../../vhost/transport.ts';
import type { FileRange } from './window-map.ts';

/**
 * The two messages that bring files for the window. What goes on to the driver has no descriptors: it says where in the window each
 * range begins (where the front end's says where in the file), and in its padding the generation to be released.
 */
export interface PlacedMessage {
  readonly id: number;
  readonly flags: number;
  /** What goes on: header and payload. */
  readonly bytes: Uint8Array;
  /** Of the descriptors, in their order. */
  readonly ranges: readonly FileRange[];
  /** Write where the ranges lie into `bytes`. */
  place(generation: number, places: readonly number[]): void;
}

const REGION_BYTES = 32;
/** SET_INFLIGHT_FD as the driver gets it: with its padding, that holds the generation. */
const INFLIGHT_BYTES = 24;
const INFLIGHT_GENERATION = 20;

function framed(message: IncomingMessage, payloadBytes: number): { bytes: Uint8Array; payload: DataView } {
  const bytes = new Uint8Array(HEADER_BYTES + payloadBytes);
  const v = new DataView(bytes.buffer);
  v.setUint32(0, message.id, true);
  v.setUint32(4, message.flags | FLAG_VERSION, true);
  v.setUint32(8, payloadBytes, true);
  bytes.set(message.payload, HEADER_BYTES);
  return { bytes, payload: new DataView(bytes.buffer, HEADER_BYTES) };
}

/** SET_MEM_TABLE, or what is wrong with it. */
export function tableOfFiles(message: IncomingMessage): PlacedMessage | string {
  const regions = parseTable(message.payload);
  if (regions === undefined) return 'the number of regions is not what the payload holds';
  const error = tableError(regions, MAX_TABLE_REGIONS);
  if (error !== null) return error;
  const { bytes, payload } = framed(message, message.payload.length);
  const place = (generation: number, places: readonly number[]) => {
    payload.setUint32(4, generation, true);
    for (const [i, at] of places.entries()) payload.setBigUint64(8 + REGION_BYTES * i + 24, BigInt(at), true);
  };
  return { id: message.id, flags: message.flags, bytes, ranges: regions, place };
}

/** SET_INFLIGHT_FD, or what is wrong with it. */
export function inflightOfFile(message: IncomingMessage, vrings: number): PlacedMessage | string {
  const description = parseInflight(message.payload);
  const error = inflightError(description, vrings);
  if (error !== null) return error;
  const { bytes, payload } = framed(message, INFLIGHT_BYTES);
  const place = (generation: number, [at]: readonly number[]) => {
    payload.setBigUint64(8, BigInt(at), true);
    payload.setUint32(INFLIGHT_GENERATION, generation, true);
  };
  const ranges = [{ offset: description.mmapOffset, size: description.mmapSize }];
  return { id: message.id, flags: message.flags, bytes, ranges, place };
}
