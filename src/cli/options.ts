import { InvalidArgumentError } from 'commander';

/** Values of the command line. */

export const DEFAULT_RPC_SOCKET = '/var/tmp/vvu-target.sock';

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** 64M, 1.5G, 4096: bytes, units of 1024. */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?$/i.exec(text.trim());
  if (match === null) throw new InvalidArgumentError('expected a size such as 64M or 1G.');
  const bytes = Math.floor(Number(match[1]) * UNITS[match[2].toLowerCase()]);
  if (bytes < 512) throw new InvalidArgumentError(`${bytes} bytes are too few for a disk; write 64M for 64 MiB.`);
  return bytes - (bytes % 512);
}

/** A disk of the quick form. */
export type QuickDisk = { kind: 'malloc' | 'null'; bytes: number } | { kind: 'file'; path: string };
