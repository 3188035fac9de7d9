/**
 * A raw disk image that a PC firmware boots: GRUB in front of one ext2 partition with a kernel and its first root. The
 * guest is the compute VM's, so it takes commands like any other; only the way it was loaded differs.
 *
 * Why GRUB: an emulated CPU (QEMU's TCG) keeps translated code until it sees a write to it, and it does not see what
 * another process, such as our target, writes into the guest's memory. A boot loader that lets the disk write the next
 * stage over the running one, as most do, would go on with the old code. GRUB reads into a buffer and copies by CPU.
 */
import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { computeImage } from './images.ts';
import { guestTools, kernel, unpackedProgram } from './packages.ts';
import { scratchFolder } from './paths.ts';
import { run } from './process.ts';

const SECTOR = 512;
const PARTITION_START = 2048;
const SIZE = 96 * 2 ** 20;
const LINUX = 0x83;
const MBR_CODE_BYTES = 440;

/** What the image must carry to read a kernel from an ext2 partition and to say on the console what goes wrong. */
const GRUB_MODULES = ['biosdisk', 'part_msdos', 'ext2', 'linux', 'serial', 'terminal'];

/** Boot loader code, one active partition, signature. The cylinder fields say "use the sector numbers". */
function masterBootRecord(code: Buffer, startSector: number, sectors: number): Buffer {
  const mbr = Buffer.alloc(SECTOR);
  code.copy(mbr, 0, 0, MBR_CODE_BYTES);
  const entry = 446;
  mbr.set([0x80, 0xfe, 0xff, 0xff, LINUX, 0xfe, 0xff, 0xff], entry);
  mbr.writeUInt32LE(startSector, entry + 8);
  mbr.writeUInt32LE(sectors, entry + 12);
  mbr.writeUInt16LE(0xaa55, 510);
  return mbr;
}

/** Writes the image; `append` is added to the kernel's command line, so that the guest can tell where it came from. */
export async function writeBootDisk(path: string, append = ''): Promise<void> {
  const root = await guestTools();
  const tool = (program: string, args: string[]) => {
    const { command, prefixArgs, env } = unpackedProgram(root, program);
    return run(command, [...prefixArgs, ...args], { env });
  };
  const scratch = scratchFolder('boot-disk');
  try {
    const configuration = join(scratch.path, 'grub.cfg');
    const line = `console=ttyS0 quiet mitigations=off no_timer_check ${append}`;
    writeFileSync(
      configuration,
      `serial --unit=0\nterminal_output serial\nset root=(hd0,msdos1)\nlinux /vmlinuz ${line}\ninitrd /initrd\nboot\n`,
    );
    const grub = join(root, 'usr/lib/grub/i386-pc');
    const core = join(scratch.path, 'core.img');
    const target = ['-O', 'i386-pc', '-d', grub, '-p', '/', '-c', configuration, '-o', core];
    await tool('usr/bin/grub-mkimage', [...target, ...GRUB_MODULES]);

    // boot.img loads the sector behind it, and that one the rest, by the lists they are made with.
    const coreBytes = readFileSync(core);
    if (coreBytes.length > (PARTITION_START - 1) * SECTOR) throw new Error('GRUB does not fit before the partition');
    const sectors = SIZE / SECTOR - PARTITION_START;
    const fd = openSync(path, 'w');
    ftruncateSync(fd, SIZE);
    writeSync(fd, masterBootRecord(readFileSync(join(grub, 'boot.img')), PARTITION_START, sectors));
    writeSync(fd, coreBytes, 0, coreBytes.length, SECTOR);
    closeSync(fd);

    const files = join(scratch.path, 'files');
    mkdirSync(files);
    writeFileSync(join(files, 'vmlinuz'), readFileSync((await kernel()).bzImage));
    // What comes through the firmware's small reads is slow to load; the kernel unpacks it.
    writeFileSync(join(files, 'initrd'), gzipSync(readFileSync(await computeImage())));
    const place = ['-E', `offset=${PARTITION_START * SECTOR},root_owner=0:0`, '-d', files];
    await tool('usr/sbin/mke2fs', ['-q', '-F', '-t', 'ext2', ...place, path, `${(sectors * SECTOR) / 1024}k`]);
  } finally {
    scratch.remove();
  }
}
