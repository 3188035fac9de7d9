/** The modern virtio PCI registers in plain memory: where they lie, what is refused, the handshake. */
import { Memory } from '../../src/memory/memory.ts';
import { featureMask, VirtioFeature } from '../../src/virtio/features.ts';
import { VirtioPci, VirtioStatus, virtioDeviceType } from '../../src/virtio/virtio-pci.ts';
import { virtioPciCapabilities } from '../../src/virtio/virtio-pci-caps.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('virtio pci');

/** Configuration space with vendor capabilities [offset, cap_len, type, bar, bar offset, bar length, multiplier]. */
type Row = [at: number, length: number, type: number, bar: number, offset: number, bytes: number, multiplier?: number];

/** As QEMU lays it out, on a root bus. */
const QEMU: Row[] = [
  [0x40, 16, 1, 4, 0x0000, 0x1000],
  [0x50, 16, 3, 4, 0x1000, 0x1000],
  [0x60, 16, 4, 4, 0x2000, 0x1000],
  [0x70, 20, 2, 4, 0x3000, 0x1000, 4],
  [0x84, 20, 5, 0, 0, 0],
];

function space(rows: readonly Row[]) {
  const bytes = new Uint8Array(256);
  const v = new DataView(bytes.buffer);
  for (const [at, length, type, bar, offset, size, multiplier] of rows) {
    bytes.set([9, 0, length, type, bar, 0, 0, 0], at);
    v.setUint32(at + 8, offset, true);
    v.setUint32(at + 12, size, true);
    if (multiplier !== undefined) v.setUint32(at + 16, multiplier, true);
  }
  return {
    config: {
      size: 256,
      read: (at: number, width: 1 | 2 | 4) =>
        width === 1 ? v.getUint8(at) : width === 2 ? v.getUint16(at, true) : v.getUint32(at, true),
    },
    capabilities: rows.map(([offset]) => ({ id: 9, offset })),
  };
}

/** A device whose registers do what they must when they are written: plain memory with watched stores. */
function device(rows: readonly Row[] = QEMU, deviceId = 0x1048) {
  const bar = new Memory(new ArrayBuffer(0x4000));

  const r = bar.u8;
  const { u16, u32 } = bar;
  const target = {
    name: '0000:00:05.0',
    deviceId,
    subsystemId: 8,
    ...space(rows),
    map: (index: number, offset: number, bytes: number) => {
      assert.is(index, 4);
      if (offset + bytes > bar.length) throw new Error('outside');
      return new Memory(bar.u8.buffer, offset, bytes);
    },
  };
  u16[18 >> 1] = 5;
  u16[24 >> 1] = 128;
  return { target, bar, r, u16, u32 };
}

test('the capabilities of QEMU', () => {
  const { config, capabilities } = space(QEMU);
  assert.equal(
    virtioPciCapabilities(config, capabilities).map((c) => [c.type, c.bar, c.offset, c.length, c.multiplier]),
    [
      [1, 4, 0, 0x1000, 0],
      [3, 4, 0x1000, 0x1000, 0],
      [4, 4, 0x2000, 0x1000, 0],
      [2, 4, 0x3000, 0x1000, 4],
      [5, 0, 0, 0, 0],
    ],
  );
});

test('capabilities that are too short, cut off, or for a newer driver are left out', () => {
  for (const row of [
    [0x40, 15, 1, 4, 0, 0x1000],
    [0xf8, 16, 1, 4, 0, 0x1000],
    [0x40, 16, 1, 6, 0, 0x1000],
  ] as Row[]) {
    const { config, capabilities } = space(row[0] === 0xf8 ? [] : [row]);
    assert.equal(virtioPciCapabilities(config, row[0] === 0xf8 ? [{ id: 9, offset: 0xf8 }] : capabilities), []);
  }
});

test('any configuration space: a list of capabilities that lie in it', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 256, maxLength: 256 }), fc.array(fc.nat(255)), (bytes, offsets) => {
      const v = new DataView(bytes.buffer, bytes.byteOffset, 256);
      const config = {
        size: 256,
        read: (at: number, width: 1 | 2 | 4) =>
          width === 1 ? v.getUint8(at) : width === 2 ? v.getUint16(at, true) : v.getUint32(at, true),
      };
      for (const cap of virtioPciCapabilities(
        config,
        offsets.map((offset) => ({ id: 9, offset })),
      ))
        assert.ok(cap.bar <= 5);
    }),
    budget(300),
  );
});

