/** Addresses, sysfs, configuration space: what devices and operators may say, and what is made of it. */
import { parseBdf, requireBdf } from '../../src/pci/bdf.ts';
import { ByteConfig, capabilities, msixInfo, PciCap, readConfig, setCommand } from '../../src/pci/config-space.ts';
import { parseResources } from '../../src/pci/sysfs.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { FakeMachine } from './fake-machine.ts';

const test = suite('pci config space');

test('addresses in the forms people write', () => {
  for (const [text, expected] of [
    ['0000:00:05.0', '0000:00:05.0'],
    ['00:05.0', '0000:00:05.0'],
    ['0000.00.05.0', '0000:00:05.0'],
    ['0001:AF:1f.7', '0001:af:1f.7'],
    [' 00:05.0 ', '0000:00:05.0'],
    ['10000:e1:00.0', '10000:e1:00.0'],
    ['00:05.8', undefined],
    ['00:20.0', undefined],
    ['0:5.0', undefined],
    ['', undefined],
    ['../../etc', undefined],
    ['0000:00:05.0/..', undefined],
  ] as const) {
    assert.is(parseBdf(text), expected, text);
  }
  assert.throws(() => requireBdf('eth0'), /"eth0" is no PCI address/);
});

test('resource lines', () => {
  const lines = [
    '0x000000000000c040 0x000000000000c05f 0x0000000000040101', // BAR 0: I/O
    '0x00000000febf0000 0x00000000febf3fff 0x0000000000040200', // BAR 1: 32-bit memory
    '0x0000001000000000 0x0000001fffffffff 0x000000000014220c', // BAR 2: 64-bit prefetchable, 64 GiB
    '0x0000000000000000 0x0000000000000000 0x0000000000000000',
    'nonsense',
  ];
  assert.equal(parseResources(lines.join('\n')), [
    { index: 0, start: 0xc040, size: 32, io: true, prefetchable: false, is64: false },
    { index: 1, start: 0xfebf_0000, size: 0x4000, io: false, prefetchable: false, is64: false },
    { index: 2, start: 2 ** 36, size: 2 ** 36, io: false, prefetchable: true, is64: true },
  ]);
});

test('a function as sysfs shows it', () => {
  const m = new FakeMachine();
  m.addFunction('0000:00:06.0', {
    driver: 'nvme',
    group: '7',
    resources: [[0xfebf_0000, 0x4000, 0x14_0204]],
    cdev: 'vfio3',
  });
  const fn = m.pci.read('0000:00:06.0');
  assert.equal([fn.vendor, fn.device, fn.classCode, fn.driver, fn.iommuGroup], [0x1b36, 0x10, 0x01_0802, 'nvme', '7']);
  assert.is(fn.driverOverride, null);
  assert.equal(m.pci.groupMembers('7'), ['0000:00:06.0']);
  assert.is(m.pci.vfioCdev('0000:00:06.0'), 'vfio3');
  assert.equal(m.pci.list(), ['0000:00:06.0']);
  assert.throws(() => m.pci.read('0000:00:07.0'), /no such PCI function.*setup status/);
});

/** A header with a capability list of these [offset, id, next]. */
function config(list: [number, number, number][], first = list[0]?.[0] ?? 0): ByteConfig {
  const bytes = new Uint8Array(256);
  bytes[0x06] = 0x10;
  bytes[0x34] = first;
  for (const [at, id, next] of list) {
    bytes[at] = id;
    bytes[at + 1] = next;
  }
  return new ByteConfig(bytes);
}

test('a capability list in the device’s order', () => {
  const c = config([
    [0x98, 0x11, 0x84],
    [0x84, 0x09, 0x40],
    [0x40, 0x09, 0],
  ]);
  assert.equal(capabilities(c, 'x'), [
    { id: 0x11, offset: 0x98 },
    { id: 0x09, offset: 0x84 },
    { id: 0x09, offset: 0x40 },
  ]);
});

test('no list: the status bit is off', () => {
  const c = config([[0x40, 9, 0]]);
  c.bytes[0x06] = 0;
  assert.equal(capabilities(c, 'x'), []);
});

test('lists that lie are refused with the place', () => {
  const B = '0000:00:05.0';
  assert.throws(
    () => capabilities(config([[0x40, 9, 0x40]]), B),
    /0000:00:05.0: capability pointer 0x40 at 0x41 makes the list a loop/,
  );
  assert.throws(
    () =>
      capabilities(
        config([
          [0x40, 9, 0x48],
          [0x48, 9, 0x40],
        ]),
        B,
      ),
    /loop/,
  );
  assert.throws(() => capabilities(config([[0x40, 9, 0x20]]), B), /0x20 at 0x41 points into the header/);
  const short = new ByteConfig(config([[0x40, 9, 0x80]]).bytes.subarray(0, 64));
  assert.throws(() => capabilities(short, B), /beyond the 64 bytes/);
  assert.throws(() => capabilities(config([[0x40, 0xff, 0]]), B), /names no capability/);
  assert.throws(() => capabilities(new ByteConfig(new Uint8Array(256).fill(0xff)), B), /all ones: the device has gone/);
});

test('any configuration space ends the walk, with a list inside it or an Error', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 256, maxLength: 256 }), (bytes) => {
      bytes[6] |= 0x10;
      try {
        for (const cap of capabilities(new ByteConfig(bytes), 'x')) assert.ok(cap.offset >= 64 && cap.offset < 255);
      } catch (error) {
        assert.match((error as Error).message, /^x: /);
      }
    }),
    budget(500),
  );
});

test('MSI-X, the command register, reads beyond the end', () => {
  const c = config([[0x70, PciCap.MSIX, 0]]);
  c.write(0x72, 2, 0x8040); // enabled, 65 vectors
  c.write(0x74, 4, 0x2004); // table in BAR 4 at 0x2000
  assert.equal(msixInfo(c, capabilities(c, 'x')), { vectors: 65, tableBar: 4, tableOffset: 0x2000 });
  assert.is(msixInfo(c, []), undefined);
  c.write(4, 2, 0x103);
  setCommand(c, 4, 1);
  assert.is(c.read(4, 2), 0x106);
  assert.equal(Array.from(readConfig(c, 0x74, 4)), [4, 0x20, 0, 0]);
  assert.throws(() => readConfig(c, 254, 4), /ends at 256/);
});

test.run();
