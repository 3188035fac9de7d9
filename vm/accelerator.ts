/**
 * KVM where it really works, else emulation (TCG). One rule: KVM is believed only after a guest has booted with it; a
 * /dev/kvm that opens can still be of a kind that runs no ordinary kernel.
 */
import { createHash } from 'node:crypto';
import { accessSync, constants, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { computeImage } from './images.ts';
import { kernel } from './packages.ts';
import { cachePath } from './paths.ts';
import { startChild } from './process.ts';
import { progress } from './progress.ts';
import { qemu } from './qemu.ts';
import { vmlinux } from './vmlinux.ts';

export type Accelerator = 'kvm' | 'tcg';

/** A guest of ours is up in about one second with KVM. */
const PROBE_SECONDS = 10;

async function guestBootsWithKvm(): Promise<boolean> {
  const { command, prefixArgs, env } = await qemu('system');
  const image = await vmlinux(await kernel());
  const args = ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-machine', 'q35', '-m', '256M'];
  args.push('-accel', 'kvm', '-cpu', 'host', '-serial', 'stdio');
  args.push('-kernel', image, '-initrd', await computeImage(), '-append', 'console=ttyS0 quiet panic=-1');
  const child = startChild(command, [...prefixArgs, ...args], {
    stdio: ['ignore', 'pipe', 'ignore'],
    env: { ...process.env, ...env },
  });
  return new Promise((resolve) => {
    let output = '';
    const end = (works: boolean) => {
      clearTimeout(timer);
      child.kill('SIGKILL');
      resolve(works);
    };
    const timer = setTimeout(end, PROBE_SECONDS * 1000, false);
    child.stdout!.on('data', (chunk: Buffer) => {
      output += chunk;
      // What guest/init says on a machine with one serial port.
      if (output.includes('init: no second serial port')) end(true);
    });
    child.once('close', () => end(false));
    child.once('error', () => end(false));
  });
}

async function decide(): Promise<Accelerator> {
  const wish = process.env['VVU_KVM'];
  if (wish !== undefined) return wish === '1' ? 'kvm' : 'tcg';
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return 'tcg';
  }
  // KVM on top of PVM runs only kernels that were made for it.
  if (existsSync('/sys/module/kvm_pvm')) return 'tcg';
  const machine = `${release()} ${cpus()[0]?.model}`;
  const stamp = cachePath(`kvm-${createHash('sha256').update(machine).digest('hex').slice(0, 12)}`);
  try {
    return readFileSync(stamp, 'utf8') === 'works' ? 'kvm' : 'tcg';
  } catch {
    // not tried on this machine yet
  }
  progress('trying whether KVM works here (VVU_KVM=0 or 1 skips this)');
  const works = await guestBootsWithKvm();
  progress(works ? 'KVM works' : 'KVM is there but boots no guest: using emulation');
  writeFileSync(stamp, works ? 'works' : 'fails');
  return works ? 'kvm' : 'tcg';
}

let decision: Promise<Accelerator> | undefined;

/** Decides once a process; the outcome of a trial is kept in the cache. */
export function accelerator(): Promise<Accelerator> {
  decision ??= decide();
  return decision;
}
