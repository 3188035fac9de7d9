import { resolve } from 'node:path';
import type { PciAccess } from '../pci/access.ts';
import { ACCESS_MODES, type AccessMode } from '../pci/access-mode.ts';
import { parseBdf } from '../pci/bdf.ts';
import type { ControlLoop } from '../pci/control-loop.ts';
import type { PciHost } from '../pci/host.ts';
import type { QueueLoop } from '../pci/reactor-queue.ts';
import { BdevError, deviceError } from './errors.ts';
import type { DiskChanges } from './nvme-disks.ts';
import { checkName } from './options.ts';
import { type AdapterOptions, VirtioScsiAdapter } from './virtio-scsi/adapter.ts';
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

interface Attached {
  readonly name: string;
  readonly adapter: VirtioScsiAdapter;
  /** Gives back what the transport stands on. */
  readonly release: () => void;
  readonly params: Record<string, unknown>;
  refused: readonly string[];
  bdevs: VirtioScsiBdev[];
}

export class VirtioDisks {
  private readonly host: PciHost | null;
  private readonly loop: ControlLoop & QueueLoop;
  private readonly changes: DiskChanges;
  private readonly open: OpenVirtio;
  private readonly attached = new Map<string, Attached>();
  private readonly reserved = new Set<string>();

  /** @param open in tests, instead of the host */
  constructor(host: PciHost | null, loop: ControlLoop & QueueLoop, changes: DiskChanges, open?: OpenVirtio) {
    this.host = host;
    this.loop = loop;
    this.changes = changes;
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
    return this.reserving(name, async () => {
      const { transport, release } = this.open(options);
      return this.bringUp(name, transport, { ...options, vqCount: options.vqCount ?? queues }, params, release);
    });
  }

  /** The same with a transport of the caller's. */
  attachTransport(
    name: string,
    transport: ScsiTransport,
    options: Partial<AttachVirtio> = {},
  ): Promise<VirtioScsiBdev[]> {
    return this.reserving(name, () => this.bringUp(name, transport, options, { name }, () => {}));
  }

  private openHere(options: AttachVirtio): OpenedVirtio {
    if (options.trtype === 'user') {
      return { transport: new UserScsiTransport(resolve(options.traddr), this.loop), release: () => {} };
    }
    const bdf = parseBdf(options.traddr);
    if (bdf === undefined) {
      throw new BdevError('EINVAL', `traddr "${options.traddr}" is no PCI address: expected 0000:00:05.0`, 'traddr');
    }
    if (options.mode !== undefined && !ACCESS_MODES.includes(options.mode)) {
      throw new BdevError('EINVAL', `mode "${options.mode}": expected one of ${ACCESS_MODES.join(', ')}`, 'mode');
    }
    const { host } = this;
    if (host === null) throw new BdevError('ENOTSUP', 'no PCI here');
    let access: PciAccess;
    try {
      access = host.open(bdf, options.mode);
    } catch (error) {
      throw deviceError(error, 'EBUSY', 'traddr');
    }
    const release = () => host.release(access);
    try {
      return { transport: new PciScsiTransport(access, host.sysfs.read(bdf), host.dma, this.loop), release };
    } catch (error) {
      release();
      throw deviceError(error, 'ENOTSUP', 'traddr');
    }
  }

  private async reserving<T>(name: string, work: () => Promise<T>): Promise<T> {
    if (this.attached.has(name) || this.reserved.has(name)) {
      throw new BdevError(
        'EBUSY',
        `virtio-scsi adapter ${name} exists already; remove it first or choose another name`,
        'name',
      );
    }
    this.reserved.add(name);
    try {
      return await work();
    } finally {
      this.reserved.delete(name);
    }
  }

