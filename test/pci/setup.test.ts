/** setup and doctor against made-up machines. */
import { mkdirSync } from 'node:fs';
import { bind, driverFor, unbindFromTarget } from '../../src/pci/setup/bind.ts';
import { blockDevicesOf, parseMountinfo, usersOf } from '../../src/pci/setup/device-users.ts';
import { examineDevice, examineHost, examineMachine, type Finding } from '../../src/pci/setup/doctor.ts';
import { hugePages, reserveHugePages } from '../../src/pci/setup/hugepages.ts';
import { deviceStatus } from '../../src/pci/setup/status.ts';
import { assert, suite } from '../support/suite.ts';
import { FakeMachine } from './fake-machine.ts';

const test = suite('pci setup');
const NVME = '0000:00:06.0';
const SCSI = { vendor: 0x1af4, device: 0x1048, classCode: 0x01_0000 };
const BAR: [number, number, number] = [0xfebf_0000, 0x4000, 0x14_0204];

test('mountinfo: optional fields, spaces, sources', () => {
  const mounts = parseMountinfo(
    '36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n40 36 0:44 /@ /my\\040disk rw - btrfs /dev/nvme0n1p2 rw\nbroken\n',
  );
  assert.equal(mounts, [
    { dev: '98:0', point: '/mnt2', source: '/dev/root' },
    { dev: '0:44', point: '/my disk', source: '/dev/nvme0n1p2' },
  ]);
});

test('bind takes a function from its driver by override and probe, reset gives it back', () => {
  const m = new FakeMachine();
  m.addDriver('vfio-pci');
  m.addFunction(NVME, { driver: 'nvme', group: '3' });
  assert.equal(bind(m, '00:06.0'), { bdf: NVME, before: 'nvme', after: 'vfio-pci', notes: [] });
  assert.equal(m.written, [
    `bus/pci/devices/${NVME}/driver_override=vfio-pci`,
    `bus/pci/devices/${NVME}/driver/unbind=${NVME}`,
    `bus/pci/drivers_probe=${NVME}`,
  ]);
  assert.equal(bind(m, NVME).notes, ['was so already']);
  assert.is(unbindFromTarget(m, NVME).after, 'nvme');
  assert.is(m.pci.read(NVME).driverOverride, null);
});

test('without an IOMMU group: no driver, unless no-IOMMU is on', () => {
  const m = new FakeMachine();
  m.addDriver('vfio-pci');
  m.addFunction(NVME, { driver: 'nvme' });
  assert.is(driverFor(m, NVME), 'none');
  const result = bind(m, NVME);
  assert.is(result.after, null);
  assert.match(result.notes[0] ?? '', 'polls it through sysfs');
  m.put(m.sys('module/vfio/parameters/enable_unsafe_noiommu_mode'), 'Y\n');
  assert.is(bind(m, NVME).after, 'vfio-pci');
});

test('a driver that does not take the function: it goes back, and the message says what to do', () => {
  const m = new FakeMachine();
  m.addDriver('vfio-pci');
  m.refusing.add('vfio-pci');
  m.addFunction(NVME, { driver: 'nvme' });
  assert.throws(() => bind(m, NVME, { driver: 'vfio-pci' }), /vfio-pci did not take it.*--driver none/);
  assert.is(m.pci.read(NVME).driver, 'nvme');
});

test('the module is loaded when it can be', () => {
  const m = new FakeMachine();
  m.addFunction(NVME, { driver: 'nvme', group: '1' });
  assert.throws(() => bind(m, NVME), /modprobe vfio-pci/);
  assert.is(m.pci.read(NVME).driver, 'nvme', 'nothing was touched');
  m.modules.add('vfio-pci');
  assert.is(bind(m, NVME).after, 'vfio-pci');
});

