import { ERRNO, SysError } from '../sys/errno.ts';
import { type Fd, ioctl, ioctlResult } from '../sys/fd.ts';
import {
  capabilityChain,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_DEVICE_INFO,
  VFIO_GROUP_FLAGS_VIABLE,
  VFIO_GROUP_STATUS,
  VFIO_IOCTL,
  VFIO_IRQ_INFO,
  VFIO_IRQ_SET,
  VFIO_REGION_CAP_SPARSE_MMAP,
  VFIO_REGION_FLAG_MMAP,
  VFIO_REGION_INFO,
  VfioIrqSet,
} from './vfio-layout.ts';

/** The ioctls of a VFIO device, as functions with checked results. What the kernel answers is believed. */

/** How structures reach the kernel; tests put a fake kernel here. 0 or more, or the negative errno. */
export type Ioctl = (fd: Fd, request: number, arg: Uint8Array | number) => number;

function structure(size: number): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, size, true); // argsz comes first in all of them
  return { bytes, view };
}

export interface VfioRegion {
  readonly index: number;
  readonly size: number;
  /** Offset of the region in the device's descriptor. */
  readonly offset: number;
  readonly mappable: boolean;
  /** Parts that can be mapped; empty: all of it. */
  readonly areas: readonly { offset: number; size: number }[];
}

export class VfioDevice {
  readonly fd: Fd;
  readonly canReset: boolean;
  private readonly bdf: string;
  private readonly call: Ioctl;

  /** @throws Error when it is no PCI device */
  constructor(fd: Fd, bdf: string, call: Ioctl = ioctlResult) {
    this.fd = fd;
    this.bdf = bdf;
    this.call = call;
    const at = VFIO_DEVICE_INFO.fields;
    const info = structure(VFIO_DEVICE_INFO.size);
    this.must(VFIO_IOCTL.DEVICE_GET_INFO, info.bytes, 'VFIO_DEVICE_GET_INFO');
    const flags = info.view.getUint32(at.flags[0], true);
    if ((flags & VFIO_DEVICE_FLAGS_PCI) === 0) throw new Error(`${bdf}: VFIO says it is no PCI device`);
    this.canReset = (flags & VFIO_DEVICE_FLAGS_RESET) !== 0;
  }

  private must(request: number, arg: Uint8Array | number, name: string): number {
    const result = this.call(this.fd, request, arg);
    if (result < 0) throw new SysError(`ioctl ${name}`, -result, this.bdf);
    return result;
  }

  /** undefined when the device has no such region, or an empty one */
  region(index: number): VfioRegion | undefined {
    const at = VFIO_REGION_INFO.fields;
    let info = structure(VFIO_REGION_INFO.size);
    info.view.setUint32(at.index[0], index, true);
    if (this.call(this.fd, VFIO_IOCTL.DEVICE_GET_REGION_INFO, info.bytes) < 0) return undefined;
    const wanted = info.view.getUint32(at.argsz[0], true);
    if (wanted > VFIO_REGION_INFO.size) {
      info = structure(Math.min(wanted, 65536));
      info.view.setUint32(at.index[0], index, true);
      this.must(VFIO_IOCTL.DEVICE_GET_REGION_INFO, info.bytes, 'VFIO_DEVICE_GET_REGION_INFO');
    }
    const size = Number(info.view.getBigUint64(at.size[0], true));
    if (size === 0) return undefined;
    const areas: { offset: number; size: number }[] = [];
    for (const cap of capabilityChain(info.view, info.view.getUint32(at.cap_offset[0], true))) {
      if (cap.id !== VFIO_REGION_CAP_SPARSE_MMAP) continue;
      // struct vfio_region_info_cap_sparse_mmap: header, u32 nr_areas, u32 reserved, {u64 offset, u64 size}[]
      const n = info.view.getUint32(cap.offset + 8, true);
      for (let i = 0; i < n && cap.offset + 32 + 16 * i <= info.bytes.length; i++) {
        const area = cap.offset + 16 + 16 * i;
        areas.push({
          offset: Number(info.view.getBigUint64(area, true)),
          size: Number(info.view.getBigUint64(area + 8, true)),
        });
      }
    }
    return {
      index,
      size,
      offset: Number(info.view.getBigUint64(at.offset[0], true)),
      mappable: (info.view.getUint32(at.flags[0], true) & VFIO_REGION_FLAG_MMAP) !== 0,
      areas,
    };
  }

