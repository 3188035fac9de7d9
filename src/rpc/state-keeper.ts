import { logger } from '../sys/log.ts';
import { isErrnoName, TargetError } from '../target/errors.ts';
import { readFileIfThere, writeFileWhole } from '../target/state-file.ts';

/**
 * Keeps the configuration in a file (`--state`). Its one rule: who changed the configuration is told when the change was not saved,
 * for he relies on it; and it is tried again until it is.
 */

const log = logger('rpc');

/** Between attempts after a failure, ms. */
const AGAIN_MS = 10_000;

export class StateKeeper {
  readonly path: string;
  private readonly current: () => unknown;
  private readonly againMs: number;
  private written: string | undefined;
  private again: NodeJS.Timeout | undefined;

  /** @param current the configuration as it is now */
  constructor(path: string, current: () => unknown, againMs = AGAIN_MS) {
    this.path = path;
    this.current = current;
    this.againMs = againMs;
  }

  /** What the last target left, or undefined when there is no such file. */
  read(): string | undefined {
    return readFileIfThere(this.path);
  }

  /** @throws TargetError when it cannot be written now */
  save(): void {
    const text = `${JSON.stringify(this.current(), null, 2)}\n`;
    if (text === this.written) return;
    try {
      writeFileWhole(this.path, text);
    } catch (error) {
      this.written = undefined;
      this.retry();
      const { code, message } = error as NodeJS.ErrnoException;
      const failure = new TargetError(
        isErrnoName(code) ? code : 'EIO',
        `the configuration could not be saved in ${this.path}: ${message}; ` +
          `it is in effect, and lost at the next start unless you mend that: saving is tried again every ${this.againMs / 1000} s`,
      );
      failure.cause = error;
      throw failure;
    }
    this.written = text;
    if (this.again !== undefined) log.warn(`the configuration is saved in ${this.path} again`);
    this.close();
  }

  /** The first start with this file. @throws TargetError when it cannot be made */
  create(): void {
    try {
      this.save();
    } catch (error) {
      this.close();
      const { code, message } = (error as Error).cause as NodeJS.ErrnoException;
      throw new TargetError(
        isErrnoName(code) ? code : 'EIO',
        `--state ${this.path}: ${message}; name a file in a directory of yours`,
      );
    }
  }

  /** As {@link save}, where nobody waits for the outcome: a failure is logged. */
  saveOrWarn(): void {
    try {
      this.save();
    } catch (error) {
      log.warn((error as Error).message);
    }
  }

  private retry(): void {
    if (this.again !== undefined) return;
    this.again = setInterval(() => {
      try {
        this.save();
      } catch {
        // the same as before: said once
      }
    }, this.againMs);
    this.again.unref();
  }

  /** The target is about to end: one more attempt, if the last one failed. */
  finish(): void {
    if (this.again !== undefined) this.saveOrWarn();
    this.close();
  }

  /** Try no more. */
  close(): void {
    clearInterval(this.again);
    this.again = undefined;
  }
}
