/**
 * Front end and target on one thread, in turns: a reactor with one disk behind a controller, and one queue of requests at it.
 * No second process disturbs what is measured, and no socket is on the way of a request.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { adoptPieces, createMallocBdev, type MallocShare } from '../src/bdev/malloc-bdev.ts';
import { createNullBdev } from '../src/bdev/null-bdev.ts';
import { EventLoop } from '../src/sys/event-loop.ts';
import type { CommandName, CommandParams } from '../src/target/commands.ts';
import { ReactorCore } from '../src/target/reactor-core.ts';
import { featureMask, VirtioFeature } from '../src/virtio/features.ts';
import { FrontEnd } from './load/front-end.ts';
import { blk, scsi } from './load/protocol.ts';
import { dataBytes, QueueLoad, type QueueShape, queueBytes } from './load/queue-load.ts';

const MIB = 2 ** 20;
const DISK_BYTES = 64 * MIB;
const FILL = 1024 * MIB;
/** Rings of the control and the event queue lie here, one page each part. */
const IDLE_QUEUE_BYTES = 3 * 4096;

export interface InProcessOptions {
  disk: 'malloc' | 'null';
  /** Default scsi. */
  device?: 'scsi' | 'blk';
  write: boolean;
  depth: number;
  bytes: number;
  indirect: boolean;
  /** Bytes of the guest's memory, at the end of which the data buffers lie. Left out: no more than is used. */
  memory?: number | undefined;
  /** Bytes of the disk, default 64 MiB. */
  diskBytes?: number | undefined;
  /** Controllers beside the busy one, each with a disk, a front end and a started queue on which nothing happens. */
  idle?: number;
}

export class InProcess {
  readonly loop = new EventLoop();
  private readonly core = new ReactorCore(this.loop);
  private readonly dir = mkdtempSync('/dev/shm/vvu-request-');
  private readonly fronts: FrontEnd[] = [];
  private readonly load: QueueLoad;

  constructor(options: InProcessOptions) {
    for (let i = 0; i < (options.idle ?? 0); i++)
      this.controller(`idle.${i}`, { ...options, depth: 1, disk: 'null', memory: 0 });
    const [load, kick] = this.controller('vhost.0', options);
    this.load = load;
    load.start(kick);
  }

  private command<K extends CommandName>(name: K, params: CommandParams<K>): void {
    this.core.execute(name, params as never, (error) => {
      if (error !== undefined && error !== null) throw error;
    });
  }

  private controller(name: string, options: InProcessOptions) {
    const place = join(this.dir, name);
    const blocks = (options.diskBytes ?? DISK_BYTES) / 512;
    const disk = { name: `disk of ${name}`, numBlocks: blocks, blockSize: 512 };
    const bdev = options.disk === 'null' ? createNullBdev(disk) : createMallocBdev(disk);
    if (options.disk === 'malloc') {
      // Pages that nobody wrote are all the same page of zeroes, which is quicker to read than a disk.
      for (const piece of adoptPieces(bdev.share().data as MallocShare)) {
        for (let at = 0; at < piece.size; at += FILL) piece.memoryAt(at, Math.min(FILL, piece.size - at)).u8.fill(1);
      }
    }
    const protocol = options.device === 'blk' ? blk : scsi(0);
    if (protocol === blk) {
      const served = { bdev: bdev.share(), state: undefined, readOnly: false };
      this.command('openController', { name, transport: 'unix', place, port: 1, disk: served });
    } else {
      this.command('openController', { name, transport: 'unix', place, port: 1 });
      this.command('addTarget', { controller: name, target: 0, id: 0, bdev: bdev.share(), state: undefined });
    }
    this.command('startController', { name });
    const { write, depth, bytes, indirect } = options;
    const { memory = 0 } = options;
    const shape: QueueShape = { depth, bytes, write, indirect, eventIdx: true, blocks, blockSize: 512, seed: 1 };
    if (memory > 0) shape.dataAt = memory - dataBytes(shape);
    const features = [VirtioFeature.VERSION_1, VirtioFeature.EVENT_IDX, VirtioFeature.INDIRECT_DESC];
    const at = 2 * IDLE_QUEUE_BYTES;
    const lookedInto = at + queueBytes(shape);
    const turn = () => {
      this.loop.turn(0);
    };
    const front = new FrontEnd(place, featureMask(...features), lookedInto, turn, memory > 0 ? memory : lookedInto);
    if (shape.dataAt !== undefined) front.touch(shape.dataAt, dataBytes(shape));
    this.fronts.push(front);
    for (let i = 0; i < protocol.firstQueue; i++) {
      const ring = i * IDLE_QUEUE_BYTES;
      front.startQueue(i, 8, { desc: ring, avail: ring + 4096, used: ring + 8192 });
    }
    const load = new QueueLoad(front.memory, at, protocol, shape);
    const [kick] = front.startQueue(protocol.firstQueue, load.size, load.place);
    front.settle();
    return [load, kick] as const;
  }

  /** A pass of the reactor, then one of the front end. @returns requests completed */
  turn(): number {
    this.loop.turn(1); // never sleeps: there is always work
    return this.load.turn(false);
  }

  close(): void {
    for (const front of this.fronts) front.close();
    this.loop.turn(0);
    rmSync(this.dir, { recursive: true, force: true });
  }
}
