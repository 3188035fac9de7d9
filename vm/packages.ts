/**
 * What the rig takes from Debian: a kernel and tools for the guests, and QEMU. Each is a package set that is fetched on
 * first use; `apt.ts` says how.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { unpackedPackages } from './apt.ts';
import { debianMirror } from './apt-sources.ts';

/**
 * Programs for the guests and for making disk images. They come with their own libc, so what a guest runs does not
 * depend on the machine that built it.
 */
export function guestTools(): Promise<string> {
  return unpackedPackages({
    name: 'guest',
    sources: debianMirror().own,
    packages: [
      ['linux-image-6.12-cloud-amd64', 'linux-image-cloud-amd64'],
      ['busybox-static'],
      ['bash'],
      ['lsscsi'],
      ['sg3-utils'],
      ['fio'],
      ['libiscsi-bin'],
      ['xfsprogs'],
      ['e2fsprogs'],
      ['xz-utils'],
      ['zstd'],
      ['grub-pc-bin'],
    ],
    // Storage clients that fio and libiscsi are linked with and no guest of ours uses (see elf.ts), and what belongs to
    // an installed system.
    pretend: [
      ...['libgfapi0', 'libnbd0', 'libpmem1', 'libpmemblk1', 'librados2', 'librbd1', 'libibverbs1', 'librdmacm1'],
      ...['libefiboot1', 'libefiboot1t64', 'libefivar1', 'libefivar1t64', 'libfreetype6', 'libfuse2', 'libfuse2t64'],
      ...[
        'libfuse3-3',
        'libfuse3-4',
        'gettext-base',
        'librdmacm1t64',
        'libpmem2',
        'libnfs14',
        'libicu72',
        'libicu76',
        'libicu78',
      ],
      ...[
        'python3',
        'python3-dbus',
        'init-system-helpers',
        'initramfs-tools',
        'linux-base',
        'kmod',
        'logsave',
        'debconf',
        'base-files',
        'debianutils',
      ],
    ],
  });
}

export interface Kernel {
  version: string;
  bzImage: string;
  /** The folder with the modules and `modules.builtin`. */
  modules: string;
}

export async function kernel(): Promise<Kernel> {
  const root = await guestTools();
  const version = readdirSync(join(root, 'usr/lib/modules')).sort().pop();
  if (version === undefined) throw new Error(`no kernel modules under ${root}`);
  return {
    version,
    bzImage: join(root, 'boot', `vmlinuz-${version}`),
    modules: join(root, 'usr/lib/modules', version),
  };
}

/**
 * What modules for the guests' kernel are built with: its headers, its source, a compiler, make. About 220 MiB to fetch, so
 * only what is asked for by name needs it.
 */
export async function kernelBuildTools(): Promise<string> {
  const { version } = await kernel();
  const series = /^\d+\.\d+/.exec(version)?.[0];
  return unpackedPackages({
    name: 'kernel-build',
    sources: debianMirror().own,
    packages: [[`linux-headers-${version}`], [`linux-source-${series}`], ['make']],
    // The machine's own C library serves the compiler: two of them in one process do not mix.
    pretend: ['libc6', `linux-image-${version}`],
  });
}

/** The folders with the shared libraries of an unpacked package tree. */
export function libraryFolders(root: string): string[] {
  const folders = [join(root, 'usr/lib/x86_64-linux-gnu'), join(root, 'usr/lib')];
  // Some packages keep private libraries one level down and point there by an rpath, which a moved tree defeats.
  for (const entry of readdirSync(folders[0], { withFileTypes: true })) {
    const path = join(folders[0], entry.name);
    if (entry.isDirectory() && readdirSync(path).some((name) => /\.so\.\d/.test(name))) folders.push(path);
  }
  return folders.filter((folder) => existsSync(folder));
}

export interface Command {
  command: string;
  prefixArgs: string[];
  env: Record<string, string>;
}

/** How to run a program of an unpacked tree: through that tree's own loader and libraries. */
export function unpackedProgram(root: string, path: string): Command {
  return {
    command: join(root, 'usr/lib64/ld-linux-x86-64.so.2'),
    prefixArgs: ['--library-path', libraryFolders(root).join(':'), join(root, path)],
    env: { PATH: `${join(root, 'usr/bin')}:${join(root, 'usr/sbin')}:${process.env['PATH']}` },
  };
}
