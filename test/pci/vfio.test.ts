/**
 * VFIO against a made-up kernel that answers ioctls: what is asked in which order, what is made of the answers, and what is said
 * when something stands in the way. (The true kernel's part is in the VM tests.)
 */
import { mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MapperKind } from '../../src/pci/dma-mapper.ts';
import { PciHost } from '../../src/pci/host.ts';
import { VfioAccess } from '../../src/pci/vfio-access.ts';
import { IommufdHome, VfioContainer } from '../../src/pci/vfio-container.ts';
import { type Ioctl, VfioDevice } from '../../src/pci/vfio-device.ts';
import * as layout from '../../src/pci/vfio-layout.ts';
import { ERRNO } from '../../src/sys/errno.ts';
import { Fd } from '../../src/sys/fd.ts';
import { FakeLoop } from '../support/fake-loop.ts';
import { leakedFds, openFds } from '../support/open-fds.ts';
import { assert, suite } from '../support/suite.ts';
import { tempDir } from '../support/temp-dir.ts';
import { FakeMachine } from './fake-machine.ts';

const test = suite('pci vfio');
const BDF = '0000:00:06.0';

test('numbers and sizes are those of the kernel’s headers', () => {
  const L = layout;
  assert.equal(
    [
      L.VFIO_IOCTL.GET_API_VERSION,
      L.VFIO_IOCTL.DEVICE_SET_IRQS,
      L.VFIO_IOCTL.IOMMU_MAP_DMA,
      L.VFIO_IOCTL.DEVICE_ATTACH_IOMMUFD_PT,
    ],
    [0x3b64, 0x3b6e, 0x3b71, 0x3b77],
  );
  assert.equal(
    [
      L.VFIO_DEVICE_INFO,
      L.VFIO_REGION_INFO,
      L.VFIO_IRQ_INFO,
      L.VFIO_IRQ_SET,
      L.VFIO_DMA_MAP,
      L.VFIO_DMA_UNMAP,
      L.IOMMU_IOAS_MAP,
    ].map((s) => s.size),
    [24, 32, 16, 20, 32, 24, 40],
  );
});

/** Answers by request number; the log has the names. */
class Kernel {
  readonly log: string[] = [];
  viable = true;
  busy = false;
  setIommu = 0;
  extension = 1;
  irqs = [1, 1, 33, 0, 1];
  /** The device's file: configuration space at 0x7000, BAR 0 at 0. */
  readonly file: string;
  /** Sparse areas of BAR 0. */
  areas: [number, number][] = [];
  resets = 0;
  canReset = true;
  readonly eventFds = new Map<number, number[]>();

  constructor(file: string) {
    this.file = file;
    const bytes = new Uint8Array(0x8000);
    bytes.set([0x36, 0x1b, 0x10, 0, 0x03, 0x01], 0x7000);
    writeFileSync(file, bytes);
  }

  get command(): number {
    return readFileSync(this.file).readUInt16LE(0x7004);
  }

