/**
 * What a 4 KiB request costs in the drivers of the appliance's own disks: NVMe, and the virtio-scsi initiator, each on the fake device
 * of the unit tests, next to the null disk, which costs nothing but the calls. Nanoseconds of one CPU a request.
 *
 * A round is submit (all of the depth), the device's step, poll until all have ended; driver and device are timed apart, so the fake
 * device's own cost is in a column of its own and in no other. What reading the clock costs is measured and taken off. A sample
 * is the median of many rounds; the table shows the median sample, and the least and the greatest.
 *
 * `node --import tsx bench/nvme.ts [--samples 7] [--seconds 0.25] [--cpu N]`
 */
import { parseArgs } from 'node:util';
import { type BdevChannel, BdevIo, BdevOp } from '../src/bdev/bdev.ts';
import { createNullBdev } from '../src/bdev/null-bdev.ts';
import { openChannel } from '../src/bdev/open-channel.ts';
import type { Memory } from '../src/memory/memory.ts';
import { SgList } from '../src/memory/sg-list.ts';
import { pinThread } from '../src/sys/affinity.ts';
import { EventLoop } from '../src/sys/event-loop.ts';
import { BufferRig } from '../test/bdev/disk-rig.ts';
import { NvmeRig } from '../test/bdev/nvme-rig.ts';
import { VirtioRig } from '../test/bdev/virtio-scsi-rig.ts';
import { median, summary } from './statistics.ts';

const { values } = parseArgs({
  options: {
    samples: { type: 'string', default: '7' },
    /** A sample's length. */
    seconds: { type: 'string', default: '0.25' },
    cpu: { type: 'string' },
  },
});
if (values.cpu !== undefined) pinThread(Number(values.cpu));

const BYTES = 4096;
const BLOCK = 512;
const DISK_BYTES = 8 * 2 ** 20;
const GUEST_BYTES = 2 ** 20;
const DEPTHS = [1, 8, 32];
const OPS = [
  ['write', BdevOp.WRITE],
  ['read', BdevOp.READ],
] as const;

/** A disk to measure, with the device behind it. */
interface Subject {
  readonly name: string;
  readonly channel: BdevChannel;
  /** Memory that the device reaches. */
  readonly guest: Memory;
  /** The device's work; undefined where there is none. */
  readonly step: (() => void) | undefined;
}

function nullDisk(): Subject {
  const bdev = createNullBdev({ name: 'Null0', numBlocks: DISK_BYTES / BLOCK, blockSize: BLOCK });
  const channel = openChannel(bdev.share(), new EventLoop());
  return { name: 'null', channel, guest: new BufferRig().guest(GUEST_BYTES, 'linear'), step: undefined };
}

function nvme(): Subject {
  const rig = new NvmeRig({ namespaces: [{ blockSize: BLOCK, blocks: DISK_BYTES / BLOCK }] });
  return { name: 'nvme', channel: rig.open(), guest: rig.guest(GUEST_BYTES, 'linear'), step: () => rig.fake.step() };
}

async function virtioScsi(): Promise<Subject> {
  const rig = await VirtioRig.with((fake) => fake.addDisk(0, 0, { blockSize: BLOCK, numBlocks: DISK_BYTES / BLOCK }));
  const guest = rig.guest(GUEST_BYTES, 'linear');
  return { name: 'virtio-scsi', channel: rig.open(), guest, step: () => rig.fake.step() };
}

class Load {
  private pending = 0;
  private readonly subject: Subject;
  private readonly ios: BdevIo[];
  private seed = 12345;

  constructor(subject: Subject, depth: number, op: BdevOp) {
    this.subject = subject;
    this.ios = Array.from({ length: depth }, (_, i) => {
      const io = new BdevIo(this, new SgList(1));
      io.sg.push(subject.guest, (i * BYTES) % GUEST_BYTES, BYTES);
      io.op = op;
      io.blocks = BYTES / BLOCK;
      return io;
    });
  }

  ioDone(io: BdevIo): void {
    this.pending--;
    if (io.status !== 0) throw new Error(`${this.subject.name}: request ended with status ${io.status}`);
  }

