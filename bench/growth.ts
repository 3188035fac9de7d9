/**
 * How the rate grows with queues, controllers and reactors. One target a row, with its controllers spread over its reactors; a load
 * process a reactor keeps all their queues full. Reactors have the lower CPUs, loads the next ones, so a row with R reactors
 * needs 2 R CPUs and is left out where there are fewer. The first row is measured again before each other: what counts
 * is the ratio to that.
 *
 * `npm run build && node --import tsx bench/growth.ts [--disk malloc|null] [--depth 32] [--op read] [--rounds 5]`
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import { median, summary } from './statistics.ts';

const { values } = parseArgs({
  options: {
    disk: { type: 'string', default: 'malloc' },
    /** Of each queue. */
    depth: { type: 'string', default: '32' },
    op: { type: 'string', default: 'read' },
    rounds: { type: 'string', default: '5' },
  },
});

interface Shape {
  reactors: number;
  /** In all, and queues of each. */
  controllers: number;
  queues: number;
}

const FIRST: Shape = { reactors: 1, controllers: 1, queues: 1 };
const SHAPES: readonly Shape[] = [
  ...[2, 4, 8].map((queues) => ({ ...FIRST, queues })),
  ...[2, 4, 16, 64].map((controllers) => ({ ...FIRST, controllers })),
  ...[2, 4, 8].map((reactors) => ({ reactors, controllers: reactors, queues: 1 })),
];
/** Of each controller's disk. */
const DISK_MIB = 16;
const ROOT = join(import.meta.dirname, '..');
const run = promisify(execFile);

/** The target's configuration: a disk and a controller each, the controllers dealt out to the reactors. */
function configuration({ reactors, controllers }: Shape): unknown {
  const disks = [];
  const vhost = [];
  for (let i = 0; i < controllers; i++) {
    const name = `Disk${i}`;
    const ctrlr = `vhost.${i}`;
    const params = { name, num_blocks: DISK_MIB * 2048, block_size: 512 };
    disks.push({ method: `bdev_${values.disk}_create`, params });
    vhost.push({
      method: 'vhost_create_scsi_controller',
      params: { ctrlr, cpumask: `0x${(1 << (i % reactors)).toString(16)}` },
    });
    vhost.push({ method: 'vhost_scsi_controller_add_target', params: { ctrlr, scsi_target_num: 0, bdev_name: name } });
  }
  return {
    subsystems: [
      { subsystem: 'bdev', config: disks },
      { subsystem: 'vhost', config: vhost },
    ],
  };
}

/** @returns requests a second */
async function measure(shape: Shape): Promise<number> {
  const { reactors, controllers, queues } = shape;
  const dir = mkdtempSync('/dev/shm/vvu-growth-');
  try {
    const config = join(dir, 'config.json');
    writeFileSync(config, JSON.stringify(configuration(shape)));
    const mask = `0x${((1 << reactors) - 1).toString(16)}`;
    const argv = [join(ROOT, 'dist/cli/main.js'), '-S', dir, '-m', mask, '-r', join(dir, 'rpc.sock'), '-c', config];
    const target = spawn(process.execPath, argv, { stdio: ['ignore', 'ignore', 'inherit'] });
    const ended = once(target, 'exit');
    const socket = (i: number) => join(dir, `vhost.${i}`);
    for (let i = 0; i < 200 && !existsSync(socket(controllers - 1)); i++) await sleep(50);
    const loads = Array.from({ length: reactors }, (_, r) => {
      const sockets = Array.from({ length: controllers }, (_, i) => i).filter((i) => i % reactors === r);
      const options = ['--depth', values.depth, '--op', values.op, '--queues', `${queues}`, '--span', `${DISK_MIB}`];
      options.push('--cpu', `${reactors + r}`, '--warmup', '2.5', '--samples', '5', '--seconds', '0.2');
      for (const i of sockets) options.push('--socket', socket(i));
      return run(process.execPath, ['--import', 'tsx', join(import.meta.dirname, 'load/main.ts'), ...options]);
    });
    const results = await Promise.all(loads);
    target.kill('SIGTERM');
    await ended;
    return results.reduce((sum, { stdout }) => sum + median((JSON.parse(stdout) as { iops: number[] }).iops), 0);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

console.log(
  `${values.disk} disk, 4 KiB ${values.op}, depth ${values.depth} a queue; thousands a second, ratio to one of each`,
);
for (const shape of SHAPES) {
  const name = `${shape.reactors} reactors, ${shape.controllers} controllers, ${shape.queues} queues each`;
  if (availableParallelism() < 2 * shape.reactors) {
    console.log(`${name}: needs ${2 * shape.reactors} CPUs`);
    continue;
  }
  const rates: number[] = [];
  const ratios: number[] = [];
  for (let i = 0; i < Number(values.rounds); i++) {
    const one = await measure(FIRST);
    const rate = await measure(shape);
    rates.push(rate / 1000);
    ratios.push(rate / one);
  }
  const [rate, ratio] = [summary(rates), summary(ratios)];
  console.log(
    `${name}: ${rate.median.toFixed(0)} (${rate.min.toFixed(0)}-${rate.max.toFixed(0)}), ` +
      `ratio ${ratio.median.toFixed(2)} (${ratio.min.toFixed(2)}-${ratio.max.toFixed(2)})`,
  );
}
