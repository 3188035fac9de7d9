/**
 * The vhost-user messages this back end knows: one row each. The row says everything that can be checked without
 * state; a message that breaks its row never reaches a handler.
 *
 * All integers are little-endian (the native order of the hosts we run on). A payload is always a private copy, so
 * DataView is right here.
 */
import { MAX_CONFIG, MAX_TABLE_REGIONS } from './limits.ts';

/** Bytes of the header: u32 request, u32 flags, u32 size of the payload. */
export const HEADER_BYTES = 12;

/** Header flags: bits 0-1 version, 2 reply, 3 need reply; the others are reserved. */
export const FLAG_VERSION_MASK = 0x3;
export const FLAG_VERSION = 0x1;
export const FLAG_REPLY = 0x4;
export const FLAG_NEED_REPLY = 0x8;

/** Feature bits of vhost itself, in the virtio feature word. */
export const VhostFeature = {
  /** Dirty page logging. We do not offer it. */
  LOG_ALL: 26,
  /** GET/SET_PROTOCOL_FEATURES exist, and vrings start disabled. */
  PROTOCOL_FEATURES: 30,
} as const;

/** Protocol feature bits by the spec's names. */
export const ProtocolFeature = {
  MQ: 0,
  LOG_SHMFD: 1,
  RARP: 2,
  REPLY_ACK: 3,
  MTU: 4,
  BACKEND_REQ: 5,
  CROSS_ENDIAN: 6,
  CRYPTO_SESSION: 7,
  PAGEFAULT: 8,
  CONFIG: 9,
  BACKEND_SEND_FD: 10,
  HOST_NOTIFIER: 11,
  INFLIGHT_SHMFD: 12,
  RESET_DEVICE: 13,
  INBAND_NOTIFICATIONS: 14,
  CONFIGURE_MEM_SLOTS: 15,
  STATUS: 16,
} as const;

export const Request = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SET_BACKEND_REQ_FD: 21,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  RESET_DEVICE: 34,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
} as const;
export type RequestName = keyof typeof Request;

/** Messages from the back end to the front end, on a socket of their own. */
export const BackendRequest = {
  /** The front end shall read the config space again. */
  CONFIG_CHANGE: 2,
} as const;

const REGION_BYTES = 32;
/** u32 count, u32 padding, then the regions. */
const TABLE_HEADER_BYTES = 8;
/** u32 offset, u32 size, u32 flags, then the data. */
const CONFIG_HEADER_BYTES = 12;
/** u64 mmap size, u64 mmap offset, u16 queues, u16 queue size; some senders pad the C structure to 24. */
const INFLIGHT_BYTES = 20;

export interface MessageRow {
  readonly id: number;
  readonly name: RequestName;
  /** Payload bytes, least and most. */
  readonly payload: readonly [min: number, max: number];
  /** File descriptors, least and most. Over a transport that carries none, none is right for every message. */
  readonly fds: readonly [min: number, max: number];
  /** `own`: always answered by a payload of its own. `ack`: answered only when the front end asks (REPLY_ACK). */
  readonly reply: 'own' | 'ack';
  /** Allowed only when we offer this protocol feature. */
  readonly needs?: number;
}

const U64 = [8, 8] as const;
const STATE = [8, 8] as const;
const EMPTY = [0, 0] as const;
const NO_FD = [0, 0] as const;
const MAYBE_FD = [0, 1] as const;
const ONE_FD = [1, 1] as const;

function row(
  name: RequestName,
  payload: readonly [number, number],
  fds: readonly [number, number],
  reply: 'own' | 'ack',
  needs?: keyof typeof ProtocolFeature,
): MessageRow {
  const base = { id: Request[name], name, payload, fds, reply };
  return needs === undefined ? base : { ...base, needs: ProtocolFeature[needs] };
}