  private random(below: number): number {
    this.seed ^= this.seed << 13;
    this.seed ^= this.seed >>> 17;
    this.seed ^= this.seed << 5;
    return (this.seed >>> 0) % below;
  }

  private submit(): void {
    const { channel } = this.subject;
    this.pending = this.ios.length;
    for (const io of this.ios) {
      io.lba = this.random(DISK_BYTES / BYTES) * (BYTES / BLOCK);
      channel.submit(io);
    }
    // Rings the device: what was submitted goes out with the next look.
    if (this.pending > 0) channel.poll();
  }

  /**
   * One round.
   * @param clock nanoseconds that one reading of the clock takes
   * @returns nanoseconds of the driver, and of the device, of all requests together
   */
  round(clock: number): [driver: number, device: number] {
    const { channel, step } = this.subject;
    let driver = 0;
    let device = 0;
    let from = performance.now();
    this.submit();
    let steps = 0;
    while (this.pending > 0) {
      if (steps++ === 100) throw new Error(`${this.subject.name}: requests do not end`);
      const before = performance.now();
      driver += before - from;
      step?.();
      from = performance.now();
      device += from - before;
      while (channel.poll() > 0);
    }
    driver += performance.now() - from;
    return [driver * 1e6 - (steps + 1) * clock, device * 1e6 - steps * clock];
  }
}

/** Nanoseconds that reading the clock adds to what lies between two readings. */
function clockCost(): number {
  const costs = Array.from({ length: 10_001 }, () => {
    const start = performance.now();
    return (performance.now() - start) * 1e6;
  });
  return median(costs);
}

const MOST_ROUNDS = 1 << 20;
const driverRounds = new Float64Array(MOST_ROUNDS);
const deviceRounds = new Float64Array(MOST_ROUNDS);

/** One sample: medians of its rounds, a request. */
function sample(load: Load, depth: number, seconds: number, clock: number): [driver: number, device: number] {
  const end = performance.now() + seconds * 1000;
  let rounds = 0;
  while (rounds < MOST_ROUNDS && performance.now() < end) {
    const [driver, device] = load.round(clock);
    driverRounds[rounds] = driver / depth;
    deviceRounds[rounds++] = device / depth;
  }
  const middle = (all: Float64Array) => all.subarray(0, rounds).sort()[rounds >> 1] as number;
  return [middle(driverRounds), middle(deviceRounds)];
}

console.log(`Node ${process.version}; 4 KiB, random, in one physical piece; ns a request: median (least-greatest)`);
console.log(
  `${'disk'.padEnd(12)} op    depth ${'driver'.padStart(20)} ${'over null'.padStart(10)} ${'device'.padStart(20)}`,
);
const subjects = [nullDisk(), nvme(), await virtioScsi()];
const clock = clockCost();
const seconds = Number(values.seconds);
for (const [label, op] of OPS) {
  for (const depth of DEPTHS) {
    let base = 0;
    const loads = subjects.map((subject) => new Load(subject, depth, op));
    for (const load of loads) sample(load, depth, seconds, clock); // the compiler
    // In turns, so that what else the machine does meets all alike.
    const samples = loads.map(() => [] as [number, number][]);
    for (let i = 0; i < Number(values.samples); i++) {
      for (const [k, load] of loads.entries()) samples[k]?.push(sample(load, depth, seconds, clock));
    }
    for (const [k, subject] of subjects.entries()) {
      const driver = summary((samples[k] as [number, number][]).map(([ours]) => ours));
      const device = summary((samples[k] as [number, number][]).map(([, its]) => its));
      if (k === 0) base = driver.median;
      const shown = (s: typeof driver) =>
        `${s.median.toFixed(0)} (${s.min.toFixed(0)}-${s.max.toFixed(0)})`.padStart(20);
      console.log(
        `${subject.name.padEnd(12)} ${label.padEnd(5)} ${String(depth).padStart(5)} ${shown(driver)} ` +
          `${(driver.median - base).toFixed(0).padStart(10)} ${subject.step === undefined ? '' : shown(device)}`.trimEnd(),
      );
    }
  }
}
console.log(`The clock's own cost, ${clock.toFixed(0)} ns a reading, is taken off.`);
process.exit(0);
