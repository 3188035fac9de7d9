/**
 * `npm run vm:setup`: fetches and builds all that demo and VM tests need, ahead of their first run. They would do it
 * themselves; this is for a machine that shall be prepared while it has a network.
 */
import { accelerator } from './accelerator.ts';
import { applianceImage, computeImage } from './images.ts';
import { kernel } from './packages.ts';
import { CACHE } from './paths.ts';
import { qemu } from './qemu.ts';
import { ensureBuilt } from './target-process.ts';
import { vmlinux } from './vmlinux.ts';

await ensureBuilt();
await vmlinux(await kernel());
await computeImage();
await applianceImage();
const versions = [await qemu('system'), await qemu('11')].map((found) => found.version.join('.'));
console.log(
  `ready: Linux ${(await kernel()).version}, QEMU ${versions.join(' and ')}, ${await accelerator()}, in ${CACHE}`,
);
