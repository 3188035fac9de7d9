import type { Memory } from '../memory/memory.ts';
import { ERRNO } from '../sys/errno.ts';
import { Fd, ioctlResult } from '../sys/fd.ts';
import { putPointer } from '../sys/physical.ts';
import {
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_MAP_FLAGS,
  IOMMU_IOAS_UNMAP,
  IOMMUFD_IOCTL,
  VFIO_DMA_MAP,
  VFIO_DMA_READ_WRITE,
  VFIO_DMA_UNMAP,
  VFIO_IOCTL,
} from './vfio-layout.ts';

/**
 * How memory gets into the translation table that the process's devices share: a VFIO type 1 container, an iommufd address
 * space, or none at all (no IOMMU: devices see physical addresses anyway). Any thread of the process may map.
 */

export const MapperKind = { NONE: 0, TYPE1: 1, IOMMUFD: 2 } as const;
export type MapperKind = (typeof MapperKind)[keyof typeof MapperKind];

/** What a thread needs to map: numbers only, they lie in shared memory. */
export interface MapperPlace {
  readonly kind: MapperKind;
  /** The container's descriptor, or that of /dev/iommu. Owned by the main thread. */
  readonly fd: number;
  readonly ioas: number;
}

/** The call itself, replaceable in tests. 0 or the negative errno. */
export interface DmaMapper {
  map(place: MapperPlace, memory: Memory, offset: number, iova: number, bytes: number): number;
  unmap(place: MapperPlace, iova: number, bytes: number): number;
}

function mapType1(fd: Fd, memory: Memory, offset: number, iova: number, bytes: number): number {
  const at = VFIO_DMA_MAP.fields;
  const arg = new Uint8Array(VFIO_DMA_MAP.size);
  const v = new DataView(arg.buffer);
  v.setUint32(at.argsz[0], VFIO_DMA_MAP.size, true);
  v.setUint32(at.flags[0], VFIO_DMA_READ_WRITE, true);
  putPointer(v, at.vaddr[0], memory, offset);
  v.setBigUint64(at.iova[0], BigInt(iova), true);
  v.setBigUint64(at.size[0], BigInt(bytes), true);
  return ioctlResult(fd, VFIO_IOCTL.IOMMU_MAP_DMA, arg);
}

function unmapType1(fd: Fd, iova: number, bytes: number): number {
  const at = VFIO_DMA_UNMAP.fields;
  const arg = new Uint8Array(VFIO_DMA_UNMAP.size);
  const v = new DataView(arg.buffer);
  v.setUint32(at.argsz[0], VFIO_DMA_UNMAP.size, true);
  v.setBigUint64(at.iova[0], BigInt(iova), true);
  v.setBigUint64(at.size[0], BigInt(bytes), true);
  const result = ioctlResult(fd, VFIO_IOCTL.IOMMU_UNMAP_DMA, arg);
  // The kernel tells how much it has unmapped: less means that the range was not what we think.
  return result < 0 ? result : Number(v.getBigUint64(at.size[0], true)) === bytes ? 0 : -ERRNO.EINVAL;
}

function mapIoas(fd: Fd, ioas: number, memory: Memory, offset: number, iova: number, bytes: number): number {
  const at = IOMMU_IOAS_MAP.fields;
  const arg = new Uint8Array(IOMMU_IOAS_MAP.size);
  const v = new DataView(arg.buffer);
  v.setUint32(at.size[0], IOMMU_IOAS_MAP.size, true);
  v.setUint32(at.flags[0], IOMMU_IOAS_MAP_FLAGS, true);
  v.setUint32(at.ioas_id[0], ioas, true);
  putPointer(v, at.user_va[0], memory, offset);
  v.setBigUint64(at.length[0], BigInt(bytes), true);
  v.setBigUint64(at.iova[0], BigInt(iova), true);
  return ioctlResult(fd, IOMMUFD_IOCTL.IOAS_MAP, arg);
}

function unmapIoas(fd: Fd, ioas: number, iova: number, bytes: number): number {
  const at = IOMMU_IOAS_UNMAP.fields;
  const arg = new Uint8Array(IOMMU_IOAS_UNMAP.size);
  const v = new DataView(arg.buffer);
  v.setUint32(at.size[0], IOMMU_IOAS_UNMAP.size, true);
  v.setUint32(at.ioas_id[0], ioas, true);
  v.setBigUint64(at.iova[0], BigInt(iova), true);
  v.setBigUint64(at.length[0], BigInt(bytes), true);
  const result = ioctlResult(fd, IOMMUFD_IOCTL.IOAS_UNMAP, arg);
  return Math.min(result, 0);
}

/** The kernel's. The descriptors are borrowed by number: their owner is the main thread. */
export const kernelMapper: DmaMapper = {
  map(place, memory, offset, iova, bytes) {
    if (place.kind === MapperKind.NONE) return 0;
    const fd = Fd.take(place.fd);
    if (place.kind === MapperKind.TYPE1) return mapType1(fd, memory, offset, iova, bytes);
    return mapIoas(fd, place.ioas, memory, offset, iova, bytes);
  },
  unmap(place, iova, bytes) {
    if (place.kind === MapperKind.NONE) return 0;
    const fd = Fd.take(place.fd);
    return place.kind === MapperKind.TYPE1 ? unmapType1(fd, iova, bytes) : unmapIoas(fd, place.ioas, iova, bytes);
  },
};
