/**
 * How a PCI function can be driven:
 *
 * | mode          | needs                                        | interrupts | DMA goes through  |
 * |---------------|----------------------------------------------|------------|-------------------|
 * | vfio          | an IOMMU; vfio-pci; group viable             | eventfds   | the IOMMU (IOVA = physical address) |
 * | vfio-iommufd  | the same, kernels with iommufd and no groups | eventfds   | the IOMMU         |
 * | vfio-noiommu  | vfio-pci; enable_unsafe_noiommu_mode         | eventfds   | nothing: physical |
 * | sysfs         | no driver bound; root                        | none: poll | nothing: physical |
 */
export const ACCESS_MODES = ['vfio', 'vfio-iommufd', 'vfio-noiommu', 'sysfs'] as const;
export type AccessMode = (typeof ACCESS_MODES)[number];
