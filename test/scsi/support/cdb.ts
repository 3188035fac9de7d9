/** CDBs of the families that have the same form: opcode, flags, LBA, number of blocks. */

function be(value: number, bytes: number): string {
  return BigInt(value)
    .toString(16)
    .padStart(bytes * 2, '0');
}

/** @param flags byte 1 (10, 12 and 16 byte CDBs) */
export function rangeCdb(opcode: number, lba: number, blocks: number, flags = 0): string {
  const op = be(opcode, 1);
  switch (opcode >> 5) {
    case 0:
      return `${op + be(lba, 3) + be(blocks, 1)}00`;
    case 1:
    case 2:
      return `${op + be(flags, 1) + be(lba, 4)}00${be(blocks, 2)}00`;
    case 5:
      return `${op + be(flags, 1) + be(lba, 4) + be(blocks, 4)}0000`;
    default:
      return `${op + be(flags, 1) + be(lba, 8) + be(blocks, 4)}0000`;
  }
}

/** A parameter list of UNMAP. */
export function unmapList(ranges: readonly [lba: number, blocks: number][]): string {
  const body = ranges.map(([lba, blocks]) => `${be(lba, 8) + be(blocks, 4)}00000000`).join('');
  return `${be(6 + body.length / 2, 2) + be(body.length / 2, 2)}00000000${body}`;
}

/** A parameter list of PERSISTENT RESERVE OUT. */
export function prList(key: number, actionKey = 0, flags = 0): string {
  return `${be(key, 8) + be(actionKey, 8)}00000000${be(flags, 1)}000000`;
}

/** A PERSISTENT RESERVE OUT CDB. */
export function prOutCdb(action: number, type = 0, length = 24): string {
  return `5f${be(action, 1)}${be(type, 1)}0000${be(length, 4)}00`;
}
