import { existsSync } from 'node:fs';
import { O } from '../sys/constants.ts';
import { ERRNO, SysError } from '../sys/errno.ts';
import { Fd, ioctlResult, open } from '../sys/fd.ts';
import { MapperKind, type MapperPlace } from './dma-mapper.ts';
import { checkGroup, getDeviceFd, type Ioctl, VfioDevice } from './vfio-device.ts';
import {
  capabilityChain,
  IOMMU_IOAS_ALLOC,
  IOMMUFD_IOCTL,
  VFIO_API_VERSION,
  VFIO_ATTACH_PT,
  VFIO_BIND_IOMMUFD,
  VFIO_IOCTL,
  VFIO_IOMMU_CAP_IOVA_RANGE,
  VFIO_TYPE1_INFO,
  VfioIommu,
} from './vfio-layout.ts';

/**
 * Where VFIO devices of this process live together, so that all see the same I/O addresses: a container of groups (type 1 or
 * no-IOMMU), or an iommufd address space.
 */

export interface VfioHome {
  readonly place: MapperPlace;
  /** @throws Error that says what stands in the way */
  openDevice(bdf: string, group: string, groupMembers: readonly string[], cdev: string | null): VfioDevice;
  /** A device of this group was closed. */
  closeDevice(group: string): void;
  /** No device is open here: what is mapped is of no use to anybody, and the home can be closed. */
  readonly idle: boolean;
  /** I/O addresses that can be mapped; empty: any. */
  readonly iovaRanges: readonly { start: number; end: number }[];
  close(): void;
}

/** Paths, for tests and for containers with their own /dev. */
export interface VfioPaths {
  readonly dev: string;
}

const NOIOMMU_HINT =
  'the kernel has no VFIO no-IOMMU (CONFIG_VFIO_NOIOMMU; Debian kernels do not), or it is off (echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode before binding)';

export class VfioContainer implements VfioHome {
  iovaRanges: { start: number; end: number }[] = [];
  readonly noIommu: boolean;
  private readonly fd: Fd;
  private readonly dev: string;
  private readonly call: Ioctl;
  private readonly groups = new Map<string, { fd: Fd; devices: number }>();
  private iommuSet = false;

  constructor(noIommu: boolean, dev = '/dev', call: Ioctl = ioctlResult) {
    this.noIommu = noIommu;
    this.dev = dev;
    this.call = call;
    this.fd = openVfio(`${dev}/vfio/vfio`, 'is the vfio module loaded? (modprobe vfio-pci)');
    try {
      if (call(this.fd, VFIO_IOCTL.GET_API_VERSION, 0) !== VFIO_API_VERSION)
        throw new Error('VFIO: unknown API version');
      const kind = noIommu ? VfioIommu.NOIOMMU : VfioIommu.TYPE1v2;
      if (call(this.fd, VFIO_IOCTL.CHECK_EXTENSION, kind) !== 1) {
        throw new Error(
          noIommu ? `VFIO: ${NOIOMMU_HINT}` : 'VFIO: no type 1 IOMMU support (modprobe vfio_iommu_type1)',
        );
      }
    } catch (error) {
      this.fd.close();
      throw error;
    }
  }

  get place(): MapperPlace {
    return this.noIommu
      ? { kind: MapperKind.NONE, fd: -1, ioas: 0 }
      : { kind: MapperKind.TYPE1, fd: this.fd.number, ioas: 0 };
  }

  openDevice(bdf: string, group: string, members: readonly string[]): VfioDevice {
    const known = this.groups.get(group);
    const entry = known ?? { fd: this.attach(bdf, group, members), devices: 0 };
    try {
      const device = new VfioDevice(Fd.take(getDeviceFd(entry.fd, bdf, this.call)), bdf, this.call);
      entry.devices++;
      this.groups.set(group, entry);
      return device;
    } catch (error) {
      if (known === undefined) entry.fd.close();
      throw error;
    }
  }

  /**
   * A group that is held open keeps kernel drivers from its devices, and is a dead one once these were pulled out. The last one stays: with
   * it the container would lose its mappings, so the owner ends that (`idle`, `close`).
   */
  closeDevice(group: string): void {
    const entry = this.groups.get(group);
    if (entry === undefined || --entry.devices > 0 || this.groups.size === 1) return;
    this.groups.delete(group);
    entry.fd.close();
  }

  get idle(): boolean {
    return [...this.groups.values()].every(({ devices }) => devices === 0);
  }

