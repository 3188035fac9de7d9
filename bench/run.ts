/**
 * The comparison: every server on every case, in turns, in one run on two cores (server on CPU 0, load on CPU 1). All servers of a
 * case are there at once, but one at a time runs, for a window of 10 ms (see load/turns.ts), so that what a busy machine
 * does meanwhile meets all alike. A round is so many windows of each; its ratio is that of their medians, and the median over
 * the rounds is what counts.
 *
 * Results are kept in a folder: a later run with `--only` replaces its own cases and leaves the others, and the table, the
 * plot and the table in docs/performance.md are written anew from all of them.
 *
 * `npm run bench -- [--all] [--rounds N] [--c-server BINARY] [--socket NAME=PATH[,blk]]... [--only TEXT,...] [--realtime] [--more] [--resume] [--limit SECONDS] [--out DIR] [--doc FILE]`
 */
import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { ALL, type Case, MAIN } from './cases.ts';
import type { TurnsOptions, TurnsResult } from './load/turns.ts';
import { loadReport, OURS, type Row, ratioTo, saveReport } from './report.ts';
import { cServer, DISK_MIB, ourTarget, type Running, type Server, start, storageDaemon } from './servers.ts';
import { median, summary } from './statistics.ts';

const { values } = parseArgs({
  options: {
    all: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '5' },
    /** Windows a round. */
    windows: { type: 'string', default: '30' },
    /** How long one is, milliseconds. */
    window: { type: 'string', default: '10' },
    /** Seconds for our compiler. */
    warmup: { type: 'string', default: '2.5' },
    /** The serving threads and the load under SCHED_RR once they are warm, for machines that do other work meanwhile (root). */
    realtime: { type: 'boolean', default: false },
    'c-server': { type: 'string' },
    socket: { type: 'string', multiple: true, default: [] },
    only: { type: 'string' },
    /** Add to the rounds that are in the folder. */
    more: { type: 'boolean', default: false },
    /** Only the cases that the folder has no row of. */
    resume: { type: 'boolean', default: false },
    /** Begin no case after so many seconds: for a machine that is quiet for a while at a time, with --resume. */
    limit: { type: 'string', default: 'Infinity' },
    out: { type: 'string', default: 'bench-results' },
    /** Put the table between the markers of this file. */
    doc: { type: 'string' },
  },
});

/** All servers on one case, in turns. */
async function turns(c: Case, running: readonly { server: Server; it: Running }[]): Promise<TurnsResult> {
  const options: TurnsOptions = {
    cpu: 1,
    realtime: values.realtime,
    fill: c.disk === 'malloc' && c.op === 'read',
    load: { op: c.op, bytes: c.bytes, depth: c.depth, queues: c.queues, indirect: c.indirect, span: DISK_MIB << 20 },
    windows: Number(values.rounds) * Number(values.windows),
    window: Number(values.window),
    backends: running.map(({ server, it }) => ({
      name: server.name,
      device: server.device,
      socket: it.socket,
      pid: it.pid,
      // Our compiler's threads would wait for others of SCHED_RR; a server's io_uring workers would wait as the only ones without.
      realtime: server.name === OURS ? ('busiest' as const) : ('all' as const),
      // Only ours has a compiler to warm up; the others need a moment for caches.
      warmup: server.name === OURS ? Number(values.warmup) * 1000 : 100,
    })),
  };
  const argv = node('load/turns.ts', JSON.stringify(options));
  const { stdout } = await promisify(execFile)(process.execPath, argv, { maxBuffer: 1 << 24 });
  return JSON.parse(stdout) as TurnsResult;
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
    if (values.resume && report.rows.some((r) => r.case.name === c.name)) continue;
    if (performance.now() > Number(values.limit) * 1000) break;
    const before = values.more ? report.rows.find((r) => r.case.name === c.name) : undefined;
    const windows: Record<string, number[]> = { ...before?.windows };
    const rounds: Record<string, number[]> = { ...before?.rounds };
    const running: { server: Server; it: Running }[] = [];
    try {
      for (const server of servers) {
        if (!server.disks.includes(c.disk)) continue;
        const place = mkdtempSync(join(dir, 's'));
        const { argv, socket } = server.command(c.disk, place);
        const it = argv.length > 0 ? await start(server, c.disk, place) : { socket, pid: 0, stop: async () => {} };
        running.push({ server, it });
      }
      const { rates, disturbed, dropped } = await turns(c, running);
      if (dropped > 0) console.log(`${c.name}: ${disturbed} windows disturbed, ${dropped} turns dropped`);
      if (Object.values(rates).some((list) => list.length < Number(values.rounds))) {
        console.log(`${c.name}: not measured, the machine is too busy for windows of ${values.window} ms`);
        continue;
      }
      for (const [name, list] of Object.entries(rates)) {
        windows[name] = [...(windows[name] ?? []), ...list];
        const each = Math.max(1, Math.floor(list.length / Number(values.rounds)));
        const medians: number[] = [];
        for (let at = 0; at + each <= list.length; at += each) medians.push(median(list.slice(at, at + each)));
        rounds[name] = [...(rounds[name] ?? []), ...medians.map(Math.round)];
      }
    } finally {
      for (const { it } of running) await it.stop();
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

function copyRate(bytes: number): number {
  return Number(execFileSync(process.execPath, node('copy-rate.ts', String(bytes))));
}

function node(script: string, argument: string): string[] {
  return ['--import', 'tsx', join(import.meta.dirname, script), argument];
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