  readonly ioctl: Ioctl = (_fd, request, arg) => {
    const name =
      Object.entries({ ...layout.VFIO_IOCTL, ...layout.IOMMUFD_IOCTL }).find(([, n]) => n === request)?.[0] ?? '?';
    this.log.push(typeof arg === 'number' && request !== layout.VFIO_IOCTL.DEVICE_RESET ? `${name} ${arg}` : name);
    const v =
      typeof arg === 'number'
        ? new DataView(new ArrayBuffer(64))
        : new DataView(arg.buffer, arg.byteOffset, arg.byteLength);
    switch (request) {
      case layout.VFIO_IOCTL.GET_API_VERSION:
        return 0;
      case layout.VFIO_IOCTL.CHECK_EXTENSION:
        return this.extension;
      case layout.VFIO_IOCTL.GROUP_GET_STATUS:
        v.setUint32(4, this.viable ? 1 : 0, true);
        return 0;
      case layout.VFIO_IOCTL.SET_IOMMU:
        return this.setIommu;
      case layout.VFIO_IOCTL.GROUP_GET_DEVICE_FD:
        assert.match(Buffer.from(arg as Uint8Array).toString(), /^0000:0[01]:0[06]\.0\0$/);
        return this.busy ? -ERRNO.EBUSY : openSync(this.file, 'r+');
      case layout.VFIO_IOCTL.IOMMU_GET_INFO: // capability at 24: IOVA ranges, version 1, next 0; two of them
        v.setUint32(16, 24, true);
        v.setUint16(24, 1, true);
        v.setUint32(32, 2, true);
        v.setBigUint64(40, 0n, true);
        v.setBigUint64(48, 0xfedf_ffffn, true);
        v.setBigUint64(56, 0xfef0_0000n, true);
        v.setBigUint64(64, 0x7f_ffff_ffffn, true);
        return 0;
      case layout.VFIO_IOCTL.DEVICE_GET_INFO:
        assert.is(v.getUint32(0, true), 24, 'argsz');
        v.setUint32(4, 2 | (this.canReset ? 1 : 0), true);
        return 0;
      case layout.VFIO_IOCTL.DEVICE_GET_REGION_INFO:
        return this.region(v);
      case layout.VFIO_IOCTL.DEVICE_GET_IRQ_INFO:
        v.setUint32(12, this.irqs[v.getUint32(8, true)] ?? 0, true);
        return 0;
      case layout.VFIO_IOCTL.DEVICE_SET_IRQS: {
        const index = v.getUint32(8, true);
        const count = v.getUint32(16, true);
        assert.is(v.getUint32(0, true), 20 + (v.getUint32(4, true) & 4 ? 4 * count : 0), 'argsz counts the eventfds');
        this.eventFds.set(
          index,
          Array.from({ length: v.getUint32(4, true) & 4 ? count : 0 }, (_, i) => v.getInt32(20 + 4 * i, true)),
        );
        return 0;
      }
      case layout.VFIO_IOCTL.DEVICE_RESET:
        this.resets++;
        return 0;
      case layout.IOMMUFD_IOCTL.IOAS_ALLOC:
        v.setUint32(8, 77, true);
        return 0;
      default:
        return 0;
    }
  };

  private region(v: DataView): number {
    const index = v.getUint32(8, true);
    if (index !== 0 && index !== 7) return index > 8 ? -ERRNO.EINVAL : 0;
    v.setUint32(4, index === 0 ? 7 : 3, true);
    v.setBigUint64(16, index === 0 ? 0x4000n : 0x100n, true);
    v.setBigUint64(24, index === 0 ? 0n : 0x7000n, true);
    if (index !== 0 || this.areas.length === 0) return 0;
    const bytes = 32 + 16 + 16 * this.areas.length;
    v.setUint32(0, bytes, true);
    if (v.byteLength < bytes) return 0;
    v.setUint32(12, 32, true);
    v.setUint16(32, 1, true); // sparse mmap
    v.setUint32(40, this.areas.length, true);
    this.areas.forEach(([offset, size], i) => {
      v.setBigUint64(48 + 16 * i, BigInt(offset), true);
      v.setBigUint64(56 + 16 * i, BigInt(size), true);
    });
    return 0;
  }
}

const dir = tempDir();
let kernels = 0;

function rig(group = '3'): { kernel: Kernel; dev: string } {
  const dev = join(dir, `dev${kernels}`);
  mkdirSync(join(dev, 'vfio/devices'), { recursive: true });
  for (const node of ['vfio/vfio', `vfio/${group}`, `vfio/noiommu-${group}`, 'iommu', 'vfio/devices/vfio0'])
    writeFileSync(join(dev, node), '');
  return { kernel: new Kernel(join(dir, `device${kernels++}`)), dev };
}

function access(kernel: Kernel): VfioAccess {
  const m = new FakeMachine();
  m.addFunction(BDF, { driver: 'vfio-pci', group: '3', resources: [[0xfebf_0000, 0x4000, 0x14_0204]] });
  const device = new VfioDevice(Fd.take(openSync(kernel.file, 'r+')), BDF, kernel.ioctl);
  return new VfioAccess(m.pci.read(BDF), device, 'vfio');
}

