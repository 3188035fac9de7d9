import { isErrnoName } from '../target/errors.ts';
import { OperatorError } from './operator-error.ts';

/** How failures are told: one line for what an operator can mend, a stack for what only a programmer can. */

/** EX_SOFTWARE of sysexits.h: a defect of ours. */
const INTERNAL = 70;

function wantsStack(): boolean {
  return (process.env['DEBUG'] ?? '') !== '';
}

/** A command failed. Sets the exit code 1. */
export function report(error: unknown): void {
  const operators =
    error instanceof OperatorError || isErrnoName((error as { code?: unknown } | null)?.code) || isRpc(error);
  const message = error instanceof Error ? error.message : String(error);
  console.error(`vvu-target: ${operators ? message : `internal error: ${message}`}`);
  if (error instanceof Error && (wantsStack() || !operators)) console.error(error.stack);
  process.exitCode = 1;
}

function isRpc(error: unknown): boolean {
  return error instanceof Error && error.name === 'RpcError';
}

/** The target can not go on. */
export function fatal(error: Error): never {
  console.error(`vvu-target: fatal: ${error.message}`);
  console.error((error.cause as Error | undefined)?.stack ?? error.stack);
  process.exit(INTERNAL);
}