test('legacy devices are refused with what to change', () => {
  assert.throws(
    () => new VirtioPci(device([], 0x1004).target),
    /0000:00:05.0: a legacy virtio device \(id 0x1004, no modern interface\).*disable-legacy=on/,
  );
  assert.throws(() => new VirtioPci(device([], 0x1048).target), /no virtio capability for its common configuration/);
  assert.throws(
    () => new VirtioPci(device([[0x40, 16, 1, 4, 0, 40], ...QEMU.slice(1)]).target),
    /has 40 bytes, 56 are needed/,
  );
  assert.throws(
    () => new VirtioPci(device([...QEMU.slice(0, 3), [0x70, 20, 2, 4, 0x3000, 0x1000, 3]]).target),
    /multiplier 3 is odd/,
  );
});

test('the device type, of modern and transitional ids', () => {
  assert.is(virtioDeviceType(0x1048, 0x1100), 8);
  assert.is(virtioDeviceType(0x1004, 8), 8);
});

test('features: VERSION_1 is a must, ACCESS_PLATFORM is taken where it is offered', () => {
  const offered = { lo: 0x3000_0006, hi: 0x3 };
  const d = device();
  // Plain memory can't switch words by the select register: both words read alike here, so each test sets what it wants.
  const pci = new VirtioPci(d.target);
  d.u32[4 >> 2] = offered.lo;
  assert.throws(() => {
    d.u32[4 >> 2] = 0;
    pci.negotiate(featureMask(VirtioFeature.EVENT_IDX));
  }, /does not offer VERSION_1/);
  d.u32[4 >> 2] = 3; // bits 0 and 1, and 32 and 33
  const accepted = pci.negotiate(featureMask(VirtioFeature.EVENT_IDX));
  assert.is(accepted, (1n << 32n) | (1n << 33n), 'bits 0 and 1 were not wanted');
  assert.is(d.r[20], VirtioStatus.FEATURES_OK);
});

test('status: reset, handshake, removal', () => {
  const d = device();
  const pci = new VirtioPci(d.target);
  d.r[20] = 0x0f;
  pci.reset();
  assert.ok(pci.isReset);
  pci.acknowledge();
  assert.is(d.r[20], VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER);
  pci.start();
  assert.is(d.r[20], 7);
  assert.not(pci.needsReset);
  d.r[20] = 0x47;
  assert.ok(pci.needsReset);
  d.r[20] = 0xff;
  assert.ok(pci.gone);
  assert.not(pci.needsReset, 'a device that has gone asks for nothing');
});

test('queues: addresses, vector, notify place', () => {
  const d = device();
  const pci = new VirtioPci(d.target);
  assert.is(pci.queues, 5);
  assert.is(pci.queueSize(2), 128);
  d.u16[30 >> 1] = 3;
  const place = pci.enableQueue(3, 64, { desc: 2 ** 40 + 0x1000, driver: 0x2000, device: 0x3000 }, 2);
  assert.equal(place, { offset: 12, value: 3 });
  assert.equal([d.u16[22 >> 1], d.u16[24 >> 1], d.u16[26 >> 1], d.u16[28 >> 1]], [3, 64, 2, 1]);
  assert.equal([d.u32[32 >> 2], d.u32[36 >> 2], d.u32[40 >> 2], d.u32[48 >> 2]], [0x1000, 256, 0x2000, 0x3000]);
  d.u16[30 >> 1] = 0x400;
  assert.throws(
    () => pci.enableQueue(3, 64, { desc: 0, driver: 0, device: 0 }),
    /notified at offset 4096, the window has 4096 bytes/,
  );
});

test('configuration: of one moment, and of the size there is', () => {
  const d = device();
  const pci = new VirtioPci(d.target);
  d.bar.u8.set([1, 2, 3, 4, 5, 6, 7, 8], 0x2000);
  assert.equal(Array.from(pci.readConfig(0, 6)), [1, 2, 3, 4, 5, 6]);
  assert.equal(Array.from(pci.readConfig(1, 3)), [2, 3, 4]);
  assert.throws(() => pci.readConfig(0x1000, 1), /its configuration has 4096 bytes, 4097 are needed/);
});

test.run();
