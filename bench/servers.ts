/** The back ends that are measured: how each is started on a socket, and what it can do. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, truncateSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export type Disk = 'malloc' | 'null' | 'file';

export interface Server {
  readonly name: string;
  /** virtio-scsi or virtio-blk: what the load has to speak. */
  readonly device: 'scsi' | 'blk';
  readonly disks: readonly Disk[];
  /** Serves several request queues. */
  readonly multiQueue: boolean;
  /** @returns the command; it listens at `socket` in `dir` */
  command(disk: Disk, dir: string): { argv: string[]; socket: string };
}

export interface Running {
  readonly socket: string;
  readonly pid: number;
  stop(): Promise<void>;
}

export const DISK_MIB = 64;
const ROOT = resolve(import.meta.dirname, '..');

/** A file disk on tmpfs: what is measured is the path to the file, not a medium. */
export function fileDisk(dir: string): string {
  const path = join(dir, 'disk.img');
  if (!existsSync(path)) {
    writeFileSync(path, new Uint8Array(DISK_MIB << 20).fill(0x5a));
    truncateSync(path, DISK_MIB << 20);
  }
  return path;
}

/** This project. `node` may be another version's binary. */
export function ourTarget(options: { name?: string; node?: string; mask?: string; extra?: string[] } = {}): Server {
  return {
    name: options.name ?? 'vvu-target',
    device: 'scsi',
    disks: ['malloc', 'null', 'file'],
    multiQueue: true,
    command(disk, dir) {
      const main = join(ROOT, 'dist/cli/main.js');
      if (!existsSync(main)) throw new Error(`${main} is missing: run npm run build first`);
      const size = `${DISK_MIB}M`;
      const what = { malloc: ['--malloc', size], null: ['--null', size], file: ['--file', fileDisk(dir)] }[disk];
      const argv = [options.node ?? process.execPath, main, '-S', dir, '-m', options.mask ?? '0x1'];
      argv.push('-r', join(dir, 'rpc.sock'), ...(options.extra ?? []), ...what);
      return { argv, socket: join(dir, 'vhost.0') };
    },
  };
}

/** A minimal C server (see docs/performance.md): polls one thread, no features, no checks. */
export function cServer(binary: string): Server {
  return {
    name: 'minimal C',
    device: 'scsi',
    disks: ['malloc', 'null'],
    multiQueue: true,
    command(disk, dir) {
      const socket = join(dir, 'c.sock');
      return { argv: ['taskset', '-c', '0', binary, socket, ...(disk === 'null' ? ['null'] : [])], socket };
    },
  };
}

/** qemu-storage-daemon, which serves virtio-blk. Its malloc disk is a file on tmpfs in the page cache. */
export const storageDaemon: Server = {
  name: 'qemu-storage-daemon',
  device: 'blk',
  disks: ['malloc', 'null', 'file'],
  multiQueue: true,
  command(disk, dir) {
    const socket = join(dir, 'qsd.sock');
    const node =
      disk === 'null'
        ? `driver=null-co,read-zeroes=off,size=${DISK_MIB << 20},node-name=d`
        : `driver=file,filename=${fileDisk(dir)},node-name=d,aio=io_uring`;
    const exported = `type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=${socket},writable=on,num-queues=4`;
    return {
      argv: ['taskset', '-c', '0', 'qemu-storage-daemon', '--blockdev', node, '--export', exported],
      socket,
    };
  },
};

/** Start a server and wait until its socket is there. */
export async function start(server: Server, disk: Disk, dir: string): Promise<Running> {
  const { argv, socket } = server.command(disk, dir);
  const child: ChildProcess = spawn(argv[0] as string, argv.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout?.on('data', (chunk) => {
    output += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    output += chunk;
  });
  const ended = new Promise<void>((done) => child.on('close', () => done()));
  for (let i = 0; !existsSync(socket); i++) {
    if (child.exitCode !== null || i > 200) {
      child.kill('SIGKILL');
      throw new Error(`${server.name} did not start: ${output}`);
    }
    await sleep(50);
  }
  await sleep(100);
  return {
    socket,
    pid: child.pid as number,
    stop: async () => {
      child.kill('SIGCONT');
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), 5000);
      await ended;
      clearTimeout(timer);
    },
  };
}
