import { resolve } from 'node:path';
import type { AccessMode } from '../pci/access-mode.ts';
import type { ControlLoop } from '../pci/control-loop.ts';
import type { PciHost } from '../pci/host.ts';
import type { QueueLoop } from '../pci/reactor-queue.ts';
import { type Attached, AttachedDevices, DeviceNames, type DiskChanges, nothingToServe } from './attached-devices.ts';
import { checkName } from './options.ts';
import { checkPciPlace, takeFunction } from './pci-function.ts';
import { type AdapterListener, type AdapterOptions, VirtioScsiAdapter } from './virtio-scsi/adapter.ts';
import { PciScsiTransport } from './virtio-scsi/pci-transport.ts';
import type { ScanResult } from './virtio-scsi/scan.ts';
import type { ScsiTransport } from './virtio-scsi/transport.ts';
import { UserScsiTransport } from './virtio-scsi/user-transport.ts';
import { VirtioScsiBdev } from './virtio-scsi-bdev.ts';

/** virtio-scsi adapters by name, on the main thread: attach, detach, and what becomes of their disks meanwhile. */

export interface AttachVirtio {
  /** Name of the adapter; disks are NAMEt0, ... */
  name: string;
  /** A PCI function, or a vhost-user back end on a Unix socket. */
  trtype: 'pci' | 'user';
  /** PCI address, or the socket's path. */
  traddr: string;
  /** Request queues: one a reactor is needed. */
  vqCount?: number | undefined;
  vqSize?: number | undefined;
  timeoutMs?: number | undefined;
  /** pci: instead of the access mode that fits how the function is bound. */
  mode?: AccessMode | undefined;
}

/** An adapter that was taken, and how it is given back. */
export interface OpenedVirtio {
  readonly transport: ScsiTransport;
  release(): void;
}

/** Take the adapter that the options name. @throws BdevError that says what stands in the way */
export type OpenVirtio = (options: AttachVirtio) => OpenedVirtio;

interface Adapter extends Attached<VirtioScsiBdev> {
  readonly adapter: VirtioScsiAdapter;
  refused: readonly string[];
}

export class VirtioDisks extends AttachedDevices<VirtioScsiBdev, Adapter> {
  private readonly host: PciHost | null;
  private readonly loop: ControlLoop & QueueLoop;
  private readonly open: OpenVirtio;

  /**
   * @param open in tests, instead of the host
   * @param names shared with the other families
   */
  constructor(
    host: PciHost | null,
    loop: ControlLoop & QueueLoop,
    changes: DiskChanges,
    open?: OpenVirtio,
    names: DeviceNames = new DeviceNames(),
  ) {
    super('virtio-scsi adapter', changes, names);
    this.host = host;
    this.loop = loop;
    this.open = open ?? ((options) => this.openHere(options));
  }

  /**
   * @param queues request queues where the options name no number
   * @returns one disk a unit that can be served
   * @throws BdevError that says what stands in the way; the device is then as it was
   */
  async attach(options: AttachVirtio, queues?: number): Promise<VirtioScsiBdev[]> {
    const name = checkName(options.name);
    const params = {
      name,
      trtype: options.trtype,
      traddr: options.trtype === 'user' ? resolve(options.traddr) : options.traddr,
      dev_type: 'scsi',
      ...(options.vqCount === undefined ? {} : { vq_count: options.vqCount }),
      ...(options.vqSize === undefined ? {} : { vq_size: options.vqSize }),
      ...(options.timeoutMs === undefined ? {} : { timeout_ms: options.timeoutMs }),
      ...(options.mode === undefined ? {} : { access_mode: options.mode }),
    };
    return this.named(name, async () =>
      this.start(name, this.open(options), { ...options, vqCount: options.vqCount ?? queues }, params),
    );
  }

  /** The same with a transport of the caller's. */
  attachTransport(
    name: string,
    transport: ScsiTransport,
    options: Partial<AttachVirtio> = {},
  ): Promise<VirtioScsiBdev[]> {
    return this.named(name, () => this.start(name, { transport, release: () => {} }, options, { name }));
  }

