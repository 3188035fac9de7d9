/** A machine in a temporary folder: /sys, /proc and /dev as far as setup and doctor look at them, with a made-up kernel behind the files. */
import { existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { Machine } from '../../src/pci/setup/machine.ts';
import { tempDir } from '../support/temp-dir.ts';

export interface FakeFunction {
  vendor?: number;
  device?: number;
  subsystemDevice?: number;
  classCode?: number;
  driver?: string;
  group?: string;
  /** Lines of `resource`: start, size, flags. */
  resources?: [start: number, size: number, flags: number][];
  config?: Uint8Array;
  cdev?: string;
}

const base = tempDir();
let machines = 0;

export class FakeMachine extends Machine {
  /** Everything written, as `file=text`. */
  readonly written: string[] = [];
  /** Modules that modprobe finds. */
  readonly modules = new Set<string>();
  /** Drivers that refuse every device. */
  readonly refusing = new Set<string>();
  root = true;
  /** Which driver the kernel picks for a function when nobody overrides it. */
  private readonly natural = new Map<string, string>();

  constructor() {
    const dir = join(base, String(machines++));
    super({ sys: join(dir, 'sys'), proc: join(dir, 'proc'), dev: join(dir, 'dev') });
    for (const path of [
      'bus/pci/devices',
      'bus/pci/drivers',
      'block',
      'class/block',
      'class/net',
      'kernel/iommu_groups',
    ]) {
      mkdirSync(this.sys(path), { recursive: true });
    }
    mkdirSync(this.proc('self'), { recursive: true });
    mkdirSync(this.dev('vfio'), { recursive: true });
    this.put(this.proc('self/mountinfo'), '20 1 0:5 / /proc rw - proc proc rw\n');
    this.put(this.proc('swaps'), 'Filename Type Size Used Priority\n');
  }

  put(path: string, text: string | Uint8Array): void {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
  }

  addDriver(name: string): void {
    mkdirSync(this.sys('bus/pci/drivers', name), { recursive: true });
    this.put(this.sys('bus/pci/drivers', name, 'bind'), '');
  }

  addFunction(bdf: string, f: FakeFunction = {}): void {
    const path = this.sys('bus/pci/devices', bdf);
    const hex = (n: number) => `0x${n.toString(16)}\n`;
    this.put(join(path, 'vendor'), hex(f.vendor ?? 0x1b36));
    this.put(join(path, 'device'), hex(f.device ?? 0x10));
    this.put(join(path, 'subsystem_vendor'), hex(0x1af4));
    this.put(join(path, 'subsystem_device'), hex(f.subsystemDevice ?? 0x1100));
    this.put(join(path, 'class'), hex(f.classCode ?? 0x01_0802));
    this.put(join(path, 'revision'), '0x02\n');
    this.put(join(path, 'numa_node'), '-1\n');
    this.put(join(path, 'driver_override'), '(null)\n');
    const lines = Array.from({ length: 6 }, (_, i) => {
      const [start, size, flags] = f.resources?.[i] ?? [0, 0, 0];
      return `0x${start.toString(16)} 0x${(size === 0 ? 0 : start + size - 1).toString(16)} 0x${flags.toString(16)}`;
    });
    this.put(join(path, 'resource'), `${lines.join('\n')}\n`);
    this.put(join(path, 'config'), f.config ?? new Uint8Array(256));
    if (f.cdev !== undefined) mkdirSync(join(path, 'vfio-dev', f.cdev), { recursive: true });
    if (f.group !== undefined) {
      const group = this.sys('kernel/iommu_groups', f.group, 'devices');
      mkdirSync(group, { recursive: true });
      symlinkSync(`../../../../bus/pci/devices/${bdf}`, join(group, bdf));
      symlinkSync(`../../../../kernel/iommu_groups/${f.group}`, join(path, 'iommu_group'));
    }
    if (f.driver !== undefined) {
      if (f.driver !== 'vfio-pci') this.natural.set(bdf, f.driver);
      this.attach(bdf, f.driver);
    }
  }

  private attach(bdf: string, driver: string): void {
    this.addDriver(driver);
    symlinkSync(`../../../../bus/pci/drivers/${driver}`, this.sys('bus/pci/devices', bdf, 'driver'));
  }

  /** A disk of the function with partitions; dev numbers 259:minor. */
  addDisk(name: string, bdf: string, minor: number, partitions: string[] = []): void {
    const real = this.sys('devices/pci0000:00', bdf, 'host', name);
    this.put(join(real, 'dev'), `259:${minor}\n`);
    mkdirSync(join(real, 'holders'), { recursive: true });
    symlinkSync(`../devices/pci0000:00/${bdf}/host/${name}`, this.sys('block', name));
    symlinkSync(`../../devices/pci0000:00/${bdf}/host/${name}`, this.sys('class/block', name));
    partitions.forEach((part, i) => {
      this.put(join(real, part, 'partition'), `${i + 1}\n`);
      this.put(join(real, part, 'dev'), `259:${minor + 1 + i}\n`);
      mkdirSync(join(real, part, 'holders'), { recursive: true });
      symlinkSync(`../../devices/pci0000:00/${bdf}/host/${name}/${part}`, this.sys('class/block', part));
    });
  }

  mount(dev: string, point: string, source = '/dev/x'): void {
    const before = this.text(this.proc('self/mountinfo'));
    this.put(
      this.proc('self/mountinfo'),
      `${before}\n30 20 ${dev} / ${point} rw,relatime shared:1 - ext4 ${source} rw\n`,
    );
  }

  /** The kernel behind the files. */
  override write(path: string, text: string): void {
    this.written.push(`${path.slice(this.sysRoot.length + 1)}=${text.trim()}`);
    if (path.endsWith('/driver/unbind')) {
      rmSync(this.sys('bus/pci/devices', text, 'driver'));
    } else if (path.endsWith('drivers_probe')) {
      const override = this.text(this.sys('bus/pci/devices', text, 'driver_override'));
      const driver = override === '' || override === '(null)' ? this.natural.get(text) : override;
      const there = driver !== undefined && existsSync(this.sys('bus/pci/drivers', driver));
      if (there && !this.refusing.has(driver) && !existsSync(this.sys('bus/pci/devices', text, 'driver'))) {
        symlinkSync(`../../../../bus/pci/drivers/${driver}`, this.sys('bus/pci/devices', text, 'driver'));
      }
    } else if (basename(path) === 'nr_hugepages') {
      const most = Number(this.text(join(dirname(path), 'most')) ?? text);
      const n = Math.min(Number(text), most);
      this.put(path, `${n}\n`);
      this.put(join(dirname(path), 'free_hugepages'), `${n}\n`);
    } else {
      this.put(path, text);
    }
  }

  override loadModule(name: string): boolean {
    if (!this.modules.has(name)) return false;
    this.addDriver(name);
    return true;
  }

  override get isRoot(): boolean {
    return this.root;
  }
}
