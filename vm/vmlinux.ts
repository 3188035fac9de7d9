/**
 * Takes the kernel's ELF image out of a bzImage (x86 boot protocol, `payload_offset` and `payload_length`). QEMU starts
 * it directly (PVH), which spares an emulated CPU the unpacking: about 3 seconds a boot.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { decompress } from './decompress.ts';
import { exclusively } from './lock.ts';
import type { Kernel } from './packages.ts';
import { cachePath } from './paths.ts';

const SETUP_SECTS = 0x1f1;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const SECTOR = 512;

export async function extractVmlinux(bzImage: Buffer): Promise<Buffer> {
  if (bzImage.toString('latin1', 0x202, 0x206) !== 'HdrS') throw new Error('not a bzImage');
  // Zero stands for 4 (x86 boot protocol, "setup_sects").
  const protectedMode = ((bzImage[SETUP_SECTS] || 4) + 1) * SECTOR;
  const start = protectedMode + bzImage.readUInt32LE(PAYLOAD_OFFSET);
  const payload = bzImage.subarray(start, start + bzImage.readUInt32LE(PAYLOAD_LENGTH));
  // The last four bytes are the unpacked size: gzip's own trailer, or put behind the other formats' stream.
  const size = payload.readUInt32LE(payload.length - 4);
  const elf = await decompress(payload[0] === 0x1f ? payload : payload.subarray(0, -4));
  if (elf.length !== size || elf.toString('latin1', 1, 4) !== 'ELF') {
    throw new Error('the bzImage is compressed in an unknown way');
  }
  return elf;
}

/** Path of the ELF image of a kernel, in the cache. */
export async function vmlinux(kernel: Kernel): Promise<string> {
  const path = cachePath('images', `vmlinux-${kernel.version}`);
  await exclusively('vmlinux', async () => {
    if (existsSync(path)) return;
    writeFileSync(`${path}.new`, await extractVmlinux(readFileSync(kernel.bzImage)));
    renameSync(`${path}.new`, path);
  });
  return path;
}
