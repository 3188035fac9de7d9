/** A virtio-scsi adapter as a PCI function: its registers in plain memory. */
import { PciScsiTransport } from '../../src/bdev/virtio-scsi/pci-transport.ts';
import { Memory } from '../../src/memory/memory.ts';
import type { PciAccess } from '../../src/pci/access.ts';
import type { PciFunction } from '../../src/pci/sysfs.ts';
import { FakeDma } from '../support/fake-dma.ts';
import { FakeLoop } from '../support/fake-loop.ts';
import { assert, suite } from '../support/suite.ts';

const test = suite('virtio-scsi adapter, PCI');

/** Byte offsets of the common configuration (virtio 1.2 §4.1.4.3). */
const CONFIG_MSIX_VECTOR = 16;
const NO_VECTOR = 0xffff;
/** Capability at, type, offset in BAR 4. */
const CAPABILITIES = [
  [0x40, 1, 0x0000],
  [0x50, 3, 0x1000],
  [0x60, 4, 0x2000],
  [0x70, 2, 0x3000],
] as const;

function transport() {
  const space = new DataView(new ArrayBuffer(256));
  for (const [at, type, offset] of CAPABILITIES) {
    for (const [i, byte] of [9, 0, 20, type, 4].entries()) space.setUint8(at + i, byte);
    space.setUint32(at + 8, offset, true);
    space.setUint32(at + 12, 0x1000, true);
    space.setUint32(at + 16, 4, true);
  }
  const bar = new Memory(new SharedArrayBuffer(0x4000));
  const window = (offset: number) => ({
    memoryAt: (at: number, bytes: number) => new Memory(bar.u8.buffer, offset + at, bytes),
  });
  const access = {
    bdf: '0000:00:05.0',
    msixVectors: 4,
    config: {
      size: 256,
      read: (at: number, width: number) => (width === 1 ? space.getUint8(at) : space.getUint32(at, true)),
    },
    capabilities: CAPABILITIES.map(([offset]) => ({ id: 9, offset })),
    bar: () => ({ map: window }),
    connectMsix: () => {},
    setBusMaster: () => {},
  } as unknown as PciAccess;
  const fn = { vendor: 0x1af4, device: 0x1048, subsystemDevice: 8 } as PciFunction;
  return { bar, pci: new PciScsiTransport(access, fn, new FakeDma(), new FakeLoop()) };
}

test('configuration changes interrupt after a reset, too, which takes the vector away', async () => {
  const { bar, pci } = transport();
  pci.connect(3, [4]);
  for (let start = 0; start < 2; start++) {
    await pci.reset();
    bar.u16[CONFIG_MSIX_VECTOR >> 1] = NO_VECTOR;
    await pci.start();
    assert.is(bar.u16[CONFIG_MSIX_VECTOR >> 1], 0);
  }
});

test.run();
