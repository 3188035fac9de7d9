/**
 * fast-check with the project's knobs. A failing property prints its seed and path; replay it with
 * `FC_SEED=… FC_PATH=… node --import tsx test/…`. `FC_RUNS` sets the number of runs of each property,
 * `FC_SECONDS` lets each property run that long instead (for nights).
 */
import fc from 'fast-check';

export { fc };

const seconds = Number(process.env['FC_SECONDS'] ?? 0);

/** Parameters for fc.assert: `runs` is what CI affords. */
export function budget(runs: number): fc.Parameters<unknown> {
  const parameters: fc.Parameters<unknown> = { numRuns: Number(process.env['FC_RUNS'] ?? runs), endOnFailure: false };
  if (process.env['FC_SEED'] !== undefined) parameters.seed = Number(process.env['FC_SEED']);
  if (process.env['FC_PATH'] !== undefined) parameters.path = process.env['FC_PATH'];
  if (seconds > 0) {
    parameters.numRuns = 2 ** 31 - 1;
    parameters.interruptAfterTimeLimit = seconds * 1000;
  }
  return parameters;
}
