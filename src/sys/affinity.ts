/**
 * Which CPUs this thread may run on. Pin reactors only, never the whole process: V8's compiler and collector threads
 * need a CPU of their own, or hot code stays in the interpreter.
 */
import { readFileSync } from 'node:fs';
import { check } from './errno.ts';
import * as libc from './libc.ts';

/** cpu_set_t: one bit a CPU. */
const MAX_CPUS = 1024;

/** Keep the calling thread on these CPUs. */
export function pinThread(...cpus: readonly number[]): void {
  const mask = new Uint8Array(MAX_CPUS / 8);
  for (const cpu of cpus) {
    if (!(Number.isInteger(cpu) && cpu >= 0 && cpu < MAX_CPUS)) throw new RangeError(`pinThread: no CPU ${cpu}`);
    mask[cpu >> 3] |= 1 << (cpu & 7);
  }
  check(
    libc.sched_setaffinity(0, mask.length, mask),
    'sched_setaffinity',
    `CPU ${cpus.join(', ')} (offline, or not allowed here?)`,
  );
}

/** CPUs that the calling thread may run on, ascending. */
export function allowedCpus(): number[] {
  const mask = new Uint8Array(MAX_CPUS / 8);
  check(libc.sched_getaffinity(0, mask.length, mask), 'sched_getaffinity');
  const cpus: number[] = [];
  for (let cpu = 0; cpu < MAX_CPUS; cpu++) if ((mask[cpu >> 3] & (1 << (cpu & 7))) !== 0) cpus.push(cpu);
  return cpus;
}

/** CPUs of this machine that are online, as the kernel writes them: `0-3,8`. */
export function onlineCpus(): string {
  return readFileSync('/sys/devices/system/cpu/online', 'utf8').trim();
}