  private openHere(options: AttachVirtio): OpenedVirtio {
    if (options.trtype === 'user') {
      return { transport: new UserScsiTransport(resolve(options.traddr), this.loop), release: () => {} };
    }
    const bdf = checkPciPlace(options, '0000:00:05.0');
    const taken = takeFunction(
      this.host,
      bdf,
      options.mode,
      'ENOTSUP',
      (access, { sysfs, dma }) => new PciScsiTransport(access, sysfs.read(bdf), dma, this.loop),
    );
    return { transport: taken.driver, release: taken.release };
  }

  private start(
    name: string,
    opened: OpenedVirtio,
    options: Partial<AttachVirtio>,
    params: Record<string, unknown>,
  ): Promise<VirtioScsiBdev[]> {
    const { transport, release } = opened;
    const listener: AdapterListener = {
      changed: (targets) => this.rescan(name, targets),
      parametersChanged: (target, lun) => this.parametersChanged(name, target, lun),
      rung: () => this.takeSizes(name),
      lost: (reason) => this.lost(name, adapter.state === 'removed' ? 'removed' : 'failed', reason),
    };
    const adapter: VirtioScsiAdapter = this.driverOf(
      opened,
      () => new VirtioScsiAdapter(transport, this.loop, listener, adapterOptions(options)),
    );
    const shutdown = () => adapter.shutdown();
    const entry: Adapter = { name, adapter, params, refused: [], bdevs: [], shutdown, release };
    const find = async () => {
      const { units, refused } = await adapter.scan(adapter.allTargets);
      entry.refused = refused;
      if (units.length === 0) throw nothingToServe(transport.name, refused, 'no target has a disk');
      return units.map((unit) => new VirtioScsiBdev(this.partsOf(entry), unit));
    };
    return this.bringUp(entry, () => adapter.start(), find);
  }

  private partsOf({ name, adapter, params }: Adapter) {
    return { adapterName: name, adapter, params, dmaTable: this.host?.table.shared ?? null };
  }

  /** @throws BdevError */
  reset(name: string): void {
    this.get(name).adapter.reset('asked by the operator');
  }

  /** As bdev_virtio_scsi_get_devices shows them. @throws BdevError */
  describe(name?: string): Record<string, unknown>[] {
    return this.some(name).map(({ name: called, adapter, bdevs, refused }) => ({
      name: called,
      virtio: { traddr: adapter.name, ...adapter.describe() },
      disks: bdevs.map((b) => b.info.name),
      refused,
    }));
  }

  /** Units came, went or changed behind these targets. */
  private rescan(name: string, targets: readonly number[]): void {
    const adapter = this.attached.get(name)?.adapter;
    adapter?.scan(targets).then(
      (found) => this.compare(name, targets, found),
      () => {}, // it is going away
    );
  }

  private compare(name: string, targets: readonly number[], found: ScanResult): void {
    const entry = this.attached.get(name);
    if (entry === undefined) return;
    for (const bdev of entry.bdevs.filter((b) => targets.includes(b.unit.target))) {
      const unit = found.units.find((u) => bdev.is(u));
      if (unit === undefined) this.diskWent(entry, bdev);
      else if (bdev.update(unit)) this.changes.resized(bdev, name);
    }
    for (const unit of found.units) {
      if (entry.bdevs.some((b) => b.unit.target === unit.target && b.unit.lun === unit.lun)) continue;
      this.diskCame(entry, new VirtioScsiBdev(this.partsOf(entry), unit));
    }
  }

  /** Its channels look by themselves; where it has none, a scan does. */
  private parametersChanged(name: string, target: number, lun: number): void {
    const bdev = this.attached.get(name)?.bdevs.find((b) => b.unit.target === target && b.unit.lun === lun);
    bdev?.state.askLook();
    this.rescan(name, [target]);
  }

  private takeSizes(name: string): void {
    for (const bdev of this.attached.get(name)?.bdevs ?? []) if (bdev.rescan()) this.changes.resized(bdev, name);
  }
}

function adapterOptions(options: Partial<AttachVirtio>): AdapterOptions {
  return {
    ...(options.vqCount === undefined ? {} : { queues: options.vqCount }),
    ...(options.vqSize === undefined ? {} : { queueSize: options.vqSize }),
    ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
  };
}
