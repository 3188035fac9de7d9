/**
 * A raw disk image that a PC firmware boots: master boot record, one FAT partition, SYSLINUX, kernel and first root. Its
 * guest is the compute VM's, so it takes commands like any other; only the way it was loaded differs.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { computeImage } from './images.ts';
import { guestTools, kernel, unpackedProgram } from './packages.ts';
import { scratchFolder } from './paths.ts';
import { run } from './process.ts';

const SECTOR = 512;
const PARTITION_START = 2048;
const SIZE = 96 * 2 ** 20;
const FAT16_LBA = 0x0e;
const MBR_CODE_BYTES = 440;

/** Boot loader code, one active partition, signature. The cylinder fields say "use the sector numbers". */
function masterBootRecord(code: Buffer, startSector: number, sectors: number): Buffer {
  const mbr = Buffer.alloc(SECTOR);
  code.copy(mbr, 0, 0, MBR_CODE_BYTES);
  const entry = 446;
  mbr.set([0x80, 0xfe, 0xff, 0xff, FAT16_LBA, 0xfe, 0xff, 0xff], entry);
  mbr.writeUInt32LE(startSector, entry + 8);
  mbr.writeUInt32LE(sectors, entry + 12);
  mbr.writeUInt16LE(0xaa55, 510);
  return mbr;
}

/** Writes the image; `append` is added to the kernel's command line, so that the guest can tell where it came from. */
export async function writeBootDisk(path: string, append = ''): Promise<void> {
  const root = await guestTools();
  const tool = async (name: string, args: string[]) => {
    const { command, prefixArgs, env } = unpackedProgram(root, `usr/bin/${name}`);
    // mtools would refuse a partition whose geometry does not look like a floppy's.
    await run(command, [...prefixArgs, ...args], { env: { ...env, MTOOLS_SKIP_CHECK: '1' } });
  };
  const sectors = SIZE / SECTOR - PARTITION_START;
  const fd = openSync(path, 'w');
  ftruncateSync(fd, SIZE);
  const code = readFileSync(join(root, 'usr/lib/syslinux/mbr/mbr.bin'));
  writeSync(fd, masterBootRecord(code, PARTITION_START, sectors));
  closeSync(fd);

  const scratch = scratchFolder('boot-disk');
  try {
    const configuration = join(scratch.path, 'syslinux.cfg');
    const line = `console=ttyS0 quiet mitigations=off no_timer_check ${append}`;
    writeFileSync(
      configuration,
      `SERIAL 0 115200\nDEFAULT linux\nLABEL linux\n  KERNEL vmlinuz\n  INITRD initrd\n  APPEND ${line}\n`,
    );
    const partition = ['-i', `${path}@@${PARTITION_START * SECTOR}`];
    const geometry = ['-T', String(sectors), '-h', '255', '-s', '63', '-H', String(PARTITION_START)];
    await tool('mformat', [...partition, ...geometry, '-v', 'VVUBOOT', '::']);
    await tool('mcopy', [...partition, (await kernel()).bzImage, '::vmlinuz']);
    await tool('mcopy', [...partition, await computeImage(), '::initrd']);
    await tool('mcopy', [...partition, configuration, '::syslinux.cfg']);
    await tool('syslinux', ['--offset', String(PARTITION_START * SECTOR), '--install', path]);
  } finally {
    scratch.remove();
  }
}
