/**
 * `npm run demo:debug`: the target inside the appliance VM under a debugger. The inspector's port is forwarded out of the VM, a breakpoint is set
 * on a line of src/scsi, the compute VM reads, the target stops at that line; the stack, the CDB and one step further are shown, and
 * the read completes when the target goes on. On a terminal the machines stay up after that, for a debugger of your own.
 *
 * Options: `--no-shell` ends after the breakpoint was shown (so does a standard input that is no terminal).
 */
import { parseArgs } from 'node:util';
import { showBreakpoint, startDebugged } from './debugged.ts';
import { lendConsole } from './lend-console.ts';
import { progress } from './progress.ts';

const { values } = parseArgs({ options: { 'no-shell': { type: 'boolean', default: false } } });
const topology = await startDebugged();
try {
  const shown = await showBreakpoint(topology);
  console.log(`\nStopped at ${shown.at}, LBA ${shown.lba} of the compute VM's READ(10). The stack:\n`);
  for (const frame of shown.stack) console.log(`    ${frame}`);
  console.log(`\nOne step further: ${shown.next}. Resumed; the compute VM read "${shown.read}".`);
  if (process.stdin.isTTY && !values['no-shell']) {
    console.log(`\nThe inspector listens at 127.0.0.1:${topology.port}: chrome://inspect, or "attach" of an editor.`);
    await lendConsole(topology.compute);
  }
} finally {
  progress('taking everything down');
  await topology.close();
}
process.exit(0);
