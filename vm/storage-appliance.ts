/**
 * The whole of docs/guide.md on a stock QEMU: the relay, the appliance VM with a virtio-scsi and an NVMe disk of its own, and in it
 * the target, which serves these two and a memory disk through the vvu device. A compute VM needs nothing but
 * {@link StorageAppliance.socket}.
 */
import { HBA, NVME, startAppliance } from './appliance.ts';
import { ApplianceTarget } from './appliance-target.ts';
import type { Machine } from './machine.ts';
import { qemu } from './qemu.ts';
import { RelayProcess } from './relay-process.ts';

/** The vvu device. */
export const VVU = '0000:00:07.0';

/** What the compute VM finds at targets 0, 1 and 2. */
export const PRODUCTS = ['Virtio SCSI Disk', 'NVMe disk', 'Malloc disk'];

export const CONTROLLER = 'vhost.0';
const MALLOC_MIB = 64;
const MASK = '0x3';

/** docs/guide.md, step 3. */
export const DISK_COMMANDS = [
  `construct_vhost_scsi_controller --cpumask 0x1 ${CONTROLLER}`,
  `construct_virtio_pci_scsi_bdev ${HBA} VirtioScsi0`,
  `construct_nvme_bdev -b NVMe1 -t PCIe -a ${NVME}`,
  `construct_malloc_bdev ${MALLOC_MIB} 512 -b Malloc0`,
  `add_vhost_scsi_lun ${CONTROLLER} 0 VirtioScsi0t0`,
  `add_vhost_scsi_lun ${CONTROLLER} 1 NVMe1n1`,
  `add_vhost_scsi_lun ${CONTROLLER} 2 Malloc0`,
];

export interface StorageApplianceOptions {
  /** Raw images of the appliance's own disks. */
  scsiImage: string;
  nvmeImage: string;
  /** How the target gets at the devices; VFIO needs the vIOMMU that the VM then has. Default: vfio. */
  access?: 'vfio' | 'sysfs';
  /** Called as each step begins. */
  tell?: (step: string) => void;
}

export class StorageAppliance {
  readonly relay: RelayProcess;
  readonly vm: Machine;
  readonly target: ApplianceTarget;

  private constructor(relay: RelayProcess, vm: Machine, target: ApplianceTarget) {
    this.relay = relay;
    this.vm = vm;
    this.target = target;
  }

  /** Everything but a compute VM. What was started is ended when a step fails. */
  static async start(options: StorageApplianceOptions): Promise<StorageAppliance> {
    const { scsiImage, nvmeImage, access = 'vfio', tell = () => {} } = options;
    tell('starting the relay: vvu-target relay');
    const relay = await RelayProcess.start();
    let vm: Machine | undefined;
    let target: ApplianceTarget | undefined;
    try {
      tell(`starting the appliance VM: QEMU ${(await qemu('11')).version.join('.')}`);
      vm = await startAppliance({
        qemu: '11',
        cpus: 2,
        iommu: access === 'vfio',
        virtioScsi: [scsiImage],
        nvme: [nvmeImage],
        args: [...relay.deviceArgs],
      });
      await vm.booted();
      tell(`in it: vvu-target setup bind ${HBA} ${NVME} ${VVU}`);
      target = await ApplianceTarget.prepare(vm, { address: VVU, devices: [HBA, NVME], args: ['-m', MASK] });
      tell(`in it: vvu-target -T vvu -S ${VVU} -m ${MASK}`);
      await target.restart();
      tell('in it: vvu-target rpc, with a line for each of');
      for (const line of DISK_COMMANDS) tell(`  ${line}`);
      await target.rpcLines(DISK_COMMANDS);
      return new StorageAppliance(relay, vm, target);
    } catch (error) {
      const said = await target?.log().catch(() => undefined);
      if (said !== undefined) (error as Error).message += `\n--- target\n${said}`;
      (error as Error).message += `\n--- relay\n${relay.output}`;
      await vm?.close();
      await relay.close();
      throw error;
    }
  }

  /** Socket for the compute VM's vhost-user-scsi device. */
  get socket(): string {
    return this.relay.compute;
  }

  async close(): Promise<void> {
    await this.vm.close();
    await this.relay.close();
  }
}
