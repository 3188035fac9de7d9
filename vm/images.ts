/**
 * The guests' root file systems, as initramfs archives: a compute VM with disk tools, and an appliance VM with Node.
 * An archive is built once for a given recipe and kept; what a run adds to it is a second, small archive that the
 * kernel unpacks over the first.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FileTree } from './cpio.ts';
import { addModules } from './kernel-modules.ts';
import { exclusively } from './lock.ts';
import { guestTools, kernel, libraryFolders } from './packages.ts';
import { cachePath } from './paths.ts';
import { run } from './process.ts';
import { addProgram } from './programs.ts';
import { progress } from './progress.ts';

const HERE = import.meta.dirname;

/** Loaded by init, in this order. The rest is loaded when asked for (modprobe, or mount of a file system). */
const COMPUTE_LOADS = ['virtio_scsi', 'sd_mod', 'sg'];
const COMPUTE_MODULES = [...COMPUTE_LOADS, 'virtio_blk', 'xfs', 'crc32c_intel'];
const APPLIANCE_MODULES = ['virtio_scsi', 'sd_mod', 'sg', 'virtio_blk', 'vfio_pci', 'vfio_iommu_type1', 'virtio_net'];

/** Network storage clients that the disk tools are linked with (elf.ts: removeLibraries). */
const UNWANTED = /^lib(gfapi|nbd|pmem|pmemblk|pmem2|rados|rbd|ibverbs|rdmacm|nfs)\b/;

/** Programs of the disk tools' packages, by their path in the guest. */
const COMPUTE_PROGRAMS = [
  /^usr\/bin\/(fio|lsscsi|iscsi-test-cu|iscsi-inq)$/,
  /^usr\/bin\/sg_\w+$/,
  /^usr\/sbin\/(mke2fs|e2fsck|dumpe2fs|mkfs\.xfs|xfs_repair|xfs_io)$/,
];
const LINKS: Record<string, string> = {
  'usr/sbin/mkfs.ext4': 'mke2fs',
  'usr/sbin/mkfs.ext2': 'mke2fs',
  'usr/sbin/fsck.ext4': 'e2fsck',
};

/** What every guest has: busybox for the small things, bash, our init. */
async function baseTree(hostname: string, loads: string[]): Promise<FileTree> {
  const root = await guestTools();
  const tree = new FileTree();
  for (const name of ['dev', 'proc', 'sys', 'run', 'root', 'mnt', 'etc', 'usr/bin', 'usr/sbin', 'var/tmp']) {
    tree.folder(name);
  }
  tree.folder('tmp', 0o1777);
  tree.characterDevice('dev/console', 5, 1);
  tree.characterDevice('dev/null', 1, 3, 0o666);
  const busybox = join(root, 'usr/bin/busybox');
  tree.file('bin/busybox', readFileSync(busybox), 0o755);
  for (const applet of (await run(busybox, ['--list'])).toString().trim().split('\n')) {
    if (applet !== 'busybox') tree.link(`bin/${applet}`, 'busybox');
  }
  // The kernel calls modprobe by this path, e.g. to mount a file system it has as a module.
  tree.link('sbin/modprobe', '/bin/busybox');
  addProgram(tree, join(root, 'usr/bin/bash'), 'usr/bin/bash', { folders: libraryFolders(root) });
  tree.link('bin/bash', '/usr/bin/bash');
  tree.link('bin/sh', '/usr/bin/bash');
  tree.file('init', readFileSync(join(HERE, 'guest/init')), 0o755);
  tree.file('usr/sbin/console-shell', readFileSync(join(HERE, 'guest/console-shell')), 0o755);
  tree.file('etc/modules', loads.map((name) => `${name}\n`).join(''));
  tree.file('etc/bashrc', "PS1='\\h:\\w\\$ '\nalias ll='ls -l'\n");
  tree.file('etc/hostname', `${hostname}\n`);
  tree.file('etc/passwd', 'root:x:0:0:root:/root:/bin/bash\n');
  tree.file('etc/group', 'root:x:0:\n');
  tree.file('etc/nsswitch.conf', 'passwd: files\ngroup: files\nhosts: files\n');
  tree.file('etc/hosts', '127.0.0.1 localhost\n');
  // mount without a type tries these; the kernel lists only file systems that are loaded.
  tree.file('etc/filesystems', 'ext4\nxfs\n');
  tree.link('etc/mtab', '/proc/mounts');
  return tree;
}

function addDiskTools(tree: FileTree, root: string): void {
  const options = { folders: libraryFolders(root), unwanted: (name: string) => UNWANTED.test(name) };
  for (const folder of ['usr/bin', 'usr/sbin']) {
    for (const name of readdirSync(join(root, folder)).sort()) {
      const path = join(folder, name);
      if (COMPUTE_PROGRAMS.some((pattern) => pattern.test(path))) addProgram(tree, join(root, path), path, options);
    }
  }
  for (const [path, target] of Object.entries(LINKS)) tree.link(path, target);
  const configuration = join(root, 'etc/mke2fs.conf');
  if (existsSync(configuration)) tree.file('etc/mke2fs.conf', readFileSync(configuration));
}

