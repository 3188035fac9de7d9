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
