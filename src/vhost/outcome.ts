/** How a message handler ended; the session's one reply path turns it into bytes. */
import type { Fd } from '../sys/fd.ts';

/** A reply of the message's own. */
export interface Reply {
  readonly payload: Uint8Array;
  /** Sent along, and closed afterwards. */
  readonly fds?: readonly Fd[];
}

/** The handler has arranged for `session.finish` to be called later; no message is taken until then. */
export const LATER: unique symbol = Symbol('later');

/** null: done. A string: refused, with the reason. */
export type Outcome = null | string | Reply | typeof LATER;