/** Archives of recipes that changed since would pile up; a day without a change keeps those in use by anyone else. */
function forgetOld(): void {
  const folder = cachePath('images', '.');
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    const day = 24 * 3600_000;
    if (name.endsWith('.cpio') && Date.now() - statSync(path).mtimeMs > day) rmSync(path);
  }
}

/** Builds once for a recipe: the bytes of this folder's files, the packages and `extra`. */
async function cached(name: string, extra: unknown, build: () => Promise<FileTree>): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(extra));
  hash.update(readFileSync(join(await guestTools(), '..', 'guest.stamp')));
  for (const file of [
    'images.ts',
    'programs.ts',
    'elf.ts',
    'cpio.ts',
    'kernel-modules.ts',
    'guest/init',
    'guest/console-shell',
  ]) {
    hash.update(readFileSync(join(HERE, file)));
  }
  const path = cachePath('images', `${name}-${hash.digest('hex').slice(0, 16)}.cpio`);
  await exclusively(`image-${name}`, async () => {
    if (existsSync(path)) return;
    progress(`building the ${name} image`);
    forgetOld();
    const tree = await build();
    writeFileSync(`${path}.new`, tree.toCpio());
    renameSync(`${path}.new`, path);
  });
  return path;
}

/** Path of the compute VM's initramfs: disk tools, virtio-scsi. */
export function computeImage(): Promise<string> {
  return cached('compute', [COMPUTE_LOADS, COMPUTE_MODULES], async () => {
    const root = await guestTools();
    const tree = await baseTree('compute', COMPUTE_LOADS);
    addDiskTools(tree, root);
    await addModules(tree, await kernel(), COMPUTE_MODULES);
    return tree;
  });
}

export interface ApplianceOptions {
  /** Modules that init loads, e.g. `vfio_pci` or `vfio enable_unsafe_noiommu_mode=1`. Default: none. */
  loads?: string[];
  /** A file of the machine for each path in the guest; a folder is copied whole. */
  files?: Record<string, string>;
  /** Paths of kernel modules to take instead of the kernel's own, by name. */
  modules?: Record<string, string>;
}

/** The folders in which this machine's Node finds its libraries. */
async function nodeLibraryFolders(): Promise<string[]> {
  const listed = (await run('ldd', [process.execPath])).toString();
  return [...new Set([...listed.matchAll(/(\/\S+)\/[^/\s]+ \(0x/g)].map((match) => match[1]))];
}

/**
 * Paths of the appliance VM's initramfs archives, in order: the system with this machine's Node and the disk tools, and
 * the given files over it.
 */
export async function applianceImage(options: ApplianceOptions = {}): Promise<string[]> {
  const loads = options.loads ?? [];
  const recipe = { loads, node: process.version, modules: options.modules ?? {} };
  const base = await cached('appliance', recipe, async () => {
    const root = await guestTools();
    const tree = await baseTree('appliance', loads);
    addProgram(tree, process.execPath, 'usr/bin/node', { folders: await nodeLibraryFolders() });
    addDiskTools(tree, root);
    const replace = Object.entries(options.modules ?? {}).map(([name, path]) => [name, readFileSync(path)]);
    await addModules(tree, await kernel(), APPLIANCE_MODULES, Object.fromEntries(replace));
    return tree;
  });
  if (options.files === undefined) return [base];
  return [base, overlay(options.files)];
}

/** An archive of some files of the machine, named by its content. */
export function overlay(files: Record<string, string>): string {
  const tree = new FileTree();
  for (const [path, source] of Object.entries(files)) tree.copy(source, path);
  const archive = tree.toCpio();
  const path = cachePath('images', `over-${createHash('sha256').update(archive).digest('hex').slice(0, 16)}.cpio`);
  if (!existsSync(path)) {
    writeFileSync(`${path}.${process.pid}`, archive);
    renameSync(`${path}.${process.pid}`, path);
  }
  return path;
}

/** The project as the appliance runs it: the built program and the packages it needs at run time. */
export function projectFiles(project: string, at = '/opt/vvu-target'): Record<string, string> {
  const files: Record<string, string> = {
    [`${at}/dist`]: join(project, 'dist'),
    [`${at}/package.json`]: join(project, 'package.json'),
  };
  const wanted = Object.keys(JSON.parse(readFileSync(join(project, 'package.json'), 'utf8')).dependencies ?? {});
  for (let name = wanted.pop(); name !== undefined; name = wanted.pop()) {
    const folder = join(project, 'node_modules', name);
    if (files[`${at}/node_modules/${name}`] !== undefined || !existsSync(folder)) continue;
    files[`${at}/node_modules/${name}`] = folder;
    const { dependencies, optionalDependencies } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
    wanted.push(...Object.keys({ ...dependencies, ...optionalDependencies }));
  }
  return files;
}