test('disks in use are refused: root, partitions, swap, device mapper', () => {
  const cases: [string, (m: FakeMachine) => void][] = [
    ['/dev/nvme0n1 is mounted on /', (m) => m.mount('259:0', '/')],
    ['/dev/nvme0n1p1 is mounted on /srv', (m) => m.mount('259:1', '/srv')],
    ['/dev/nvme0n1p2 is mounted on /data', (m) => m.mount('0:44', '/data', '/dev/nvme0n1p2')],
    ['/dev/nvme0n1p1 is swap space', (m) => m.put(m.proc('swaps'), 'Filename\n/dev/nvme0n1p1 partition 1 0 -2\n')],
    [
      '/dev/nvme0n1p2 is part of dm-0',
      (m) => {
        mkdirSync(m.sys('class/block/nvme0n1p2/holders/dm-0'), { recursive: true });
      },
    ],
    [
      '/dev/dm-0 is mounted on /home',
      (m) => {
        mkdirSync(m.sys('class/block/nvme0n1p2/holders/dm-0'), { recursive: true });
        m.put(m.sys('class/block/dm-0/dev'), '253:0\n');
        m.mount('253:0', '/home');
      },
    ],
  ];
  for (const [text, prepare] of cases) {
    const m = new FakeMachine();
    m.addDriver('vfio-pci');
    m.addFunction(NVME, { driver: 'nvme', group: '3' });
    m.addDisk('nvme0n1', NVME, 0, ['nvme0n1p1', 'nvme0n1p2']);
    prepare(m);
    assert.throws(
      () => bind(m, NVME),
      (error: Error) => error.message.includes(text) && error.message.includes('in use'),
      text,
    );
    assert.equal(m.written, [], 'nothing was touched');
    assert.is(bind(m, NVME, { force: true }).after, 'vfio-pci');
  }
});

test('the disk of another function does not count', () => {
  const m = new FakeMachine();
  m.addDriver('vfio-pci');
  m.addFunction(NVME, { driver: 'nvme', group: '3' });
  m.addFunction('0000:00:07.0', { driver: 'nvme', group: '4' });
  m.addDisk('nvme0n1', NVME, 0);
  m.addDisk('nvme1n1', '0000:00:07.0', 8);
  m.mount('259:0', '/');
  assert.equal(blockDevicesOf(m, '0000:00:07.0'), ['nvme1n1']);
  assert.equal(usersOf(m, '0000:00:07.0'), []);
  assert.is(bind(m, '0000:00:07.0').after, 'vfio-pci');
});

test('group mates with kernel drivers are named, bridges are not', () => {
  const m = new FakeMachine();
  m.addDriver('vfio-pci');
  m.addFunction(NVME, { driver: 'nvme', group: '3' });
  m.addFunction('0000:00:05.0', { ...SCSI, driver: 'virtio-pci', group: '3' });
  m.addFunction('0000:00:01.0', { classCode: 0x06_0400, driver: 'pcieport', group: '3' });
  assert.equal(bind(m, NVME).notes, ['its IOMMU group is not viable yet: bind 0000:00:05.0 (virtio-pci) too']);
});

test('addresses that are none, and functions that are not there', () => {
  const m = new FakeMachine();
  assert.throws(() => bind(m, 'nvme0'), /"nvme0" is no PCI address/);
  assert.throws(() => bind(m, '00:09.0'), /0000:00:09.0: no such PCI function/);
});

test('huge pages', () => {
  const m = new FakeMachine();
  assert.is(hugePages(m), undefined);
  assert.throws(() => reserveHugePages(m, 4), /no huge pages/);
  m.put(m.sys('kernel/mm/hugepages/hugepages-2048kB/nr_hugepages'), '0\n');
  assert.equal(reserveHugePages(m, 64), { total: 64, free: 64 });
  m.put(m.sys('kernel/mm/hugepages/hugepages-2048kB/most'), '10\n');
  assert.throws(() => reserveHugePages(m, 64), /10 of 64 huge pages/);
  assert.throws(() => reserveHugePages(m, -1), /expected a number/);
});