  private async bringUp(
    name: string,
    transport: ScsiTransport,
    options: Partial<AttachVirtio>,
    params: Record<string, unknown>,
    release: () => void,
  ): Promise<VirtioScsiBdev[]> {
    const adapter: VirtioScsiAdapter = new VirtioScsiAdapter(
      transport,
      this.loop,
      {
        changed: (targets) => this.rescan(name, targets),
        parametersChanged: (target, lun) => this.parametersChanged(name, target, lun),
        rung: () => this.takeSizes(name),
        lost: (reason) => this.lost(name, adapter.state === 'removed' ? 'removed' : 'failed', reason),
      },
      adapterOptions(options),
    );
    try {
      await adapter.start();
    } catch (error) {
      release();
      throw deviceError(error, 'EIO', 'traddr');
    }
    const entry: Attached = { name, adapter, release, params, refused: [], bdevs: [] };
    try {
      const found = await adapter.scan(adapter.allTargets);
      entry.refused = found.refused;
      entry.bdevs = found.units.map((unit) => new VirtioScsiBdev(this.partsOf(entry), unit));
      if (entry.bdevs.length === 0) {
        const why = found.refused.length > 0 ? found.refused.join('; ') : 'no target has a disk';
        throw new BdevError('ENODEV', `${transport.name}: nothing to serve: ${why}`, 'traddr');
      }
    } catch (error) {
      await adapter.shutdown();
      release();
      throw deviceError(error, 'EIO', 'traddr');
    }
    this.attached.set(name, entry);
    return [...entry.bdevs];
  }

  private partsOf({ name, adapter, params }: Attached) {
    return { adapterName: name, adapter, params, dmaTable: this.host?.table.shared ?? null };
  }

  private get(name: string): Attached {
    const entry = this.attached.get(name);
    if (entry !== undefined) return entry;
    const names = this.names.join(', ');
    throw new BdevError(
      'ENODEV',
      `no virtio-scsi adapter is called ${name}; ${names === '' ? 'there are none' : `there are ${names}`}`,
      'name',
    );
  }

  get names(): string[] {
    return [...this.attached.keys()];
  }

  /** @throws BdevError when there is no such adapter */
  disks(name: string): readonly VirtioScsiBdev[] {
    return this.get(name).bdevs;
  }

  /** Shut it down and give the device back. Its disks must not be used any more. @throws BdevError */
  async detach(name: string): Promise<void> {
    const entry = this.get(name);
    this.attached.delete(name);
    this.reserved.add(name);
    try {
      await entry.adapter.shutdown();
    } finally {
      entry.release();
      this.reserved.delete(name);
    }
  }

  /** @throws BdevError */
  reset(name: string): void {
    this.get(name).adapter.reset('asked by the operator');
  }

  /** As bdev_virtio_scsi_get_devices shows them. @throws BdevError */
  describe(name?: string): Record<string, unknown>[] {
    const wanted = name === undefined ? [...this.attached.values()] : [this.get(name)];
    return wanted.map(({ name: called, adapter, bdevs, refused }) => ({
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
      if (unit === undefined) {
        entry.bdevs.splice(entry.bdevs.indexOf(bdev), 1);
        this.changes.removed(bdev, name);
      } else if (bdev.update(unit)) this.changes.resized(bdev, name);
    }
    for (const unit of found.units) {
      if (entry.bdevs.some((b) => b.unit.target === unit.target && b.unit.lun === unit.lun)) continue;
      const bdev = new VirtioScsiBdev(this.partsOf(entry), unit);
      entry.bdevs.push(bdev);
      this.changes.added(bdev, name);
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

  private lost(name: string, state: 'failed' | 'removed', reason: string): void {
    const entry = this.attached.get(name);
    if (entry === undefined) return; // it is being detached
    for (const bdev of entry.bdevs.splice(0)) this.changes.removed(bdev, name);
    this.changes.lost?.(name, state, reason);
  }

  async close(): Promise<void> {
    for (const name of this.names) await this.detach(name);
  }
}

function adapterOptions(options: Partial<AttachVirtio>): AdapterOptions {
  return {
    ...(options.vqCount === undefined ? {} : { queues: options.vqCount }),
    ...(options.vqSize === undefined ? {} : { queueSize: options.vqSize }),
    ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
  };
}