export const MESSAGES: readonly MessageRow[] = [
  row('GET_FEATURES', EMPTY, NO_FD, 'own'),
  row('SET_FEATURES', U64, NO_FD, 'ack'),
  row('SET_OWNER', EMPTY, NO_FD, 'ack'),
  row('RESET_OWNER', EMPTY, NO_FD, 'ack'),
  row(
    'SET_MEM_TABLE',
    [TABLE_HEADER_BYTES, TABLE_HEADER_BYTES + MAX_TABLE_REGIONS * REGION_BYTES],
    [0, MAX_TABLE_REGIONS],
    'ack',
  ),
  row('SET_VRING_NUM', STATE, NO_FD, 'ack'),
  row('SET_VRING_ADDR', [40, 40], NO_FD, 'ack'),
  row('SET_VRING_BASE', STATE, NO_FD, 'ack'),
  row('GET_VRING_BASE', STATE, NO_FD, 'own'),
  row('SET_VRING_KICK', U64, MAYBE_FD, 'ack'),
  row('SET_VRING_CALL', U64, MAYBE_FD, 'ack'),
  row('SET_VRING_ERR', U64, MAYBE_FD, 'ack'),
  row('GET_PROTOCOL_FEATURES', EMPTY, NO_FD, 'own'),
  row('SET_PROTOCOL_FEATURES', U64, NO_FD, 'ack'),
  row('GET_QUEUE_NUM', EMPTY, NO_FD, 'own', 'MQ'),
  row('SET_VRING_ENABLE', STATE, NO_FD, 'ack'),
  row('SET_BACKEND_REQ_FD', EMPTY, ONE_FD, 'ack', 'BACKEND_REQ'),
  row('GET_CONFIG', [CONFIG_HEADER_BYTES, CONFIG_HEADER_BYTES + MAX_CONFIG], NO_FD, 'own', 'CONFIG'),
  row('SET_CONFIG', [CONFIG_HEADER_BYTES, CONFIG_HEADER_BYTES + MAX_CONFIG], NO_FD, 'ack', 'CONFIG'),
  row('GET_INFLIGHT_FD', [INFLIGHT_BYTES, 24], NO_FD, 'own', 'INFLIGHT_SHMFD'),
  row('SET_INFLIGHT_FD', [INFLIGHT_BYTES, 24], ONE_FD, 'ack', 'INFLIGHT_SHMFD'),
  row('RESET_DEVICE', EMPTY, NO_FD, 'ack', 'RESET_DEVICE'),
  row('GET_MAX_MEM_SLOTS', EMPTY, NO_FD, 'own', 'CONFIGURE_MEM_SLOTS'),
  row('ADD_MEM_REG', [40, 40], ONE_FD, 'ack', 'CONFIGURE_MEM_SLOTS'),
  // Some front ends send the region's fd here too: it is closed unused.
  row('REM_MEM_REG', [40, 40], MAYBE_FD, 'ack', 'CONFIGURE_MEM_SLOTS'),
  row('SET_STATUS', U64, NO_FD, 'ack', 'STATUS'),
  row('GET_STATUS', EMPTY, NO_FD, 'own', 'STATUS'),
];

const BY_ID = new Map(MESSAGES.map((m) => [m.id, m]));

export function messageRow(id: number): MessageRow | undefined {
  return BY_ID.get(id);
}

/** For logs: the name, or the number of a message we have no row for. */
export function messageName(id: number): string {
  return BY_ID.get(id)?.name ?? `message ${id}`;
}

/** What is wrong with a header on its own, or null. Checked before a byte of the payload is read. */
export function headerError(id: number, flags: number, size: number): string | null {
  const name = messageName(id);
  if ((flags & FLAG_VERSION_MASK) !== FLAG_VERSION) return `${name}: version ${flags & FLAG_VERSION_MASK}, expected 1`;
  if ((flags & FLAG_REPLY) !== 0) return `${name}: a reply, and nothing was asked`;
  if ((flags & ~(FLAG_VERSION_MASK | FLAG_NEED_REPLY)) !== 0) return `${name}: reserved flags 0x${flags.toString(16)}`;
  const found = BY_ID.get(id);
  if (found === undefined) return null; // the session refuses it, when its payload has been taken off the stream
  const [min, max] = found.payload;
  if (size < min || size > max) {
    return `${name}: payload of ${size} bytes, expected ${min === max ? min : `${min} to ${max}`}`;
  }
  return null;
}

/** What is wrong with the number of file descriptors, or null. */
export function fdCountError(found: MessageRow, fds: number, carriesFds: boolean): string | null {
  const [min, max] = carriesFds ? found.fds : NO_FD;
  if (fds >= min && fds <= max) return null;
  return `${fds} file descriptors, expected ${min === max ? min : `${min} to ${max}`}`;
}

/** A region of the front end's memory. Bytes and byte addresses; see memory-table.ts for what is checked. */
export interface MemoryRegion {
  readonly gpa: number;
  readonly size: number;
  readonly uva: number;
  /** Where it begins in the file. */
  readonly offset: number;
}

export interface VringState {
  readonly index: number;
  readonly num: number;
}

/** Addresses are the front end's user addresses. */
export interface VringAddr {
  readonly index: number;
  readonly flags: number;
  readonly desc: number;
  readonly used: number;
  readonly avail: number;
}

export interface InflightDescription {
  readonly mmapSize: number;
  readonly mmapOffset: number;
  readonly numQueues: number;
  readonly queueSize: number;
}

export interface ConfigAccess {
  readonly offset: number;
  readonly size: number;
  readonly flags: number;
  /** The bytes after the header. */
  readonly data: Uint8Array;
}

function view(payload: Uint8Array): DataView {
  return new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
}

