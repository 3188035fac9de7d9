/** The compute VM: a stock QEMU whose guest has disk tools and gets its disks from a target. */
import { computeImage } from './images.ts';
import { Machine, type MachineOptions } from './machine.ts';
import { kernel } from './packages.ts';
import { type QemuKind, qemu } from './qemu.ts';
import { vmlinux } from './vmlinux.ts';

export interface ComputeOptions extends Omit<MachineOptions, 'qemu' | 'kernel'> {
  qemu: QemuKind;
  append?: string;
}

/** Fetches and builds what a compute VM needs, so that starting one is quick; returns QEMU's version. */
export async function prepareCompute(kind: QemuKind): Promise<string> {
  await vmlinux(await kernel());
  await computeImage();
  return (await qemu(kind)).version.join('.');
}

/** Starts a compute VM; its guest is only about to boot then. */
export async function startCompute(options: ComputeOptions): Promise<Machine> {
  const { append, ...rest } = options;
  const boot = { image: await vmlinux(await kernel()), initrd: [await computeImage()] };
  return Machine.start({
    ...rest,
    qemu: await qemu(options.qemu),
    kernel: append === undefined ? boot : { ...boot, append },
  });
}
