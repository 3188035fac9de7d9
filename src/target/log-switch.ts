import { enabledLogs, enableLogs, LOG_LAYERS } from '../sys/log.ts';
import { TargetError } from './errors.ts';

/** Switches the log lines of layers while the target runs, on the main thread and on every reactor. */

export class LogSwitch {
  private readonly everywhere: (namespaces: string) => Promise<void>;

  /** @param everywhere tells the reactors what DEBUG would now be */
  constructor(everywhere: (namespaces: string) => Promise<void>) {
    this.everywhere = everywhere;
  }

  /** Layer → whether it logs. */
  flags(): Record<string, boolean> {
    return Object.fromEntries(LOG_LAYERS.map((layer) => [layer, enabledLogs(layer)]));
  }

  /** @param flag a layer or "all". @throws TargetError EINVAL */
  async set(flag: string, on: boolean): Promise<void> {
    const flags = this.flags();
    if (flag !== 'all' && !Object.hasOwn(flags, flag)) {
      throw new TargetError('EINVAL', `no layer is called ${flag}; there are ${Object.keys(flags).join(', ')} and all`);
    }
    const layers = Object.keys(flags).filter((layer) => (flag === 'all' || layer === flag ? on : flags[layer]));
    const namespaces = layers.map((layer) => `vvu:${layer}`).join(',');
    enableLogs(namespaces);
    await this.everywhere(namespaces);
  }
}