  private attach(bdf: string, group: string, members: readonly string[]): Fd {
    const path = `${this.dev}/vfio/${this.noIommu ? 'noiommu-' : ''}${group}`;
    const fd = openVfio(path, this.noIommu ? NOIOMMU_HINT : `is ${bdf} bound to vfio-pci?`);
    try {
      checkGroup(fd, group, bdf, members, this.call);
      const container = new Uint8Array(new Int32Array([this.fd.number]).buffer);
      const set = this.call(fd, VFIO_IOCTL.GROUP_SET_CONTAINER, container);
      if (set < 0) throw new SysError('ioctl VFIO_GROUP_SET_CONTAINER', -set, `group ${group}`);
      if (!this.iommuSet) this.setIommu(bdf);
      return fd;
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  private setIommu(bdf: string): void {
    const result = this.call(this.fd, VFIO_IOCTL.SET_IOMMU, this.noIommu ? VfioIommu.NOIOMMU : VfioIommu.TYPE1v2);
    if (result < 0) {
      const hint =
        -result === ERRNO.EPERM
          ? ' (the IOMMU can not remap interrupts: intel-iommu needs intremap=on; or vfio_iommu_type1 allow_unsafe_interrupts=1)'
          : '';
      throw new SysError('ioctl VFIO_SET_IOMMU', -result, `${bdf}${hint}`);
    }
    this.iommuSet = true;
    if (!this.noIommu) this.iovaRanges = this.readRanges();
  }

  private readRanges(): { start: number; end: number }[] {
    const at = VFIO_TYPE1_INFO.fields;
    const bytes = new Uint8Array(4096);
    const view = new DataView(bytes.buffer);
    view.setUint32(at.argsz[0], bytes.length, true);
    if (this.call(this.fd, VFIO_IOCTL.IOMMU_GET_INFO, bytes) < 0) return [];
    const ranges: { start: number; end: number }[] = [];
    for (const cap of capabilityChain(view, view.getUint32(at.cap_offset[0], true))) {
      if (cap.id !== VFIO_IOMMU_CAP_IOVA_RANGE) continue;
      // struct vfio_iommu_type1_info_cap_iova_range: header, u32 nr_iovas, u32 reserved, {u64 start, u64 end}[]
      const n = view.getUint32(cap.offset + 8, true);
      for (let i = 0; i < n && cap.offset + 32 + 16 * i <= bytes.length; i++) {
        const range = cap.offset + 16 + 16 * i;
        ranges.push({
          start: Number(view.getBigUint64(range, true)),
          end: Number(view.getBigUint64(range + 8, true)),
        });
      }
    }
    return ranges;
  }

  close(): void {
    for (const { fd } of this.groups.values()) fd.close();
    this.groups.clear();
    this.fd.close();
  }
}

/** Kernels with iommufd: devices are opened by themselves and attached to one address space. */
export class IommufdHome implements VfioHome {
  readonly iovaRanges: readonly { start: number; end: number }[] = [];
  private readonly fd: Fd;
  private readonly dev: string;
  private readonly call: Ioctl;
  private readonly ioas: number;
  private devices = 0;

  constructor(dev = '/dev', call: Ioctl = ioctlResult) {
    this.dev = dev;
    this.call = call;
    this.fd = openVfio(`${dev}/iommu`, 'the kernel has no iommufd');
    const at = IOMMU_IOAS_ALLOC.fields;
    const bytes = new Uint8Array(IOMMU_IOAS_ALLOC.size);
    const view = new DataView(bytes.buffer);
    view.setUint32(at.size[0], IOMMU_IOAS_ALLOC.size, true);
    const result = call(this.fd, IOMMUFD_IOCTL.IOAS_ALLOC, bytes);
    if (result < 0) {
      this.fd.close();
      throw new SysError('ioctl IOMMU_IOAS_ALLOC', -result);
    }
    this.ioas = view.getUint32(at.out_ioas_id[0], true);
  }

  get place(): MapperPlace {
    return { kind: MapperKind.IOMMUFD, fd: this.fd.number, ioas: this.ioas };
  }

  openDevice(bdf: string, _group: string, _members: readonly string[], cdev: string | null): VfioDevice {
    if (cdev === null) throw new Error(`${bdf}: it has no VFIO character device; is it bound to vfio-pci?`);
    const fd = openVfio(`${this.dev}/vfio/devices/${cdev}`, `is ${bdf} bound to vfio-pci?`);
    try {
      const bind = new DataView(new ArrayBuffer(VFIO_BIND_IOMMUFD.size));
      bind.setUint32(VFIO_BIND_IOMMUFD.fields.argsz[0], VFIO_BIND_IOMMUFD.size, true);
      bind.setInt32(VFIO_BIND_IOMMUFD.fields.iommufd[0], this.fd.number, true);
      this.must(fd, VFIO_IOCTL.DEVICE_BIND_IOMMUFD, bind, `VFIO_DEVICE_BIND_IOMMUFD ${bdf}`);
      const attach = new DataView(new ArrayBuffer(VFIO_ATTACH_PT.size));
      attach.setUint32(VFIO_ATTACH_PT.fields.argsz[0], VFIO_ATTACH_PT.size, true);
      attach.setUint32(VFIO_ATTACH_PT.fields.pt_id[0], this.ioas, true);
      this.must(fd, VFIO_IOCTL.DEVICE_ATTACH_IOMMUFD_PT, attach, `VFIO_DEVICE_ATTACH_IOMMUFD_PT ${bdf}`);
      const device = new VfioDevice(fd, bdf, this.call);
      this.devices++;
      return device;
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  closeDevice(): void {
    this.devices--;
  }

  get idle(): boolean {
    return this.devices === 0;
  }

  private must(fd: Fd, request: number, arg: DataView, name: string): void {
    const result = this.call(fd, request, new Uint8Array(arg.buffer));
    if (result < 0) throw new SysError(`ioctl ${name}`, -result);
  }

  close(): void {
    this.fd.close();
  }
}

function openVfio(path: string, hint: string): Fd {
  if (!existsSync(path)) throw new Error(`${path} is not there: ${hint}`);
  try {
    return open(path, O.RDWR);
  } catch (error) {
    if (!(error instanceof SysError) || error.errno !== ERRNO.EBUSY) throw error;
    throw new SysError('open', error.errno, `${path} (another process has the group)`);
  }
}
