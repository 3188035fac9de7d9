/** Progress lines of the rig, on stderr so that a program's own output stays clean. `VVU_VM_QUIET=1` silences them. */

const started = performance.now();

export function progress(text: string): void {
  if (process.env['VVU_VM_QUIET'] === '1') return;
  const seconds = ((performance.now() - started) / 1000).toFixed(1).padStart(6);
  process.stderr.write(`[${seconds} s] ${text}\n`);
}
