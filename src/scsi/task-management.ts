import type { Command } from './command.ts';

/**
 * Task management (SAM-5 7): function names, responses, and the wait for the tasks that a function gave up. The
 * answer comes when those tasks have ended, not before: a guest may reuse their buffers then.
 */

export const Tmf = {
  ABORT_TASK: 0,
  ABORT_TASK_SET: 1,
  CLEAR_ACA: 2,
  CLEAR_TASK_SET: 3,
  I_T_NEXUS_RESET: 4,
  LOGICAL_UNIT_RESET: 5,
  QUERY_TASK: 6,
  QUERY_TASK_SET: 7,
} as const;
export type Tmf = (typeof Tmf)[keyof typeof Tmf];

export const TmfResponse = {
  FUNCTION_COMPLETE: 0,
  /** QUERY TASK (SET): there is such a task. */
  FUNCTION_SUCCEEDED: 1,
  FUNCTION_REJECTED: 2,
  INCORRECT_LUN: 3,
} as const;
export type TmfResponse = (typeof TmfResponse)[keyof typeof TmfResponse];

export type TmfDone = (response: TmfResponse) => void;

/** One function's wait for one or more commands. */
export class TmfWait {
  /** The next function that waits for the same command. */
  next: TmfWait | null = null;
  private readonly shared: { left: number; done: TmfDone };

  private constructor(shared: { left: number; done: TmfDone }) {
    this.shared = shared;
  }

  /** Call `done` with FUNCTION COMPLETE when all of `commands` have ended: at once when there is none. */
  static forAll(commands: readonly Command[], done: TmfDone): void {
    if (commands.length === 0) {
      done(TmfResponse.FUNCTION_COMPLETE);
      return;
    }
    const shared = { left: commands.length, done };
    for (const command of commands) {
      const wait = new TmfWait(shared);
      wait.next = command.waiters;
      command.waiters = wait;
    }
  }

  /** The command has ended: tell every function that waits for it. */
  static ended(first: TmfWait | null): void {
    for (let wait = first; wait !== null; wait = wait.next) {
      if (--wait.shared.left === 0) wait.shared.done(TmfResponse.FUNCTION_COMPLETE);
    }
  }
}
