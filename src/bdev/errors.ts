/**
 * What the operator did wrong, or what the host refuses, when a disk is made or changed. The message says what, where and the
 * next step; `code` is errno's name, which the layers above translate.
 */

export type BdevErrorCode =
  | 'EINVAL'
  | 'ENOENT'
  | 'EACCES'
  | 'EBUSY'
  | 'ENOMEM'
  | 'ENOSPC'
  | 'EIO'
  | 'ENOTSUP'
  | 'EPERM'
  | 'ENODEV';

const CODES: readonly string[] = [
  'EINVAL',
  'ENOENT',
  'EACCES',
  'EBUSY',
  'ENOMEM',
  'ENOSPC',
  'EIO',
  'ENOTSUP',
  'EPERM',
  'ENODEV',
] satisfies BdevErrorCode[];

/**
 * What stands in the way of a device, in its own words.
 * @param otherwise when the error carries no errno's name
 */
export function deviceError(error: unknown, otherwise: BdevErrorCode, option: string): BdevError {
  if (error instanceof BdevError) return error;
  const { code, message } = error as Error & { code?: unknown };
  const known = typeof code === 'string' && CODES.includes(code);
  return new BdevError(known ? (code as BdevErrorCode) : otherwise, message, option);
}

export class BdevError extends Error {
  override readonly name = 'BdevError';
  readonly code: BdevErrorCode;
  /** Which option was wrong, in its own spelling: 'blockSize'. Undefined when no single one was. */
  readonly option: string | undefined;

  constructor(code: BdevErrorCode, message: string, option?: string) {
    super(message);
    this.code = code;
    this.option = option;
  }
}
