import { getLimit } from '../../sys/limits.ts';
import { parseBdf } from '../bdf.ts';
import { PciCap } from '../config-space.ts';
import { chooseMode } from '../host.ts';
import { groupMates, isNoIommuGroup, TYPE1_MODULE } from './bind.ts';
import { readConfigFile } from './config-file.ts';
import { usersOf } from './device-users.ts';
import { hugePages } from './hugepages.ts';
import type { Machine } from './machine.ts';
import { qemuFindings } from './qemu-memory.ts';
import { kindOf, virtioType } from './status.ts';

/** What is missing for the machine or a device, a sentence each, with the command that mends it. */

export interface Finding {
  readonly level: 'ok' | 'note' | 'missing';
  readonly what: string;
  /** What to do about it. */
  readonly fix?: string;
}

const ok = (what: string): Finding => ({ level: 'ok', what });
const note = (what: string, fix?: string): Finding => ({ level: 'note', what, ...(fix === undefined ? {} : { fix }) });
const missing = (what: string, fix: string): Finding => ({ level: 'missing', what, fix });

/** Memory for the rings and bounce buffers of a device or two. Bytes. */
const WANTED_MEMLOCK = 64 * 2 ** 20;

/** For a target on a host (`-T unix`): what it needs of the machine and of the VMs. */
export function examineHost(machine: Machine): Finding[] {
  const findings = [ok('a target on a Unix socket needs no root, no huge pages and no VFIO')];
  findings.push(...qemuFindings(machine));
  if (machine.text(machine.proc('sys/kernel/io_uring_disabled')) === '2') {
    findings.push(
      note('io_uring is off: file disks use threads, which is slower', 'sysctl kernel.io_uring_disabled=0'),
    );
  }
  return findings;
}

/** For driving PCI devices at all. */
export function examineMachine(machine: Machine): Finding[] {
  const findings: Finding[] = [];
  if (machine.pci.list().length === 0) {
    findings.push(missing('there is no PCI bus here', 'run it in the appliance VM, or on a machine with PCI'));
    return findings;
  }
  findings.push(
    machine.isRoot
      ? ok('running as root')
      : missing('not root: binding devices and physical addresses need it', 'sudo vvu-target ...'),
  );
  findings.push(...examineIommu(machine), ...examineMemory(machine));
  return findings;
}

function examineIommu(machine: Machine): Finding[] {
  const groups = machine
    .list(machine.sys('kernel/iommu_groups'))
    .filter((group) => !isNoIommuGroup(machine, group)).length;
  const vfio = machine.list(machine.sys('bus/pci/drivers/vfio-pci')).length > 0;
  const parameter = machine.text(machine.sys('module/vfio/parameters/enable_unsafe_noiommu_mode'));
  if (groups > 0) {
    const type1 = machine.list(machine.sys('module', TYPE1_MODULE)).length > 0;
    if (vfio && !type1) return [missing("VFIO's type 1 IOMMU driver is not loaded", `modprobe ${TYPE1_MODULE}`)];
    if (vfio) return [ok(`an IOMMU with ${groups} groups, and VFIO`)];
    return [missing('there is an IOMMU, but VFIO is not loaded', 'modprobe vfio-pci')];
  }
  const modes: Finding[] = [
    note(
      'no IOMMU: nothing confines what devices write to',
      'in a VM: QEMU with -machine q35,kernel-irqchip=split -device intel-iommu,intremap=on and intel_iommu=on on the kernel command line',
    ),
  ];
  if (parameter === 'Y') modes.push(ok('VFIO no-IOMMU is on: devices are driven with interrupts'));
  else if (parameter === 'N') {
    modes.push(
      note(
        'VFIO no-IOMMU is off; without it devices are polled through sysfs',
        'echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode',
      ),
    );
  } else if (machine.list(machine.sys('module/vfio')).length === 0) {
    modes.push(
      note(
        'VFIO is not loaded, which would show whether this kernel has its no-IOMMU mode (Debian kernels do not); without it devices are polled through sysfs, which works',
        'modprobe vfio-pci',
      ),
    );
  } else {
    modes.push(
      note(
        'this kernel has no VFIO no-IOMMU (CONFIG_VFIO_NOIOMMU, which Debian leaves out): devices are polled through sysfs, which works',
      ),
    );
  }
  return modes;
}

