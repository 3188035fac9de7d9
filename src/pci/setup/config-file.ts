import { readFileSync } from 'node:fs';
import { ByteConfig, type Capability, capabilities } from '../config-space.ts';
import type { Machine } from './machine.ts';

/** Configuration space as sysfs shows it, with its capabilities; undefined where they can't be read (64 bytes without root). */
export function readConfigFile(machine: Machine, bdf: string): { config: ByteConfig; caps: Capability[] } | undefined {
  try {
    const config = new ByteConfig(new Uint8Array(readFileSync(machine.sys('bus/pci/devices', bdf, 'config'))));
    return { config, caps: capabilities(config, bdf) };
  } catch {
    return undefined;
  }
}
