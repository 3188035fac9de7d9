/** Step-debugging in the appliance: the inspector's port comes out of the VM, and the compute VM's READ stops at a line of src/scsi. */
import { type Debugged, type Shown, showBreakpoint, startDebugged } from '../../vm/debugged.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('debugger in the appliance');
let topology: Debugged;

test.after(() => topology?.close());

test('a breakpoint in src/scsi stops the READ of the compute VM, which completes when the target goes on', async () => {
  topology = await startDebugged();
  const shown: Shown = await showBreakpoint(topology);
  console.log(`${shown.at}\n  ${shown.stack.join('\n  ')}\nnext: ${shown.next}`);
  const [file, line] = shown.at.split(':');
  assert.is(file, 'src/scsi/read-write.ts');
  assert.is(shown.next, `${file}:${Number(line) + 1}`, 'one line further');
  assert.is(shown.lba, 77);
  assert.ok(shown.waited, 'the READ waits while the target stands');
  assert.is(shown.read, 'read under a debugger');
  for (const part of ['src/scsi/lun.ts', 'src/vhost/scsi-request-queue.ts', 'src/sys/event-loop.ts']) {
    assert.ok(
      shown.stack.some((frame) => frame.includes(part)),
      `${part} is on the stack`,
    );
  }
});

test('the target was not harmed by it', async () => {
  await topology.compute.powerOff();
  assert.is(await topology.target.end('INT'), 0);
});

test.run();
