/** Resource limits of the process, getrlimit(2). Infinity stands for RLIM_INFINITY. */
import { RLIMIT } from './constants.ts';
import { check } from './errno.ts';
import * as libc from './libc.ts';

export interface Limit {
  /** What counts. */
  readonly soft: number;
  /** How far the process may raise it. */
  readonly hard: number;
}

export type Resource = keyof typeof RLIMIT;

const INFINITY = 0xffff_ffff_ffff_ffffn;

function toNumber(value: bigint): number {
  return value === INFINITY ? Number.POSITIVE_INFINITY : Number(value);
}

function toWire(value: number): bigint {
  return value === Number.POSITIVE_INFINITY ? INFINITY : BigInt(value);
}

/** Bytes, or descriptors for NOFILE. */
export function getLimit(resource: Resource): Limit {
  const words = new BigUint64Array(2); // struct rlimit: soft, hard
  check(libc.prlimit(0, RLIMIT[resource], null, new Uint8Array(words.buffer)), 'prlimit', resource);
  return { soft: toNumber(words[0]), hard: toNumber(words[1]) };
}

/** @throws SysError EPERM when the hard limit would rise and the process lacks CAP_SYS_RESOURCE */
export function setLimit(resource: Resource, limit: Limit): void {
  const words = BigUint64Array.of(toWire(limit.soft), toWire(limit.hard));
  const detail = `${resource} ${limit.soft} of ${limit.hard}`;
  check(libc.prlimit(0, RLIMIT[resource], new Uint8Array(words.buffer), null), 'prlimit', detail);
}

/** Raise the soft limit to `wanted`, or as far as the hard limit lets. @returns the soft limit then */
export function raiseLimit(resource: Resource, wanted: number): number {
  const { soft, hard } = getLimit(resource);
  if (soft >= wanted) return soft;
  const next = Math.min(wanted, hard);
  if (next > soft) setLimit(resource, { soft: next, hard });
  return next;
}
