/**
 * Lets no thread be ended while it loads the FFI: Node 24 aborts the whole process when a thread is stopped in the middle of koffi's
 * loading. A thread that ends waits for those below it that are loading, and lets no more of them begin.
 *
 * Imported before koffi (libc.ts): importing it is passing the gate.
 */
import { getEnvironmentData, setEnvironmentData } from 'node:worker_threads';

const KEY = 'vvu-target: gates of the threads above';
/** Added to a gate's count when its thread is about to end. */
const CLOSED = 0x4000_0000;
/** A thread whose loading fails never leaves the gate. Milliseconds. */
const PATIENCE_MS = 5000;

/** One word each: the threads that are loading below that thread. */
const above = (getEnvironmentData(KEY) ?? []) as Int32Array[];
const own = new Int32Array(new SharedArrayBuffer(4));
setEnvironmentData(KEY, [...above, own] as never);

function leave(gate: Int32Array): void {
  Atomics.sub(gate, 0, 1);
  Atomics.notify(gate, 0);
}

function enter(): void {
  for (let i = 0; i < above.length; i++) {
    if ((Atomics.add(above[i], 0, 1) & CLOSED) === 0) continue;
    for (let j = 0; j <= i; j++) leave(above[j]);
    // A thread above ends, and this one with it: nothing is left to do but to be out of the FFI.
    const never = new Int32Array(new SharedArrayBuffer(4));
    for (;;) Atomics.wait(never, 0, 0);
  }
}

/** This thread has loaded the FFI. */
export function loaded(): void {
  for (const gate of above) leave(gate);
}

process.on('exit', () => {
  const end = performance.now() + PATIENCE_MS;
  let loading = Atomics.or(own, 0, CLOSED) & ~CLOSED;
  while (loading > 0) {
    const left = end - performance.now();
    if (left <= 0) return;
    Atomics.wait(own, 0, loading | CLOSED, left);
    loading = Atomics.load(own, 0) & ~CLOSED;
  }
});

enter();
