/**
 * The kernel module `vfio` with VFIO's no-IOMMU mode, which Debian's kernels leave out (CONFIG_VFIO_NOIOMMU). It is built
 * from Debian's own source of the guests' kernel, with that one option on, and takes the place of the module in a guest.
 *
 * All code that the option adds lies in the files of this module, and no structure that other modules see depends on it.
 * So vfio-pci and the type 1 driver stay Debian's; the kernel's symbol checksums refuse the module if that ever changes.
 */
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { exclusively } from './lock.ts';
import { kernel, kernelBuildTools, libraryFolders } from './packages.ts';
import { cachePath } from './paths.ts';
import { run } from './process.ts';
import { progress } from './progress.ts';

/** Read by kbuild after the source's own Makefile (renamed): the same objects for vfio.ko, and no other module. */
const MAKEFILE = `include $(src)/Makefile.source
obj-y :=
obj-m := vfio.o
ccflags-y += -DCONFIG_VFIO_NOIOMMU=1
`;

/** Paths of rebuilt modules by name, for `ApplianceOptions.modules`. */
export async function noIommuModules(): Promise<{ vfio: string }> {
  const root = await kernelBuildTools();
  const { version } = await kernel();
  const recipe = createHash('sha256')
    .update(readFileSync(import.meta.filename))
    .update(readFileSync(`${root}.stamp`));
  const built = cachePath('modules', `vfio-noiommu-${version}-${recipe.digest('hex').slice(0, 16)}.ko`);
  await exclusively('noiommu-module', async () => {
    if (existsSync(built)) return;
    progress(`building vfio.ko with CONFIG_VFIO_NOIOMMU for ${version}`);
    const folder = await unpackSource(root);
    await make(root, version, folder);
    copyFileSync(join(folder, 'vfio.ko'), `${built}.new`);
    renameSync(`${built}.new`, built);
    rmSync(folder, { recursive: true });
  });
  return { vfio: built };
}

/** The source's folder drivers/vfio, without those below it, with our Makefile. */
async function unpackSource(root: string): Promise<string> {
  const sources = join(root, 'usr/src');
  const archive = readdirSync(sources).find((name) => /^linux-source-[\d.]+\.tar\.xz$/.test(name));
  if (archive === undefined) throw new Error(`no kernel source under ${sources}`);
  const folder = cachePath('modules', 'vfio', 'Makefile').replace(/\/Makefile$/, '');
  rmSync(folder, { recursive: true, force: true });
  const top = archive.replace(/\.tar\.xz$/, '');
  const into = cachePath('modules', 'vfio', 'Makefile');
  const only = ['--strip-components=3', '--wildcards', '--no-wildcards-match-slash', `${top}/drivers/vfio/*`];
  await run('tar', ['-xJf', join(sources, archive), '-C', join(into, '..'), '--no-same-owner', ...only]);
  renameSync(into, `${into}.source`);
  writeFileSync(into, MAKEFILE);
  return folder;
}

async function make(root: string, version: string, folder: string): Promise<void> {
  const headers = join(root, 'usr/src', `linux-headers-${version}`);
  // The headers' Makefile names the place where the package would be installed.
  const path = join(headers, 'Makefile');
  writeFileSync(path, readFileSync(path, 'utf8').replace(/^include \/usr\/src\//gm, `include ${root}/usr/src/`));
  const env = {
    PATH: `${join(root, 'usr/bin')}:${process.env['PATH']}`,
    LD_LIBRARY_PATH: libraryFolders(root).join(':'),
    LC_ALL: 'C',
  };
  // Type information for the module would take one more program, and nothing here reads it.
  const options = [`M=${folder}`, 'CONFIG_DEBUG_INFO_BTF_MODULES=', 'modules'];
  await run(join(root, 'usr/bin/make'), ['-C', headers, ...options], { env });
  await run(join(root, 'usr/bin/strip'), ['-d', join(folder, 'vfio.ko')], { env });
}
