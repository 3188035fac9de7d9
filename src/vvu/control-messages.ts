import { FLAG_VERSION, HEADER_BYTES } from '../vhost/messages.ts';

/**
 * What relay and driver say to each other between the vhost-user messages they carry: same framing, ids that vhost-user will not
 * reach. docs/vvu-wire.md is the contract. All integers little-endian.
 */
export const Control = {
  /** driver: u32 version. The driver is there; whatever was before is over. */
  HELLO: 0x7676_0001,
  /** relay: u32 version, u32 vrings, u64 bytes of the window, 16 bytes of identity. */
  WELCOME: 0x7676_0002,
  /** relay: a compute VM is connected. */
  LINK_UP: 0x7676_0003,
  /** relay: it has gone; the reason as text. */
  LINK_DOWN: 0x7676_0004,
  /** driver: hang up on the compute VM; the reason as text. */
  LINK_CLOSE: 0x7676_0005,
  /** relay: u32 generation. May it map memory now? */
  MAP_REQUEST: 0x7676_0006,
  /** driver: u32 generation. It may: the driver is alive. */
  MAP_GRANT: 0x7676_0007,
  /** driver: u32 generation. Nothing here refers to that table's memory any more. */
  MEMORY_RELEASED: 0x7676_0008,
  /** driver: no more mappings, please: a reset follows. */
  GOODBYE: 0x7676_0009,
  /** relay: there will be none. */
  FAREWELL: 0x7676_000a,
  /** driver: is the relay there? */
  PING: 0x7676_000b,
  /** relay */
  PONG: 0x7676_000c,
  /** driver: LINK_DOWN was seen; nothing more comes for that compute VM. Until then the relay takes no other. */
  LINK_ENDED: 0x7676_000d,
} as const;
export type Control = (typeof Control)[keyof typeof Control];

export const WIRE_VERSION = 1;

const NAMES = new Map<number, string>(Object.entries(Control).map(([name, id]) => [id, name]));

export function controlName(id: number): string | undefined {
  return NAMES.get(id);
}

export function isControl(id: number): boolean {
  return NAMES.has(id);
}

export function controlMessage(id: Control, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  const message = new Uint8Array(HEADER_BYTES + payload.length);
  const v = new DataView(message.buffer);
  v.setUint32(0, id, true);
  v.setUint32(4, FLAG_VERSION, true);
  v.setUint32(8, payload.length, true);
  message.set(payload, HEADER_BYTES);
  return message;
}

export function u32Message(id: Control, value: number): Uint8Array {
  const payload = new Uint8Array(4);
  new DataView(payload.buffer).setUint32(0, value, true);
  return controlMessage(id, payload);
}

const MAX_REASON = 400;

export function textMessage(id: Control, text: string): Uint8Array {
  return controlMessage(id, new TextEncoder().encode(text.slice(0, MAX_REASON)));
}

/** A reason from the other side, fit for a log: no control characters. */
export function textOf(payload: Uint8Array): string {
  return new TextDecoder().decode(payload.subarray(0, MAX_REASON)).replace(/[^\x20-\x7e]/g, '?');
}

/** u32 of a payload of exactly that, or -1. */
export function u32Of(payload: Uint8Array): number {
  return payload.length === 4 ? new DataView(payload.buffer, payload.byteOffset).getUint32(0, true) : -1;
}

export interface Welcome {
  readonly version: number;
  readonly vrings: number;
  readonly windowBytes: number;
  readonly identity: string;
}

const WELCOME_BYTES = 32;

export function welcomeMessage(vrings: number, windowBytes: number, identity: Uint8Array): Uint8Array {
  const payload = new Uint8Array(WELCOME_BYTES);
  const v = new DataView(payload.buffer);
  v.setUint32(0, WIRE_VERSION, true);
  v.setUint32(4, vrings, true);
  v.setBigUint64(8, BigInt(windowBytes), true);
  payload.set(identity.subarray(0, 16), 16);
  return controlMessage(Control.WELCOME, payload);
}

export function parseWelcome(payload: Uint8Array): Welcome | undefined {
  if (payload.length < WELCOME_BYTES) return undefined;
  const v = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const [lo, hi] = [v.getUint32(8, true), v.getUint32(12, true)];
  return {
    version: v.getUint32(0, true),
    vrings: v.getUint32(4, true),
    windowBytes: lo + hi * 0x1_0000_0000,
    identity: Buffer.from(payload.subarray(16, 32)).toString('hex'),
  };
}
