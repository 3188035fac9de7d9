/** Access through sysfs files, on a made-up tree: the files are plain files, and behave as far as the driver can tell. */
import { mkdirSync, readFileSync } from 'node:fs';
import { chooseMode } from '../../src/pci/host.ts';
import { SysfsAccess } from '../../src/pci/sysfs-access.ts';
import { assert, suite } from '../support/suite.ts';
import { type FakeFunction, FakeMachine } from './fake-machine.ts';

const test = suite('pci sysfs access');
const BDF = '0000:00:06.0';

function machine(f: FakeFunction = {}): FakeMachine {
  const m = new FakeMachine();
  const config = new Uint8Array(256);
  config.set([0x36, 0x1b, 0x10, 0, 0x07, 0x01, 0x10, 0]); // command: I/O, memory, master, SERR
  config[0x34] = 0x40;
  config[0x40] = 0x11;
  m.addFunction(BDF, {
    config,
    resources: [
      [0xfebf_0000, 0x4000, 0x14_0204],
      [0, 0, 0],
      [0xc000, 0x20, 0x4_0101],
    ],
    ...f,
  });
  const path = m.sys('bus/pci/devices', BDF);
  const bar = new Uint8Array(0x4000);
  bar.set([1, 2, 3, 4], 0x1000);
  m.put(`${path}/resource0`, bar);
  m.put(`${path}/enable`, '0\n');
  m.put(`${path}/reset`, '');
  return m;
}

const command = (m: FakeMachine) => readFileSync(m.sys('bus/pci/devices', BDF, 'config')).readUInt16LE(4);

test('opens enabled, with memory decoding, without interrupts and bus mastering; closes quiet', () => {
  const m = machine();
  const access = new SysfsAccess(m.pci, BDF);
  assert.is(command(m), 0x0503, 'memory decoding on, INTx off, bus master off');
  assert.is(m.text(m.sys('bus/pci/devices', BDF, 'enable')), '1');
  assert.equal(access.capabilities, [{ id: 0x11, offset: 0x40 }]);
  assert.is(access.msixVectors, 0);
  access.setBusMaster(true);
  assert.is(command(m) & 4, 4);
  access.close();
  assert.is(command(m) & 4, 0);
  assert.is(m.text(m.sys('bus/pci/devices', BDF, 'reset')), '1', 'function reset');
  access.close();
});

test('BARs: mapped in parts, with physical addresses; what is outside is refused by name', () => {
  const m = machine();
  const access = new SysfsAccess(m.pci, BDF);
  const bar = access.bar(0);
  assert.equal([bar.size, bar.physical], [0x4000, 0xfebf_0000]);
  const window = bar.map(0x1000, 0x1000);
  const memory = window.memoryAt(0, 16);
  assert.is(memory.u32[0], 0x0403_0201);
  assert.is(memory.ioAddress, 0xfebf_1000);
  memory.u32[0] = 0xdead_beef;
  assert.is(readFileSync(m.sys('bus/pci/devices', BDF, 'resource0')).readUInt32LE(0x1000), 0xdead_beef);
  assert.throws(() => bar.map(0x3000, 0x1001), /0000:00:06.0: BAR 0 has 16384 bytes; 4097 bytes at offset 12288/);
  assert.throws(() => access.bar(1), /no memory BAR 1/);
  assert.throws(() => access.bar(2), /no memory BAR 2/, 'an I/O BAR');
  access.close();
  assert.is(memory.length, 0, 'revoked');
});

test('a kernel driver at work is not disturbed; a second owner is refused', () => {
  const m = machine({ driver: 'nvme' });
  assert.throws(() => new SysfsAccess(m.pci, BDF), /kernel driver nvme has the device.*setup bind/);
  const free = machine();
  const first = new SysfsAccess(free.pci, BDF);
  assert.throws(() => new SysfsAccess(free.pci, BDF), /another process drives this device/);
  first.close();
  new SysfsAccess(free.pci, BDF).close();
});

test('a device whose configuration space cannot be believed', () => {
  const config = new Uint8Array(256);
  config[6] = 0x10;
  config[0x34] = 0x40;
  config[0x40] = 9;
  config[0x41] = 0x40;
  assert.throws(() => new SysfsAccess(machine({ config }).pci, BDF), /loop/);
});

test('the mode that fits how a function is bound', () => {
  const mode = (f: FakeFunction, ...nodes: string[]) => {
    const m = machine(f);
    for (const node of nodes) mkdirSync(m.dev(node), { recursive: true });
    return chooseMode(m.pci.read(BDF), m.pci, m.devRoot);
  };
  assert.is(mode({}), 'sysfs');
  assert.is(mode({ driver: 'nvme' }), 'sysfs', 'which then refuses the driver by name');
  assert.is(mode({ driver: 'vfio-pci', group: '3' }, 'vfio/3'), 'vfio');
  assert.is(mode({ driver: 'vfio-pci', group: '0' }, 'vfio/noiommu-0'), 'vfio-noiommu');
  assert.is(mode({ driver: 'vfio-pci', group: '3', cdev: 'vfio0' }, 'iommu', 'vfio/devices/vfio0'), 'vfio-iommufd');
  assert.throws(() => mode({ driver: 'vfio-pci' }), /in no IOMMU group/);
  assert.throws(() => mode({ driver: 'vfio-pci', group: '3' }), /\/dev\/vfio\/3 is not there/);
});

test.run();
