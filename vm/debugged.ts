/**
 * The appliance topology with its target under `node --inspect`, and a breakpoint in it that the compute VM's READ meets. The
 * inspector's port comes out of the appliance VM through a network card of its own (QEMU's user network).
 */
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { CdpClient } from '../test/support/cdp.ts';
import { type Place, SourceMapOfOne } from '../test/support/source-map.ts';
import { startAppliance } from './appliance.ts';
import { ApplianceTarget } from './appliance-target.ts';
import { startCompute } from './compute.ts';
import { awaitDisks } from './disks.ts';
import type { Machine } from './machine.ts';
import { PROJECT } from './paths.ts';
import { progress } from './progress.ts';
import { RelayProcess } from './relay-process.ts';

/** The line to stop at: the first of this function's body. */
const FILE = 'src/scsi/read-write.ts';
const FUNCTION = 'export const read10';
/** Which READ is meant. */
const LBA = 77;
const WORDS = 'read under a debugger';

/** Of the guest in QEMU's user network. */
const GUEST_ADDRESS = '10.0.2.15';
const GUEST_PORT = 9229;

export interface Debugged {
  readonly compute: Machine;
  readonly appliance: Machine;
  readonly target: ApplianceTarget;
  /** On this machine, of the inspector. */
  readonly port: number;
  readonly device: string;
  close(): Promise<void>;
}

export interface Shown {
  /** file:line that the target stopped at. */
  readonly at: string;
  readonly lba: number;
  /** One line a frame, innermost first. */
  readonly stack: readonly string[];
  /** file:line after one step. */
  readonly next: string;
  /** What the compute VM's read brought once the target went on. */
  readonly read: string;
  /** It was still waiting while the target stood. */
  readonly waited: boolean;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export async function startDebugged(): Promise<Debugged> {
  const port = await freePort();
  const machines: Machine[] = [];
  progress('starting relay and appliance VM');
  const relay = await RelayProcess.start();
  const close = async () => {
    for (const machine of machines.reverse()) await machine.close();
    await relay.close();
  };
  try {
    const forward = `user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:${port}-${GUEST_ADDRESS}:${GUEST_PORT}`;
    const network = ['-netdev', forward, '-device', 'virtio-net-pci,netdev=net0,romfile='];
    const appliance = await startAppliance({ qemu: '11', cpus: 2, args: [...relay.deviceArgs, ...network] });
    machines.push(appliance);
    await appliance.booted();
    await appliance.run(
      `modprobe virtio_net && until ip link show eth0; do sleep 0.2; done && ip addr add ${GUEST_ADDRESS}/24 dev eth0 && ip link set eth0 up`,
    );
    progress('starting the target in it, under the inspector');
    const target = await ApplianceTarget.start(appliance, {
      nodeArgs: [`--inspect=0.0.0.0:${GUEST_PORT}`],
      args: ['--single-thread', '--malloc', '16M'],
    });
    progress('starting the compute VM');
    const compute = await startCompute({ qemu: '11', scsi: [{ socket: relay.compute }] });
    machines.push(compute);
    await compute.booted();
    const [{ device }] = await awaitDisks(compute, ['Malloc disk']);
    return { compute, appliance, target, port, device, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A built file and its way back to the source. */
function built(source: string): { url: string; map: SourceMapOfOne } {
  const file = source.replace(/^src\//, 'dist/').replace(/\.ts$/, '.js');
  const map = readFileSync(join(PROJECT, `${file}.map`)).toString('base64');
  return { url: file, map: new SourceMapOfOne(`data:application/json;base64,${map}`) };
}

function breakLine(): number {
  const lines = readFileSync(join(PROJECT, FILE), 'utf8').split('\n');
  const line = lines.findIndex((text) => text.startsWith(FUNCTION));
  if (line < 0) throw new Error(`${FILE} has no "${FUNCTION}"`);
  return line + 1;
}

interface Frame {
  callFrameId: string;
  functionName: string;
  location: { scriptId: string; lineNumber: number; columnNumber: number };
}

/** Sets the breakpoint, makes the compute VM read, and lets the target go on. */
export async function showBreakpoint({ compute, port, device }: Debugged): Promise<Shown> {
  await compute.run(`printf '${WORDS}' | dd of=${device} bs=512 seek=${LBA} conv=sync oflag=direct 2>/dev/null`);
  const listed = (await (await fetch(`http://127.0.0.1:${port}/json/list`)).json()) as {
    webSocketDebuggerUrl: string;
  }[];
  const { pathname } = new URL(listed[0].webSocketDebuggerUrl);
  const cdp = await CdpClient.connect(`ws://127.0.0.1:${port}${pathname}`);
  try {
    await cdp.send('Debugger.enable');
    const { url, map } = built(FILE);
    const place: Place = map.generated(breakLine());
    const set = await cdp.send('Debugger.setBreakpointByUrl', {
      urlRegex: `/${url.replaceAll('.', '\\.')}$`,
      lineNumber: place.line,
      columnNumber: place.column,
      condition: `((cdb) => cdb[4] * 256 + cdb[5])(command.task.cdb) === ${LBA}`,
    });
    if (set.locations.length !== 1) throw new Error(`the breakpoint has ${set.locations.length} places`);
    progress(`breakpoint at ${FILE}:${breakLine() + 1}; the compute VM reads block ${LBA}`);
    const job = await compute.background(
      `dd if=${device} bs=512 skip=${LBA} count=1 iflag=direct 2>/dev/null | tr -d '\\0'`,
    );
    const sourceOf = ({ location }: Frame): string => {
      const file = cdp.scripts.get(location.scriptId)?.split('/dist/')[1];
      if (file === undefined) return cdp.scripts.get(location.scriptId) ?? '?';
      const source = `src/${file.replace(/\.js$/, '.ts')}`;
      const at = built(source).map.original({ line: location.lineNumber, column: location.columnNumber });
      return `${source}:${at.line + 1}`;
    };
    const paused = await cdp.event('Debugger.paused');
    const frames = paused.callFrames as Frame[];
    const evaluated = await cdp.send('Debugger.evaluateOnCallFrame', {
      callFrameId: frames[0].callFrameId,
      expression: 'command.task.cdb[4] * 256 + command.task.cdb[5]',
      returnByValue: true,
    });
    const stack = frames.map((frame) => `${frame.functionName || '(anonymous)'}  ${sourceOf(frame)}`);
    cdp.forget();
    await cdp.send('Debugger.stepOver');
    const stepped = await cdp.event('Debugger.paused');
    const next = sourceOf(stepped.callFrames[0]);
    const waited = (await job.exitCode()) === null;
    await cdp.send('Debugger.removeBreakpoint', { breakpointId: set.breakpointId });
    await cdp.send('Debugger.resume');
    const { output } = await job.wait(120);
    return { at: sourceOf(frames[0]), lba: evaluated.result.value, stack, next, read: output, waited };
  } finally {
    cdp.close();
  }
}
