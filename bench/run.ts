/**
 * The comparison: every server on every case, in turns, in one run on two cores (server on CPU 0, load on CPU 1). Rates are
 * taken over windows of 10 ms, so that what a busy machine does between them drops out of the median; a ratio is that of two
 * neighbours in time, and the median over the rounds is what counts.
 *
 * Results are kept in a folder: a later run with `--only` replaces its own cases and leaves the others, and the table, the
 * plot and the table in docs/performance.md are written anew from all of them.
 *
 * `npm run bench -- [--all] [--rounds N] [--c-server BINARY] [--socket NAME=PATH[,blk]]... [--only TEXT,...] [--realtime] [--more] [--out DIR] [--doc FILE]`
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ALL, type Case, MAIN } from './cases.ts';
import { loadReport, OURS, type Row, ratioTo, saveReport } from './report.ts';
import { cServer, ourTarget, type Running, type Server, start, storageDaemon } from './servers.ts';
import { summary } from './statistics.ts';

const { values } = parseArgs({
  options: {
    all: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '5' },
    /** Windows of 10 ms a round. */
    windows: { type: 'string', default: '40' },
    warmup: { type: 'string', default: '1.5' },
    /** Servers and load under SCHED_RR, for machines that do other work meanwhile (root). */
    realtime: { type: 'boolean', default: false },
    'c-server': { type: 'string' },
    socket: { type: 'string', multiple: true, default: [] },
    only: { type: 'string' },
    /** Add to the rounds that are in the folder. */
    more: { type: 'boolean', default: false },
    out: { type: 'string', default: 'bench-results' },
    /** Put the table between the markers of this file. */
    doc: { type: 'string' },
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
  // Only ours has a compiler to warm up; the others need a moment for caches.
  const warmup = server.name === OURS ? values.warmup : '0.4';
  options.push('--queues', String(c.queues), '--seconds', '0.01', '--warmup', warmup, '--samples', values.windows);
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

const only = values.only?.split(',');
const cases = (values.all ? ALL : MAIN).filter((c) => only === undefined || only.some((text) => c.name.includes(text)));
const dir = mkdtempSync('/dev/shm/vvu-bench-');
const report = loadReport(values.out);
report.node = process.version;
report.cpu = cpus()[0]?.model ?? '';
report.cpus = cpus().length;
try {
  for (const c of cases) {
    const before = values.more ? report.rows.find((r) => r.case.name === c.name) : undefined;
    const windows: Record<string, number[]> = { ...before?.windows };
    const rounds: Record<string, number[]> = { ...before?.rounds };
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
            windows[server.name] = [...(windows[server.name] ?? []), ...sample.iops.map(Math.round)];
            rounds[server.name] = [...(rounds[server.name] ?? []), Math.round(summary(sample.iops).median)];
          }
        } finally {
          await running.stop();
        }
      }
    }
    const row: Row = {
      case: c,
      at: new Date().toISOString().slice(0, 10),
      iops: Object.fromEntries(Object.entries(windows).map(([name, list]) => [name, summary(list)])),
      rounds,
      windows,
      copyLimit: c.disk === 'null' ? 0 : Math.max(before?.copyLimit ?? 0, copyRate(c.bytes)),
    };
    report.rows = [...report.rows.filter((r) => r.case.name !== c.name), row];
    saveReport(values.out, report, values.doc);
    console.log(line(row));
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}

/** Under the same conditions as the servers. */
function copyRate(bytes: number): number {
  const node = [process.execPath, '--import', 'tsx', join(import.meta.dirname, 'copy-rate.ts'), String(bytes)];
  const [command, ...argv] = [...prefix, ...node];
  return Number(execFileSync(command as string, argv));
}

function line(row: Row): string {
  const parts = [row.case.name.padEnd(34)];
  for (const [name, s] of Object.entries(row.iops)) {
    const ratio = name === OURS ? '' : `ratio ${ratioTo(row, name)?.median.toFixed(2) ?? '-'}  `;
    parts.push(
      `${ratio}${name} ${(s.median / 1000).toFixed(1)}k (${(s.low / 1000).toFixed(1)}-${(s.high / 1000).toFixed(1)})`,
    );
  }
  if (row.copyLimit > 0) parts.push(`copy limit ${(row.copyLimit / 1000).toFixed(0)}k`);
  return parts.join(' | ');
}