test('type 1: version, extension, group, container, IOMMU, device, in this order', () => {
  const { kernel, dev } = rig();
  const container = new VfioContainer(false, dev, kernel.ioctl);
  const device = container.openDevice(BDF, '3', [BDF]);
  assert.equal(kernel.log.slice(0, 7), [
    'GET_API_VERSION 0',
    'CHECK_EXTENSION 3',
    'GROUP_GET_STATUS',
    'GROUP_SET_CONTAINER',
    'SET_IOMMU 3',
    'IOMMU_GET_INFO',
    'GROUP_GET_DEVICE_FD',
  ]);
  assert.is(container.place.kind, MapperKind.TYPE1);
  assert.equal(container.iovaRanges[1], { start: 0xfef0_0000, end: 0x7f_ffff_ffff });
  kernel.log.length = 0;
  container.openDevice(BDF, '3', [BDF]).fd.close();
  assert.not(kernel.log.includes('SET_IOMMU 3'), 'a second device of the group joins');
  device.fd.close();
  container.close();
});

test('a group is given back with its last device; with the last of all, the container', () => {
  const { kernel, dev } = rig();
  writeFileSync(join(dev, 'vfio/4'), '');
  const machine = new FakeMachine();
  const other = '0000:01:00.0';
  for (const [bdf, group] of [
    [BDF, '3'],
    [other, '4'],
  ] as const) {
    machine.addFunction(bdf, { driver: 'vfio-pci', group, resources: [[0xfebf_0000, 0x4000, 0x14_0204]] });
  }
  const mapped = new Set<number>();
  const mapper = {
    map: (_place: unknown, _memory: unknown, _offset: number, iova: number) => {
      mapped.add(iova);
      return 0;
    },
    unmap: (_place: unknown, iova: number) => {
      assert.ok(mapped.delete(iova));
      return 0;
    },
  };
  const loop = new FakeLoop();
  const host = new PciHost(loop, {
    sysfs: machine.sys(),
    dev,
    hugepages: false,
    vfio: { ioctl: kernel.ioctl, mapper },
  });
  const held = () => leakedFds(before).flatMap((line) => /vfio\/(\w+)$/.exec(line)?.[1] ?? []);
  const before = openFds();
  const first = host.open(BDF, 'vfio');
  const second = host.open(other, 'vfio');
  assert.equal(held(), ['vfio', '3', '4']);
  host.dma.allocate(4096, false);
  if (process.geteuid?.() === 0) assert.ok(mapped.size > 0);
  host.release(second);
  assert.equal(held(), ['vfio', '3'], 'a kernel driver can have the other one');
  host.release(host.open(other, 'vfio')); // as after a replacement: the group's number is the same, the group is another
  assert.equal(held(), ['vfio', '3']);
  host.release(first);
  assert.equal(held(), []);
  assert.is(mapped.size, 0, 'nothing is mapped where nobody looks');
  assert.is(host.table.place.kind, MapperKind.NONE);
  kernel.log.length = 0;
  const again = host.open(BDF, 'vfio');
  assert.ok(kernel.log.includes('SET_IOMMU 3'));
  assert.is(host.table.place.kind, MapperKind.TYPE1);
  if (process.geteuid?.() === 0) assert.ok(mapped.size > 0, 'what is here is mapped again');
  host.release(again);
  kernel.busy = true;
  assert.throws(() => host.open(BDF, 'vfio'), /another process drives this device/);
  assert.equal(held(), [], 'nothing is held after a refusal');
  kernel.busy = false;
  host.release(host.open(BDF, 'vfio'));
  host.close();
  assert.ok(loop.idle);
});

test('no-IOMMU: kind 8, and nothing is mapped', () => {
  const { kernel, dev } = rig('0');
  const container = new VfioContainer(true, dev, kernel.ioctl);
  container.openDevice(BDF, '0', [BDF]).fd.close();
  assert.ok(kernel.log.includes('SET_IOMMU 8'));
  assert.is(container.place.kind, MapperKind.NONE);
  container.close();
});

test('iommufd: one address space, bind, attach', () => {
  const { kernel, dev } = rig();
  const home = new IommufdHome(dev, kernel.ioctl);
  home.openDevice(BDF, '', [], 'vfio0').fd.close();
  assert.equal(kernel.log.slice(0, 3), ['IOAS_ALLOC', 'DEVICE_BIND_IOMMUFD', 'DEVICE_ATTACH_IOMMUFD_PT']);
  assert.equal([home.place.kind, home.place.ioas], [MapperKind.IOMMUFD, 77]);
  assert.throws(() => home.openDevice(BDF, '', [], null), /no VFIO character device/);
  home.close();
});

