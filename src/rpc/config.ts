import type { Target } from '../target/target.ts';
import { errorBody, RpcError } from './errors.ts';
import type { MethodTable, RpcContext } from './method.ts';
import type { Config } from './methods/config.ts';
import { parseParams } from './params.ts';
import { nearest } from './suggest.ts';

/**
 * The configuration as calls: what save_config writes is exactly what makes the same target again. Each disk names its
 * own call (Bdev.config); controllers and targets are written here.
 */

/** Names an entry: subsystem, index in it, method. */
export type WhereIs = (subsystem: string, index: number, method: string) => string;

const whereInFile: WhereIs = (subsystem, index, method) =>
  `configuration, subsystem "${subsystem}", entry ${index} (${method})`;

type Call = { method: string; params?: Record<string, unknown> | undefined };

interface SavedConfig extends Config {
  subsystems: { subsystem: string; config: Call[] }[];
}

export function saveConfig(target: Target): SavedConfig {
  const bdev: Call[] = [];
  const made = new Set<string>();
  for (const entry of target.bdevs.all()) {
    if (entry.removing) continue;
    const call = entry.bdev.config();
    // The disks of a device all come with the one call that attaches it.
    const text = JSON.stringify(call);
    if (!made.has(text)) bdev.push(call);
    made.add(text);
    if (entry.limits !== undefined) {
      bdev.push({ method: 'bdev_set_qos_limit', params: { name: entry.bdev.info.name, ...entry.limits } });
    }
  }
  const vhost: Call[] = [];
  for (const c of target.controllers()) {
    const cpumask = c.cpumask === undefined ? {} : { cpumask: c.cpumask };
    if (c.block === undefined) {
      const delay = c.started ? {} : { delay: true };
      vhost.push({ method: 'vhost_create_scsi_controller', params: { ctrlr: c.name, ...cpumask, ...delay } });
    } else {
      // Without its disk it serves nobody, and could not be made again.
      const { bdevName, readOnly } = c.block;
      if (bdevName === null || target.bdevs.get(bdevName).removing) continue;
      vhost.push({
        method: 'vhost_create_blk_controller',
        params: { ctrlr: c.name, dev_name: bdevName, ...cpumask, ...(readOnly ? { readonly: true } : {}) },
      });
    }
    for (const t of c.targets) {
      if (t.removing) continue;
      vhost.push({
        method: 'vhost_scsi_controller_add_target',
        params: { ctrlr: c.name, scsi_target_num: t.num, bdev_name: t.bdevName },
      });
    }
    if (c.coalescing.delayUs > 0 || c.coalescing.changed) {
      vhost.push({
        method: 'vhost_controller_set_coalescing',
        params: { ctrlr: c.name, delay_base_us: c.coalescing.delayUs, iops_threshold: c.coalescing.iopsThreshold },
      });
    }
  }
  return {
    subsystems: [
      { subsystem: 'bdev', config: bdev },
      { subsystem: 'vhost', config: vhost },
    ],
  };
}

/**
 * Make the calls in order. All names and parameters are checked before the first call is made; controllers start at
 * the end, so that a front end which reconnects finds its targets there.
 * @param where how to name an entry in a failure
 * @throws RpcError that names the entry which failed
 */
export async function applyConfig(config: Config, context: RpcContext, where: WhereIs = whereInFile): Promise<void> {
  const calls = config.subsystems.flatMap((s) =>
    (s.config ?? []).map((call, i) => ({ call, place: where(s.subsystem, i, call.method) })),
  );
  for (const { call, place } of calls) check(call, place, context.methods);
  await context.target.withControllersHeld(async () => {
    for (const { call, place } of calls) {
      const row = context.methods.get(call.method);
      if (row === undefined) continue;
      try {
        await row.handler(parseParams(row, call.method, call.params) as never, context);
      } catch (error) {
        throw at(place, error);
      }
    }
  });
}

function check(call: Call, where: string, methods: MethodTable): void {
  const row = methods.get(call.method);
  if (row === undefined) {
    const near = nearest(call.method, methods.names);
    throw new RpcError(
      -32602,
      `Invalid parameters: ${where}: no such method${near === undefined ? '' : `; did you mean ${near}?`}`,
    );
  }
  if (!row.inConfig) {
    throw new RpcError(-32602, `Invalid parameters: ${where}: this method has no place in a configuration`);
  }
  try {
    parseParams(row, call.method, call.params);
  } catch (error) {
    throw at(where, error);
  }
}

function at(where: string, error: unknown): RpcError {
  const { code, message } = errorBody(error);
  return new RpcError(code, `${where}: ${message}`);
}
