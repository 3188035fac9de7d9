import { defineStruct } from '../memory/struct-table.ts';

/** Structures and numbers of the kernel's VFIO and iommufd interfaces (linux/vfio.h, linux/iommufd.h), by their names. */

const VFIO = 'linux/vfio.h';
const IOMMUFD = 'linux/iommufd.h';

/** VFIO's type ';', and its base 100. */
const vfio = (n: number) => 0x3b00 + 100 + n;

export const VFIO_IOCTL = {
  GET_API_VERSION: vfio(0),
  CHECK_EXTENSION: vfio(1),
  SET_IOMMU: vfio(2),
  GROUP_GET_STATUS: vfio(3),
  GROUP_SET_CONTAINER: vfio(4),
  GROUP_UNSET_CONTAINER: vfio(5),
  GROUP_GET_DEVICE_FD: vfio(6),
  DEVICE_GET_INFO: vfio(7),
  DEVICE_GET_REGION_INFO: vfio(8),
  DEVICE_GET_IRQ_INFO: vfio(9),
  DEVICE_SET_IRQS: vfio(10),
  DEVICE_RESET: vfio(11),
  IOMMU_GET_INFO: vfio(12),
  IOMMU_MAP_DMA: vfio(13),
  IOMMU_UNMAP_DMA: vfio(14),
  DEVICE_BIND_IOMMUFD: vfio(18),
  DEVICE_ATTACH_IOMMUFD_PT: vfio(19),
} as const;

export const IOMMUFD_IOCTL = {
  DESTROY: 0x3b80,
  IOAS_ALLOC: 0x3b81,
  IOAS_IOVA_RANGES: 0x3b84,
  IOAS_MAP: 0x3b85,
  IOAS_UNMAP: 0x3b86,
} as const;

export const VFIO_API_VERSION = 0;

/** IOMMU kinds: values of CHECK_EXTENSION and SET_IOMMU. */
export const VfioIommu = { TYPE1v2: 3, NOIOMMU: 8 } as const;

export const VFIO_GROUP_FLAGS_VIABLE = 1;
export const VFIO_DEVICE_FLAGS_RESET = 1;
export const VFIO_DEVICE_FLAGS_PCI = 2;

/** Regions and interrupt indexes of a PCI device. */
export const VFIO_PCI_CONFIG_REGION = 7;
export const VfioIrqIndex = { INTX: 0, MSI: 1, MSIX: 2, ERR: 3, REQ: 4 } as const;

export const VFIO_REGION_FLAG_MMAP = 4;
export const VFIO_REGION_CAP_SPARSE_MMAP = 1;

export const VfioIrqSet = {
  DATA_NONE: 1,
  DATA_BOOL: 2,
  DATA_EVENTFD: 4,
  ACTION_MASK: 8,
  ACTION_UNMASK: 16,
  ACTION_TRIGGER: 32,
} as const;

export const VFIO_DMA_READ_WRITE = 3;
export const VFIO_IOMMU_CAP_IOVA_RANGE = 1;

export const IOMMU_IOAS_MAP_FLAGS = 7; // fixed IOVA, writeable, readable

export const VFIO_GROUP_STATUS = defineStruct('vfio_group_status', VFIO, 8, { argsz: [0, 'u32'], flags: [4, 'u32'] });

export const VFIO_DEVICE_INFO = defineStruct('vfio_device_info', VFIO, 24, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  num_regions: [8, 'u32'],
  num_irqs: [12, 'u32'],
  cap_offset: [16, 'u32'],
  pad: [20, 'u32'],
});

export const VFIO_REGION_INFO = defineStruct('vfio_region_info', VFIO, 32, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  index: [8, 'u32'],
  cap_offset: [12, 'u32'],
  size: [16, 'u64'],
  offset: [24, 'u64'],
});

export const VFIO_IRQ_INFO = defineStruct('vfio_irq_info', VFIO, 16, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  index: [8, 'u32'],
  count: [12, 'u32'],
});

/** Followed by `count` s32 (eventfds) or bytes. */
export const VFIO_IRQ_SET = defineStruct('vfio_irq_set', VFIO, 20, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  index: [8, 'u32'],
  start: [12, 'u32'],
  count: [16, 'u32'],
});

export const VFIO_TYPE1_INFO = defineStruct('vfio_iommu_type1_info', VFIO, 24, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  iova_pgsizes: [8, 'u64'],
  cap_offset: [16, 'u32'],
  pad: [20, 'u32'],
});

export const VFIO_DMA_MAP = defineStruct('vfio_iommu_type1_dma_map', VFIO, 32, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  vaddr: [8, 'u64'],
  iova: [16, 'u64'],
  size: [24, 'u64'],
});

export const VFIO_DMA_UNMAP = defineStruct('vfio_iommu_type1_dma_unmap', VFIO, 24, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  iova: [8, 'u64'],
  size: [16, 'u64'],
});

/** A link of the capability chains in region and IOMMU infos. */
export const VFIO_CAP_HEADER = defineStruct('vfio_info_cap_header', VFIO, 8, {
  id: [0, 'u16'],
  version: [2, 'u16'],
  next: [4, 'u32'],
});

export const VFIO_BIND_IOMMUFD = defineStruct('vfio_device_bind_iommufd', VFIO, 16, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  iommufd: [8, 'u32'],
  out_devid: [12, 'u32'],
});

export const VFIO_ATTACH_PT = defineStruct('vfio_device_attach_iommufd_pt', VFIO, 12, {
  argsz: [0, 'u32'],
  flags: [4, 'u32'],
  pt_id: [8, 'u32'],
});

export const IOMMU_IOAS_ALLOC = defineStruct('iommu_ioas_alloc', IOMMUFD, 12, {
  size: [0, 'u32'],
  flags: [4, 'u32'],
  out_ioas_id: [8, 'u32'],
});

export const IOMMU_IOAS_MAP = defineStruct('iommu_ioas_map', IOMMUFD, 40, {
  size: [0, 'u32'],
  flags: [4, 'u32'],
  ioas_id: [8, 'u32'],
  reserved: [12, 'u32'],
  user_va: [16, 'u64'],
  length: [24, 'u64'],
  iova: [32, 'u64'],
});

export const IOMMU_IOAS_UNMAP = defineStruct('iommu_ioas_unmap', IOMMUFD, 24, {
  size: [0, 'u32'],
  ioas_id: [4, 'u32'],
  iova: [8, 'u64'],
  length: [16, 'u64'],
});

/** Links of a capability chain: a private copy of the structure, the first link's offset. Ends at loops and ends of the copy. */
export function* capabilityChain(copy: DataView, first: number): Generator<{ id: number; offset: number }> {
  const at = VFIO_CAP_HEADER.fields;
  let last = 0;
  for (let offset = first; offset > last && offset + VFIO_CAP_HEADER.size <= copy.byteLength; ) {
    yield { id: copy.getUint16(offset + at.id[0], true), offset };
    last = offset;
    offset = copy.getUint32(offset + at.next[0], true);
  }
}