  /** Interrupts of an index (VfioIrqIndex); 0 when there are none. */
  irqCount(index: number): number {
    const at = VFIO_IRQ_INFO.fields;
    const info = structure(VFIO_IRQ_INFO.size);
    info.view.setUint32(at.index[0], index, true);
    const result = this.call(this.fd, VFIO_IOCTL.DEVICE_GET_IRQ_INFO, info.bytes);
    return result < 0 ? 0 : info.view.getUint32(at.count[0], true);
  }

  /** Eventfds for the interrupts of an index from 0 on; -1 leaves one unconnected. An empty list takes all away. */
  setEventFds(index: number, fds: readonly number[]): void {
    const at = VFIO_IRQ_SET.fields;
    const set = structure(VFIO_IRQ_SET.size + 4 * fds.length);
    const data = fds.length === 0 ? VfioIrqSet.DATA_NONE : VfioIrqSet.DATA_EVENTFD;
    set.view.setUint32(at.flags[0], data | VfioIrqSet.ACTION_TRIGGER, true);
    set.view.setUint32(at.index[0], index, true);
    set.view.setUint32(at.count[0], fds.length, true);
    fds.forEach((fd, i) => {
      set.view.setInt32(VFIO_IRQ_SET.size + 4 * i, fd, true);
    });
    this.must(VFIO_IOCTL.DEVICE_SET_IRQS, set.bytes, 'VFIO_DEVICE_SET_IRQS');
  }

  unmask(index: number): void {
    const at = VFIO_IRQ_SET.fields;
    const set = structure(VFIO_IRQ_SET.size);
    set.view.setUint32(at.flags[0], VfioIrqSet.DATA_NONE | VfioIrqSet.ACTION_UNMASK, true);
    set.view.setUint32(at.index[0], index, true);
    set.view.setUint32(at.count[0], 1, true);
    this.must(VFIO_IOCTL.DEVICE_SET_IRQS, set.bytes, 'VFIO_DEVICE_SET_IRQS');
  }

  reset(): boolean {
    return this.canReset && this.call(this.fd, VFIO_IOCTL.DEVICE_RESET, 0) >= 0;
  }
}

/** @throws Error that says what stands in the way of the group */
export function checkGroup(
  fd: Fd,
  group: string,
  bdf: string,
  others: readonly string[],
  call: Ioctl = ioctlResult,
): void {
  const status = structure(VFIO_GROUP_STATUS.size);
  const result = call(fd, VFIO_IOCTL.GROUP_GET_STATUS, status.bytes);
  if (result < 0) throw new SysError('ioctl VFIO_GROUP_GET_STATUS', -result, `group ${group}`);
  if ((status.view.getUint32(VFIO_GROUP_STATUS.fields.flags[0], true) & VFIO_GROUP_FLAGS_VIABLE) !== 0) return;
  const rest = others.filter((other) => other !== bdf).join(', ');
  throw new Error(
    `${bdf}: IOMMU group ${group} is not viable: kernel drivers still have other functions of it (${rest}); bind them too: vvu-target setup bind ${rest}`,
  );
}

/** GET_DEVICE_FD. @returns the device's descriptor number */
export function getDeviceFd(group: Fd, bdf: string, call: Ioctl = ioctlResult): number {
  const name = new Uint8Array(Buffer.from(`${bdf}\0`));
  const result = call(group, VFIO_IOCTL.GROUP_GET_DEVICE_FD, name);
  if (result >= 0) return result;
  const why = -result === ERRNO.EBUSY ? 'another process drives this device' : '';
  throw new SysError('ioctl VFIO_GROUP_GET_DEVICE_FD', -result, `${bdf}${why === '' ? '' : ` (${why})`}`);
}

/** ioctl with an argument given by number, which must succeed. */
export function must(fd: Fd, request: number, arg: Uint8Array | number, name: string): number {
  return ioctl(fd, request, arg, name);
}
