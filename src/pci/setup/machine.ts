import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { SysfsPci } from '../sysfs.ts';

/**
 * The machine as `setup` and `doctor` see and change it: files under /sys, /proc and /dev. Tests put a made-up tree there, and a
 * made-up kernel behind its files.
 */
export class Machine {
  readonly sysRoot: string;
  readonly procRoot: string;
  readonly devRoot: string;
  readonly pci: SysfsPci;

  constructor(roots: { sys?: string; proc?: string; dev?: string } = {}) {
    this.sysRoot = roots.sys ?? '/sys';
    this.procRoot = roots.proc ?? '/proc';
    this.devRoot = roots.dev ?? '/dev';
    this.pci = new SysfsPci(this.sysRoot);
  }

  sys(...parts: string[]): string {
    return join(this.sysRoot, ...parts);
  }

  proc(...parts: string[]): string {
    return join(this.procRoot, ...parts);
  }

  dev(...parts: string[]): string {
    return join(this.devRoot, ...parts);
  }

  /** Trimmed content, or undefined. */
  text(path: string): string | undefined {
    try {
      return readFileSync(path, 'utf8').trim();
    } catch {
      return undefined;
    }
  }

  list(path: string): string[] {
    try {
      return readdirSync(path).sort();
    } catch {
      return [];
    }
  }

  link(path: string): string | undefined {
    try {
      return readlinkSync(path);
    } catch {
      return undefined;
    }
  }

  linkName(path: string): string | undefined {
    const target = this.link(path);
    return target === undefined ? undefined : basename(target);
  }

  /** @throws Error of the kernel */
  write(path: string, text: string): void {
    writeFileSync(path, text);
  }

  /** @returns whether the module is there now */
  loadModule(name: string): boolean {
    return spawnSync('modprobe', [name], { stdio: 'ignore' }).status === 0;
  }

  get isRoot(): boolean {
    return process.geteuid?.() === 0;
  }
}
