/** A machine's devices in plain memory, as the target finds them by their PCI addresses: NVMe controllers and virtio-scsi adapters. */

import type { DeviceDisksOptions } from '../../src/bdev/device-disks.ts';
import { BdevError } from '../../src/bdev/errors.ts';
import type { EventLoop } from '../../src/sys/event-loop.ts';
import { FakeVirtioScsi } from '../bdev/fake-virtio-scsi.ts';
import { FakeNvme, type FakeOptions } from '../nvme/fake-controller.ts';
import { FakeDma } from './fake-dma.ts';

export const NVME = '0000:00:06.0';
export const HBA = '0000:00:05.0';

export class FakeDevices {
  readonly dma = new FakeDma();
  readonly nvme: FakeNvme;
  readonly hba: FakeVirtioScsi;
  /** Addresses that the target has taken and not given back. */
  readonly taken = new Set<string>();
  private readonly timer: NodeJS.Timeout;

  /** One controller; one adapter with a disk of 512 KiB at target 0. */
  constructor(options: FakeOptions = {}) {
    this.nvme = new FakeNvme(this.dma, options);
    this.hba = new FakeVirtioScsi(this.dma);
    this.hba.addDisk(0, 0);
    this.timer = setInterval(() => this.step(), 1);
  }

  step(): void {
    this.nvme.step();
    this.hba.step();
  }

  /** Also while somebody turns this loop and waits. */
  stepWith(loop: EventLoop): void {
    const poll = () => {
      this.step();
      return 0;
    };
    loop.addPoller({ poll, arm: () => true, disarm: () => {} });
  }

  get options(): DeviceDisksOptions {
    return {
      openNvme: (bdf) => ({ device: this.take(bdf, NVME, this.nvme), mode: 'fake', release: () => this.give(bdf) }),
      openVirtio: ({ traddr }) => ({ transport: this.take(traddr, HBA, this.hba), release: () => this.give(traddr) }),
    };
  }

  private take<T>(bdf: string, here: string, device: T): T {
    if (bdf !== here) throw new BdevError('ENODEV', `${bdf}: no such PCI function`, 'traddr');
    if (this.taken.has(bdf)) throw new BdevError('EBUSY', `${bdf}: this process drives it already`, 'traddr');
    this.taken.add(bdf);
    return device;
  }

  private give(bdf: string): void {
    this.taken.delete(bdf);
  }

  /** What is wrong with the way they were left. */
  get leftovers(): string[] {
    return [
      ...[...this.taken].map((bdf) => `${bdf} was not given back`),
      ...(this.nvme.master ? ['the NVMe controller may still write to memory'] : []),
      ...(this.hba.running ? ['the adapter still runs'] : []),
      ...(this.dma.allocated > 0 ? [`${this.dma.allocated} pieces of DMA memory are not freed`] : []),
      ...this.dma.violations,
    ];
  }

  close(): void {
    clearInterval(this.timer);
  }
}
