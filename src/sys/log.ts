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

const layers = new Set<string>();

/** Layers that have a logger on this thread, in the order of the alphabet. */
export function logLayers(): string[] {
  return [...layers].sort();
}

/** Whether a layer's lines are written on this thread. */
export function enabledLogs(layer: string): boolean {
  return createDebug.enabled(`vvu:${layer}`);
}

/**
 * Set what DEBUG says ('vvu:scsi,vvu:rpc', 'vvu:*', '' for nothing), for this thread and for those that start later.
 */
export function enableLogs(namespaces: string): void {
  createDebug.enable(namespaces);
}

export function logger(layer: string): Logger {
  layers.add(layer);
  const log = createDebug(`vvu:${layer}`);
  log.log = writeLine;
  const warn = (...args: unknown[]) => writeLine(`${new Date().toISOString()} vvu:${layer}`, format(...args));
  return Object.assign(log, { warn });
}
