import { z } from 'zod';
import type { DeviceKind } from '../../bdev/device-disks.ts';
import { parseBdf } from '../../pci/bdf.ts';
import { TargetError } from '../../target/errors.ts';
import { type Method, method } from '../method.ts';
import { accessMode, deviceName, pciAddress } from './fields.ts';

/** Methods about devices that the target drives by itself: NVMe controllers and virtio-scsi adapters. */

const transport = () => z.string().regex(/^pcie$/i, 'PCIe, the only transport there is');
const queues = () => z.int().min(1).max(64).optional();
/** As long as a Unix socket's path may be. */
const socketPath = () => z.string().min(1).max(107);
const BIND = '; `vvu-target setup bind` takes it from its kernel driver';
const DISKS = 'array of the names of its disks';

/** What can be said of any device that is attached. */
const DRIVING = {
  timeout_ms: z
    .int()
    .min(100)
    .max(3_600_000)
    .optional()
    .describe('milliseconds until a command is aborted (default 30000)'),
  access_mode: accessMode()
    .optional()
    .describe('vfio, vfio-iommufd, vfio-noiommu or sysfs, instead of what fits how the function is bound'),
};
/** And of any virtio-scsi adapter. */
const ADAPTER_NAME = deviceName().describe('name of the adapter; the disk of target 0 is NAMEt0');
const VIRTQUEUES = {
  vq_count: queues().describe('request queues; without it one a reactor and one for scans'),
  vq_size: z.int().min(8).max(1024).optional().describe('entries of a queue (default 128)'),
};

function resetMethod(kind: DeviceKind, name: string, what: string): Method {
  return method({
    names: [name],
    summary: `Reset ${what}. Requests in flight are sent again: none is lost. The answer does not wait for the reset's end.`,
    params: z.strictObject({ name: deviceName().describe('name that it was attached with') }),
    result: 'true',
    handler: ({ name: device }, { target }) => {
      target.devices.reset(kind, device);
      return true;
    },
  });
}

