/**
 * A guest's READ(10) under the debugger: the target runs from its TypeScript sources on one thread, a breakpoint is set
 * by file and line as a person would, the request stops there, can be stepped, looked at and resumed, and completes.
 */
import { mkdtempSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { CdpClient } from '../support/cdp.ts';
import { read10, write10 } from '../support/front-end-scsi.ts';
import { connectGuest, TEST_UNIT_READY } from '../support/guest.ts';
import { endAll, startTarget } from '../support/program.ts';
import { SourceMapOfOne } from '../support/source-map.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';

const test = suite('debugging');
test.after(endAll);

const FILE = resolve(import.meta.dirname, '../../src/scsi/read-write.ts');
const URL_OF_FILE = pathToFileURL(FILE).href;

/** Line, counted from 0, on which the handler of READ(10) begins its work. */
function handlerLine(): number {
  const lines = readFileSync(FILE, 'utf8').split('\n');
  const line = lines.findIndex((text) => text.startsWith('export const read10'));
  assert.ok(line > 0, 'the handler of READ(10) is where it was');
  return line + 1;
}

test('a breakpoint in a .ts file stops a READ(10) at that line, and the request completes', async () => {
  const folder = mkdtempSync(join(tempDir(), 'd-'));
  const program = await startTarget(folder, ['--single-thread', '--malloc', '1M'], {
    nodeArgs: ['--inspect=127.0.0.1:0'],
  });
  const [, url] = await program.says(/Debugger listening on (ws:\S+)/);
  const cdp = await CdpClient.connect(url);
  const isFile = (u: string) => u.split('?')[0] === URL_OF_FILE;
  const parsed = cdp.event('Debugger.scriptParsed', (p) => isFile(p.url));
  await cdp.send('Debugger.enable');
  const script = await parsed;
  const map = new SourceMapOfOne(script.sourceMapURL);
  const line = handlerLine();
  const place = map.generated(line);
  const set = await cdp.send('Debugger.setBreakpointByUrl', {
    url: script.url,
    lineNumber: place.line,
    columnNumber: place.column,
  });
  assert.is(set.locations.length, 1);

  const guest = connectGuest(join(folder, 'vhost.0'));
  assert.is(guest.scsi.ready(0, TEST_UNIT_READY).status, 0);
  const data = new Uint8Array(512).map((_, i) => i);
  assert.is(guest.scsi.run(0, write10(5, 1), { out: data }).status, 0, 'other commands pass');

  const pending = guest.scsi.submit(0, read10(5, 1), { inLength: 512 });
  const paused = await cdp.event('Debugger.paused');
  assert.equal(paused.hitBreakpoints, [set.breakpointId]);
  const [frame] = paused.callFrames;
  assert.is(frame.location.scriptId, script.scriptId);
  const at = map.original({ line: frame.location.lineNumber, column: frame.location.columnNumber });
  assert.is(at.line, line, `stopped at line ${at.line + 1}, not ${line + 1}`);

  // One stack from the kick to here: the loop, the vring, the request queue, the unit.
  const files = paused.callFrames.map(
    (f: { location: { scriptId: string } }) => cdp.scripts.get(f.location.scriptId)?.split('?')[0].split('/src/')[1],
  );
  for (const file of ['sys/event-loop.ts', 'vhost/scsi-request-queue.ts', 'scsi/lun.ts']) {
    assert.ok(files.includes(file), `${file} is not on the stack ${files.join(', ')}`);
  }

  const { result } = await cdp.send('Debugger.evaluateOnCallFrame', {
    callFrameId: frame.callFrameId,
    expression: 'command.task.cdb[5]',
    returnByValue: true,
  });
  assert.is(result.value, 5, 'the LBA of the CDB');

  cdp.forget();
  await cdp.send('Debugger.stepOver');
  const stepped = await cdp.event('Debugger.paused');
  const next = stepped.callFrames[0].location;
  assert.is(map.original({ line: next.lineNumber, column: next.columnNumber }).line, line + 1, 'one line further');

  guest.scsi.collect();
  assert.is(pending.answer, null, 'nothing completes while it stands');
  await cdp.send('Debugger.removeBreakpoint', { breakpointId: set.breakpointId });
  await cdp.send('Debugger.resume');
  const answer = guest.scsi.wait(pending);
  assert.is(answer.status, 0);
  assert.equal(answer.data, data);

  guest.close();
  cdp.close();
  assert.is(await program.end('SIGTERM'), 0, program.stderr);
});

test.run();
