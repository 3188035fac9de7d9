import type { NvmeController } from '../nvme/controller.ts';
import type { NamespaceInfo } from '../nvme/identify.ts';
import type { Bdev, BdevInfo, BdevShare } from './bdev.ts';
import { BdevError } from './errors.ts';
import { IoStats } from './io-stats.ts';
import type { NvmeBdevShare } from './nvme-channel.ts';
import { checkName } from './options.ts';

/** An NVMe namespace as a disk, on the main thread. Its controller belongs to src/bdev/nvme-disks.ts. */

export interface NvmeBdevParts {
  /** What the operator called the controller: its namespaces are NAMEn1, NAMEn2 ... */
  readonly controllerName: string;
  readonly controller: NvmeController;
  /** Memory of the process's table of DMA mappings: channels let devices reach guest memory by it. */
  readonly dmaTable: SharedArrayBuffer | null;
  /** The RPC parameters that attach the controller. */
  readonly params: Record<string, unknown>;
}

export class NvmeBdev implements Bdev {
  readonly kind = 'nvme';
  readonly info: BdevInfo;
  readonly stats = new IoStats();
  readonly nsid: number;
  private readonly parts: NvmeBdevParts;
  private readonly unmapByZeroes: boolean;

  /** @throws BdevError when the name can't be one */
  constructor(parts: NvmeBdevParts, namespace: NamespaceInfo) {
    const limits = parts.controller.info;
    if (limits === null) throw new BdevError('EIO', `${parts.controller.name}: the controller is not up`);
    this.parts = parts;
    this.nsid = namespace.nsid;
    // Deallocated blocks that are sure to read as zeroes come from WRITE ZEROES; DATASET MANAGEMENT is only a hint.
    this.unmapByZeroes = namespace.deallocatedReadsZero && namespace.zeroesDeallocate && limits.writeZeroes;
    this.info = {
      name: checkName(`${parts.controllerName}n${namespace.nsid}`),
      product: 'NVMe disk',
      uuid: namespace.uuid,
      blockSize: namespace.blockSize,
      physicalBlockSize: namespace.physicalBlockSize,
      numBlocks: namespace.numBlocks,
      writeCache: limits.volatileWriteCache,
      readOnly: namespace.readOnly,
      unmap: this.unmapByZeroes || limits.datasetManagement,
      unmapZeroes: this.unmapByZeroes,
      nonRotational: true,
    };
  }

  share(): BdevShare {
    const data: NvmeBdevShare = {
      controller: this.parts.controller.share(),
      nsid: this.nsid,
      unmapByZeroes: this.unmapByZeroes,
      dmaTable: this.parts.dmaTable,
    };
    return { kind: this.kind, info: { ...this.info }, stats: this.stats.shared, data };
  }

  describe(): Record<string, unknown> {
    const { controller } = this.parts;
    const { info } = controller;
    return {
      nvme: [
        {
          pci_address: controller.name,
          trid: { trtype: 'PCIe', traddr: controller.name },
          ctrlr_data: {
            vendor_id: `0x${(info?.vendorId ?? 0).toString(16)}`,
            model_number: info?.model,
            serial_number: info?.serial,
            firmware_revision: info?.firmware,
            subnqn: info?.subnqn,
          },
          vs: { nvme_version: info?.version },
          ns_data: { id: this.nsid },
          interrupts: controller.usesInterrupts,
        },
      ],
    };
  }

  config(): { method: string; params: Record<string, unknown> } {
    return { method: 'bdev_nvme_attach_controller', params: this.parts.params };
  }

  /** Take a new size from what the controller says. */
  rescan(): boolean {
    const now = this.parts.controller.namespaces.find((n) => n.nsid === this.nsid);
    if (now === undefined || now.numBlocks === this.info.numBlocks) return false;
    this.info.numBlocks = now.numBlocks;
    return true;
  }

  /** Whether it is still the disk that a namespace of this description is. */
  is(namespace: NamespaceInfo): boolean {
    const { uuid, blockSize } = this.info;
    return namespace.nsid === this.nsid && namespace.uuid === uuid && namespace.blockSize === blockSize;
  }

  destroy(): void {}
}
