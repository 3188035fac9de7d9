import type { BlockInfo, ControllerDescription, TargetInfo } from '../../target/controller.ts';
import { formatCpuMask } from '../../target/cpu-mask.ts';

/** A controller as vhost_get_controllers shows it: SPDK's object. */
export function describeController(c: ControllerDescription): Record<string, unknown> {
  return {
    ctrlr: c.name,
    cpumask: formatCpuMask(c.cpus),
    delay_base_us: c.coalescing.delayUs,
    iops_threshold: c.coalescing.iopsThreshold,
    socket: c.place,
    started: c.started,
    reactor: c.reactorCpu,
    sessions: c.sessions,
    backend_specific: c.block ? describeBlock(c.block) : describeScsi(c.targets),
  };
}

function describeBlock({ bdevName, readOnly }: BlockInfo): Record<string, unknown> {
  return { block: { readonly: readOnly, bdev: bdevName, transport: 'vhost_user_blk' } };
}

function describeScsi(targets: readonly TargetInfo[]): Record<string, unknown> {
  return {
    scsi: targets.map((t) => ({
      scsi_dev_num: t.num,
      id: t.id,
      target_name: `Target ${t.num}`,
      luns: [{ id: 0, bdev_name: t.bdevName }],
      ...(t.removing ? { removing: true } : {}),
    })),
  };
}
