import type { ControllerDescription } from '../../target/controller.ts';
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
    backend_specific: {
      scsi: c.targets.map((t) => ({
        scsi_dev_num: t.num,
        id: t.id,
        target_name: `Target ${t.num}`,
        luns: [{ id: 0, bdev_name: t.bdevName }],
        ...(t.removing ? { removing: true } : {}),
      })),
    },
  };
}