test('status: what can be driven, or everything', () => {
  const m = new FakeMachine();
  m.addFunction(NVME, { driver: 'nvme', group: '3' });
  m.addFunction('0000:00:05.0', { ...SCSI, driver: 'virtio-pci' });
  m.addFunction('0000:00:07.0', { vendor: 0x1af4, device: 0x1017, subsystemDevice: 24, classCode: 0x00ff00 });
  m.addFunction('0000:00:02.0', { vendor: 0x1af4, device: 0x1000, subsystemDevice: 1, classCode: 0x02_0000 });
  m.addDisk('nvme0n1', NVME, 0);
  m.mount('259:0', '/');
  assert.equal(
    deviceStatus(m).map((d) => [d.bdf, d.kind, d.driver, d.group, d.users.join()]),
    [
      ['0000:00:05.0', 'virtio-scsi', 'virtio-pci', '-', ''],
      [NVME, 'NVMe', 'nvme', '3', '/dev/nvme0n1 is mounted on /'],
      ['0000:00:07.0', 'virtio-vhost-user or virtio-mem', '-', '-', ''],
    ],
  );
  assert.is(deviceStatus(m, true).length, 4);
});

const text = (findings: Finding[], level: Finding['level']) =>
  findings
    .filter((f) => f.level === level)
    .map((f) => `${f.what} -> ${f.fix ?? ''}`)
    .join('\n');

test('doctor, a function ready for VFIO', () => {
  const m = new FakeMachine();
  m.addFunction(NVME, { driver: 'vfio-pci', group: '3', resources: [BAR] });
  m.put(m.dev('vfio/3'), '');
  const findings = examineDevice(m, NVME);
  assert.is(text(findings, 'missing'), '');
  assert.match(text(findings, 'ok'), 'through VFIO and the IOMMU');
});

test('doctor, a function in the kernel’s hands, mounted, without BARs, in a group with others', () => {
  const m = new FakeMachine();
  m.addFunction(NVME, { driver: 'nvme', group: '3' });
  m.addFunction('0000:00:05.0', { ...SCSI, driver: 'virtio-pci', group: '3' });
  m.addDisk('nvme0n1', NVME, 0);
  m.mount('259:0', '/');
  const found = text(examineDevice(m, NVME), 'missing');
  assert.match(found, 'no address ranges');
  assert.match(found, '/dev/nvme0n1 is mounted on /');
  assert.match(found, 'group 3 is not viable: 0000:00:05.0');
  assert.match(found, 'belongs to the kernel driver nvme -> vvu-target setup bind 0000:00:06.0');
});

test('doctor, bound to VFIO without a group', () => {
  const m = new FakeMachine();
  m.addFunction(NVME, { driver: 'vfio-pci', resources: [BAR] });
  assert.match(text(examineDevice(m, NVME), 'missing'), /in no IOMMU group.*--driver none/);
});

test('doctor, virtio: legacy devices, and the IOMMU that must be asked for', () => {
  const m = new FakeMachine();
  const config = new Uint8Array(256);
  m.addFunction('0000:00:05.0', { ...SCSI, device: 0x1004, subsystemDevice: 8, resources: [BAR], config });
  assert.match(
    text(examineDevice(m, '0000:00:05.0'), 'missing'),
    'legacy virtio device -> QEMU: give it disable-legacy=on',
  );
  m.addFunction('0000:00:06.0', { ...SCSI, group: '1', driver: 'vfio-pci', resources: [BAR] });
  assert.match(text(examineDevice(m, '0000:00:06.0'), 'note'), 'iommu_platform=on');
  m.put(m.sys('kernel/iommu_groups/1/name'), 'vfio-noiommu\n');
  assert.not.match(text(examineDevice(m, '0000:00:06.0'), 'note'), 'iommu_platform=on');
});

