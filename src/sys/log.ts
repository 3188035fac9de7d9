/**
 * Logging by layer: `logger('vhost')` writes as `vvu:vhost` when DEBUG names it (DEBUG=vvu:*). Guard hot calls
 * with `if (log.enabled)`: the arguments then cost nothing when it is off.
 */
import { writeSync } from 'node:fs';
import { format } from 'node:util';
import createDebug from 'debug';

export interface Logger {
  (format: unknown, ...args: unknown[]): void;
  readonly enabled: boolean;
  /** Always written, whatever DEBUG says: failures that an operator must see. Rare ones. */
  warn(format: unknown, ...args: unknown[]): void;
}

/**
 * Write at once and whole: a reactor rarely returns to Node's event loop, which a stream would wait for, and the last
 * lines before a crash are the ones that matter.
 */
function writeLine(...args: unknown[]): void {
  try {
    writeSync(2, `${format(...args)}\n`);
  } catch {
    // stderr is closed, or a full non-blocking pipe: a log line is not worth a failure
  }
}

/**
 * All layers, in the order of the alphabet. Named here, and not gathered as modules are loaded: no thread loads them all, and
 * the main thread tells the operator what there is.
 */
export const LOG_LAYERS = [
  'dma',
  'file',
  'io',
  'io-uring',
  'loop',
  'nvme',
  'pci',
  'reactor',
  'relay',
  'rpc',
  'sys',
  'target',
  'thread-io',
  'vhost',
  'virtio-scsi',
  'vvu',
] as const;
export type LogLayer = (typeof LOG_LAYERS)[number];

/** Whether a layer's lines are written on this thread. */
export function enabledLogs(layer: LogLayer): boolean {
  return createDebug.enabled(`vvu:${layer}`);
}

/**
 * Set what DEBUG says ('vvu:scsi,vvu:rpc', 'vvu:*', '' for nothing), for this thread and for those that start later.
 */
export function enableLogs(namespaces: string): void {
  createDebug.enable(namespaces);
}

export function logger(layer: LogLayer): Logger {
  const log = createDebug(`vvu:${layer}`);
  log.log = writeLine;
  const warn = (...args: unknown[]) => writeLine(`${new Date().toISOString()} vvu:${layer}`, format(...args));
  return Object.assign(log, { warn });
}
