/** What is measured: one row a case. */
import type { Disk } from './servers.ts';

export interface Case {
  readonly name: string;
  readonly disk: Disk;
  readonly op: 'read' | 'write';
  readonly bytes: number;
  readonly depth: number;
  readonly queues: number;
  readonly indirect: boolean;
}

function row(disk: Disk, op: 'read' | 'write', kib: number, depth: number, queues = 1, indirect = false): Case {
  const name = `${disk} ${kib}k ${op} qd${depth}${queues > 1 ? ` x${queues} queues` : ''}${indirect ? ' indirect' : ''}`;
  return { name, disk, op, bytes: kib * 1024, depth, queues, indirect };
}

const OPS = ['read', 'write'] as const;

/** The cases that the project's promises are about. */
export const MAIN: readonly Case[] = [
  ...OPS.flatMap((op) => [1, 32, 128].map((depth) => row('malloc', op, 4, depth))),
  ...OPS.map((op) => row('malloc', op, 128, 16)),
  ...OPS.map((op) => row('null', op, 4, 32)),
  ...OPS.map((op) => row('file', op, 4, 32)),
];

/** All of them: direct and indirect descriptors, one and four queues, every disk. */
export const ALL: readonly Case[] = [
  ...MAIN,
  ...OPS.flatMap((op) => [1, 32, 128].map((depth) => row('malloc', op, 4, depth, 1, true))),
  ...OPS.flatMap((op) => [row('malloc', op, 4, 32, 4), row('malloc', op, 4, 32, 4, true)]),
  ...OPS.flatMap((op) => (['null', 'file'] as const).flatMap((d) => [row(d, op, 4, 1), row(d, op, 4, 128)])),
  ...OPS.map((op) => row('file', op, 128, 16)),
];