test('doctor, what is no device', () => {
  const m = new FakeMachine();
  assert.match(text(examineDevice(m, 'sda'), 'missing'), 'no PCI address');
  assert.match(text(examineDevice(m, '00:1f.0'), 'missing'), 'there is no function 0000:00:1f.0');
  m.addFunction('0000:00:02.0', { classCode: 0x03_0000, resources: [BAR] });
  assert.match(text(examineDevice(m, '00:02.0'), 'missing'), 'class 030000');
});

test('doctor, the machine: no PCI, not root, no-IOMMU in its four states, huge pages, io_uring', () => {
  const empty = new FakeMachine();
  assert.match(text(examineMachine(empty), 'missing'), 'no PCI bus');
  const m = new FakeMachine();
  m.addFunction(NVME);
  m.root = false;
  assert.match(text(examineMachine(m), 'missing'), 'not root');
  assert.match(text(examineMachine(m), 'note'), 'VFIO is not loaded');
  m.put(m.sys('module/vfio/refcnt'), '0\n');
  assert.match(text(examineMachine(m), 'note'), 'this kernel has no VFIO no-IOMMU');
  const parameter = m.sys('module/vfio/parameters/enable_unsafe_noiommu_mode');
  m.put(parameter, 'N\n');
  assert.match(text(examineMachine(m), 'note'), 'no-IOMMU is off');
  m.put(parameter, 'Y\n');
  assert.match(text(examineMachine(m), 'ok'), 'no-IOMMU is on');
  // The group that VFIO makes when it takes a function is no sign of an IOMMU.
  m.put(m.sys('kernel/iommu_groups/7/name'), 'vfio-noiommu\n');
  assert.match(text(examineMachine(m), 'note'), 'no IOMMU: nothing confines');
  assert.match(text(examineMachine(m), 'ok'), 'no-IOMMU is on');
  mkdirSync(m.sys('kernel/iommu_groups/0'), { recursive: true });
  assert.match(text(examineMachine(m), 'missing'), 'VFIO is not loaded -> modprobe vfio-pci');
  m.addDriver('vfio-pci');
  assert.match(text(examineMachine(m), 'missing'), 'modprobe vfio_iommu_type1');
  m.put(m.sys('module/vfio_iommu_type1/refcnt'), '0');
  assert.match(text(examineMachine(m), 'ok'), 'an IOMMU with 1 groups');
  m.put(m.sys('kernel/mm/hugepages/hugepages-2048kB/nr_hugepages'), '0\n');
  m.put(m.sys('kernel/mm/hugepages/hugepages-2048kB/free_hugepages'), '0\n');
  assert.match(text(examineMachine(m), 'note'), 'no free huge pages (of 0)');
  m.put(m.proc('sys/kernel/io_uring_disabled'), '2\n');
  assert.match(text(examineMachine(m), 'missing'), 'pinned by io_uring, which is off');
});

test('doctor, VMs on the host without shared memory', () => {
  const m = new FakeMachine();
  const qemu = (pid: string, ...words: string[]) =>
    m.put(m.proc(pid, 'cmdline'), ['/usr/bin/qemu-system-x86_64', ...words].join('\0'));
  qemu('10', '-device', 'vhost-user-scsi-pci,chardev=c', '-m', '1G');
  qemu('11', '-device', 'vhost-user-scsi-pci,chardev=c', '-object', 'memory-backend-memfd,id=m,size=1G');
  qemu('12', '-device', 'vhost-user-blk-pci,chardev=c', '-object', 'memory-backend-memfd,id=m,size=1G,share=on');
  qemu('13', '-device', 'virtio-scsi-pci');
  m.put(m.proc('14', 'cmdline'), 'bash\0vhost-user-scsi');
  const found = examineHost(m);
  assert.match(text(found, 'missing'), /process 10 has no memory backend.*share=on/);
  assert.match(text(found, 'missing'), 'process 11 has a memory backend without share=on');
  assert.match(text(found, 'ok'), 'process 12 shares');
  assert.not.match(text(found, 'missing') + text(found, 'ok'), /process 1[34]/);
});

test.run();
