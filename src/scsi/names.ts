/**
 * Names that must be stable: identifiers made from the disk's uuid and from initiators' names.
 */

export interface Name64 {
  readonly hi: number;
  readonly lo: number;
}

/** FNV-1a with a final mix, 32 bits. */
function hash32(text: string, seed: number): number {
  let h = 0x811c9dc5 ^ seed;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/**
 * An NAA identifier of type 3h, locally assigned (SPC-4 7.8.6.6.4): valid without a company id, which this project
 * has not. 60 bits of hash.
 */
export function localNaa(text: string): Name64 {
  return { hi: (0x3000_0000 | (hash32(text, 0x5bd1e995) & 0x0fff_ffff)) >>> 0, lo: hash32(text, 0x2545f491) };
}

/** An initiator port's identifier: virtio gives it none, so one is made from the name the target knows it by. */
export function initiatorId(name: string): Name64 {
  return localNaa(`initiator:${name}`);
}

/** The 16 bytes of a uuid's text form; a hash of the text when it is not one. */
export function uuidBytes(uuid: string): Uint8Array {
  const hex = uuid.replaceAll('-', '');
  const bytes = new Uint8Array(16);
  if (/^[0-9a-fA-F]{32}$/.test(hex)) {
    for (let i = 0; i < 16; i++) bytes[i] = Number.parseInt(hex.slice(2 * i, 2 * i + 2), 16);
  } else {
    for (let i = 0; i < 4; i++) new DataView(bytes.buffer).setUint32(4 * i, hash32(uuid, i + 1));
  }
  return bytes;
}
