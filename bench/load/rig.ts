/** A front end with its request queues under one load: what all load generators begin with. */
import { featureMask, VirtioFeature } from '../../src/virtio/features.ts';
import { FrontEnd } from './front-end.ts';
import { blk, scsi } from './protocol.ts';
import { QueueLoad, type QueueShape, queueBytes } from './queue-load.ts';

export interface RigOptions {
  socket: string;
  device: 'scsi' | 'blk';
  /** SCSI target number; 0 when not given. */
  target?: number;
  op: 'read' | 'write';
  /** Bytes a request. */
  bytes: number;
  depth: number;
  queues: number;
  indirect: boolean;
  /** Bytes of the disk that are used, from its beginning. */
  span: number;
}

const BLOCK = 512;
/** Rings of the queues that carry no requests (scsi: control and event), one page each part. */
const IDLE_QUEUE_BYTES = 3 * 4096;
/** Looks at the queues for one reading of the clock. */
const LOOKS = 256;
const STEADY_LOOKS = 64;

export class Rig {
  readonly loads: QueueLoad[] = [];
  private readonly frontEnd: FrontEnd;
  private readonly vrings: number;

  /** Connects and starts the load. @throws Error at the first surprise; `Unsupported` when the back end lacks a feature */
  constructor(options: RigOptions) {
    const protocol = options.device === 'blk' ? blk : scsi(options.target ?? 0);
    const wanted: number[] = [VirtioFeature.VERSION_1, VirtioFeature.EVENT_IDX];
    if (options.indirect) wanted.push(VirtioFeature.INDIRECT_DESC);
    const shape: QueueShape = {
      depth: options.depth,
      bytes: options.bytes,
      write: options.op === 'write',
      indirect: options.indirect,
      eventIdx: true,
      blocks: options.span / BLOCK,
      blockSize: BLOCK,
      seed: 1,
    };
    const first = protocol.firstQueue;
    const memory = first * IDLE_QUEUE_BYTES + options.queues * queueBytes(shape);
    this.frontEnd = new FrontEnd(options.socket, featureMask(...wanted), memory);
    this.vrings = first + options.queues;
    const { features } = this.frontEnd;
    shape.eventIdx = (features & featureMask(VirtioFeature.EVENT_IDX)) !== 0n;
    if (options.indirect && (features & featureMask(VirtioFeature.INDIRECT_DESC)) === 0n) {
      this.frontEnd.close();
      throw new Unsupported('indirect descriptors');
    }
    for (let i = 0; i < first; i++) {
      const at = i * IDLE_QUEUE_BYTES;
      this.frontEnd.startQueue(i, 8, { desc: at, avail: at + 4096, used: at + 8192 });
    }
    for (let i = 0; i < options.queues; i++) {
      const at = first * IDLE_QUEUE_BYTES + i * queueBytes(shape);
      const load = new QueueLoad(this.frontEnd.memory, at, protocol, { ...shape, seed: i + 1 });
      const [kick] = this.frontEnd.startQueue(first + i, load.size, load.place);
      this.loads.push(load);
      this.frontEnd.settle();
      load.start(kick);
    }
  }

  /** Keep the queues full for some milliseconds. @returns requests done */
  drive(ms: number): number {
    return drive(this.loads, ms);
  }

  /** As `drive`, but give up as soon as nothing comes for `gap` milliseconds. @returns requests done, or -1 */
  driveSteady(ms: number, gap: number): number {
    const { loads } = this;
    let last = performance.now();
    const until = last + ms;
    let done = 0;
    for (;;) {
      let some = 0;
      for (let i = 0; i < STEADY_LOOKS; i++) for (let q = 0; q < loads.length; q++) some += loads[q].turn(false);
      const now = performance.now();
      if (now - last > gap) return -1;
      if (some > 0) last = now;
      done += some;
      if (now >= until) return done;
    }
  }

  /** Let everything come to rest, so that the back end stops with nothing in flight, and hang up. */
  close(): void {
    const until = performance.now() + 5000;
    for (const load of this.loads) while (load.outstanding > 0 && performance.now() < until) load.turn(true);
    for (let i = 0; i < this.vrings; i++) this.frontEnd.stopQueue(i);
    this.frontEnd.close();
  }
}

/** Keep queues full for some milliseconds. @returns requests done */
export function drive(loads: readonly QueueLoad[], ms: number): number {
  const until = performance.now() + ms;
  let done = 0;
  do {
    for (let i = 0; i < LOOKS; i++) for (let q = 0; q < loads.length; q++) done += loads[q].turn(false);
  } while (performance.now() < until);
  return done;
}

/** The back end cannot do what the case asks for. */
export class Unsupported extends Error {}
