#!/usr/bin/env node
/** Entry of the program: parse, run, tell failures. */
import { createProgram } from './program.ts';
import { fatal, report } from './report.ts';

process.setSourceMapsEnabled(true);
process.on('uncaughtException', fatal);

// `vvu-target rpc get_bdevs | head`: who reads no more is no reason to fail, least of all for a target that serves.
process.stdout.on('error', () => {});
process.stderr.on('error', () => {});

try {
  await createProgram().parseAsync();
} catch (error) {
  report(error);
}
