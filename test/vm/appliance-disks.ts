/**
 * The appliance's own disks in one access mode: bound by `setup`, driven by the target's code, compared from outside.
 */
import { createHash } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ApplianceMachine, HUGEPAGES, startAppliance } from '../../vm/appliance.ts';
import type { Machine } from '../../vm/machine.ts';
import { scratchFolder } from '../../vm/paths.ts';

export const CLI = 'node /opt/vvu-target/dist/cli/main.js';
const EXERCISE = '/opt/test/exercise.mjs';

export interface Exercised {
  error?: string;
  told: string[];
  attached: Record<string, unknown>[];
  disks: {
    name: string;
    product: string;
    blockSize: number;
    numBlocks: number;
    counts: Record<string, number>;
    wrong: string[];
    zeroCopy: boolean;
    bounced: number;
    requests: number;
    ms: number;
    sha256: string;
  }[];
}

export interface Appliance {
  vm: Machine;
  images: string[];
  /** PCI addresses by kind, as lspci would show them. */
  addresses(classCode: string): Promise<string[]>;
  exercise(options: Record<string, unknown>): Promise<Exercised>;
  close(): Promise<void>;
}

/** An empty image; sparse. */
export function image(folder: string, name: string, mebibytes: number): string {
  const path = join(folder, name);
  const fd = openSync(path, 'w');
  ftruncateSync(fd, mebibytes * 2 ** 20);
  closeSync(fd);
  return path;
}

export function sha256(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

/** Boots an appliance with these disks, ready for `setup`. @param hugepages of 2 MiB; 0: none */
export async function appliance(
  options: Partial<ApplianceMachine> & { mebibytes?: number; hugepages?: number; vfio?: string },
): Promise<Appliance> {
  const scratch = scratchFolder('appliance');
  const { mebibytes = 16, hugepages = 64, vfio, nvme = ['nvme0.img'], virtioScsi = [], ...rest } = options;
  const nvmeImages = nvme.map((name) => image(scratch.path, name, mebibytes));
  const scsiImages = virtioScsi.map((name) => image(scratch.path, name, mebibytes));
  const vm = await startAppliance({
    qemu: 'system',
    memoryMiB: 1024,
    ...rest,
    nvme: nvmeImages,
    virtioScsi: scsiImages,
    image: {
      ...rest.image,
      files: { [EXERCISE]: join(import.meta.dirname, 'guest/exercise.mjs'), ...rest.image?.files },
    },
  });
  try {
    await vm.booted();
    if (hugepages > 0) await vm.run(HUGEPAGES(hugepages));
    if (vfio !== undefined) await vm.run(vfio);
  } catch (error) {
    await vm.close();
    scratch.remove();
    throw error;
  }
  return {
    vm,
    images: [...nvmeImages, ...scsiImages],
    async addresses(classCode) {
      const found = await vm.run(
        `cd /sys/bus/pci/devices; for d in *; do grep -q '^${classCode}' $d/class && echo $d; done; true`,
      );
      return found
        .trim()
        .split('\n')
        .filter((line) => line !== '');
    },
    async exercise(what) {
      const { output } = await vm.try(`node ${EXERCISE} '${JSON.stringify(what)}' 2>&1`, 900);
      const line = /^RESULT (.*)$/m.exec(output);
      if (line === null) throw new Error(`the exercise said: ${output}`);
      return JSON.parse(line[1] as string) as Exercised;
    },
    async close() {
      await vm.close();
      scratch.remove();
    },
  };
}
