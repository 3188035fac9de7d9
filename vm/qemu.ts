/**
 * Which QEMU to run. `system` is the machine's own (or, where none is installed, its release's package unpacked beside
 * us); `11` is QEMU 11 or later, from Debian's newer suites where the machine's is older. The wrapper hides which.
 */
import { join } from 'node:path';
import { type PackageSet, unpackedPackages } from './apt.ts';
import { debianMirror } from './apt-sources.ts';
import { type Command, unpackedProgram } from './packages.ts';
import { findProgram, run } from './process.ts';

export type QemuKind = 'system' | '11';

export interface Qemu extends Command {
  /** e.g. [7, 2, 22] */
  version: number[];
}

/** The Debian release whose backports have QEMU 11. */
const NEWER_RELEASE = 'trixie';
const PROGRAM = 'qemu-system-x86_64';

async function withVersion(command: Command): Promise<Qemu> {
  const text = (await run(command.command, [...command.prefixArgs, '--version'], { env: command.env })).toString();
  const version = /version (\d+)\.(\d+)\.(\d+)/.exec(text);
  if (version === null) throw new Error(`${command.command} --version printed: ${text.trim()}`);
  return { ...command, version: version.slice(1).map(Number) };
}

async function unpackedQemu(set: Omit<PackageSet, 'packages'>): Promise<Qemu> {
  const root = await unpackedPackages({ ...set, packages: [['qemu-system-x86']] });
  const program = unpackedProgram(root, `usr/bin/${PROGRAM}`);
  const folders = ['qemu', 'seabios'].flatMap((folder) => ['-L', join(root, 'usr/share', folder)]);
  return withVersion({
    command: program.command,
    prefixArgs: [...program.prefixArgs, ...folders],
    // Otherwise it looks among the modules of the machine's own QEMU, built for another version.
    env: { QEMU_MODULE_DIR: join(root, 'usr/lib/x86_64-linux-gnu/qemu') },
  });
}

async function systemQemu(): Promise<Qemu> {
  const path = process.env['VVU_QEMU'] ?? findProgram(PROGRAM);
  if (path !== null) return withVersion({ command: path, prefixArgs: [], env: {} });
  return unpackedQemu({ name: 'qemu-system', sources: debianMirror().own });
}

async function qemu11(): Promise<Qemu> {
  const path = process.env['VVU_QEMU_11'] ?? findProgram(PROGRAM);
  if (path !== null) {
    const own = await withVersion({ command: path, prefixArgs: [], env: {} });
    if (own.version[0] >= 11) return own;
  }
  const mirror = debianMirror();
  const backports = `${NEWER_RELEASE}-backports`;
  const sources = [mirror.suite(NEWER_RELEASE), mirror.suite(backports)];
  return unpackedQemu({ name: 'qemu-11', sources, target: backports });
}

const found = new Map<QemuKind, Promise<Qemu>>();

/** Finds or fetches a QEMU. `VVU_QEMU` and `VVU_QEMU_11` name a program to take instead. */
export function qemu(kind: QemuKind): Promise<Qemu> {
  let answer = found.get(kind);
  if (answer === undefined) {
    answer = kind === 'system' ? systemQemu() : qemu11();
    found.set(kind, answer);
  }
  return answer;
}
