import { PciHost } from '../pci/host.ts';
import { EventLoop } from '../sys/event-loop.ts';
import { DeviceNames, type DiskChanges } from './attached-devices.ts';
import type { DeviceDisksOptions } from './device-disks.ts';
import { NvmeDisks } from './nvme-disks.ts';
import { VirtioDisks } from './virtio-disks.ts';

/** The drivers of both families of devices, and what they share. */
export interface DeviceFamilies {
  readonly loop: EventLoop;
  readonly host: PciHost;
  readonly nvme: NvmeDisks;
  readonly virtio: VirtioDisks;
}

export function deviceFamilies(changes: DiskChanges, options: DeviceDisksOptions): DeviceFamilies {
  const loop = new EventLoop({ spinMicroseconds: 0 });
  loop.attach();
  const host = new PciHost(loop, options);
  const { openNvme, openVirtio } = options;
  const names = new DeviceNames();
  // Devices of a test reach no physical memory.
  const nvme = new NvmeDisks(openNvme === undefined ? host : null, loop, changes, openNvme, names);
  const virtio = new VirtioDisks(openVirtio === undefined ? host : null, loop, changes, openVirtio, names);
  return { loop, host, nvme, virtio };
}