test('what stands in the way is said with the next step', () => {
  const { kernel, dev } = rig();
  assert.throws(
    () => new VfioContainer(false, join(dev, 'none'), kernel.ioctl),
    /vfio\/vfio is not there.*modprobe vfio-pci/,
  );
  kernel.extension = 0;
  assert.throws(() => new VfioContainer(true, dev, kernel.ioctl), /CONFIG_VFIO_NOIOMMU.*enable_unsafe_noiommu_mode/);
  kernel.extension = 1;
  const container = new VfioContainer(false, dev, kernel.ioctl);
  assert.throws(() => container.openDevice(BDF, '9', [BDF]), /vfio\/9 is not there: is 0000:00:06.0 bound to vfio-pci/);
  kernel.viable = false;
  assert.throws(
    () => container.openDevice(BDF, '3', [BDF, '0000:00:05.0']),
    /group 3 is not viable.*0000:00:05.0.*setup bind 0000:00:05.0/,
  );
  kernel.viable = true;
  kernel.setIommu = -ERRNO.EPERM;
  assert.throws(() => container.openDevice(BDF, '3', [BDF]), /VFIO_SET_IOMMU.*intremap=on/);
  kernel.setIommu = 0;
  kernel.busy = true;
  assert.throws(() => container.openDevice(BDF, '3', [BDF]), /another process drives this device/);
  kernel.busy = false;
  container.openDevice(BDF, '3', [BDF]).fd.close();
  container.close();
});

test('a function: configuration space, BAR, interrupts, quiet, close', () => {
  const { kernel } = rig();
  const a = access(kernel);
  assert.is(kernel.command, 0x0103, 'bus master off, memory decoding on');
  assert.equal([a.msixVectors, a.hasIntx], [33, true]);
  a.setBusMaster(true);
  assert.is(kernel.command, 0x0107);
  a.connectMsix([10, 11, -1]);
  assert.equal(kernel.eventFds.get(2), [10, 11, -1]);
  a.connectMsix([12]);
  assert.equal(kernel.eventFds.get(2), [12]);
  assert.throws(() => a.connectMsix(new Array(34).fill(1)), /34 interrupt vectors, it has 33/);
  a.connectIntx(9);
  assert.equal(kernel.eventFds.get(2), [], 'MSI-X first goes off');
  assert.equal(kernel.eventFds.get(0), [9]);
  const window = a.bar(0).map(0x1000, 0x2000);
  assert.is(window.memoryAt(8, 8).ioAddress, 0xfebf_1008);
  assert.throws(() => a.bar(0).map(0x3000, 0x2000), /BAR 0 has 16384 bytes/);
  assert.throws(() => a.bar(1), /no memory BAR 1/);
  a.close();
  assert.is(kernel.command & 4, 0);
  assert.is(kernel.resets, 1);
  assert.equal(kernel.eventFds.get(0), []);
  a.close();
  assert.is(kernel.resets, 1, 'closed once');
});

test('a BAR of which VFIO maps only parts', () => {
  const { kernel } = rig();
  kernel.areas = [
    [0, 0x2000],
    [0x3000, 0x1000],
  ];
  const a = access(kernel);
  a.bar(0).map(0x1000, 0x1000);
  assert.throws(() => a.bar(0).map(0x1000, 0x2000), /of BAR 0 VFIO maps only 0x0\+0x2000, 0x3000\+0x1000/);
  a.close();
});

test('the request for the device reaches its driver', () => {
  const { kernel } = rig();
  const a = access(kernel);
  const watched: (() => void)[] = [];
  let asked = 0;
  const loop = {
    now: 0,
    after: () => ({ cancel: () => {} }),
    watch: (_: number, fn: () => void) => {
      watched.push(fn);
      return { close: () => {} };
    },
  };
  a.onRemovalRequest(loop, () => asked++);
  const [fd] = kernel.eventFds.get(4) ?? [];
  assert.type(fd, 'number');
  watched[0]?.();
  assert.is(asked, 0, 'not before it rings');
  writeFileSync(fd as number, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
  watched[0]?.();
  assert.is(asked, 1);
  a.close();
});

test('a device without function reset is still made quiet', () => {
  const { kernel } = rig();
  kernel.canReset = false;
  const a = access(kernel);
  a.setBusMaster(true);
  assert.not(a.reset());
  a.close();
  assert.is(kernel.command & 4, 0);
  assert.is(kernel.resets, 0);
});

test.run();