export const deviceMethods: readonly Method[] = [
  method({
    names: ['bdev_nvme_attach_controller', 'construct_nvme_bdev'],
    summary: 'Take an NVMe controller (a PCI function of this machine) and make a disk of each of its namespaces.',
    params: z.strictObject({
      name: deviceName().describe('name of the controller; its disks are NAMEn1, NAMEn2, ...'),
      trtype: transport().describe('PCIe'),
      traddr: pciAddress().describe(`PCI address, as 0000:00:06.0${BIND}`),
      num_io_queues: queues().describe('I/O queue pairs; without it one a reactor'),
      ...DRIVING,
    }),
    result: DISKS,
    changesConfig: true,
    handler: (p, { target }) =>
      target.devices.attachNvme({
        name: p.name,
        traddr: p.traddr,
        ioQueues: p.num_io_queues,
        timeoutMs: p.timeout_ms,
        mode: p.access_mode,
      }),
  }),
  method({
    names: ['bdev_nvme_detach_controller', 'delete_nvme_controller'],
    summary:
      'Give an NVMe controller back. Its disks are removed first, as by bdev_malloc_delete; the answer comes when the device is quiet.',
    params: z.strictObject({
      name: deviceName().describe('name of the controller'),
      trtype: transport().optional().describe('PCIe'),
      traddr: pciAddress().optional().describe('PCI address; when given, it must be that of the controller'),
    }),
    result: 'true',
    changesConfig: true,
    handler: async ({ name, traddr }, { target }) => {
      if (traddr !== undefined) checkAddress(target.devices.describe('nvme', name), name, traddr);
      await target.devices.detach('nvme', name);
      return true;
    },
  }),
  method({
    names: ['bdev_nvme_get_controllers', 'get_nvme_controllers'],
    summary: 'Describe all NVMe controllers, or one: its state and why, access mode, namespaces, queues and registers.',
    params: z.strictObject({ name: deviceName().optional().describe('one controller') }),
    result: 'array of { name, ctrlrs: [ { state, trid, access_mode, namespaces, refused, ... } ] }',
    handler: ({ name }, { target }) => target.devices.describe('nvme', name),
  }),
  resetMethod('nvme', 'bdev_nvme_reset_controller', 'an NVMe controller'),

  method({
    names: ['bdev_virtio_attach_controller', 'construct_virtio_dev'],
    summary: 'Take a virtio-scsi adapter and make a disk of each logical unit behind it.',
    params: z.strictObject({
      name: ADAPTER_NAME,
      trtype: z.enum(['pci', 'user']).describe('pci, or user: a vhost-user-scsi back end on a Unix socket'),
      traddr: z.string().min(1).max(107).describe(`pci: PCI address, as 0000:00:05.0${BIND}; user: path of the socket`),
      dev_type: z.enum(['scsi']).describe('scsi'),
      ...VIRTQUEUES,
      ...DRIVING,
    }),
    result: DISKS,
    changesConfig: true,
    handler: (p, { target }) =>
      target.devices.attachVirtio({
        name: p.name,
        trtype: p.trtype,
        traddr: p.traddr,
        vqCount: p.vq_count,
        vqSize: p.vq_size,
        timeoutMs: p.timeout_ms,
        mode: p.access_mode,
      }),
  }),
  method({
    names: ['construct_virtio_pci_scsi_bdev'],
    summary: 'As bdev_virtio_attach_controller for a PCI function, in its oldest form.',
    params: z.strictObject({
      pci_address: pciAddress().describe('PCI address, as 0000:00:05.0'),
      name: ADAPTER_NAME,
    }),
    result: DISKS,
    changesConfig: true,
    handler: ({ pci_address, name }, { target }) =>
      target.devices.attachVirtio({ name, trtype: 'pci', traddr: pci_address }),
  }),
  method({
    names: ['construct_virtio_user_scsi_bdev'],
    summary: 'As bdev_virtio_attach_controller for a vhost-user back end, in its oldest form.',
    params: z.strictObject({
      path: socketPath().describe('path of the socket'),
      name: ADAPTER_NAME,
      ...VIRTQUEUES,
    }),
    result: DISKS,
    changesConfig: true,
    handler: (p, { target }) =>
      target.devices.attachVirtio({
        name: p.name,
        trtype: 'user',
        traddr: p.path,
        vqCount: p.vq_count,
        vqSize: p.vq_size,
      }),
  }),
  method({
    names: ['bdev_virtio_detach_controller', 'remove_virtio_bdev', 'remove_virtio_scsi_bdev'],
    summary:
      'Give a virtio-scsi adapter back. Its disks are removed first, as by bdev_malloc_delete; the answer comes when the device is quiet.',
    params: z.strictObject({ name: deviceName().describe('name of the adapter') }),
    result: 'true',
    changesConfig: true,
    handler: async ({ name }, { target }) => {
      await target.devices.detach('virtio', name);
      return true;
    },
  }),
  method({
    names: ['bdev_virtio_scsi_get_devices', 'get_virtio_scsi_devs'],
    summary:
      'Describe all virtio-scsi adapters: state and why, features, queues, disks, and units that are not served.',
    params: z.strictObject({}),
    result: 'array of { name, virtio: { traddr, state, ... }, disks, refused }',
    handler: (_, { target }) => target.devices.describe('virtio'),
  }),
  resetMethod('virtio', 'bdev_virtio_reset_controller', 'a virtio-scsi adapter'),
];

function checkAddress(shown: Record<string, unknown>[], name: string, traddr: string): void {
  const [{ ctrlrs }] = shown as [{ ctrlrs: [{ trid: { traddr: string } }] }];
  const has = ctrlrs[0].trid.traddr;
  if (has !== parseBdf(traddr)) throw new TargetError('EINVAL', `controller ${name} is at ${has}, not at ${traddr}`);
}
