/** Which layout a device has: by its capabilities, by its id where rows look alike, by the operator's word. */
import { LAYOUT_NAMES, type LayoutName } from '../../src/vvu/driver/layout-names.ts';
import { LAYOUTS, recognise } from '../../src/vvu/driver/layouts.ts';
import { regionOffsets } from '../../src/vvu/driver/memory-window.ts';
import type { VirtioCap } from '../../src/vvu/driver/virtio-caps.ts';
import { endAll, runProgram } from '../support/program.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('vvu layouts');
test.after(endAll);
const GIB = 2 ** 30;

const cap = (type: number): VirtioCap => ({ type, bar: 2, id: 0, offset: 0, length: 4096, multiplier: 4 });
const MODERN = [1, 2, 3, 4, 5].map(cap);
const look = (deviceId: number, more: readonly number[], bytes = 0) => ({
  deviceId,
  caps: [...MODERN, ...more.map(cap)],
  barSize: () => bytes,
});

test('each device is what it looks like', () => {
  const rows: [LayoutName, number, number[], number][] = [
    ['A', 0x1017, [], 64 * GIB], // transitional
    ['A', 0x1058, [], 64 * GIB],
    ['B', 0x1017, [6, 7, 8], 64 * GIB],
    ['B', 0x1060, [6, 7, 8], 64 * GIB], // an id of a draft: capabilities decide
    ['C', 0x106b, [6, 7, 8], 64 * GIB],
    ['C', 0x1016, [6, 7, 8], 64 * GIB],
    ['D', 0x107d, [6, 7, 8], 0x4000],
    ['S', 0x1066, [8], 64 * GIB],
  ];
  for (const [name, id, more, bytes] of rows) {
    const row = recognise(look(id, more, bytes));
    assert.is(typeof row === 'string' ? row : row.name, name, `0x${id.toString(16)} with ${more}`);
  }
});

test('other virtio devices are refused, in words', () => {
  const no = (what: ReturnType<typeof look>, why: RegExp) => assert.match(String(recognise(what)), why);
  no(look(0x1058, [], 4 * GIB), /no virtio-vhost-user device we know/); // virtio-mem has the forks' id
  no(look(0x1060, [8], GIB), /types 1, 2, 3, 4, 5, 8, device id 0x1060/); // SCMI, RPMB, a file system with DAX
  no({ deviceId: 0x1017, caps: [], barSize: () => 64 * GIB }, /no modern virtio device/);
  no({ deviceId: 0x1017, caps: [1, 2].map(cap), barSize: () => 64 * GIB }, /no virtio capability of type 4/);
});

test("the operator's word counts, unless the device lacks what the layout needs", () => {
  const b = look(0x1234, [6, 7, 8], 64 * GIB);
  for (const name of LAYOUT_NAMES) {
    const row = recognise(b, name);
    assert.is(typeof row === 'string' ? row : row.name, name);
  }
  assert.match(String(recognise(look(0x1066, [8]), 'B')), /layout B needs capabilities of the types 6 and 8/);
  assert.match(String(recognise(look(0x1066, []), 'S')), /layout S needs a capability of type 8/);
  assert.equal(
    LAYOUTS.map((row) => row.name),
    LAYOUT_NAMES,
  );
});

test('where regions lie: after all that precedes, with or without what precedes them in their files, or where it is written', () => {
  const regions = [
    { offset: 0, size: 0x1000 },
    { offset: 0x5000, size: 0x2000 },
    { offset: 0x100, size: 0x1000 },
  ];
  assert.equal(regionOffsets('prefixed', regions), [0, 0x6000, 0x8100]);
  assert.equal(regionOffsets('packed', regions), [0, 0x1000, 0x3000]);
  assert.equal(regionOffsets('placed', regions), [0, 0x5000, 0x100]);
});

test('the command line takes a layout for a vvu device, and says which there are', async () => {
  const said = async (...args: string[]) => {
    const { end, stderr } = await runProgram(args);
    assert.is(end, 1);
    return stderr;
  };
  assert.match(
    await said('-T', 'vvu', '-S', '0000:00:07.0', '--vvu-layout', 'Q'),
    /no such layout; expected A, B, C, D, S/,
  );
  assert.match(await said('--vvu-layout', 'S'), /it needs -T vvu/);
});

test.run();
