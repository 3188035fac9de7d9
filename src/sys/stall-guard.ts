/**
 * Gets a thread out of a system call that a peer made to block. Whether an eventfd of a front end blocks is decided by
 * a flag of the open file, which the front end shares and can change at any time; a full counter would then hold up
 * the reactor, and with it every other front end, for ever. Linux has no way to write to an eventfd that never
 * blocks, so another thread looks on: a call that has not ended after one or two seconds is interrupted by a signal.
 *
 * The one rule: the watched thread pays two stores a call, and whoever gets EINTR never touches that descriptor
 * again.
 */
import { check } from './errno.ts';
import * as libc from './libc.ts';

/** Its default is to be ignored, and nobody uses it for anything on a file descriptor of ours. */
const SIGURG = 23;
/** struct sigaction of the C library: handler, 128 bytes of mask, flags, restorer. */
const SIGACTION_BYTES = 152;
/** How often the guard looks; a call is interrupted when it is found in two looks. Milliseconds. */
const LOOK_MS = 1000;

/** What a guarding thread says when it is ready. */
export const ON_GUARD = 'on guard';

const BEGUN = 0;
const ENDED = 1;

/** Of this thread: calls that could block, begun and ended. Plain stores: the guard may be late, never wrong for long. */
export const calls = new Int32Array(new SharedArrayBuffer(8));

/** A call that a peer could make to block begins. Hot path. */
export function callBegins(): void {
  calls[BEGUN]++;
}

export function callEnds(): void {
  calls[ENDED]++;
}

/** What a guard must know of a thread; survives structured clone. */
export interface Guarded {
  readonly tid: number;
  readonly calls: Int32Array;
}

/** Of the calling thread, to be sent to the one that guards it. */
export function guarded(): Guarded {
  return { tid: libc.gettid(), calls };
}

let handled = false;

/** A handler that does nothing, without SA_RESTART: the interrupted call ends with EINTR. It must not be JavaScript. */
function installHandler(): void {
  if (handled) return;
  handled = true;
  const action = new Uint8Array(SIGACTION_BYTES);
  new DataView(action.buffer).setBigUint64(0, BigInt(libc.functionAddress('abs')), true);
  check(libc.sigaction(SIGURG, action, null), 'sigaction');
}

/** Watch a thread of this process, from a thread that no peer can block. @returns ends it */
export function guardThread({ tid, calls }: Guarded): () => void {
  installHandler();
  let seen = 0;
  const timer = setInterval(() => {
    const begun = Atomics.load(calls, BEGUN);
    const inside = begun !== Atomics.load(calls, ENDED);
    if (inside && begun === seen) libc.tgkill(process.pid, tid, SIGURG);
    seen = inside ? begun : 0;
  }, LOOK_MS);
  timer.unref();
  return () => clearInterval(timer);
}
