/**
 * Undoes whichever compression a kernel image or module has, told by its first bytes. The programs for what this Node
 * cannot do come with the guests' packages.
 */
import { gunzipSync } from 'node:zlib';
import { guestTools, unpackedProgram } from './packages.ts';
import { run } from './process.ts';

const FORMATS = [
  { magic: [0x28, 0xb5, 0x2f, 0xfd], program: 'usr/bin/zstd', args: ['-dcq'] },
  { magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], program: 'usr/bin/xz', args: ['-dcq', '--single-stream'] },
] as const;

/** Bytes that carry no known mark are returned as they are. */
export async function decompress(bytes: Buffer): Promise<Buffer> {
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) return gunzipSync(bytes);
  for (const { magic, program, args } of FORMATS) {
    if (!magic.every((byte, i) => bytes[i] === byte)) continue;
    const { command, prefixArgs, env } = unpackedProgram(await guestTools(), program);
    return run(command, [...prefixArgs, ...args], { input: bytes, env });
  }
  return bytes;
}
