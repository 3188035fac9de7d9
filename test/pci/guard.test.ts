/** The guard: what happens to devices and DMA memory when the target dies, and when it ends in order. */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { assert, suite } from '../support/suite.ts';
import { FakeMachine } from './fake-machine.ts';

const test = suite('pci guard');
const BDF = '0000:00:06.0';

/** Processes that are a guard for this tree. */
function guards(m: FakeMachine): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return (
        readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(m.sysRoot) &&
        readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('vvu-guard')
      );
    } catch {
      return false;
    }
  });
}

async function until(done: () => boolean): Promise<void> {
  for (let i = 0; i < 500 && !done(); i++) await sleep(20);
  assert.ok(done());
}

function machine(): FakeMachine {
  const m = new FakeMachine();
  const config = new Uint8Array(256);
  config.set([0, 0, 0, 0, 0x06, 0x05], 0); // memory decoding and bus master on
  m.addFunction(BDF, { config });
  m.put(m.sys('bus/pci/devices', BDF, 'reset'), '');
  return m;
}

/** A process that has the function and memory under guard, says "ready", and does as its input says. */
function target(m: FakeMachine) {
  const code = `
    import { Guard } from '${new URL('../../src/pci/guard.ts', import.meta.url).href}';
    import { memfd } from '${new URL('../../src/sys/mapping.ts', import.meta.url).href}';
    const guard = new Guard(${JSON.stringify(m.sysRoot)});
    guard.setMemory([memfd('vvu-dma-test', 4096)]);
    guard.setFunctions(['${BDF}']);
    process.stdin.on('data', () => { guard.close(); process.stdin.destroy(); });
    console.log('ready');`;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  return { child, ready: new Promise((resolve) => child.stdout.once('data', resolve)) };
}

const command = (m: FakeMachine) => readFileSync(m.sys('bus/pci/devices', BDF, 'config')).readUInt16LE(4);

test('killed: bus mastering goes off and the function is reset, while the memory is still held', async () => {
  const m = machine();
  const { child, ready } = target(m);
  await ready;
  await until(() => guards(m).length === 1);
  const [pid] = guards(m) as [string];
  const held = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  assert.ok(
    held.some((name) => name.includes('vvu-dma-test')),
    'the guard holds the memory',
  );
  assert.is(command(m), 0x0506);
  child.kill('SIGKILL');
  await until(() => command(m) === 0x0002);
  await until(() => m.text(m.sys('bus/pci/devices', BDF, 'reset')) === '1'); // right behind
  await until(() => guards(m).length === 0);
});

test('ended in order: the guard goes and touches nothing', async () => {
  const m = machine();
  const { child, ready } = target(m);
  await ready;
  await until(() => guards(m).length === 1);
  child.stdin.write('end\n');
  await new Promise((resolve) => child.on('exit', resolve));
  await until(() => guards(m).length === 0);
  assert.is(command(m), 0x0506);
  assert.is(m.text(m.sys('bus/pci/devices', BDF, 'reset')), '');
});

test.run();
