/**
 * Failures of system calls as Errors. `SysError` says which call failed, on what, and why; the one rule is that it is
 * made right after the call, before anything else can change errno.
 */
import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';
import { errno } from './libc.ts';

/** Errno numbers by name: `E.AGAIN` is spelled `ERRNO.EAGAIN`. */
export const ERRNO = constants.errno;

const NAMES = new Map<number, string>();
// The first name of a number wins, but for EAGAIN and EOPNOTSUPP, the usual ones of their pairs.
for (const [name, number] of Object.entries(constants.errno)) if (!NAMES.has(number)) NAMES.set(number, name);
NAMES.set(ERRNO.EAGAIN, 'EAGAIN');
NAMES.set(ERRNO.EOPNOTSUPP, 'EOPNOTSUPP');

/** 'ENOENT' for 2; 'errno 524' for what has no name. */
export function errnoName(number: number): string {
  return NAMES.get(number) ?? `errno ${number}`;
}

export class SysError extends Error {
  override readonly name = 'SysError';
  /** The C function that failed. */
  readonly syscall: string;
  /** Positive errno. */
  readonly errno: number;
  /** Its name: 'ENOENT'. */
  readonly code: string;

  /** @param detail on what it failed (a path, a name), and the operator's next step where there is one */
  constructor(syscall: string, number: number, detail = '') {
    const text = getSystemErrorMap().get(-number)?.[1];
    const code = errnoName(number);
    super(`${syscall}${detail === '' ? '' : ` ${detail}`}: ${text === undefined ? code : `${text} (${code})`}`);
    this.syscall = syscall;
    this.errno = number;
    this.code = code;
  }
}

/** The SysError of the call that just failed on this thread. */
export function sysError(syscall: string, detail?: string): SysError {
  return new SysError(syscall, errno(), detail);
}

/** The result of a call, or its SysError when it is -1. */
export function check(result: number, syscall: string, detail?: string): number {
  if (result < 0) throw sysError(syscall, detail);
  return result;
}