/** 64 bits as a Number. From 2^53 on it is not exact, but never below 2^53: `Number.isSafeInteger` tells. */
function u64(v: DataView, at: number): number {
  return v.getUint32(at, true) + v.getUint32(at + 4, true) * 0x1_0000_0000;
}

/** A feature word. */
export function parseU64(payload: Uint8Array): bigint {
  return view(payload).getBigUint64(0, true);
}

export function parseState(payload: Uint8Array): VringState {
  const v = view(payload);
  return { index: v.getUint32(0, true), num: v.getUint32(4, true) };
}

export function parseAddr(payload: Uint8Array): VringAddr {
  const v = view(payload);
  const [desc, used, avail] = [u64(v, 8), u64(v, 16), u64(v, 24)];
  return { index: v.getUint32(0, true), flags: v.getUint32(4, true), desc, used, avail };
}

/** SET_VRING_KICK, CALL, ERR: bits 0-7 the index, bit 8 "no fd". The rest must be zero, or undefined is returned. */
export function parseVringFd(payload: Uint8Array): { index: number; noFd: boolean } | undefined {
  const v = view(payload);
  const lo = v.getUint32(0, true);
  if (v.getUint32(4, true) !== 0 || lo > 0x1ff) return undefined;
  return { index: lo & 0xff, noFd: (lo & 0x100) !== 0 };
}

function parseRegion(v: DataView, at: number): MemoryRegion {
  return { gpa: u64(v, at), size: u64(v, at + 8), uva: u64(v, at + 16), offset: u64(v, at + 24) };
}

/** SET_MEM_TABLE; undefined when the count and the payload's size disagree. */
export function parseTable(payload: Uint8Array): MemoryRegion[] | undefined {
  const v = view(payload);
  const count = v.getUint32(0, true);
  if (count > MAX_TABLE_REGIONS || payload.byteLength !== TABLE_HEADER_BYTES + count * REGION_BYTES) return undefined;
  return Array.from({ length: count }, (_, i) => parseRegion(v, TABLE_HEADER_BYTES + i * REGION_BYTES));
}

/** ADD_MEM_REG, REM_MEM_REG: eight bytes of padding, then the region. */
export function parseOneRegion(payload: Uint8Array): MemoryRegion {
  return parseRegion(view(payload), 8);
}

export function parseInflight(payload: Uint8Array): InflightDescription {
  const v = view(payload);
  const [mmapSize, mmapOffset] = [u64(v, 0), u64(v, 8)];
  return { mmapSize, mmapOffset, numQueues: v.getUint16(16, true), queueSize: v.getUint16(18, true) };
}

/** GET_CONFIG, SET_CONFIG; undefined when the data's length is not what the header says. */
export function parseConfig(payload: Uint8Array): ConfigAccess | undefined {
  const v = view(payload);
  const [offset, size, flags] = [v.getUint32(0, true), v.getUint32(4, true), v.getUint32(8, true)];
  if (size !== payload.byteLength - CONFIG_HEADER_BYTES) return undefined;
  return { offset, size, flags, data: payload.subarray(CONFIG_HEADER_BYTES) };
}

export function u64Payload(value: bigint): Uint8Array {
  const payload = new Uint8Array(8);
  view(payload).setBigUint64(0, value, true);
  return payload;
}

export function statePayload(index: number, num: number): Uint8Array {
  const payload = new Uint8Array(8);
  view(payload).setUint32(0, index, true);
  view(payload).setUint32(4, num, true);
  return payload;
}

/** As long as the request was: a front end compares sizes. */
export function inflightPayload(d: InflightDescription, bytes: number): Uint8Array {
  const payload = new Uint8Array(bytes);
  const v = view(payload);
  v.setBigUint64(0, BigInt(d.mmapSize), true);
  v.setBigUint64(8, BigInt(d.mmapOffset), true);
  v.setUint16(16, d.numQueues, true);
  v.setUint16(18, d.queueSize, true);
  return payload;
}

/** A whole reply. QEMU compares the flags word: version and reply, nothing else. */
export function replyMessage(id: number, payload: Uint8Array): Uint8Array {
  const message = new Uint8Array(HEADER_BYTES + payload.byteLength);
  const v = view(message);
  v.setUint32(0, id, true);
  v.setUint32(4, FLAG_VERSION | FLAG_REPLY, true);
  v.setUint32(8, payload.byteLength, true);
  message.set(payload, HEADER_BYTES);
  return message;
}

/** A whole message of the back end's own, without payload; no answer is asked for. */
export function backendMessage(id: number): Uint8Array {
  const message = new Uint8Array(HEADER_BYTES);
  const v = view(message);
  v.setUint32(0, id, true);
  v.setUint32(4, FLAG_VERSION, true);
  return message;
}
