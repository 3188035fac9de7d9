import { TargetError } from './errors.ts';

/**
 * CPU masks in SPDK's two forms: hexadecimal (`0x3`, `3`) and lists (`[0,2-3]`). Inside the target a mask is the
 * ascending list of CPU numbers.
 */

const MAX_CPU = 1023;

/** @throws TargetError EINVAL when the text is no mask, names no CPU or one above 1023. */
export function parseCpuMask(text: string): number[] {
  const cpus = text.startsWith('[') ? parseList(text) : parseHex(text);
  if (cpus.length === 0) throw bad(text, 'it names no CPU');
  return cpus;
}

function bad(text: string, why: string): TargetError {
  return new TargetError('EINVAL', `CPU mask "${text}": ${why}; write 0x3 or [0,1] for CPUs 0 and 1`);
}

function parseHex(text: string): number[] {
  const digits = /^(?:0[xX])?([0-9a-fA-F]{1,256})$/.exec(text)?.[1];
  if (digits === undefined) throw bad(text, 'not a hexadecimal number');
  const cpus: number[] = [];
  for (let i = 0; i < digits.length; i++) {
    const digit = Number.parseInt(digits[digits.length - 1 - i], 16);
    for (let bit = 0; bit < 4; bit++) if (digit & (1 << bit)) cpus.push(i * 4 + bit);
  }
  return cpus;
}

function parseList(text: string): number[] {
  if (!/^\[\s*\d+(\s*-\s*\d+)?(\s*,\s*\d+(\s*-\s*\d+)?)*\s*\]$/.test(text)) throw bad(text, 'not a list of CPUs');
  const cpus = new Set<number>();
  for (const part of text.slice(1, -1).split(',')) {
    const [first, last = first] = part.split('-').map(Number);
    if (last > MAX_CPU) throw bad(text, `CPU ${last} is above ${MAX_CPU}`);
    if (first > last) throw bad(text, `${first}-${last} runs backwards`);
    for (let cpu = first; cpu <= last; cpu++) cpus.add(cpu);
  }
  return [...cpus].sort((a, b) => a - b);
}

/** The hexadecimal form, as RPC results show it. */
export function formatCpuMask(cpus: readonly number[]): string {
  const digits = new Array<number>(Math.floor(Math.max(0, ...cpus) / 4) + 1).fill(0);
  for (const cpu of cpus) digits[cpu >> 2] |= 1 << (cpu & 3);
  return `0x${digits
    .reverse()
    .map((d) => d.toString(16))
    .join('')}`;
}
