import { z } from 'zod';
import { type Method, method } from '../method.ts';
import { describeController } from '../results/controller-object.ts';
import { bdevName, controllerName, targetNumber } from './fields.ts';

/** Methods about controllers, their SCSI targets, and what goes on in them. */

const ctrlr = () => controllerName().describe('name of the controller');

const addParams = z.strictObject({
  ctrlr: ctrlr(),
  scsi_target_num: targetNumber().describe('0 to 7; -1 takes the first free one'),
  bdev_name: bdevName().describe('disk to serve as LUN 0 of the target'),
});

export const vhostMethods: readonly Method[] = [
  method({
    names: ['vhost_create_scsi_controller', 'construct_vhost_scsi_controller'],
    summary: 'Make a vhost-user-scsi controller: a front end connects to its socket.',
    params: z.strictObject({
      ctrlr: controllerName().describe('name; its socket is the file of this name in the directory of -S'),
      cpumask: z
        .string()
        .max(300)
        .optional()
        .describe('CPUs of reactors that may run it, as 0x3 or [0,1]; without it all'),
      delay: z.boolean().optional().describe('do not listen before vhost_start_scsi_controller'),
    }),
    result: 'true',
    changesConfig: true,
    handler: async ({ ctrlr, cpumask, delay }, { target }) => {
      await target.createController(ctrlr, { cpumask, delay });
      return true;
    },
  }),
  method({
    names: ['vhost_create_blk_controller', 'construct_vhost_blk_controller'],
    summary:
      'Make a vhost-user-blk controller: one disk, without SCSI. ' +
      'A front end connects to its socket (QEMU: -device vhost-user-blk-pci). ' +
      'It knows nothing of reservations: do not serve a disk by SCSI controllers too that relies on them.',
    params: z.strictObject({
      ctrlr: controllerName().describe('name; its socket is the file of this name in the directory of -S'),
      dev_name: bdevName().describe('disk to serve'),
      cpumask: z
        .string()
        .max(300)
        .optional()
        .describe('CPUs of reactors that may run it, as 0x3 or [0,1]; without it all'),
      readonly: z.boolean().optional().describe('refuse writes of guests'),
    }),
    result: 'true',
    changesConfig: true,
    handler: async ({ ctrlr, dev_name, cpumask, readonly }, { target }) => {
      await target.createController(ctrlr, { cpumask, disk: { bdevName: dev_name, readOnly: readonly } });
      return true;
    },
  }),
  method({
    names: ['vhost_start_scsi_controller'],
    summary: 'Let a controller that was made with "delay" listen.',
    params: z.strictObject({ ctrlr: ctrlr() }),
    result: 'true',
    changesConfig: true,
    handler: async ({ ctrlr }, { target }) => {
      await target.startController(ctrlr);
      return true;
    },
  }),
  method({
    names: ['vhost_scsi_controller_add_target'],
    summary: 'Serve a disk as a SCSI target of a controller. A running guest is told (hot-add).',
    params: addParams,
    result: 'the number of the target',
    changesConfig: true,
    handler: (p, { target }) => target.addTarget(p.ctrlr, p.scsi_target_num, p.bdev_name),
  }),
  method({
    names: ['add_vhost_scsi_lun'],
    summary: 'As vhost_scsi_controller_add_target, with the result that it had once.',
    params: addParams,
    result: 'true',
    changesConfig: true,
    handler: async (p, { target }) => {
      await target.addTarget(p.ctrlr, p.scsi_target_num, p.bdev_name);
      return true;
    },
  }),
  method({
    names: ['vhost_scsi_controller_remove_target', 'remove_vhost_scsi_target'],
    summary: 'Take a SCSI target away. The guest is told; the answer comes when its last request has ended.',
    params: z.strictObject({ ctrlr: ctrlr(), scsi_target_num: targetNumber().describe('0 to 7') }),
    result: 'true',
    changesConfig: true,
    handler: async (p, { target }) => {
      await target.removeTarget(p.ctrlr, p.scsi_target_num);
      return true;
    },
  }),
  method({
    names: ['vhost_delete_controller', 'remove_vhost_controller'],
    summary: 'Remove a controller and its socket. Refused while a front end is connected or SCSI targets remain.',
    params: z.strictObject({ ctrlr: ctrlr() }),
    result: 'true',
    changesConfig: true,
    handler: async ({ ctrlr }, { target }) => {
      await target.deleteController(ctrlr);
      return true;
    },
  }),
  method({
    names: ['vhost_get_controllers', 'get_vhost_controllers'],
    summary: 'Describe all controllers, or one: targets, connected front ends, vrings and why one is broken.',
    params: z.strictObject({ name: controllerName().optional().describe('one controller') }),
    result: 'array of controller objects',
    handler: async ({ name }, { target }) => {
      const controllers = await target.describeControllers(name);
      return controllers.map(describeController);
    },
  }),
  method({
    names: ['vhost_controller_set_coalescing', 'set_vhost_controller_coalescing'],
    summary:
      'Kept and shown for compatibility, without effect: interrupts are not held back, the guest itself thins them out (EVENT_IDX).',
    params: z.strictObject({
      ctrlr: ctrlr(),
      delay_base_us: z.int().min(0).max(1_000_000).describe('microseconds; 0 turns it off'),
      iops_threshold: z.int().min(0).describe('requests a second above which it begins'),
    }),
    result: 'true',
    changesConfig: true,
    handler: async (p, { target }) => {
      await target.setCoalescing(p.ctrlr, p.delay_base_us, p.iops_threshold);
      return true;
    },
  }),
  method({
    names: ['scsi_get_devices', 'get_scsi_devices'],
    summary: 'List the SCSI devices of all controllers.',
    params: z.strictObject({}),
    result: 'array of { id, device_name }',
    handler: (_, { target }) =>
      target.controllers().flatMap((c) => c.targets.map(({ id, num }) => ({ id, device_name: `Target ${num}` }))),
  }),
  method({
    names: ['vhost_get_inflight'],
    summary: 'What guests are waiting for: every request in flight with its age, longest first.',
    params: z.strictObject({
      older_than_ms: z.number().min(0).optional().describe('only requests at least this old'),
    }),
    result:
      'array of { ctrlr, target, lun, vring, head, age_ms, opcode, cdb, where }; ' +
      'for a block controller target, lun and cdb are null, and there is "sector"',
    handler: (p, { target }) => target.inflight(p.older_than_ms ?? 0),
  }),
  method({
    names: ['vhost_dump_controller'],
    summary:
      'Everything known of a controller: features, memory regions, vrings with their indices and descriptors. For debugging.',
    params: z.strictObject({ ctrlr: ctrlr() }),
    result: 'an object for people, not for programs',
    handler: ({ ctrlr }, { target }) => target.dumpController(ctrlr),
  }),
];
