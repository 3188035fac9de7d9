/**
 * The comparison: every server on every case, alternating, in one run on two cores (server on CPU 0, load on CPU 1),
 * medians with spread, ratios first.
 *
 * `npm run bench -- [--all] [--rounds N] [--c-server BINARY] [--socket NAME=PATH[,blk]]... [--only TEXT] [--realtime] [--json FILE] [--svg FILE]`
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ALL, type Case, MAIN } from './cases.ts';
import { copyRate } from './copy-rate.ts';
import { cServer, ourTarget, type Running, type Server, start, storageDaemon } from './servers.ts';
import { type Summary, summary } from './statistics.ts';
import { chart } from './svg.ts';

const { values } = parseArgs({
  options: {
    all: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '0.4' },
    warmup: { type: 'string', default: '2' },
    /** Servers and load under SCHED_RR, for machines that do other work meanwhile (root). */
    realtime: { type: 'boolean', default: false },
    'c-server': { type: 'string' },
    socket: { type: 'string', multiple: true, default: [] },
    only: { type: 'string' },
    json: { type: 'string', default: 'bench.json' },
    svg: { type: 'string', default: 'bench.svg' },
  },
});

interface Sample {
  iops: number[];
  kicks: number;
  unsupported?: string;
}

/** What goes before every command. */
const prefix = values.realtime ? ['chrt', '-r', '1'] : [];

function generate(server: Server, what: string, options: string[]): Promise<Sample> {
  const node = [process.execPath, '--import', 'tsx', join(import.meta.dirname, 'load/main.ts')];
  const argv = [...prefix, ...node, '--device', server.device, '--cpu', '1', ...options];
  return new Promise((resolve, reject) => {
    const child = spawn(argv[0] as string, argv.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
    let out = '';
    let err = '';
    child.stdout.on('data', (chunk) => {
      out += chunk;
    });
    child.stderr.on('data', (chunk) => {
      err += chunk;
    });
    child.on('close', (code) => {
      if (code === 0) resolve(JSON.parse(out) as Sample);
      else reject(new Error(`load on ${server.name}, ${what}: exit ${code}\n${err}`));
    });
  });
}

async function load(socket: string, server: Server, c: Case): Promise<Sample> {
  if (c.disk === 'malloc' && c.op === 'read') {
    // Pages that nobody wrote are all one page of zeroes, which is quicker to read than a disk.
    const once = [
      '--op',
      'write',
      '--bytes',
      '131072',
      '--depth',
      '16',
      '--warmup',
      '0',
      '--seconds',
      '0.3',
      '--samples',
      '1',
    ];
    await generate(server, 'filling the disk', ['--socket', socket, ...once]);
  }
  const options = ['--socket', socket, '--op', c.op, '--bytes', String(c.bytes), '--depth', String(c.depth)];
  options.push('--queues', String(c.queues), '--seconds', values.seconds, '--warmup', values.warmup, '--samples', '3');
  if (c.indirect) options.push('--indirect');
  return generate(server, c.name, options);
}

function available(command: string): boolean {
  try {
    execFileSync('which', [command], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

const servers: Server[] = [ourTarget()];
if (values['c-server'] !== undefined) servers.push(cServer(values['c-server']));
if (available('qemu-storage-daemon')) servers.push(storageDaemon);
else console.log('qemu-storage-daemon is not installed: left out (apt-get install qemu-system-common)');
/** Back ends that somebody has started: measured on the cases of the malloc disk. */
for (const given of values.socket) {
  const [name, rest] = given.split('=') as [string, string | undefined];
  const [path, device] = (rest ?? '').split(',') as [string, string | undefined];
  if (path === '') throw new Error(`--socket ${given}: expected NAME=PATH or NAME=PATH,blk`);
  servers.push({
    name,
    device: device === 'blk' ? 'blk' : 'scsi',
    disks: ['malloc'],
    multiQueue: true,
    command: () => ({ argv: [], socket: path }),
  });
}

interface Row {
  case: Case;
  iops: Record<string, Summary>;
  copyLimit: number;
}

const cases = (values.all ? ALL : MAIN).filter((c) => values.only === undefined || c.name.includes(values.only));
const dir = mkdtempSync('/dev/shm/vvu-bench-');
const rows: Row[] = [];
try {
  for (const c of cases) {
    const iops: Record<string, number[]> = {};
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const server of servers) {
        if (!server.disks.includes(c.disk)) continue;
        const own = server.command(c.disk, dir).argv.length > 0;
        const running: Running = own
          ? await start(server, c.disk, dir, prefix)
          : { socket: server.command(c.disk, dir).socket, pid: 0, stop: async () => {} };
        try {
          const sample = await load(running.socket, server, c);
          if (sample.unsupported === undefined) {
            iops[server.name] ??= [];
            iops[server.name]?.push(summary(sample.iops).median);
          }
        } finally {
          await running.stop();
        }
      }
    }
    const row: Row = {
      case: c,
      iops: Object.fromEntries(Object.entries(iops).map(([name, list]) => [name, summary(list)])),
      copyLimit: c.disk === 'null' ? 0 : copyRate(c.bytes),
    };
    rows.push(row);
    console.log(line(row));
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}

function line(row: Row): string {
  const ours = row.iops['vvu-target'];
  const parts = [row.case.name.padEnd(34)];
  for (const [name, s] of Object.entries(row.iops)) {
    const ratio = ours === undefined || name === 'vvu-target' ? '' : `ratio ${(ours.median / s.median).toFixed(2)}  `;
    const spread = `${(s.min / 1000).toFixed(1)}-${(s.max / 1000).toFixed(1)}`;
    parts.push(`${ratio}${name} ${(s.median / 1000).toFixed(1)}k (${spread})`);
  }
  if (row.copyLimit > 0) parts.push(`copy limit ${(row.copyLimit / 1000).toFixed(0)}k`);
  return parts.join(' | ');
}

const report = { node: process.version, cpu: cpus()[0]?.model, cpus: cpus().length, rows };
writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`);
writeFileSync(values.svg, chart(rows.map((r) => ({ name: r.case.name, values: r.iops }))));
console.log(`written: ${values.json}, ${values.svg}`);