function examineMemory(machine: Machine): Finding[] {
  const findings: Finding[] = [];
  const huge = hugePages(machine);
  if (huge === undefined) findings.push(note('the kernel has no huge pages: pinned small pages are used'));
  else if (huge.free === 0) {
    findings.push(
      note(`no free huge pages (of ${huge.total}): pinned small pages are used`, 'vvu-target setup hugepages 64'),
    );
  } else findings.push(ok(`${huge.free} free huge pages of 2 MiB`));
  const limit = getLimit('MEMLOCK').soft;
  if (!machine.isRoot && limit < WANTED_MEMLOCK) {
    findings.push(
      missing(
        `memlock limit ${limit} bytes: devices need locked memory`,
        'ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit',
      ),
    );
  }
  if (machine.text(machine.proc('sys/kernel/io_uring_disabled')) === '2' && (huge?.free ?? 0) === 0) {
    findings.push(
      missing(
        'small pages are pinned by io_uring, which is off',
        'sysctl kernel.io_uring_disabled=0, or vvu-target setup hugepages 64',
      ),
    );
  }
  return findings;
}

/** For one function. */
export function examineDevice(machine: Machine, address: string): Finding[] {
  const bdf = parseBdf(address);
  if (bdf === undefined)
    return [
      missing(`"${address}" is no PCI address`, 'write it as 0000:00:05.0; "vvu-target setup status" lists them'),
    ];
  if (!machine.pci.list().includes(bdf))
    return [missing(`there is no function ${bdf}`, '"vvu-target setup status" lists those there are')];
  const fn = machine.pci.read(bdf);
  const kind = kindOf(fn);
  const findings: Finding[] = [
    kind === undefined
      ? missing(
          `${bdf} is of class ${fn.classCode.toString(16).padStart(6, '0')}: the target has no driver for it`,
          'pick another device',
        )
      : ok(`${bdf} is ${kind}`),
  ];
  findings.push(...examineLayout(machine, bdf));
  const blocking = usersOf(machine, bdf).filter((u) => u.blocking);
  for (const user of blocking) findings.push(missing(`${bdf} is in use: ${user.what}`, 'unmount or stop it first'));
  const mates = groupMates(machine, bdf);
  if (mates.length > 0) {
    const list = mates.map((m) => m.bdf).join(' ');
    findings.push(
      missing(
        `IOMMU group ${fn.iommuGroup} is not viable: ${list} still has a kernel driver`,
        `vvu-target setup bind ${list}`,
      ),
    );
  }
  findings.push(...examineBinding(machine, bdf));
  return findings;
}

/** What can be seen of the device without driving it. */
function examineLayout(machine: Machine, bdf: string): Finding[] {
  const fn = machine.pci.read(bdf);
  const findings: Finding[] = [];
  if (fn.resources.length === 0)
    findings.push(
      missing(`${bdf} has no address ranges`, 'the firmware or the kernel found no room for its BARs: see dmesg'),
    );
  const type = virtioType(fn);
  const config = readConfigFile(machine, bdf);
  if (
    type !== undefined &&
    fn.device < 0x1040 &&
    config !== undefined &&
    !config.caps.some((c) => c.id === PciCap.VENDOR)
  ) {
    findings.push(missing(`${bdf} is a legacy virtio device`, 'QEMU: give it disable-legacy=on,disable-modern=off'));
  }
  const hasIommu = fn.iommuGroup !== null && !isNoIommuGroup(machine, fn.iommuGroup);
  if (type !== undefined && hasIommu) {
    findings.push(
      note(
        'behind an IOMMU a virtio device must be told to use it',
        'QEMU: give it iommu_platform=on,disable-legacy=on',
      ),
    );
  }
  return findings;
}

function examineBinding(machine: Machine, bdf: string): Finding[] {
  const fn = machine.pci.read(bdf);
  if (fn.driver !== null && fn.driver !== 'vfio-pci' && fn.driver !== 'uio_pci_generic' && fn.driver !== 'pci-stub') {
    return [missing(`${bdf} belongs to the kernel driver ${fn.driver}`, `vvu-target setup bind ${bdf}`)];
  }
  try {
    const mode = chooseMode(fn, machine.pci, machine.devRoot);
    const how =
      mode === 'sysfs' ? 'polled through sysfs' : mode === 'vfio' ? 'through VFIO and the IOMMU' : `in mode ${mode}`;
    return [ok(`${bdf} can be attached: ${how}`)];
  } catch (error) {
    return [
      missing(
        (error as Error).message.replace(/;? *"vvu-target doctor.*$/, ''),
        `vvu-target setup bind --driver none ${bdf}`,
      ),
    ];
  }
}
