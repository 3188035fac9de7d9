#!/usr/bin/env node
/** Entry of the program: parse, run, tell failures. */
import { createProgram } from './program.ts';
import { fatal, report } from './report.ts';

process.setSourceMapsEnabled(true);
process.on('uncaughtException', fatal);

try {
  await createProgram().parseAsync();
} catch (error) {
  report(error);
}
